"""Batches that are sent to PostgreSQL one behind the other: what is stored, in which order, and what is not."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from select import select
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from balance.position import Position
from balance.snapshot import Snapshot
from balance.storage.append import Appended
from balance.storage.database_session import DatabaseSession
from balance.storage.errors import STOPPING, UNREACHABLE, StoreUnavailable
from balance.storage.outage import CONNECTION, SAVE
from balance.storage.pipeline import Outcome
from balance.storage.pool import Pool
from balance.storage.store import Store
from tests.support.feed import snapshot
from tests.support.outages import OUTAGE
from tests.support.pool import is_at_rest
from tests.support.postgres import LOCK_FEED, execute, is_waited_for, locked, query
from tests.support.service import Database
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("shared_database")

STATEMENT_MS_MAX, SHORT_MS = 5000, 400


def open_store(database: Database, statement_ms_max: int = STATEMENT_MS_MAX) -> Store:
    store = Store(Pool(database.url, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=statement_ms_max))
    store.open()
    return store


@pytest.fixture
def statement_ms_max() -> int:
    return STATEMENT_MS_MAX


@pytest.fixture
def store(database: Database, statement_ms_max: int) -> Iterator[Store]:
    """A store whose connection has the prepared statement, and one snapshot."""
    store = open_store(database, statement_ms_max)
    store.append([snapshot()])
    yield store
    store.close()


def batch(count: int = 1) -> list[Snapshot]:
    return [snapshot() for _ in range(count)]


def send(store: Store, *batches: list[Snapshot]) -> Any:
    """Send batches; return the connection."""
    connection = store.connection
    assert connection is not None
    for one in batches:
        assert store.send(one)
        while not store.flush():
            select([connection], [connection], [], 10)
    return connection


def receive(store: Store, count: int) -> list[Outcome]:
    """Wait for the outcomes of all batches that were sent."""
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        assert select([store._pipeline._session], [], [], 10)[0]
        outcomes += store.receive()
    return outcomes


def seqs(outcome: Outcome) -> list[int]:
    assert isinstance(outcome, Appended)
    assert not any(one.duplicate for one in outcome.saved)
    return [one.snapshot.seq for one in outcome.saved]


def test_batches_are_stored_in_the_order_in_which_they_are_sent(store: Store, database: Database) -> None:
    first, second = batch(2), batch(3)
    send(store, first, second)
    one, two = receive(store, 2)
    assert (seqs(one), seqs(two)) == ([2, 3], [4, 5, 6])
    assert [str(row["id"]) for row in database.rows("SELECT id FROM balance_snapshot ORDER BY seq")][1:] == [
        row.id for row in first + second
    ]
    assert seqs(store.append(batch())) == [7], "the connection is as it was before"


def test_each_batch_is_committed_before_the_next_one_begins(store: Store, database: Database) -> None:
    ends = "SELECT xmin::text FROM balance_snapshot WHERE seq > 1"
    send(store, batch(2), batch())
    receive(store, 2)
    assert len(set(query(database.url, ends))) == 2


def test_nothing_is_stored_of_a_batch_with_a_stored_id_and_of_the_one_behind_it(
    store: Store, database: Database
) -> None:
    resent = batch()
    assert seqs(store.append(resent)) == [2]
    first, second = batch() + resent, batch()
    send(store, first, second)
    assert receive(store, 2) == [None, None]
    assert database.seqs() == [1, 2]
    assert [(one.snapshot.seq, one.duplicate) for one in store.append(first).saved] == [(3, False), (2, True)]
    assert seqs(store.append(second)) == [4]


def test_nothing_is_stored_behind_as_many_rows_of_another_process(store: Store, database: Database) -> None:
    first, second = batch(), batch()
    with locked(database, LOCK_FEED) as session:
        send(store, first, second)
        wait_until(lambda: is_waited_for(database))
        session.execute("UPDATE balance_feed SET last_seq = 2")
        session.execute(
            "INSERT INTO balance_snapshot (seq, id, ts, onchain, onsite, received_at) "
            "SELECT 2, %s, ts, onchain, onsite, received_at FROM balance_snapshot",
            [uuid.uuid4()],
        )
        session.commit()
    assert receive(store, 2) == [None, None]
    assert seqs(store.append(first)) == [3]
    assert seqs(store.append(second)) == [4]


def test_nothing_is_sent_while_another_process_appends_too(store: Store, database: Database) -> None:
    other = open_store(database)
    assert seqs(other.append(batch())) == [2]
    send(store, batch())
    assert receive(store, 1) == [None]
    assert seqs(store.append(batch())) == [3]
    assert not store.send(batch())
    assert seqs(store.append(batch())) == [4]
    send(store, batch())
    assert seqs(receive(store, 1)[0]) == [5], "it is alone again"
    other.close()


def test_a_new_epoch_stores_nothing_of_what_was_sent_for_the_one_before(store: Store, database: Database) -> None:
    execute(database.url, "UPDATE balance_feed SET epoch = gen_random_uuid()")
    send(store, batch())
    assert receive(store, 1) == [None]
    assert database.seqs() == [1]


def test_another_system_stores_nothing_of_what_was_sent_for_the_one_before(store: Store, database: Database) -> None:
    wait_until(lambda: is_at_rest(store._pool))  # a new session would begin another epoch itself
    execute(database.url, "UPDATE balance_feed SET system_id = '1'")
    send(store, batch())
    assert receive(store, 1) == [None]


@pytest.mark.expects_log("no more pipelines")
def test_a_connection_without_a_pipeline_is_not_used_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: DatabaseSession) -> None:
        raise psycopg.OperationalError("no more pipelines")

    monkeypatch.setattr(DatabaseSession, "begin_pipeline", fail)
    assert not store.send(batch())
    assert store.connection is None
    assert store._pool.counts().in_use == 0
    assert seqs(store.append(batch())) == [2]


def test_nothing_is_sent_by_a_pool_that_stops(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise StoreUnavailable(STOPPING)

    monkeypatch.setattr(store._pool, "begin_use", fail)
    assert not store.send(batch())


@pytest.mark.expects_log("the disk is full")
def test_a_refused_row_does_not_end_an_outage(store: Store) -> None:
    store._pool.outage.failed(SAVE, "the disk is full")
    send(store, [replace(snapshot(), pid=-1)])
    assert receive(store, 1) == [None]
    assert store._pool.outage.fails(SAVE)


def test_a_row_that_the_table_rejects_is_left_to_append(store: Store, database: Database) -> None:
    bad = replace(snapshot(), pid=-1)
    send(store, [*batch(), bad], batch())
    assert receive(store, 2) == [None, None]
    assert database.seqs() == [1]


@contextmanager
def refused(database: Database, sqlstate: str) -> Iterator[Snapshot]:
    """Give a snapshot whose commit PostgreSQL refuses within the block."""
    refuse = (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION 'at the commit' USING ERRCODE = '{sqlstate}'; END $$",
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON balance_snapshot INITIALLY DEFERRED "
        "FOR EACH ROW WHEN (NEW.pid = 13) EXECUTE FUNCTION refuse()",
    )
    execute(database.url, *refuse)
    try:
        yield replace(snapshot(), pid=13)
    finally:
        execute(database.url, "DROP FUNCTION refuse CASCADE")


@pytest.mark.parametrize("sqlstate", ["23514", "22000"])
def test_an_error_of_the_commit_itself_is_that_of_the_batch(store: Store, database: Database, sqlstate: str) -> None:
    with refused(database, sqlstate) as bad:
        first, last = batch(), batch()
        send(store, first, [bad])
        one, two = receive(store, 2)
        assert (seqs(one), two) == ([2], None)
        with pytest.raises(psycopg.Error, match="at the commit"):
            store.append([bad])
        assert seqs(store.append(last)) == [3]


@pytest.mark.expects_log("the disk is full")
def test_what_a_grant_does_not_allow_is_left_to_append(store: Store, database: Database) -> None:
    """It neither begins an outage nor ends one."""
    with refused(database, "42501") as bad:
        for is_failing in (False, True):
            if is_failing:
                store._pool.outage.failed(SAVE, "the disk is full")
            send(store, [bad])
            assert receive(store, 1) == [None]
            assert store._pool.outage.fails(SAVE) == is_failing


@pytest.mark.expects_log("not replicated", *OUTAGE)
def test_a_warning_of_the_commit_is_that_of_its_own_batch(store: Store, database: Database) -> None:
    """A cancelled wait for a standby is such a warning: what it is about may be lost in a failover."""
    warn = (
        "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE WARNING 'not replicated'; RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER warn AFTER INSERT ON balance_snapshot INITIALLY DEFERRED "
        "FOR EACH ROW WHEN (NEW.pid = 13) EXECUTE FUNCTION warn()",
    )
    execute(database.url, *warn)
    try:
        warned = replace(snapshot(), pid=13)
        with locked(database, LOCK_FEED):
            send(store, [warned], batch())
            wait_until(lambda: is_waited_for(database))
        one, two = receive(store, 2)
        assert isinstance(one, StoreUnavailable)
        assert seqs(two) == [3]
    finally:
        execute(database.url, "DROP FUNCTION warn CASCADE")


@pytest.mark.expects_log(*OUTAGE)
def test_what_is_in_flight_when_the_connection_is_lost_may_be_stored(store: Store, database: Database) -> None:
    with locked(database, LOCK_FEED) as session:
        send(store, batch(), batch())
        wait_until(lambda: is_waited_for(database))
        session.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    one, two = receive(store, 2)
    for outcome in (one, two):
        assert isinstance(outcome, StoreUnavailable)
        assert str(outcome) == UNREACHABLE
    assert store._pool.counts().in_use == 0
    assert not store.send(batch())
    assert seqs(store.append(batch())) == [2]
    send(store, batch())
    assert seqs(receive(store, 1)[0]) == [3]


@pytest.mark.expects_log(*OUTAGE)
def test_a_connection_that_ends_without_an_error_of_the_server_is_not_in_use(store: Store, database: Database) -> None:
    with locked(database, LOCK_FEED):
        send(store, batch()).abort()
        (one,) = receive(store, 1)
    assert isinstance(one, StoreUnavailable)
    assert store._pool.counts().in_use == 0
    assert store._pool.outage.fails(CONNECTION)


@pytest.mark.expects_log("no connection")
def test_a_connection_that_is_lost_at_the_moment_of_sending_is_not_used_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(session: DatabaseSession, name: bytes, *parameters: bytes | None) -> None:
        session.pgconn.send_query_prepared(name, parameters)
        raise psycopg.OperationalError("no connection")

    monkeypatch.setattr(DatabaseSession, "send_prepared", fail)
    assert not store.send(batch())
    assert store.connection is None
    assert store._pool.outage.fails(CONNECTION)
    assert store._pool.counts().in_use == 0
    monkeypatch.undo()
    assert seqs(store.append(batch())) == [2]


def test_a_connection_that_was_lost_before_is_not_used(store: Store, database: Database) -> None:
    send(store, batch())
    receive(store, 1)
    execute(
        database.url,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert not store.send(batch())
    assert seqs(store.append(batch())) == [3]


@pytest.mark.expects_log(*OUTAGE)
def test_what_is_answered_before_the_session_ends_is_stored(store: Store, database: Database) -> None:
    connection = send(store, batch(), batch())
    wait_until(lambda: database.count() == 3)
    execute(database.url, f"SELECT pg_terminate_backend({connection.info.backend_pid}, 5000)")
    assert [seqs(outcome) for outcome in receive(store, 2)] == [[2], [3]]


def test_nothing_is_sent_behind_a_batch_on_a_server_that_may_be_a_former_primary(
    store: Store, database: Database
) -> None:
    with locked(database, LOCK_FEED):
        send(store, batch())
        store._pool.write_session_is_suspect = True  # as a session to a new primary does
        assert not store.send(batch())
    assert seqs(receive(store, 1)[0]) == [2]
    assert not store.send(batch())
    assert seqs(store.append(batch())) == [3], "on another connection"


def test_nothing_is_sent_behind_a_batch_once_its_epoch_is_known_to_be_over(store: Store, database: Database) -> None:
    with locked(database, LOCK_FEED):
        send(store, batch())
        store._pool.known.note(Position(str(uuid.uuid4()), 100))  # as the tail does
        assert not store.send(batch())
    receive(store, 1)


@pytest.mark.parametrize("statement_ms_max", [SHORT_MS])
def test_a_connection_is_kept_if_only_this_process_is_late(store: Store) -> None:
    send(store, batch())
    time.sleep(SHORT_MS / 1000 * 1.6)  # the event loop, which reads no answer meanwhile
    assert seqs(receive(store, 1)[0]) == [2]
    send(store, batch())
    assert seqs(receive(store, 1)[0]) == [3]


@pytest.mark.parametrize("statement_ms_max", [SHORT_MS])
@pytest.mark.expects_log(*OUTAGE)
def test_a_batch_that_takes_too_long_fails_and_the_one_behind_it_is_not_stored(
    store: Store, database: Database
) -> None:
    with locked(database, LOCK_FEED):
        send(store, batch(), batch())
        one, two = receive(store, 2)
    assert isinstance(one, StoreUnavailable)
    assert two is None
    assert database.seqs() == [1]


def test_batches_that_do_not_fit_into_the_buffers_are_sent_as_they_are_read(store: Store, database: Database) -> None:
    with locked(database, LOCK_FEED):
        send(store, batch())
        wait_until(lambda: is_waited_for(database))
        large = batch(5000)
        assert store.send(large)
        assert not store.flush(), "PostgreSQL reads nothing now"
    (one,) = receive(store, 1)
    assert seqs(one) == [2]
    while not store.flush():
        assert select([], [store.connection], [], 10)[1]
    (two,) = receive(store, 1)
    assert seqs(two) == list(range(3, 5003))
    assert database.count() == 5002


def test_the_ids_of_a_batch_differ(store: Store) -> None:
    one = snapshot()
    assert not store.send([one, one])


def test_nothing_is_sent_before_the_statement_is_prepared(database: Database) -> None:
    fresh = open_store(database)
    assert not fresh.send(batch())
    assert fresh._pool.counts().in_use == 0
    fresh.close()


def test_a_pool_that_is_closed_ends_what_is_in_flight(store: Store, database: Database) -> None:
    with locked(database, LOCK_FEED):
        send(store, batch())
        wait_until(lambda: is_waited_for(database))
        store.close()
        (one,) = receive(store, 1)
    assert isinstance(one, StoreUnavailable)
    assert not store.send(batch())
