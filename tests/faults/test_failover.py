"""After a failover of the database nothing is lost, or every watcher is sent what was lost.

The tests have a primary and a standby of PostgreSQL, and a server process whose DATABASE_URL names both. With a
synchronous standby, an acknowledged snapshot survives the loss of either, and each position stays good. With an
asynchronous one, rows that were not replicated are lost: every watcher that has them gets `recovered: false` with the
last `seq` that survived, and none continues without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import pytest

from balance.storage.epochs import begin_epoch
from tests.support.http_client import Reply, request
from tests.support.native_recovery import native_recovery
from tests.support.payloads import updates
from tests.support.postgres import execute, query
from tests.support.replication import Pair
from tests.support.resuming_clients import Reset, ResumingWatcher, check_holds_all, watching
from tests.support.service import SNAPSHOTS, Database, Process, Processes
from tests.support.waiting import until
from tests.support.workload import BOTS, Bot, FindServer, SendLog, check_stored, sending

SEED = 5
# Short, since some tests wait for rejections.
QUICK = ("--save-ms-max=600", "--read-ms-max=600", "--statement-ms-max=400", "--pool-wait-ms-max=300")
IS_STORED = "SELECT EXISTS (SELECT FROM balance_snapshot WHERE id = %s)"
EPOCHS = "SELECT number, after_seq FROM balance_epoch ORDER BY number"
BACK_S_MAX = 15.0  # from a new primary to the next save; an attempt to connect to a hung server lasts 3 s


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Start a primary and a standby for the tests of this module."""
    one = Pair(tmp_path_factory.mktemp("pair"))
    yield one
    one.stop()


@pytest.fixture
def name(pair: Pair) -> Iterator[str]:
    """Make a migrated database for one test, and give its name; both servers run again after the test."""
    with pair.migrated() as made:
        yield made


@pytest.fixture
def database(pair: Pair, name: str) -> Database:
    """Return that database, on whichever server is the primary."""
    return pair.database(name)


class Sender:
    """Sends updates one by one, and remembers which ones were acknowledged."""

    def __init__(self, url: str, seed: int = SEED) -> None:
        self._url = url
        self._updates = updates(Random(seed))
        self.sent: dict[str, dict[str, Any]] = {}
        self.acknowledged: list[dict[str, Any]] = []

    async def post(self, update: dict[str, Any] | None = None) -> Reply:
        """Send an update, by default a new one, and return the reply."""
        update = update or next(self._updates)
        self.sent[update["id"]] = update
        reply = await request(self._url, "POST", SNAPSHOTS, update)
        if reply.status in (200, 201):
            self.acknowledged.append(update)
        else:
            assert (reply.status, reply.body["code"]) == (503, "unavailable"), reply
        return reply

    async def post_until_saved(self) -> None:
        """Send a new update again and again until it is acknowledged."""
        update = next(self._updates)
        async with asyncio.timeout(BACK_S_MAX):
            while (await self.post(update)).status == 503:
                await asyncio.sleep(0.01)


async def serve(processes: Processes, database: Database, *arguments: str) -> tuple[Process, str]:
    """Start a server process on the database; return it and its URL."""
    process = processes("--port=0", *arguments, DATABASE_URL=database.url)
    return process, await asyncio.to_thread(process.url)


def always(url: str) -> FindServer:
    """Return a function that finds this server."""

    async def find_server() -> str:
        return url

    return find_server


