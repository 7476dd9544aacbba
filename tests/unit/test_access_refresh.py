"""Tokens and keys in memory follow what is stored, through failures, and what is no longer permitted ends."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from balance.access import refresh as module
from balance.access.authenticator import Authenticator
from balance.access.refresh import AccessRefresh
from balance.access.tokens import digest
from balance.aio.threads import WorkerThread
from balance.rate_limit import RateLimit
from balance.storage.errors import StoreUnavailable
from balance.storage.token_store import StoredToken
from tests.support.clock import Clock
from tests.support.waiting import until

STORED = StoredToken("1", "n", "writer", digest("secret"), None, False)
UNAVAILABLE = StoreUnavailable("the database is away")


class FakeStore:
    """In place of the token store: returns or raises what a test sets, and notes each call."""

    def __init__(self) -> None:
        self.tokens: list[StoredToken] | Exception = [STORED]
        self.calls: list[Any] = []

    def read(self) -> list[StoredToken]:
        self.calls.append("read")
        if isinstance(self.tokens, Exception):
            raise self.tokens
        return self.tokens

    def note_used(self, ids: list[str]) -> None:
        self.calls.append(ids)

    @property
    def noted(self) -> list[Any]:
        return [call for call in self.calls if call != "read"]


class FakeVerifier:
    """In place of a verifier of JWTs: its keys are read as a test sets."""

    def __init__(self) -> None:
        self.keys: object = None
        self.reads: list[str] = []
        self.used: list[object] = []

    def read_keys(self) -> object:
        self.reads.append(threading.current_thread().name)
        if isinstance(self.keys, Exception):
            raise self.keys
        return self.keys

    def use_keys(self, keys: object) -> None:
        self.used.append(keys)


class FakeWatched:
    """In place of what serves callers: counts how often it is to end those that are not permitted."""

    def __init__(self) -> None:
        self.calls: list[Authenticator] = []

    def end_unauthorized(self, authenticator: Authenticator) -> None:
        self.calls.append(authenticator)


class Rig:
    """A refresh of fakes, which is not started."""

    def __init__(self, jwt: Any = None) -> None:
        self.store, self.watched = FakeStore(), [FakeWatched(), FakeWatched()]
        self.authenticator = Authenticator(allow_anonymous=False, jwt=jwt, failures=RateLimit("failed-logins", 0, ""))
        self.worker = WorkerThread("tokens")
        store: Any = self.store
        self.refresh = AccessRefresh(self.authenticator, store, self.worker, self.watched)

    async def __aenter__(self) -> Rig:
        self.worker.start()
        self.refresh.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refresh.stop()
        self.worker.stop()
        await asyncio.to_thread(self.worker.join)
        self.worker.close()

    async def until_read(self, times: int = 2) -> None:
        """Wait until the tokens have been read so often again, and all that follows a read is done."""
        count = self.store.calls.count("read") + times
        await until(lambda: self.store.calls.count("read") >= count)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Read again at once, by a clock that the test sets."""
    clock = Clock()
    monkeypatch.setattr(module, "REFRESH_S", 0.001)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    return clock


async def test_tokens_are_read_again_and_what_is_open_is_checked_each_time() -> None:
    async with Rig() as rig:
        await rig.until_read()
        assert rig.authenticator.authenticate("secret", "").name == "n"
        assert all(one.calls and one.calls[0] is rig.authenticator for one in rig.watched)
        rig.store.tokens = [STORED._replace(name="other")]
        await rig.until_read()
        assert rig.authenticator.authenticate("secret", "").name == "other"
        before = len(rig.watched[1].calls)
        await rig.until_read()
        assert len(rig.watched[1].calls) > before


async def test_without_credentials_nothing_that_is_open_is_checked() -> None:
    async with Rig() as rig:
        rig.store.tokens = []
        await until(lambda: rig.authenticator.ignores_credentials)
        before = len(rig.watched[0].calls)
        await rig.until_read()
        assert len(rig.watched[0].calls) == before


@pytest.mark.parametrize("error", [UNAVAILABLE, pytest.param(ValueError("surprise"), id="unforeseen")])
@pytest.mark.expects_log("the tokens could not be read")
async def test_after_a_failed_read_the_tokens_stay_and_are_read_again(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with Rig() as rig:
        await rig.until_read()
        rig.store.tokens = error
        await rig.until_read()
        assert rig.authenticator.authenticate("secret", "").name == "n"
        before = len(rig.watched[0].calls)
        await rig.until_read()
        assert len(rig.watched[0].calls) > before, "a token may expire meanwhile"
        rig.store.tokens = [STORED._replace(name="other")]
        await rig.until_read()
        assert rig.authenticator.authenticate("secret", "").name == "other"
    assert {record.getMessage() for record in caplog.records} == (
        set() if error is UNAVAILABLE else {"the tokens could not be read"}
    )


async def test_the_use_of_tokens_is_stored_once_a_minute_before_they_are_read(clock: Clock) -> None:
    async with Rig() as rig:
        await rig.until_read()
        rig.authenticator.authenticate("secret", "")
        clock.advance(59.99)
        await rig.until_read()
        assert rig.store.noted == []
        clock.advance(0.01)
        await rig.until_read()
        assert rig.store.noted == [["1"]]
        assert rig.store.calls[rig.store.calls.index(["1"]) + 1] == "read"
        rig.authenticator.authenticate("secret", "")
        clock.advance(59.99)
        await rig.until_read()
        assert rig.store.noted == [["1"]]
        clock.advance(0.01)
        await rig.until_read()
        assert rig.store.noted == [["1"], ["1"]]
        clock.advance(60)
        await rig.until_read()
        assert rig.store.noted == [["1"], ["1"]], "it was not used since"


@pytest.mark.expects_log("the keys could not be read")
async def test_keys_are_read_in_a_thread_of_their_own_and_again_after_any_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    verifier = FakeVerifier()
    async with Rig(verifier) as rig:
        await until(lambda: len(verifier.reads) > 1)
        assert verifier.used == []
        verifier.keys = ValueError("surprise")
        count = len(verifier.reads)
        await until(lambda: len(verifier.reads) > count + 1)
        verifier.keys = "keys"
        await until(lambda: len(verifier.used) > 1)
        await rig.until_read()
    assert set(verifier.used) == {"keys"}
    assert {record.getMessage() for record in caplog.records} == {"the keys could not be read"}
    assert set(verifier.reads) == {"balance-keys_0"}


async def test_a_refresh_that_was_stopped_reads_nothing_more() -> None:
    verifier = FakeVerifier()
    async with Rig(verifier) as rig:
        await rig.until_read()
    before = len(rig.store.calls), len(verifier.reads)
    await asyncio.sleep(0.02)
    assert (len(rig.store.calls), len(verifier.reads)) == before
    await until(lambda: not any(one.name == "balance-keys_0" for one in threading.enumerate()))


async def test_a_stop_does_not_wait_for_a_provider_that_is_slow() -> None:
    verifier, entered, leave = FakeVerifier(), threading.Event(), threading.Event()

    def read_keys() -> None:
        entered.set()
        leave.wait(10)

    verifier.read_keys = read_keys  # type: ignore[method-assign]
    async with Rig(verifier) as rig:
        await until(entered.is_set)
        began = time.monotonic()
        rig.refresh.stop()
        assert time.monotonic() - began < 5
        leave.set()
