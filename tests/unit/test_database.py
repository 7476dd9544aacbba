"""The threads that call the stores, and their end; the stores are fakes."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from balance import database
from balance.aio.threads import run_in_thread
from balance.config import Config
from balance.database import OTHER_CONNECTIONS, REPLAY_THREADS, Database
from balance.position import Position
from balance.storage.feed_store import Head
from balance.storage.outage import Outage
from balance.storage.token_store import StoredToken
from tests.support.waiting import until

HEAD = Head(Position("a", 5), "local")
CONFIG = Config(pool_max=OTHER_CONNECTIONS + 1, pool_wait_ms_max=123, statement_ms_max=456)


class FakeStore:
    """Each store: calls that run until `close`."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.hung = 0
        self._closed = threading.Event()

    def open(self) -> None:
        self.calls.append(f"open in {threading.current_thread().name}")

    def head(self) -> Head:
        self.calls.append(f"head in {threading.current_thread().name}")
        return HEAD

    def read(self) -> list[StoredToken]:
        self.calls.append(f"tokens in {threading.current_thread().name}")
        return []

    def hang(self, more_s: float) -> None:
        """Run until `close`, and some time more, so that a close that does not wait for the thread is noticed."""
        self.hung += 1
        assert self._closed.wait(5)
        time.sleep(more_s)
        self.calls.append("ended")

    def close(self) -> None:
        self.calls.append("close")
        self._closed.set()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    store = FakeStore()
    for name in ("Store", "FeedStore", "TokenStore"):
        monkeypatch.setattr(database, name, lambda _: store)
    monkeypatch.setattr(database, "Pool", lambda *_, **settings: None)
    return store


def threads_left() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("balance-")]


def test_the_pool_has_the_settings_of_the_service(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    pool, outage = object(), Outage()
    monkeypatch.setattr(database, "Pool", lambda *arguments, **settings: made.append((arguments, settings)) or pool)
    for name in ("Store", "FeedStore", "TokenStore"):
        monkeypatch.setattr(database, name, made.append)
    Database(CONFIG, "postgresql:///balance", outage)
    settings = {"pool_max": OTHER_CONNECTIONS + 1, "pool_wait_ms_max": 123, "statement_ms_max": 456, "outage": outage}
    assert made == [(("postgresql:///balance",), settings), pool, pool, pool]


async def test_it_is_opened_in_the_write_thread(store: FakeStore) -> None:
    base = Database(CONFIG, "", Outage())
    base.start()
    assert await base.open() == (HEAD, [])
    assert store.calls == ["open in balance-write", "head in balance-write", "tokens in balance-write"]
    await base.close()
    assert threads_left() == []


async def test_a_close_ends_the_calls_that_run_and_makes_none_of_those_behind_them(store: FakeStore) -> None:
    base = Database(CONFIG, "", Outage())
    base.start()

    for thread in (base.write_thread, base.tail_thread):
        thread.run(store.hang, 0.05)
        thread.run(store.open)
    executors = (base.read_executor, 1), (base.series_executor, 1), (base.replay_executor, REPLAY_THREADS)
    for executor, threads in executors:
        for function, arguments in ((store.hang, (0.1,)), (store.open, ())):
            for _ in range(threads):
                run_in_thread(executor, function, *arguments)
    await until(lambda: store.hung == 4 + REPLAY_THREADS)
    await asyncio.sleep(0.01)
    names = ["balance-read_0", "balance-replay_0", "balance-replay_1", "balance-series_0", "balance-tail"]
    names.append("balance-write")
    assert sorted(threads_left()) == names
    await base.close()
    assert threads_left() == []
    assert store.calls == ["close", *["ended"] * (4 + REPLAY_THREADS)]


async def test_it_is_closed_before_it_is_started(store: FakeStore) -> None:
    await Database(CONFIG, "", Outage()).close()
    assert store.calls == ["close"]


@pytest.mark.parametrize("keep", ["", "90d"])
async def test_old_snapshots_are_pruned_with_the_setting_and_to_the_end_of_the_service(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    class FakePruner:
        """Notes what is done with it."""

        def __init__(self, url: str, keep_time: timedelta) -> None:
            store.calls.append(f"prune {url} {keep_time.days}")

        def start(self) -> None:
            store.calls.append("prune: start")

        def stop(self) -> None:
            store.calls.append("prune: stop")

        def join(self) -> None:
            store.calls.append("prune: join")

    monkeypatch.setattr(database, "Pruner", FakePruner)
    one = Database(replace(CONFIG, keep=keep), "postgresql:///balance", Outage())
    one.start()
    await one.close()
    pruning = ["prune postgresql:///balance 90", "prune: start", "prune: stop", "close", "prune: join"]
    assert store.calls == (pruning if keep else ["close"])
