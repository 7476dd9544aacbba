"""The store: what each method returns, and what an append does beside another process. No test has a server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from balance.position import Position
from balance.snapshot import Snapshot
from balance.storage import store as module
from balance.storage.append import NOTHING_STORED, Appended
from balance.storage.errors import UNABLE, StoreUnavailable
from balance.storage.pool import Pool
from balance.storage.store import FEED_CHANGED, Store
from tests.support.feed import snapshot
from tests.support.outages import OUTAGE
from tests.support.postgres import LOCK_FEED, execute, is_waited_for, locked
from tests.support.service import Database
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("shared_database")

TS = datetime(2025, 11, 7, tzinfo=UTC)
INSERT = """
INSERT INTO balance_snapshot (seq, id, ts, onchain, onsite, received_at)
VALUES (%s, %s, now(), '{"rlb": 1, "usdt": 1}', '{"rlb": 1, "usd": 1}', now())
"""


def open_store(database: Database) -> Store:
    store = Store(Pool(database.url, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000))
    store.open()
    return store


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    store = open_store(database)
    yield store
    store.close()


@pytest.fixture
def other(database: Database) -> Iterator[Store]:
    """The store of another process."""
    store = open_store(database)
    yield store
    store.close()


@pytest.fixture
def locked_appends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the appends that wait for the lock of the feed first."""
    sizes: list[int] = []
    original = module.insert_locked

    def noted(session: Any, snapshots: Any, expected: Any) -> Any:
        sizes.append(len(snapshots))
        return original(session, snapshots, expected)

    monkeypatch.setattr(module, "insert_locked", noted)
    return sizes


def seqs(appended: Appended) -> list[int]:
    assert not any(one.duplicate for one in appended.saved)
    return [one.snapshot.seq for one in appended.saved]


def found(store: Store, id_: str) -> Snapshot:
    one = store.find(id_)
    assert one is not None
    return one


def values(*snapshots: Snapshot) -> list[tuple[Any, ...]]:
    """Return the fields of snapshots; encoded JSON has no equality of its own."""
    return [
        (one.id, one.ts, one.pid, bytes(one.onchain), bytes(one.onsite), one.received_at, one.seq) for one in snapshots
    ]


def append_behind(store: Store, database: Database, rows: list[Snapshot], seq: int, id_: str) -> Appended:
    """Append while another process has the lock of the feed, and commits one snapshot before it releases the lock."""
    with ThreadPoolExecutor(1) as executor:
        with locked(database, LOCK_FEED) as session:
            waiting = executor.submit(store.append, rows)
            wait_until(lambda: waiting.done() or is_waited_for(database))
            session.execute("UPDATE balance_feed SET last_seq = %s", [seq])
            session.execute(INSERT, (seq, id_))
            session.commit()
        return waiting.result(10)


def moments(count: int, **fields: Any) -> list[Snapshot]:
    """Make snapshots of one second after the other."""
    return [replace(snapshot(), ts=TS + timedelta(seconds=number), **fields) for number in range(count)]


# Appending ---------------------------------------------------------------------------------------------------


def test_an_append_returns_what_is_stored_in_its_order(store: Store, database: Database) -> None:
    (epoch,) = (row["epoch"] for row in database.rows("SELECT epoch::text FROM balance_feed"))
    rows = [snapshot() for _ in range(3)]
    appended = store.append(rows)
    assert appended.epoch == epoch
    assert seqs(appended) == [1, 2, 3]
    expected = values(*(row.with_seq(seq) for seq, row in enumerate(rows, 1)))
    assert values(*(one.snapshot for one in appended.saved)) == expected
    assert values(*(found(store, row.id) for row in rows)) == expected
    assert [str(row["id"]) for row in database.rows()] == [row.id for row in rows]


def test_one_process_alone_never_waits_for_the_lock(store: Store, locked_appends: list[int]) -> None:
    for size in (1, 3, 2):
        store.append([snapshot() for _ in range(size)])
    assert locked_appends == []


def test_after_an_append_of_another_process_the_next_ones_wait_for_the_lock(
    store: Store, other: Store, locked_appends: list[int]
) -> None:
    assert seqs(store.append([snapshot()])) == [1]
    assert seqs(other.append([snapshot(), snapshot()])) == [2, 3]
    assert seqs(store.append([snapshot()])) == [4]
    assert locked_appends == [2, 1]
    assert seqs(store.append([snapshot(), snapshot()])) == [5, 6]
    assert locked_appends == [2, 1, 2]
    assert seqs(store.append([snapshot()])) == [7]
    assert locked_appends == [2, 1, 2], "no other process has appended between the last two"


