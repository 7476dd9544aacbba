"""Pruning: what is deleted and what is kept, and that every read stays right, on each transport, while it runs."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from balance import pruner
from balance.config import Config
from balance.position import ClaimedPosition, Position
from balance.pruner import Pruner
from balance.setting import ConfigError
from balance.snapshot import Snapshot
from balance.storage import retention
from balance.storage.connect import DatabaseError
from balance.storage.feed_store import FeedStore
from balance.storage.pool import Pool
from balance.storage.retention import Progress, Pruned, Pruning, PruningElsewhere
from balance.storage.store import Store
from tests.support.clock import Clock
from tests.support.feed import ONCHAIN, ONSITE
from tests.support.postgres import LOCK_FEED, execute, is_waited_for, locked, note_updates
from tests.support.raw_clients import SocketClient
from tests.support.service import Database, MakeService, Processes, check_start_refused
from tests.support.sse import StreamClient
from tests.support.waiting import wait_until
from tests.support.watching import seqs

NEW = datetime(2025, 11, 7, tzinfo=UTC)
OLD = NEW - timedelta(days=100)
LIMIT = NEW - timedelta(days=90)
LOCKS = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
TRIED = (
    "SELECT count(*) AS n FROM pg_stat_activity WHERE query LIKE '%pg_try_advisory_lock%' AND pid <> pg_backend_pid()"
)


class Rig:
    """A database, and the stores that read it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.pool = Pool(database.url, pool_max=3, pool_wait_ms_max=5000, statement_ms_max=5000)
        self.store = Store(self.pool)
        self.epoch = self.store.open().epoch
        self.feed = FeedStore(self.pool)

    def save(self, received_at: datetime, *pids: int | None) -> None:
        """Save a snapshot of each pid in one batch, received at a moment."""
        self.store.append([Snapshot(str(uuid.uuid4()), NEW, pid, ONCHAIN, ONSITE, received_at) for pid in pids])

    def prune(self, before: datetime = LIMIT, *, dry_run: bool = False) -> Pruned:
        return self.run(Pruning(self.database.url, before, dry_run=dry_run))

    def run(self, pruning: Pruning, report: Callable[[Progress], None] = lambda _: None) -> Pruned:
        """Prune, and wait until the server has released the lock."""
        with self._releasing():
            return pruning.run(report)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of a process that prunes, until the end of the block."""
        with self._releasing(), Pruning(self.database.url, LIMIT)._session():
            yield

    @contextmanager
    def _releasing(self) -> Iterator[None]:
        """Wait until the server has released what the block locked: it does so after the connection is closed."""
        before = self.database.rows(LOCKS)
        try:
            yield
        finally:
            wait_until(lambda: self.database.rows(LOCKS) == before)

    def first(self, seq: int) -> int:
        """Return the first seq behind a position from which on the feed is complete."""
        return self.feed.look_up(ClaimedPosition(self.epoch, seq)).first


@pytest.fixture
def rig(database: Database) -> Iterator[Rig]:
    rig = Rig(database)
    yield rig
    rig.store.close()


@pytest.fixture(params=[2, 100])
def batch_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prune in batches of few rows and of many."""
    monkeypatch.setattr(retention, "BATCH_ROWS", request.param)


@pytest.mark.usefixtures("batch_rows")
def test_old_snapshots_are_deleted_except_the_last_one_of_each_pid(rig: Rig) -> None:
    rig.save(OLD, 1, 2, None, 1, 3, 2)
    rig.save(NEW, 2, None)
    assert rig.prune(dry_run=True) == (4, 8, 1)
    assert rig.database.seqs() == list(range(1, 9))
    assert rig.prune() == (4, 8, 7)
    assert rig.database.seqs() == [4, 5, 7, 8]
    assert rig.prune() == (0, 4, 7)


@pytest.mark.usefixtures("batch_rows")
def test_a_kept_snapshot_is_deleted_once_its_pid_has_another_one(rig: Rig) -> None:
    rig.save(OLD, 1, 2, None)
    rig.save(NEW, None)
    rig.prune()
    assert rig.database.seqs() == [1, 2, 4]
    rig.save(NEW, 1)
    assert rig.prune() == (1, 4, 4)
    assert rig.database.seqs() == [2, 4, 5]


