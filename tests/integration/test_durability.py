"""What a commit waits for, and that the service states it truly: on a server whose configuration a test changes.

The standby that is named does not exist: a commit waits until its wait is cancelled or no standby is named any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from balance.storage.connect import DatabaseError
from balance.storage.epochs import begin_epoch
from balance.storage.errors import StoreUnavailable
from balance.storage.feed_store import FeedStore
from balance.storage.migrate import migrate
from balance.storage.pool import Pool
from balance.storage.store import Store
from tests.support.feed import snapshot
from tests.support.outages import OUTAGE
from tests.support.postgres import query, wait_for_checkpointer
from tests.support.replication import Cluster
from tests.support.service import Database, Processes, check_start_refused
from tests.support.waiting import wait_until

END_SESSIONS = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'balance'"
WAITS = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
CANCEL_WAITS = f"SELECT pg_cancel_backend(pid) FROM ({WAITS}) AS waiting"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start a server that names no standby."""
    one = Cluster(tmp_path_factory.mktemp("durability") / "one")
    one.create()
    one.start()
    migrate(one.url())
    yield one
    one.kill()


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    """Return its database, and reset the configuration at the end."""
    yield Database(cluster.url())
    configure(cluster)
    query(cluster.url(), END_SESSIONS)


def configure(cluster: Cluster, **settings: str) -> None:
    """Change the configuration of the server to these settings alone, and wait until it is in effect."""
    with psycopg.connect(cluster.url(), autocommit=True) as admin:
        admin.execute("ALTER SYSTEM RESET ALL")
        for name, value in settings.items():
            admin.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
        admin.execute("SELECT pg_reload_conf()")
    wanted = {"synchronous_standby_names": "", "synchronous_commit": "on"} | settings
    wanted.pop("max_wal_senders", None)  # in effect after a restart
    names = "SELECT current_setting('synchronous_standby_names'), current_setting('synchronous_commit')"
    wait_until(lambda: query(cluster.url(), names) == [tuple(wanted.values())])
    wait_for_checkpointer(cluster.url())


def make_pool(database: Database) -> Pool:
    return Pool(database.url, pool_max=3, pool_wait_ms_max=2000, statement_ms_max=60_000)


@pytest.mark.parametrize("level", ["local", "remote_write"])
def test_a_level_that_does_not_wait_for_the_named_standby_is_refused_at_the_start(
    cluster: Cluster, database: Database, processes: Processes, level: str
) -> None:
    configure(cluster, synchronous_commit=level, synchronous_standby_names="nobody")
    check_start_refused(processes("--port=0", DATABASE_URL=database.url), f"synchronous_commit = {level}", "to on")