class Gate:
    """Keeps watchers that were sent away from connecting again until it is opened."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened = asyncio.Event()
        self._opened.set()

    async def find_server(self) -> str:
        await self._opened.wait()
        return self.url

    async def send_away(self, watchers: Sequence[ResumingWatcher], seq: int) -> None:
        """Disconnect watchers once they have the snapshot of this `seq`."""
        for watcher in watchers:
            await watcher.until(seq)
        self._opened.clear()
        for watcher in watchers:
            watcher.disconnect()

    def open(self) -> None:
        self._opened.set()


async def stop(process: Process) -> None:
    """Stop the server, which must not have logged an exception."""
    assert await asyncio.to_thread(process.terminate) == 0
    assert not [line for line in process.stderr if "Traceback" in line], process.stderr


async def test_without_its_synchronous_standby_nothing_is_acknowledged(
    pair: Pair, processes: Processes, database: Database
) -> None:
    process, url = await serve(processes, database, *QUICK)
    sender = Sender(url)
    await asyncio.to_thread(pair.let_commits_wait)
    assert (await sender.post()).status == 201
    await asyncio.to_thread(pair.standby.stop)
    replies = await asyncio.gather(*(sender.post() for _ in range(5)))
    assert {reply.status for reply in replies} == {503}
    await asyncio.to_thread(pair.standby.start, pair.primary)
    for update in list(sender.sent.values())[1:]:
        async with asyncio.timeout(BACK_S_MAX):
            while (await sender.post(update)).status == 503:
                pass
    check_stored(database, sender.acknowledged, sender.sent)
    await asyncio.to_thread(pair.fail_over)
    check_stored(database, sender.acknowledged, sender.sent)
    await stop(process)


async def test_a_cancelled_wait_for_the_standby_is_not_acknowledged(
    pair: Pair, processes: Processes, name: str, database: Database
) -> None:
    process, url = await serve(processes, database)
    sender = Sender(url)
    await asyncio.to_thread(pair.let_commits_wait)
    assert (await sender.post()).status == 201
    await asyncio.to_thread(pair.standby.stop)
    update = next(updates(Random(SEED + 1)))
    for _ in range(2):  # the resend finds it stored, and waits too
        saving = asyncio.ensure_future(sender.post(update))
        await until(lambda: bool(pair.waiting_for_standby(name)))
        for pid in pair.waiting_for_standby(name):
            execute(pair.primary.url(), f"SELECT pg_cancel_backend({pid})")
        assert (await saving).status == 503
        assert query(pair.primary.url(name), IS_STORED, update["id"]) == [(True,)]
    saving = asyncio.ensure_future(sender.post(update))
    await until(lambda: bool(pair.waiting_for_standby(name)))
    await asyncio.to_thread(pair.standby.start, pair.primary)
    assert (await saving).body["duplicate"]
    await asyncio.to_thread(pair.fail_over)
    check_stored(database, sender.acknowledged, sender.sent)
    await stop(process)


async def test_a_hung_standby_is_waited_for_and_a_hung_primary_is_used_again(
    pair: Pair, processes: Processes, database: Database
) -> None:
    process, url = await serve(processes, database, *QUICK)
    sender = Sender(url)
    await asyncio.to_thread(pair.let_commits_wait)
    for one in (pair.standby, pair.primary):
        assert (await sender.post()).status == 201
        with one.frozen():
            assert (await sender.post()).status == 503
        await sender.post_until_saved()
    check_stored(database, sender.acknowledged, sender.sent)
    await stop(process)


async def test_a_former_primary_that_runs_again_is_not_used(
    pair: Pair, processes: Processes, name: str, database: Database
) -> None:
    """It was suspended while its standby was promoted, comes first in DATABASE_URL, and would save."""
    process, url = await serve(processes, database, *QUICK)
    sender = Sender(url)
    async with watching(always(url)) as watchers:
        await sender.post_until_saved()
        await asyncio.to_thread(pair.wait_in_step)
        await asyncio.to_thread(pair.fail_over, freeze=True)
        await sender.post_until_saved()
        await asyncio.to_thread(pair.standby.thaw)
        await asyncio.to_thread(pair.primary.terminate_sessions, name)
        for _ in range(3):
            assert (await sender.post()).status == 503
        await asyncio.to_thread(pair.standby.kill)
        await sender.post_until_saved()
        for watcher in watchers:
            await watcher.until(database.count())
            check_holds_all(watcher, database)
            assert watcher.resets == []
    check_stored(database, sender.acknowledged, sender.sent)
    await stop(process)


async def fail_over_under_load(pair: Pair, processes: Processes, database: Database, rounds: int) -> None:
    """Kill the primary under load this number of times; its old data come back as the new standby."""
    process, url = await serve(processes, database)
    send_log = SendLog()
    await asyncio.to_thread(pair.let_commits_wait)
    async with native_recovery(url) as native, watching(always(url)) as watchers:
        bots: list[Bot] = [kind(always(url), Random(SEED + n), send_log) for n, kind in enumerate(BOTS)]
        async with sending(bots):
            for _ in range(rounds):
                await send_log.more(20, BACK_S_MAX)
                await asyncio.to_thread(pair.fail_over)
                await asyncio.to_thread(pair.attach_standby)
            await send_log.more(20, BACK_S_MAX)
        check_stored(database, send_log.acknowledged, send_log.sent)
        last = database.count()
        for watcher in watchers:
            await watcher.until(last)
            check_holds_all(watcher, database)
            assert watcher.resets == []
        await native.until(last)
        native.check_holds_all(database)
        assert all(recovered for recovered, _ in native.connections[1:]), native.connections
    assert [row["number"] for row in database.rows(EPOCHS)] == list(range(1, rounds + 2))
    await stop(process)


@pytest.mark.gen_test(timeout=240)
async def test_ten_failovers_to_a_synchronous_standby_lose_nothing(
    pair: Pair, processes: Processes, database: Database
) -> None:
    await fail_over_under_load(pair, processes, database, 10)


@pytest.mark.slow
@pytest.mark.gen_test(timeout=3600)
async def test_two_hundred_failovers_to_a_synchronous_standby_lose_nothing(
    pair: Pair, processes: Processes, database: Database
) -> None:
    await fail_over_under_load(pair, processes, database, 200)


async def test_after_an_asynchronous_failover_each_watcher_is_sent_what_was_lost(
    pair: Pair, processes: Processes, database: Database
) -> None:
    """One watcher of each kind stays connected; of two that are away, one has rows that are lost, and one has not."""
    process, url = await serve(processes, database)
    sender, gate = Sender(url), Gate(url)
    async with (
        native_recovery(url) as native,
        watching(always(url)) as present,
        watching(gate.find_server) as behind,
        watching(gate.find_server) as ahead,
    ):
        for _ in range(8):
            assert (await sender.post()).status == 201
        await gate.send_away(behind, 8)
        for _ in range(2):
            assert (await sender.post()).status == 201
        await asyncio.to_thread(pair.wait_in_step)
        await asyncio.to_thread(pair.standby.stop)
        for _ in range(5):  # acknowledged, and lost
            assert (await sender.post()).status == 201
        await gate.send_away(ahead, 15)
        for watcher in present:
            await watcher.until(15)
        await asyncio.to_thread(pair.fail_over)
        for _ in range(10):  # more than were lost: `seq` alone would not show it
            await sender.post_until_saved()
        gate.open()
        for watcher in (*present, *behind, *ahead):
            await watcher.until(20)
            check_holds_all(watcher, database)
        await native.until_connected(2)
        assert native.connections == [(False, None), (False, 10)]
    assert {one.resets[0] for one in present + ahead} == {Reset("diverged", 10, 15)}
    assert {len(one.resets) for one in present + ahead} == {1}
    assert [one.resets for one in behind] == [[]] * len(behind)
    assert database.rows(EPOCHS) == [{"number": 1, "after_seq": 0}, {"number": 2, "after_seq": 10}]
    await stop(process)


@pytest.mark.parametrize("restarts", [False, True], ids=["running", "restarted"])
async def test_a_restore_of_an_older_dump_is_sent_to_each_watcher(
    pair: Pair, processes: Processes, name: str, database: Database, restarts: bool
) -> None:
    """Neither the timeline nor the epoch changes; a server that was restarted has not seen the counter go back."""
    process, url = await serve(processes, database)
    sender = Sender(url)
    gate = Gate(url)
    async with watching(gate.find_server) as watchers:
        for _ in range(5):
            assert (await sender.post()).status == 201
        dump = await asyncio.to_thread(pair.primary.dump, name)
        for _ in range(3):
            assert (await sender.post()).status == 201
        for watcher in watchers:
            await watcher.until(8)
        if restarts:
            await gate.send_away(watchers, 8)
            await stop(process)
        await asyncio.to_thread(pair.primary.restore, dump, name)
        if restarts:
            process, gate.url = await serve(processes, database)
        sender = Sender(gate.url, SEED + 1)
        for _ in range(6):  # more than were lost
            await sender.post_until_saved()
        gate.open()
        for watcher in watchers:
            await watcher.until_reset(BACK_S_MAX)
            await watcher.until(11)
            check_holds_all(watcher, database)
    expected = Reset("diverged", None if restarts else 5, 8)
    assert {one.resets[0] for one in watchers} == {expected}
    await stop(process)


async def test_a_restored_dump_of_an_earlier_epoch_is_sent_to_each_watcher(
    pair: Pair, processes: Processes, name: str, database: Database
) -> None:
    """The epoch of the watchers is not in the dump, and the server goes on in a third one."""
    process, url = await serve(processes, database)
    sender = Sender(url)
    async with watching(always(url)) as watchers:
        for _ in range(5):
            assert (await sender.post()).status == 201
        dump = await asyncio.to_thread(pair.primary.dump, name)
        await asyncio.to_thread(begin_epoch, pair.primary.url(name))
        for _ in range(3):
            assert (await sender.post()).status == 201
        for watcher in watchers:
            await watcher.until(8)
        await asyncio.to_thread(pair.primary.restore, dump, name)
        sender = Sender(url, SEED + 1)
        for _ in range(6):  # more than were lost
            await sender.post_until_saved()
        for watcher in watchers:
            assert await watcher.until_reset(BACK_S_MAX) == Reset("other_feed", None, 8)
            await watcher.until(11)
            check_holds_all(watcher, database)
    assert database.rows(EPOCHS) == [{"number": 1, "after_seq": 0}, {"number": 2, "after_seq": 5}]
    await stop(process)