def test_the_last_snapshot_of_the_feed_is_kept(rig: Rig) -> None:
    assert rig.prune() == (0, 0, 1)
    rig.save(OLD, None, None)
    assert rig.prune() == (1, 2, 2)
    assert rig.prune() == (0, 1, 2)
    assert rig.database.seqs() == [2]
    assert rig.feed.head().position == Position(rig.epoch, 2)


def test_nothing_behind_a_newer_snapshot_is_deleted(rig: Rig) -> None:
    """A clock that was wrong for a while makes no hole in the feed."""
    rig.save(OLD, None, None)
    rig.save(NEW, None)
    rig.save(OLD, None)
    rig.save(NEW, None)
    assert rig.prune() == (2, 5, 3)
    assert rig.database.seqs() == [3, 4, 5]


def test_a_snapshot_that_was_received_at_the_limit_is_kept(rig: Rig) -> None:
    rig.save(LIMIT - timedelta(microseconds=1), None)
    rig.save(LIMIT, None, None)
    assert rig.prune(LIMIT) == (1, 3, 2)


def test_the_number_of_all_snapshots_is_right_in_every_list(rig: Rig) -> None:
    rig.save(OLD, 1, 1, 2, None)
    rig.save(NEW, 2)
    rig.prune()
    assert rig.store.total() == 2 == rig.database.count()
    assert [row.total for row in rig.store.page(limit=1) + rig.store.page_by_seq(limit=1)] == [2, 2]
    rig.save(NEW, 1, 1)
    assert rig.store.total() == 4 == rig.database.count()


def test_a_position_in_front_of_what_is_left_gets_the_first_seq_that_is_complete(rig: Rig) -> None:
    rig.save(OLD, 1, None, 2, None)
    rig.save(NEW, None, 1, None)
    rig.prune()
    assert rig.database.seqs() == [3, 5, 6, 7], "3 is the last one of pid 2"
    assert [rig.first(seq) for seq in range(8)] == [5, 5, 5, 5, 5, 6, 7, 8]
    page = rig.feed.page(2, 10)
    assert (page.first, page.last) == (3, 3), "a page has nothing behind a gap"
    assert [one.seq for one in rig.feed.page(4, 10).snapshots] == [5, 6, 7]
    execute(rig.database.url, "DELETE FROM balance_snapshot WHERE seq = 5")
    assert [rig.first(seq) for seq in range(5)] == [6] * 5, "rows that were deleted by hand are missing too"


def test_reads_of_snapshots_that_are_kept_stay_right(rig: Rig) -> None:
    rig.save(OLD, 1, 1, 2, None)
    rig.save(NEW, 3)
    before = {row.seq: row.json for row in rig.store.page(limit=10)}
    latest = rig.feed.latest(10)
    rig.prune()
    assert {row.seq: row.json for row in rig.store.page(limit=10)} == {seq: before[seq] for seq in (2, 3, 5)}
    assert [row.seq for row in rig.store.page_by_seq(limit=10, before=(None, 5))] == [3, 2]
    assert [row.seq for row in rig.store.page(limit=10, pid=1)] == [2]
    assert rig.feed.latest(10) == latest


def test_a_run_beside_saves_counts_each_deleted_row_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 7)
    for _ in range(60):
        rig.save(OLD, 1, 2, 3, None, None)
    rig.save(NEW, None)
    pruning = Pruning(rig.database.url, LIMIT)
    thread = threading.Thread(target=pruning.run)
    thread.start()
    saved = 0
    while thread.is_alive():
        rig.save(NEW, 4)
        saved += 1
    thread.join()
    assert saved > 5
    (feed,) = rig.database.rows("SELECT last_seq, first_seq, pruned FROM balance_feed")
    assert feed == {"last_seq": 301 + saved, "first_seq": 301, "pruned": 297}
    assert rig.store.total() == rig.database.count()