@pytest.mark.expects_log(*OUTAGE)
def test_later_a_session_that_would_not_wait_is_refused(
    cluster: Cluster, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(database)
    pool.open()
    configure(cluster, synchronous_commit="local", synchronous_standby_names="nobody")
    query(cluster.url(), END_SESSIONS)
    with pytest.raises(StoreUnavailable), pool.connection():
        pass
    assert "synchronous_commit = local does not wait" in caplog.text
    pool.close()


def test_the_durability_follows_the_configuration(cluster: Cluster, database: Database) -> None:
    pool = make_pool(database)
    pool.open()
    feed = FeedStore(pool)
    for names, expected in (("", "local"), ("nobody", "replicated"), ("", "local")):
        configure(cluster, synchronous_standby_names=names)
        assert feed.head().durability == expected
    pool.close()


def test_a_server_that_sends_to_no_standby_is_not_called_replicated(cluster: Cluster, database: Database) -> None:
    configure(cluster, max_wal_senders="0", synchronous_standby_names="nobody")
    cluster.stop()
    cluster.start()
    store = Store(pool := make_pool(database))
    store.open()
    store.append([snapshot()])  # PostgreSQL waits for nothing
    assert FeedStore(pool).head().durability == "local"
    store.close()
    configure(cluster)
    cluster.stop()
    cluster.start()


def test_a_new_epoch_by_hand_does_not_wait_for_a_standby(cluster: Cluster, database: Database) -> None:
    configure(cluster, synchronous_standby_names="nobody")
    with ThreadPoolExecutor(1) as thread:
        beginning = thread.submit(begin_epoch, database.url)
        wait_until(lambda: beginning.done() or bool(query(cluster.url(), WAITS)))
        has_waited = not beginning.done()
        configure(cluster)
        assert beginning.result(10).epoch
    assert not has_waited


def until_commits_wait(cluster: Cluster, thread: ThreadPoolExecutor, store: Store) -> None:
    """Return when the commits of a store wait for a standby: its session learns of the new configuration late."""
    has_waited = False
    while not has_waited:
        saving = thread.submit(store.append, [snapshot()])
        while not saving.done():
            has_waited = has_waited or bool(query(cluster.url(), WAITS))
            query(cluster.url(), CANCEL_WAITS)
        with suppress(StoreUnavailable):
            saving.result()


@pytest.mark.expects_log(*OUTAGE)
@pytest.mark.parametrize("level", ["on", "local"])
def test_a_save_and_its_resend_are_acknowledged_when_their_own_commit_has_waited(
    cluster: Cluster, database: Database, level: str
) -> None:
    """A wait that is cancelled is reported as success by PostgreSQL."""
    configure(cluster, synchronous_commit=level)
    store, one = Store(make_pool(database)), snapshot()
    store.open()
    store.append([snapshot()])
    configure(cluster, synchronous_commit=level, synchronous_standby_names="nobody")
    with ThreadPoolExecutor(1) as thread:
        until_commits_wait(cluster, thread, store)
        for _ in range(2):  # the save, and its resend
            saving = thread.submit(store.append, [one])
            while not saving.done():
                query(cluster.url(), CANCEL_WAITS)
            with pytest.raises(StoreUnavailable):
                saving.result()
        saving = thread.submit(store.append, [one])
        wait_until(lambda: bool(query(cluster.url(), WAITS)))
        configure(cluster)
        (saved,) = saving.result(10).saved
        assert saved.duplicate
    store.close()


@pytest.mark.expects_log(*OUTAGE)
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_resend_waits_once(cluster: Cluster, database: Database, is_shared: bool) -> None:
    """The commit of a statement that stores nothing does not wait, also if another process saves too."""
    store, one = Store(make_pool(database)), snapshot()
    store.open()
    store.append([one])
    if is_shared:
        other = Store(make_pool(database))
        other.open()
        other.append([snapshot()])
        other.close()
        store.append([snapshot()])
    configure(cluster, synchronous_standby_names="nobody")
    with ThreadPoolExecutor(1) as thread:
        for sent in (one, snapshot()):
            saving = thread.submit(store.append, [sent])
            wait_until(lambda: bool(query(cluster.url(), WAITS)))
            assert len(query(cluster.url(), CANCEL_WAITS)) == 1
            with pytest.raises(StoreUnavailable):
                saving.result(10)
    configure(cluster)
    assert store.append([one, snapshot()]).saved[0].duplicate
    assert query(cluster.url(), "SELECT max(seq) = count(*) FROM balance_snapshot") == [(True,)]
    store.close()


@pytest.mark.parametrize("level", ["local", "off"])
def test_a_running_session_keeps_its_level_when_that_of_the_server_is_lowered(
    cluster: Cluster, database: Database, level: str
) -> None:
    store = Store(make_pool(database))
    store.open()
    store.append([snapshot()])
    configure(cluster, synchronous_commit=level, synchronous_standby_names="nobody")
    with ThreadPoolExecutor(1) as thread:
        saving = thread.submit(store.append, [snapshot()])
        wait_until(lambda: saving.done() or bool(query(cluster.url(), WAITS)))
        assert not saving.done()
        configure(cluster)
        saving.result(10)
    store.close()


def test_a_refusal_names_the_setting_and_no_password(cluster: Cluster, database: Database) -> None:
    configure(cluster, synchronous_commit="remote_write", synchronous_standby_names="nobody")
    with pytest.raises(DatabaseError, match="DATABASE_URL: synchronous_commit = remote_write does not wait"):
        make_pool(database).open()


def test_a_warning_that_the_database_needs_a_vacuum_does_not_fail_a_save(tmp_path: Path) -> None:
    """PostgreSQL sends it with each transaction id of the last 40 million before it stops, as SQLSTATE 01000."""
    cluster = Cluster(tmp_path / "one")
    cluster.create()
    cluster.use_transaction_ids_up_to(2**31 - 37_000_000)
    cluster.start()
    try:
        migrate(cluster.url())
        warnings: list[str | None] = []
        with psycopg.connect(cluster.url()) as connection:
            connection.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
            connection.execute("SELECT pg_current_xact_id()")
        assert ["must be vacuumed" in str(warning) for warning in warnings] == [True]
        store, one = Store(make_pool(Database(cluster.url()))), snapshot()
        store.open()
        assert [store.append([one]).saved[0].duplicate for _ in range(2)] == [False, True]
        store.close()
    finally:
        cluster.kill()