def test_a_store_that_is_opened_on_a_feed_with_rows_is_alone(
    database: Database, store: Store, locked_appends: list[int]
) -> None:
    store.append([snapshot() for _ in range(3)])
    later = open_store(database)
    for seq in (4, 5):
        assert seqs(later.append([snapshot()])) == [seq]
    assert locked_appends == []
    later.close()


def test_an_append_that_waits_for_another_process_is_stored_behind_it(
    store: Store, database: Database, locked_appends: list[int]
) -> None:
    rows = [snapshot(), snapshot()]
    appended = append_behind(store, database, rows, 1, str(uuid.uuid4()))
    assert seqs(appended) == [2, 3]
    assert locked_appends == [2]
    stored = (found(store, row.id) for row in rows)
    assert values(*stored) == values(*(row.with_seq(seq) for seq, row in enumerate(rows, 2)))


def test_an_append_that_waits_for_another_process_with_its_id_is_a_duplicate(store: Store, database: Database) -> None:
    rows = [snapshot(), snapshot(), snapshot()]
    appended = append_behind(store, database, rows, 1, rows[1].id)
    assert [(one.snapshot.id, one.snapshot.seq, one.duplicate) for one in appended.saved] == [
        (rows[0].id, 2, False),
        (rows[1].id, 1, True),
        (rows[2].id, 3, False),
    ]
    assert database.seqs() == [1, 2, 3]