def test_a_save_is_not_delayed_by_a_batch_that_waits(rig: Rig) -> None:
    """A batch acquires the lock of the feed as its last action: until then, saves go on."""
    rig.save(OLD, None, None)
    with locked(rig.database, "SELECT FROM balance_snapshot WHERE seq = 1 FOR UPDATE"):
        thread = threading.Thread(target=rig.prune)
        thread.start()
        wait_until(lambda: is_waited_for(rig.database))
        rig.save(NEW, None)
    thread.join()
    assert rig.database.seqs() == [2, 3]


def test_a_batch_waits_for_a_save_and_loses_nothing_of_it(rig: Rig) -> None:
    rig.save(OLD, None, None)
    rig.save(NEW, None)
    with locked(rig.database, LOCK_FEED) as session:
        thread = threading.Thread(target=rig.prune)
        thread.start()
        wait_until(lambda: is_waited_for(rig.database))
        session.execute("UPDATE balance_feed SET last_seq = last_seq + 10")
        session.commit()
    thread.join()
    (feed,) = rig.database.rows("SELECT last_seq, first_seq, pruned FROM balance_feed")
    assert feed == {"last_seq": 13, "first_seq": 3, "pruned": 2}


def test_one_process_prunes_at_a_time(rig: Rig) -> None:
    rig.save(OLD, None, None)
    with rig.locked():
        with pytest.raises(PruningElsewhere, match=r"^another process prunes this database$"):
            rig.prune()
        assert rig.prune(dry_run=True).pruned == 1, "to count needs no lock"
    assert rig.prune().pruned == 1


def test_a_stopped_run_ends_after_its_batch(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 2)
    rig.save(OLD, *[None] * 9)
    pruning = Pruning(rig.database.url, LIMIT)
    assert rig.run(pruning, lambda _: pruning.stop()) == (2, 9, 3)
    assert rig.prune() == (6, 7, 9)


