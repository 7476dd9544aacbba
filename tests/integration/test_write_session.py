"""The session of the write thread: its settings, its prepared statement, and when another one takes over."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from balance.storage import pool as pool_module
from balance.storage.errors import StoreUnavailable
from balance.storage.feed_store import FeedStore
from balance.storage.outage import READ
from balance.storage.pool import Pool
from balance.storage.session_settings import configure_session
from balance.storage.store import Store
from tests.support.feed import snapshot
from tests.support.outages import OUTAGE
from tests.support.postgres import note_updates
from tests.support.service import Database


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    store = Store(Pool(database.url, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000))
    store.open()
    yield store
    store.close()


def backend_of(store: Store) -> int:
    """Return the process id of the write session's backend."""
    with store._pool.write_connection(READ) as session:
        return session.info.backend_pid


def append(store: Store, count: int = 1) -> list[int]:
    return [one.snapshot.seq for one in store.append([snapshot() for _ in range(count)]).saved]


# Durability --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["off", "local", "remote_write", "on", "remote_apply"])
@pytest.mark.parametrize("owner", ["DATABASE", "ROLE"])
def test_no_setting_of_a_database_or_role_makes_a_commit_less_durable(
    database: Database, owner: str, level: str
) -> None:
    """An update is acknowledged when it is on disk, also if a role has `synchronous_commit` off."""
    parts = conninfo_to_dict(database.url)
    name = sql.Identifier(str(parts["dbname" if owner == "DATABASE" else "user"]))
    scope = (
        sql.SQL("") if owner == "DATABASE" else sql.SQL("IN DATABASE {}").format(sql.Identifier(str(parts["dbname"])))
    )
    change = sql.SQL("ALTER {} {} {} SET synchronous_commit = {}").format(
        sql.SQL(owner), name, scope, sql.Literal(level)
    )
    with psycopg.connect(database.url, autocommit=True) as admin:
        admin.execute(change)
    with psycopg.connect(database.url, autocommit=True) as plain:
        assert plain.execute("SHOW synchronous_commit").fetchone() == (level,)
        assert configure_session(plain, statement_ms_max=5000) == ("", None)
    store = Store(Pool(database.url, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000))
    store.open()
    with store._pool.write_connection() as session:
        assert session.execute("SHOW synchronous_commit").fetchone() == (
            "remote_apply" if level == "remote_apply" else "on",
        )
    store.close()


def test_each_kind_of_append_is_committed_at_the_level_of_the_session(store: Store, database: Database) -> None:
    """A transaction that stores nothing has a lower level, and must leave it to no other."""
    note_updates(database.url, "balance_feed")
    other = Store(Pool(database.url, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000))
    other.open()
    first = snapshot()
    assert append(other) == [1]
    assert store.append([first]).end == 2, "under the lock"
    assert [one.duplicate for one in store.append([first, snapshot()]).saved] == [True, False]
    assert [append(store), append(store)] == [[4], [5]]
    assert database.rows("SELECT level FROM noted") == 5 * [{"level": "on"}]
    other.close()


WARN = """
CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'not replicated'; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER warn AFTER UPDATE ON balance_feed INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION warn();
"""


@pytest.mark.expects_log(*OUTAGE)
def test_a_commit_with_a_warning_is_unavailable_and_a_resend_is_a_duplicate(store: Store, database: Database) -> None:
    """PostgreSQL reports a cancelled wait for a standby as success with a warning (see tests/faults)."""
    one, several = snapshot(), [snapshot(), snapshot()]
    with psycopg.connect(database.url, autocommit=True) as admin:
        admin.execute(WARN.encode())
        for batch in ([one], several, [several[0], several[0], snapshot()]):
            with pytest.raises(StoreUnavailable):
                store.append(batch)
        admin.execute("DROP FUNCTION warn CASCADE")
    assert database.seqs() == [1, 2, 3, 4]
    assert [(saved.snapshot.seq, saved.duplicate) for saved in store.append([one]).saved] == [(1, True)]
    assert append(store) == [5]


@pytest.mark.parametrize(
    ("level", "weak_commit"), [("off", None), ("local", "local"), ("remote_write", "remote_write")]
)
def test_a_level_in_the_url_is_raised_while_there_are_no_standbys(
    database: Database, level: str, weak_commit: str | None
) -> None:
    """A server that names standbys later is waited for, and until then the levels are the same."""
    url = make_conninfo(database.url, options=f"-c synchronous_commit={level}")
    with psycopg.connect(url, autocommit=True) as plain:
        assert configure_session(plain, statement_ms_max=5000) == ("", weak_commit)
    pool = Pool(url, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000)
    pool.open()
    with pool.write_connection() as session:
        assert session.execute("SHOW synchronous_commit").fetchone() == ("on",)
    pool.close()


# The statement -----------------------------------------------------------------------------------------------


def test_a_batch_is_one_statement_that_is_prepared_once(store: Store) -> None:
    assert append(store) == [1]
    assert append(store, 3) == [2, 3, 4]
    with store._pool.write_connection(READ) as session:
        prepared = session.execute(
            "SELECT name, generic_plans + custom_plans FROM pg_prepared_statements WHERE name = 'insert'"
        ).fetchall()
    assert prepared == [("insert", 2)]


@pytest.mark.expects_log(*OUTAGE)
def test_a_statement_that_was_deallocated_is_prepared_again_in_a_new_session(store: Store) -> None:
    append(store)
    before = backend_of(store)
    with store._pool.write_connection() as session:
        session.execute("DEALLOCATE ALL")
    with pytest.raises(StoreUnavailable):
        append(store)
    assert append(store) == [2]
    assert backend_of(store) != before


# The session -------------------------------------------------------------------------------------------------


def test_the_session_is_kept_and_is_none_of_those_that_read(store: Store) -> None:
    first = backend_of(store)
    for _ in range(3):
        append(store)
        FeedStore(store._pool).page(0, 10)
        with store._pool.connection() as reading:
            assert reading.info.backend_pid != first
    assert backend_of(store) == first


def test_a_session_that_ended_while_idle_costs_no_save(store: Store, database: Database) -> None:
    for seq in range(1, 4):
        before = backend_of(store)
        with psycopg.connect(database.url, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", [before])
        assert append(store) == [seq]
        assert backend_of(store) != before


def test_the_session_is_closed_with_the_pool_also_while_it_is_idle(store: Store) -> None:
    append(store)
    session = store._pool.write_session
    assert session is not None
    store.close()
    assert session.closed


def test_a_session_is_not_trusted_after_another_one_hung(store: Store) -> None:
    before = backend_of(store)
    store._pool.write_session_is_suspect = True
    assert append(store) == [1]
    after = backend_of(store)
    assert after != before
    assert append(store) == [2]
    assert backend_of(store) == after


def test_a_pool_that_is_closed_while_it_is_opened_leaves_nothing_open(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool(database.url, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000)
    before = set(threading.enumerate())
    monkeypatch.setattr(pool_module, "check_schema", lambda connection: pool.close())
    with pytest.raises(StoreUnavailable, match="the server is stopping"):
        pool.open()
    assert set(threading.enumerate()) == before


def test_ids_are_stored_once_in_one_batch_and_over_batches(store: Store) -> None:
    same, other = str(uuid.uuid4()), str(uuid.uuid4())
    first = store.append([snapshot(same), snapshot(other), snapshot(same)])
    assert [(one.snapshot.seq, one.duplicate) for one in first.saved] == [(1, False), (2, False), (1, True)]
    again = store.append([snapshot(other), snapshot()])
    assert [(one.snapshot.seq, one.duplicate) for one in again.saved] == [(2, True), (3, False)]