def test_beside_another_process_an_append_sees_what_that_committed_before_the_lock(
    store: Store, other: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.append([snapshot()])
    store.append([snapshot()])
    monkeypatch.delattr(module, "append_deduplicated")
    appended = append_behind(store, database, [snapshot()], 3, str(uuid.uuid4()))
    assert seqs(appended) == [4]


def test_beside_another_process_an_id_that_it_commits_before_the_lock_is_a_duplicate(
    store: Store, other: Store, database: Database
) -> None:
    other.append([snapshot()])
    store.append([snapshot()])
    row = snapshot()
    appended = append_behind(store, database, [row], 3, row.id)
    assert [(one.snapshot.seq, one.duplicate) for one in appended.saved] == [(3, True)]
    assert database.seqs() == [1, 2, 3]


def test_an_id_that_another_process_commits_before_the_lock_is_a_duplicate(store: Store, database: Database) -> None:
    row = snapshot()
    appended = append_behind(store, database, [row, row], 1, row.id)  # twice, so that the ids are looked for at once
    assert [(one.snapshot.seq, one.duplicate) for one in appended.saved] == [(1, True), (1, True)]
    assert database.seqs() == [1]


def test_duplicates_of_one_append_and_of_earlier_ones_are_what_is_stored(store: Store, database: Database) -> None:
    first, second, third = snapshot(), snapshot(), snapshot()
    epoch = store.append([first]).epoch
    appended = store.append([second, first, replace(third, pid=1), replace(third, pid=2)])
    assert appended.epoch == epoch
    stored = [second.with_seq(2), first.with_seq(1), replace(third, pid=1, seq=3), replace(third, pid=1, seq=3)]
    assert values(*(one.snapshot for one in appended.saved)) == values(*stored)
    assert [one.duplicate for one in appended.saved] == [False, True, False, True]
    assert [one.duplicate for one in store.append([third, first]).saved] == [True, True]
    assert database.seqs() == [1, 2, 3]
    assert seqs(store.append([snapshot()])) == [4]


@pytest.mark.parametrize("ids", ["new", "stored"])
@pytest.mark.expects_log(*OUTAGE)
def test_a_feed_without_its_row_saves_and_reads_nothing(store: Store, database: Database, ids: str) -> None:
    first = snapshot()
    store.append([first])
    database.rows("DELETE FROM balance_feed")
    rows = [snapshot() if ids == "new" else first]
    for call in (lambda: store.append(rows), store.total, lambda: store.page(limit=1)):
        with pytest.raises(StoreUnavailable, match=f"^{UNABLE}$"):
            call()
        assert set(store._pool.outage._failures.values()) == {"table balance_feed has lost its row"}
    assert database.count() == 1


@pytest.mark.expects_log(*OUTAGE)
def test_an_append_of_which_nothing_is_stored_under_the_lock_fails(store: Store, database: Database) -> None:
    execute(
        database.url,
        "CREATE FUNCTION ignore() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER ignore BEFORE UPDATE ON balance_feed FOR EACH ROW EXECUTE FUNCTION ignore()",
    )
    try:
        with pytest.raises(StoreUnavailable, match=f"^{UNABLE}$"):
            store.append([snapshot()])
    finally:
        execute(database.url, "DROP FUNCTION ignore CASCADE")
    assert set(store._pool.outage._failures.values()) == {NOTHING_STORED}
    assert database.count() == 0
    assert seqs(store.append([snapshot()])) == [1]


@pytest.mark.expects_log(*OUTAGE)
def test_an_append_fails_if_the_feed_changes_again_while_its_epoch_is_renewed(
    store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = "UPDATE balance_feed SET epoch = gen_random_uuid()"
    original = module.renew_epoch

    def renewed_and_changed(*arguments: Any) -> Position:
        position = original(*arguments)
        execute(database.url, change)
        return position

    monkeypatch.setattr(module, "renew_epoch", renewed_and_changed)
    execute(database.url, change)
    with pytest.raises(StoreUnavailable, match=f"^{UNABLE}$"):
        store.append([snapshot()])
    assert set(store._pool.outage._failures.values()) == {FEED_CHANGED}
    assert database.count() == 0
    monkeypatch.undo()
    assert seqs(store.append([snapshot()])) == [1]


def test_a_row_that_the_table_rejects_is_an_error_of_psycopg(store: Store, database: Database) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        store.append([snapshot(), replace(snapshot(), pid=-1)])
    assert database.count() == 0
    assert seqs(store.append([snapshot()])) == [1]


# Reading -----------------------------------------------------------------------------------------------------


def test_the_end_of_the_feed_is_its_last_snapshot(store: Store, other: Store) -> None:
    epoch = store.append([snapshot(), snapshot()]).epoch
    assert store.open() == other.open() == Position(epoch, 2)
    assert store.total() == other.total() == 2


def test_without_a_standby_no_commit_waits_for_one(store: Store) -> None:
    assert not store.waits_for_standby()


def test_pruned_snapshots_are_not_counted(store: Store, database: Database) -> None:
    store.append([snapshot() for _ in range(3)])
    execute(
        database.url, "DELETE FROM balance_snapshot WHERE seq = 1", "UPDATE balance_feed SET first_seq = 2, pruned = 1"
    )
    assert store.total() == store.page(limit=1)[0].total == 2


def test_a_snapshot_is_found_by_its_id(store: Store) -> None:
    rows = [snapshot(), snapshot()]
    store.append(rows)
    assert values(found(store, rows[1].id)) == values(rows[1].with_seq(2))
    assert store.find(str(uuid.uuid4())) is None


def test_a_page_has_what_is_wanted_of_it(store: Store) -> None:
    rows = moments(4, pid=1) + moments(4, pid=2)
    store.append(rows)

    def page(**wanted: Any) -> list[int]:
        return [one.seq for one in store.page(**{"limit": 100, **wanted})]

    assert page() == [8, 4, 7, 3, 6, 2, 5, 1]
    assert page(limit=3) == [8, 4, 7]
    assert page(limit=3, offset=2) == [7, 3, 6]
    assert page(before=(rows[6].ts, 7)) == [3, 6, 2, 5, 1]
    assert page(from_=rows[2].ts) == [8, 4, 7, 3]
    assert page(to=rows[1].ts) == [5, 1]
    assert page(pid=1) == [4, 3, 2, 1]
    assert page(pid=3) == []
    first = store.page(limit=1)[0]
    assert (first.ts, first.seq, first.total) == (rows[7].ts, 8, 8)
    assert b'"seq":8,' in bytes(first.json)


def test_a_page_by_seq_has_what_is_wanted_of_it(store: Store) -> None:
    rows = moments(4, pid=1) + moments(4, pid=2)
    store.append(rows)

    def page(**wanted: Any) -> list[int]:
        return [one.seq for one in store.page_by_seq(**{"limit": 100, **wanted})]

    assert page() == [8, 7, 6, 5, 4, 3, 2, 1]
    assert page(limit=2, offset=1) == [7, 6]
    assert page(before=(None, 3)) == [2, 1]
    assert page(from_=rows[2].ts) == [8, 7, 4, 3]
    assert page(to=rows[1].ts) == [5, 1]
    assert page(pid=1) == [4, 3, 2, 1]
    first = store.page_by_seq(limit=1)[0]
    assert (first.ts, first.seq, first.total) == (rows[7].ts, 8, 8)


def test_a_page_is_never_prepared(store: Store) -> None:
    for _ in range(10):  # psycopg prepares any other statement at its sixth execution
        store.page(limit=1)
    with store._pool.connection() as session:
        assert not session.execute("SELECT FROM pg_prepared_statements WHERE statement LIKE '%OFFSET%'").fetchall()