def test_a_run_rests_after_each_batch_and_its_commits_do_not_wait_for_the_disk(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.save(OLD, *[None] * 250)
    note_updates(rig.database.url, "balance_feed")
    clock, rests, reports = Clock(), list[float](), list[Progress]()
    monkeypatch.setattr(retention, "time", SimpleNamespace(monotonic=clock))
    pruning = Pruning(rig.database.url, LIMIT)
    read_batch = pruning._prune_batch

    def prune_batch(session: Any, after: int) -> Any:
        clock.advance(0.5)
        return read_batch(session, after)

    monkeypatch.setattr(pruning, "_prune_batch", prune_batch)
    monkeypatch.setattr(pruning._stop, "wait", rests.append)
    assert rig.run(pruning, reports.append) == (249, 250, 250)
    assert reports == [(100, 250), (200, 250)]
    assert rests == [2.0, 2.0]
    assert rig.database.rows("SELECT level FROM noted") == [{"level": "off"}] * 3


def test_the_service_prunes_in_the_background_and_logs_one_line(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = datetime.now(UTC)
    rig.save(now - timedelta(days=91), 1, 1, 2, None)
    rig.save(now - timedelta(days=89), None)
    ran = threading.Event()
    monkeypatch.setattr(pruner.log, "info", lambda *args: (lines.append(args[0] % args[1:]), ran.set()))
    lines: list[str] = []
    one = Pruner(rig.database.url, timedelta(days=90), first_s=0, pause_s=0.05)
    one.start()
    assert ran.wait(10)
    one.stop()
    one.join()
    assert not one._thread.is_alive()
    assert rig.database.seqs() == [2, 3, 5]
    assert len(lines) == 1
    assert lines[0].startswith("deleted 2 of 5 snapshots, which were received before ")
    assert lines[0].endswith("; the feed begins at seq 5")
    assert caplog.records == []


def test_the_service_leaves_it_to_another_process_that_prunes_already(rig: Rig) -> None:
    rig.save(datetime.now(UTC) - timedelta(days=91), None, None)
    with rig.locked():
        one = Pruner(rig.database.url, timedelta(days=90), first_s=0, pause_s=0.01)
        one.start()
        wait_until(lambda: rig.database.rows(TRIED)[0]["n"] >= 1)
        one.stop()
        one.join()
    assert rig.database.seqs() == [1, 2]


@pytest.mark.expects_log("the clock was set forward by 86400 s: old snapshots are deleted in an hour, not now")
def test_a_clock_that_jumps_forward_deletes_nothing_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig.save(datetime.now(UTC) - timedelta(days=91), None, None)
    clocks = iter([0.0, 86_400.0, 86_400.0])
    monkeypatch.setattr(pruner, "_clocks", lambda: next(clocks, 86_400.0))
    one = Pruner(rig.database.url, timedelta(days=90), first_s=0, pause_s=0.5)
    one.start()
    wait_until(lambda: len(caplog.records) == 1)
    assert rig.database.seqs() == [1, 2]
    wait_until(lambda: rig.database.seqs() == [2])
    one.stop()
    one.join()


@pytest.mark.expects_log("old snapshots are not deleted now: the database cannot be pruned: ")
def test_the_service_tries_again_after_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    one = Pruner("postgresql://127.0.0.1:1/none", timedelta(days=90), first_s=0, pause_s=0.01)
    one.start()
    wait_until(lambda: len(caplog.records) >= 2)
    one.stop()
    one.join()


async def test_a_service_with_the_setting_starts_and_stops(make_service: MakeService) -> None:
    service = await make_service(keep="1h")
    assert service.app.database.pruner is not None
    await service.stop()
    assert not service.app.database.pruner._thread.is_alive()


# What clients get


async def test_rest_answers_a_pruned_position_with_the_first_that_is_complete(
    make_service: MakeService, rig: Rig
) -> None:
    rig.save(OLD, 1, None, None)
    rig.save(NEW, None, None)
    rig.prune()
    service = await make_service()
    for query in ("?after=0", f"?after=2&epoch={rig.epoch}"):
        reply = await service.request("GET", f"/api/balance/feed{query}")
        assert (reply.status, reply.body["code"], reply.body["first"]) == (410, "position_pruned", 4)
    reply = await service.request("GET", f"/api/balance/feed?after=3&epoch={rig.epoch}")
    assert [one["seq"] for one in reply.body["data"]] == [4, 5]
    assert (await service.get()).body["pagination"]["total"] == 3


async def test_socket_io_and_event_streams_send_the_reason(make_service: MakeService, rig: Rig) -> None:
    rig.save(OLD, 1, None, None)
    rig.save(NEW, None, None)
    rig.prune()
    service = await make_service()
    wanted = {"recovered": False, "reason": "pruned", "seq": 5}
    client = await SocketClient.connect(service.url, {"after": 1, "epoch": rig.epoch})
    assert wanted.items() <= client.connected.items()
    await client.close()
    async with StreamClient.to(service.port, f"?after=1&epoch={rig.epoch}") as stream:
        assert wanted.items() <= (await stream.expect("connected")).data.items()


async def test_a_client_whose_replay_is_overtaken_by_a_run_gets_the_reason(
    rig: Rig, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it received has no hole: the replay ends in front of the first row that is gone."""
    rig.save(OLD, *[None] * 2000)
    rig.save(NEW, *[None] * 2000)
    service = await make_service()
    page = service.app.database.feed_store.page

    def prune_then_read(after: int, *arguments: Any) -> Any:
        if after == 1000:
            rig.prune()
        return page(after, *arguments)

    monkeypatch.setattr(service.app.database.feed_store, "page", prune_then_read)
    client = await SocketClient.connect(service.url, {"after": 0, "epoch": rig.epoch})
    assert client.connected["recovered"] is True
    assert await seqs(client, 1000) == list(range(1, 1001))
    assert await client.await_closed() == 1013
    client = await SocketClient.connect(service.url, {"after": 1000, "epoch": rig.epoch})
    assert {"recovered": False, "reason": "pruned", "seq": 4000}.items() <= client.connected.items()
    await client.close()
    client = await SocketClient.connect(service.url, {"after": 2000, "epoch": rig.epoch})
    assert client.connected["recovered"] is True
    assert await seqs(client, 2000) == list(range(2001, 4001))
    await client.close()


# The command


def test_the_command_prunes_and_prints_what_it_did(rig: Rig, processes: Processes) -> None:
    rig.save(OLD, 1, 1, None)
    rig.save(NEW, None)
    url = rig.database.url
    process = processes("prune", "--before", "2025-08-09", "--dry-run", DATABASE_URL=url)
    assert (process.wait(), process.complaints) == (0, [])
    assert process.stdout == ["would delete 2 of 4 snapshots, those received before 2025-08-09T00:00:00+00:00"]
    process = processes("prune", "--before", "2025-08-09", DATABASE_URL=url, BALANCE_KEEP="1h")
    assert (process.wait(), process.complaints) == (0, [])
    assert process.stdout == [
        "deleted 2 of 4 snapshots, those received before 2025-08-09T00:00:00+00:00; the feed begins at seq 4"
    ]
    process = processes("prune", DATABASE_URL=url, BALANCE_KEEP="1h")
    assert process.wait() == 0
    assert process.stdout[0].startswith("deleted 0 of 2 snapshots, ")
    assert rig.database.seqs() == [2, 4]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "prune needs --before DATE, or --keep"),
        (("--keep", "90d", "--before", "2025-08-01"), "prune: --before and --keep are two limits: leave one"),
        (("--before", "yesterday"), "--before: 'yesterday' is not a date"),
        (("--before", "2025-08-01T12:00"), "--before: '2025-08-01T12:00' has no zone"),
        (("--before", "2999-01-01"), "--before: '2999-01-01' is in the future"),
        (("--keep", "90"), "--keep: '90' is not a time"),
        (("--before", "2025-08-01"), "the database cannot be pruned: connection "),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
def test_the_command_refuses_in_one_line(processes: Processes, arguments: tuple[str, ...], reason: str) -> None:
    check_start_refused(processes("prune", *arguments, DATABASE_URL="postgresql://127.0.0.1:1/none"), reason)


@pytest.mark.parametrize("text", ["0d", "1", "d", "1.5d", "-1d", "90D", "1y", "999999w", " 1d"])
def test_a_time_to_keep_that_is_not_one_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--keep: "):
        Config.read(["--keep=" + text], {})


def test_the_grants_are_checked_and_named(rig: Rig) -> None:
    name = f"keeper_{uuid.uuid4().hex}"
    with psycopg.connect(rig.database.url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN".encode())
        admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}".encode())
        url = psycopg.conninfo.make_conninfo(rig.database.url, user=name)
        try:
            with pytest.raises(DatabaseError) as caught:
                Pruning(url, LIMIT).run()
            assert f"role {name} lacks DELETE on balance_snapshot, UPDATE on balance_feed: grant" in str(caught.value)
            assert Pruning(url, LIMIT, dry_run=True).run() == (0, 0, 1)
            admin.execute(f"GRANT DELETE ON balance_snapshot TO {name}".encode())
            admin.execute(f"GRANT UPDATE (first_seq, pruned) ON balance_feed TO {name}".encode())
            assert Pruning(url, LIMIT).run() == (0, 0, 1)
        finally:
            admin.execute(f"DROP OWNED BY {name}".encode())
            admin.execute(f"DROP ROLE {name}".encode())


def test_a_feed_that_has_lost_its_row_is_one_line(rig: Rig) -> None:
    execute(rig.database.url, "DELETE FROM balance_feed")
    with pytest.raises(DatabaseError, match=r"^the database cannot be pruned: table balance_feed has lost its row$"):
        rig.prune()


def test_a_database_that_cannot_be_reached_is_one_line() -> None:
    with pytest.raises(DatabaseError, match=r"^the database cannot be pruned: connection .*$"):
        Pruning("postgresql://127.0.0.1:1/none", LIMIT).run()
