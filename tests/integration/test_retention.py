"""Pruning: what is deleted and what is kept, and that every read stays right, on each transport, while it runs."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from balance.position import ClaimedPosition, Position
from balance.snapshot import Snapshot
from balance.storage import retention
from balance.storage.connect import DatabaseError
from balance.storage.feed_store import FeedStore
from balance.storage.pool import Pool
from balance.storage.retention import Pruned, Pruning, PruningElsewhere
from balance.storage.store import Store
from tests.support.feed import ONCHAIN, ONSITE
from tests.support.postgres import LOCK_FEED, execute, is_waited_for, locked
from tests.support.service import Database
from tests.support.waiting import wait_until

NEW = datetime(2025, 11, 7, tzinfo=UTC)
OLD = NEW - timedelta(days=100)
LIMIT = NEW - timedelta(days=90)


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
        return Pruning(self.database.url, before, dry_run=dry_run).run()

    def first(self, seq: int) -> int:
        """Return the first seq behind a position from which on the feed is complete."""
        return self.feed.look_up(ClaimedPosition(self.epoch, seq)).first


@pytest.fixture
def rig(database: Database) -> Iterator[Rig]:
    rig = Rig(database)
    yield rig
    rig.store.close()


@pytest.fixture(params=[2, 500])
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
    rig.save(LIMIT, None)
    rig.save(LIMIT + timedelta(microseconds=1), None)
    assert rig.prune(LIMIT) == (0, 5, 3)


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
    pruning = Pruning(rig.database.url, LIMIT)
    with pruning._session():
        with pytest.raises(PruningElsewhere, match="^another process prunes this database$"):
            rig.prune()
        assert rig.prune(dry_run=True).pruned == 1, "to count needs no lock"
    assert rig.prune().pruned == 1


def test_a_stopped_run_ends_after_its_batch(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 2)
    rig.save(OLD, *[None] * 9)
    pruning = Pruning(rig.database.url, LIMIT)
    assert pruning.run(lambda _: pruning.stop()) == (2, 9, 3)
    assert rig.prune() == (6, 7, 9)


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


def test_a_database_that_cannot_be_reached_is_one_line() -> None:
    with pytest.raises(DatabaseError, match=r"^the database cannot be pruned: connection .*$"):
        Pruning("postgresql://127.0.0.1:1/none", LIMIT).run()
