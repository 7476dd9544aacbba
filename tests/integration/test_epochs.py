"""When a new epoch of the feed begins, and what is recorded of it.

Another timeline or system is simulated by changing the recorded one; real failovers are in tests/faults.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from balance.position import ClaimedPosition, Position
from balance.storage import epochs, server_probe
from balance.storage.connect import DatabaseError
from balance.storage.database_session import DatabaseSession
from balance.storage.epochs import KnownFeed, begin_epoch, renew_epoch
from balance.storage.errors import StoreUnavailable
from balance.storage.feed_store import FeedStore
from balance.storage.migrate import SQL_FOLDER, SchemaBehind, migrate
from balance.storage.pool import Pool
from balance.storage.server_probe import Server, ServerProbe
from balance.storage.store import Store
from tests.support.feed import snapshot
from tests.support.pool import is_at_rest
from tests.support.postgres import LOCK_FEED, Postgres, execute, is_waited_for, locked
from tests.support.service import Database, Processes, check_start_refused
from tests.support.waiting import wait_until

BEGINS = "a new epoch of the feed begins"
OTHER_TIMELINE = "UPDATE balance_feed SET timeline = '00000009'"
OTHER_SYSTEM = "UPDATE balance_feed SET system_id = '1'"
COUNTER_WENT_BACK = "DELETE FROM balance_snapshot WHERE seq > 2; UPDATE balance_feed SET last_seq = 2"

TABLES = ("balance_epoch", "balance_feed", "balance_snapshot")
HIDDEN = ("pg_walfile_name(pg_lsn)", "pg_control_system()")

MakeStore = Callable[[], Store]


@pytest.fixture
def make_store(database: Database) -> Iterator[MakeStore]:
    """Open a store with a pool of its own, as a process has it."""
    stores: list[Store] = []

    def make() -> Store:
        stores.append(Store(Pool(database.url, pool_max=3, pool_wait_ms_max=5000, statement_ms_max=5000)))
        stores[-1].open()
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def append(store: Store, count: int) -> Position:
    """Append a batch; return the position after it."""
    appended = store.append([snapshot() for _ in range(count)])
    return Position(appended.epoch, appended.saved[-1].snapshot.seq)


def epochs_of(database: Database) -> list[tuple[int, int]]:
    """Return the number of each epoch, and the seq after which it began; the last one must be that of the feed."""
    rows = database.rows("SELECT epoch, number, after_seq FROM balance_epoch ORDER BY number")
    assert database.rows("SELECT epoch FROM balance_feed") == [{"epoch": rows[-1]["epoch"]}]
    return [(row["number"], row["after_seq"]) for row in rows]


def recorded(database: Database) -> Server:
    (row,) = database.rows("SELECT timeline, system_id FROM balance_feed")
    return Server(**row)


def server_of(database: Database) -> Server:
    with psycopg.connect(database.url, autocommit=True) as connection:
        return ServerProbe().read(connection)


class FeedDump:
    """The tables of the feed as they are now, to be put back later as by a dump."""

    def __init__(self, database: Database) -> None:
        self._url = database.url
        execute(self._url, "CREATE SCHEMA dump", *(f"CREATE TABLE dump.{one} AS TABLE {one}" for one in TABLES))

    def restore(self) -> None:
        execute(self._url, *(f"DELETE FROM {one}; INSERT INTO {one} SELECT * FROM dump.{one}" for one in TABLES))


# What is recorded


def test_the_first_session_records_the_server_and_begins_no_epoch(database: Database, make_store: MakeStore) -> None:
    assert recorded(database) == Server(None, None)
    store = make_store()
    server = server_of(database)
    assert server.timeline == "00000001"
    assert recorded(database) == server
    before = store.open()
    assert append(store, 3) == Position(before.epoch, 3)
    assert epochs_of(database) == [(1, 0)]


@pytest.mark.parametrize("column", ["timeline", "system_id"])
def test_an_append_records_what_is_not_recorded(database: Database, make_store: MakeStore, column: str) -> None:
    store = make_store()
    before = append(store, 1)
    execute(database.url, f"UPDATE balance_feed SET {column} = NULL")
    assert append(store, 1) == Position(before.epoch, 2)
    assert recorded(database) == server_of(database)
    assert epochs_of(database) == [(1, 0)]


@pytest.mark.parametrize("known", [Server("00000001", None), Server(None, "7")])
def test_what_a_server_hides_stays_recorded(database: Database, monkeypatch: pytest.MonkeyPatch, known: Server) -> None:
    probe, other = ServerProbe(), Server("00000001", "7")
    with psycopg.connect(database.url, autocommit=True) as connection:
        for server in (known, Server(*(None if value in known else value for value in other))):
            monkeypatch.setattr(probe, "read", lambda _, server=server: server)
            assert renew_epoch(connection, probe, KnownFeed()).seq == 0
    assert recorded(database) == other
    assert epochs_of(database) == [(1, 0)]


def test_a_feed_without_a_recorded_epoch_begins_with_number_1(database: Database) -> None:
    execute(database.url, "DELETE FROM balance_epoch")
    for _ in range(3):
        begin_epoch(database.url)
    assert epochs_of(database) == [(1, 0), (2, 0), (3, 0)]


def test_a_database_with_rows_keeps_its_epoch_in_the_migration(postgres: str, tmp_path: Path) -> None:
    name = f"balance_old_{uuid.uuid4().hex}"
    first = tmp_path / "0001_create_balance_snapshot.sql"
    first.write_bytes((SQL_FOLDER / first.name).read_bytes())
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0".encode())
        try:
            database = Database(make_conninfo(postgres, dbname=name))
            migrate(database.url, tmp_path)
            pool = Pool(database.url, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000)
            with pytest.raises(SchemaBehind):
                pool.open()
            row = '\'2025-11-07\', 7, \'{"rlb": 1, "usdt": 1}\', \'{"rlb": 1, "usd": 1}\', now()'
            execute(
                database.url,
                f"INSERT INTO balance_snapshot SELECT n, gen_random_uuid(), {row} FROM generate_series(1, 3) AS n",
                "UPDATE balance_feed SET last_seq = 3",
            )
            (feed,) = database.rows("SELECT epoch FROM balance_feed")
            assert migrate(database.url) == [path.name for path in sorted(SQL_FOLDER.glob("*.sql"))][1:]
            assert epochs_of(database) == [(1, 0)]
            assert database.rows("SELECT epoch FROM balance_epoch") == [feed]
            store = Store(pool)
            assert store.open() == Position(str(feed["epoch"]), 3)
            assert append(store, 1) == Position(str(feed["epoch"]), 4)
            assert [one.seq for one in FeedStore(pool).page(0, 10).snapshots] == [1, 2, 3, 4]
            store.close()
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


# When one begins


@pytest.mark.expects_log(BEGINS)
@pytest.mark.parametrize("change", [OTHER_TIMELINE, OTHER_SYSTEM])
def test_an_append_on_another_server_begins_the_epoch_before_its_rows(
    database: Database, make_store: MakeStore, change: str
) -> None:
    store = make_store()
    before = append(store, 3)
    execute(database.url, change)
    after = append(store, 2)
    assert after.seq == 5
    assert after.epoch != before.epoch
    assert epochs_of(database) == [(1, 0), (2, 3)]
    assert recorded(database) == server_of(database)
    assert append(store, 1) == Position(after.epoch, 6)
    assert epochs_of(database) == [(1, 0), (2, 3)]


@pytest.mark.expects_log(BEGINS)
@pytest.mark.parametrize("change", [OTHER_TIMELINE, COUNTER_WENT_BACK])
def test_a_batch_with_an_id_twice_begins_the_epoch_too(database: Database, make_store: MakeStore, change: str) -> None:
    store = make_store()
    append(store, 3)
    execute(database.url, change)
    (end,) = database.rows("SELECT last_seq FROM balance_feed")
    one = snapshot()
    appended = store.append([one, one])
    assert [(saved.snapshot.seq, saved.duplicate) for saved in appended.saved] == [
        (end["last_seq"] + 1, False),
        (end["last_seq"] + 1, True),
    ]
    assert epochs_of(database) == [(1, 0), (2, end["last_seq"])]


@pytest.mark.expects_log(BEGINS)
def test_a_new_session_begins_the_epoch_without_an_append(database: Database, make_store: MakeStore) -> None:
    before = append(make_store(), 3)
    execute(database.url, OTHER_TIMELINE)
    position = make_store().open()
    assert position.seq == 3
    assert position.epoch != before.epoch
    assert epochs_of(database) == [(1, 0), (2, 3)]


@pytest.mark.expects_log(BEGINS)
@pytest.mark.parametrize("is_polled", [False, True])
def test_a_counter_that_went_back_begins_an_epoch_where_the_feed_ends(
    database: Database, make_store: MakeStore, is_polled: bool
) -> None:
    store = make_store()
    before = append(store, 5)
    execute(database.url, COUNTER_WENT_BACK)
    if is_polled:  # a batch may come between a poll of the tail and the `renew` to which it leads
        assert FeedStore(store._pool).head().position == Position(before.epoch, 2)
    after = append(store, 1)
    assert after.seq == 3
    assert after.epoch != before.epoch
    assert epochs_of(database) == [(1, 0), (2, 2)]


@pytest.mark.expects_log(BEGINS)
def test_an_end_that_was_only_read_is_known_too(database: Database, make_store: MakeStore) -> None:
    one, other = make_store(), make_store()
    append(one, 1)
    append(other, 4)
    FeedStore(one._pool).head()
    execute(database.url, COUNTER_WENT_BACK)
    assert append(one, 1).seq == 3
    assert epochs_of(database) == [(1, 0), (2, 2)]


@pytest.mark.expects_log(BEGINS)
@pytest.mark.parametrize("change", [OTHER_TIMELINE, COUNTER_WENT_BACK])
def test_processes_that_notice_at_once_begin_one_epoch(database: Database, make_store: MakeStore, change: str) -> None:
    stores = [make_store() for _ in range(4)]
    for store in stores:
        append(store, 2)
    for store in stores:
        FeedStore(store._pool).head()
    execute(database.url, change)
    (end,) = database.rows("SELECT last_seq FROM balance_feed")
    start = Barrier(len(stores))

    def save(store: Store) -> str:
        start.wait()
        return append(store, 1).epoch

    with ThreadPoolExecutor(len(stores)) as threads:
        assert len(set(threads.map(save, stores))) == 1
    assert epochs_of(database) == [(1, 0), (2, end["last_seq"])]
    assert database.rows("SELECT last_seq FROM balance_feed") == [{"last_seq": end["last_seq"] + len(stores)}]


def test_a_process_that_waits_for_another_finds_the_epoch_that_it_began(
    database: Database, make_store: MakeStore
) -> None:
    store = make_store()
    append(store, 3)
    store.close()  # its pool connects in the background, and a new session would begin the epoch itself
    execute(database.url, OTHER_TIMELINE)
    with psycopg.connect(database.url, autocommit=True) as connection, ThreadPoolExecutor(1) as executor:
        with locked(database, LOCK_FEED) as other:
            waiting = executor.submit(renew_epoch, connection, ServerProbe(), KnownFeed())
            wait_until(lambda: is_waited_for(database))
            begun = other.execute(epochs.BEGIN, server_of(database)._asdict()).fetchone()
            other.commit()
        assert begun is not None
        assert waiting.result(10) == Position(*begun[:2])
    assert epochs_of(database) == [(1, 0), (2, 3)]


def test_a_process_that_is_behind_another_begins_no_epoch(database: Database, make_store: MakeStore) -> None:
    one, other = make_store(), make_store()
    append(one, 3)
    append(other, 3)
    append(one, 3)
    assert epochs_of(database) == [(1, 0)]


@pytest.mark.expects_log(BEGINS)
def test_an_epoch_that_another_process_began_is_adopted(database: Database, make_store: MakeStore) -> None:
    one, other = make_store(), make_store()
    append(one, 5)
    append(other, 1)
    execute(database.url, COUNTER_WENT_BACK)
    assert append(other, 1).epoch == append(one, 1).epoch
    assert epochs_of(database) == [(1, 0), (2, 2)]


@pytest.mark.expects_log(BEGINS)
def test_the_tail_renews_the_epoch_when_the_feed_ends_before_its_position(
    database: Database, make_store: MakeStore
) -> None:
    store = make_store()
    known = append(store, 5)
    feed = FeedStore(store._pool)
    assert feed.renew() == known
    execute(database.url, COUNTER_WENT_BACK)
    renewed = feed.renew()
    assert renewed.seq == 2
    assert feed.renew() == renewed
    assert feed.head().position == renewed
    assert epochs_of(database) == [(1, 0), (2, 2)]
    assert feed.look_up(ClaimedPosition(known.epoch, 3)).good_until == 2


@pytest.mark.expects_log(BEGINS)
@pytest.mark.parametrize("is_polled", [False, True])
@pytest.mark.parametrize("has_seen_it", [False, True])
def test_a_feed_that_was_put_back_into_an_epoch_that_is_over_begins_another(
    database: Database, make_store: MakeStore, is_polled: bool, has_seen_it: bool
) -> None:
    """A dump of the first epoch is restored while a process runs, which has seen that epoch or a later one only."""
    store = make_store()
    first = append(store, 3)
    dump = FeedDump(database)
    second = begin_epoch(database.url)
    if not has_seen_it:
        store = make_store()
    assert append(store, 4) == Position(second.epoch, 7)
    dump.restore()
    if is_polled:
        FeedStore(store._pool).head()
    after = append(store, 9)  # more than were lost
    assert after.seq == 12
    assert after.epoch not in (first.epoch, second.epoch)
    assert epochs_of(database) == [(1, 0), (2, 3)]
    feed = FeedStore(store._pool)
    assert feed.head().position == after
    assert not feed.look_up(ClaimedPosition(second.epoch, 5)).epoch_is_known
    assert feed.look_up(ClaimedPosition(first.epoch, 3)).good_until == 3


@pytest.mark.expects_log(BEGINS)
def test_an_epoch_that_is_over_is_not_continued_where_it_ended_behind_the_known_end(
    database: Database, make_store: MakeStore
) -> None:
    store = make_store()
    first = append(store, 10)
    dump = FeedDump(database)
    execute(database.url, COUNTER_WENT_BACK)
    second = append(store, 1)
    assert second.seq == 3
    dump.restore()
    after = append(store, 1)
    assert after.seq == 11
    assert after.epoch not in (first.epoch, second.epoch)


@pytest.mark.expects_log(BEGINS)
def test_processes_that_see_a_feed_put_back_begin_one_epoch(database: Database, make_store: MakeStore) -> None:
    stores = [make_store() for _ in range(3)]
    dump = FeedDump(database)
    begin_epoch(database.url)
    for store in stores:
        append(store, 2)
    dump.restore()
    assert len({append(store, 1).epoch for store in stores}) == 1
    assert epochs_of(database) == [(1, 0), (2, 0)]
    dump.restore()
    FeedStore(stores[0]._pool).head()
    assert {append(store, 1).epoch for store in stores} == {FeedStore(stores[1]._pool).head().position.epoch}
    assert epochs_of(database) == [(1, 0), (2, 0)]


def test_a_position_that_was_read_before_the_newest_known_one_is_not_noted() -> None:
    known = KnownFeed()
    for position in (Position("a", 5), Position("a", 7), Position("b", 6), Position("b", 8)):
        known.note(position)
        assert known.end == position
    for late in (Position("b", 7), Position("a", 9)):
        known.note(late)
        assert known.end == Position("b", 8)
        assert known.went_back(late)
    assert not known.went_back(Position("c", 1))


def test_a_new_epoch_does_not_wait_for_a_standby(database: Database, make_store: MakeStore) -> None:
    """The standby may be what was lost; a save in the new epoch waits for it."""
    store = make_store()
    assert append(store, 1).seq == 1
    store.close()  # its pool connects in the background, and a new session would record the timeline itself
    with psycopg.connect(database.url, autocommit=True) as connection:
        seen: list[Any] = []
        connection.execute("SET synchronous_commit = remote_apply")
        connection.execute(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE NOTICE '%', current_setting('synchronous_commit'); RETURN NULL; END $$"
        )
        connection.execute("CREATE TRIGGER note AFTER UPDATE ON balance_feed EXECUTE FUNCTION note()")
        execute(database.url, "UPDATE balance_feed SET timeline = NULL")
        connection.add_notice_handler(lambda notice: seen.append(notice.message_primary))
        renew_epoch(connection, ServerProbe(), KnownFeed())
        assert seen == ["local"]
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("remote_apply",)


# Where the functions are not allowed, and servers that are too old


def hide_server(database: Database) -> None:
    """Have no role but the owner read the timeline and the system any more."""
    execute(database.url, *(f"REVOKE EXECUTE ON FUNCTION {function} FROM public" for function in HIDDEN))


def show_server(database: Database) -> None:
    execute(database.url, *(f"GRANT EXECUTE ON FUNCTION {function} TO public" for function in HIDDEN))


@pytest.fixture
def limited(database: Database) -> Iterator[str]:
    """Make a role that is not the owner; return its URL. After the test it may read the timeline and the system."""
    role = f"limited_{uuid.uuid4().hex}"
    with psycopg.connect(database.url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN".encode())
        admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}".encode())
        try:
            yield make_conninfo(database.url, user=role)
        finally:
            show_server(database)
            admin.execute(f"DROP OWNED BY {role}".encode())
            admin.execute(f"DROP ROLE {role}".encode())


@pytest.mark.expects_log(BEGINS)
def test_a_service_that_hides_the_timeline_saves_without_it(database: Database, limited: str) -> None:
    hide_server(database)
    pool = Pool(limited, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000)
    store = Store(pool)
    store.open()
    one = snapshot()
    assert [saved.snapshot.seq for saved in store.append([one, snapshot()]).saved] == [1, 2]
    assert [saved.duplicate for saved in store.append([one, snapshot()]).saved] == [True, False]
    assert [saved.duplicate for saved in store.append([one, one]).saved] == [True, True]
    assert append(store, 2).seq == 5
    assert not pool.probe.can_read_timeline
    assert recorded(database) == Server(None, None)
    execute(database.url, COUNTER_WENT_BACK)
    append(store, 1)
    assert epochs_of(database) == [(1, 0), (2, 2)]
    store.close()


@pytest.mark.expects_log("the timeline of the database may not be read any more", BEGINS)
@pytest.mark.parametrize("repeats_id", [False, True])
def test_saves_go_on_when_the_timeline_is_hidden_from_a_running_process(
    database: Database, limited: str, caplog: pytest.LogCaptureFixture, repeats_id: bool
) -> None:
    pool = Pool(limited, pool_max=3, pool_wait_ms_max=5000, statement_ms_max=5000)
    store = Store(pool)
    store.open()
    assert append(store, 1).seq == 1
    wait_until(lambda: is_at_rest(pool))
    hide_server(database)
    one = snapshot()
    assert store.append([one, one] if repeats_id else [one]).end == 2
    assert append(store, 1).seq == 3
    assert len(caplog.records) == 1, "one line, however many batches follow"
    show_server(database)
    assert append(store, 1).seq == 4
    assert not pool.probe.can_read_timeline, "without an error, only a new session finds out"
    with pool.connection(), pool.connection():  # the second one is new
        assert pool.probe.can_read_timeline
    execute(database.url, OTHER_TIMELINE)
    assert append(store, 1).seq == 5
    assert epochs_of(database) == [(1, 0), (2, 4)]
    store.close()


@pytest.mark.expects_log("the database cannot save")
def test_a_grant_that_is_missing_on_a_table_fails_the_save(database: Database, limited: str) -> None:
    pool = Pool(limited, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000)
    store = Store(pool)
    store.open()
    append(store, 1)
    role = conninfo_to_dict(limited)["user"]
    execute(database.url, f"REVOKE INSERT ON balance_snapshot FROM {role}")
    with pytest.raises(StoreUnavailable):
        append(store, 1)
    assert pool.probe.can_read_timeline
    store.close()


@pytest.mark.expects_log("former primary")
def test_a_server_with_an_older_timeline_of_the_same_system_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    probe = ServerProbe()
    with psycopg.connect(database.url, autocommit=True) as connection:
        assert probe.read(connection).timeline == "00000001"
        monkeypatch.setattr(server_probe, "READ_TIMELINE", "SELECT '00000002'")
        assert probe.read(connection).timeline == "00000002"
        monkeypatch.setattr(server_probe, "READ_SYSTEM_ID", "SELECT '1'")
        monkeypatch.setattr(server_probe, "READ_TIMELINE", "SELECT '00000001'")
        assert probe.read(connection) == Server("00000001", "1")
        monkeypatch.undo()
        reason = "this server is a former primary: it has timeline 00000001, and the database is at 00000002"
        for _ in range(2):
            with pytest.raises(psycopg.OperationalError, match=f"^{reason}$"):
                probe.read(connection)
        assert caplog.messages == [f"a session is refused: {reason}"]


@pytest.mark.expects_log("former primary")
def test_a_session_to_a_former_primary_is_not_opened(database: Database, make_store: MakeStore) -> None:
    pool = make_store()._pool
    pool.probe._newest = dict.fromkeys(pool.probe._newest, "00000002")
    with pytest.raises(psycopg.OperationalError, match="former primary"):
        DatabaseSession.connect(pool._conninfo, **pool._pool.kwargs)


# The command


def test_the_command_begins_an_epoch_that_running_processes_adopt(
    database: Database, make_store: MakeStore, processes: Processes
) -> None:
    store = make_store()
    before = append(store, 3)
    process = processes("new-epoch", DATABASE_URL=database.url)
    assert process.wait() == 0
    assert process.stderr == []
    after = append(store, 1)
    assert after.seq == 4
    assert process.stdout == [f"epoch {after.epoch} begins after seq 3"]
    assert after.epoch != before.epoch
    assert epochs_of(database) == [(1, 0), (2, 3)]


def test_the_command_is_refused_in_one_line(processes: Processes, private_postgres: Postgres) -> None:
    url = private_postgres.url
    private_postgres.stop()
    check_start_refused(processes("new-epoch", DATABASE_URL=url), "the database cannot be reached")
    private_postgres.start()
    check_start_refused(processes("new-epoch", DATABASE_URL=url), "python server.py migrate")


def test_the_error_of_the_command_names_what_is_missing(database: Database) -> None:
    with pytest.raises(DatabaseError, match=r"^the database cannot be reached: .*/nowhere"):
        begin_epoch("host=/nowhere dbname=x")
    execute(database.url, "DELETE FROM balance_feed")
    with pytest.raises(DatabaseError) as caught:
        begin_epoch(database.url)
    assert str(caught.value) == "the database cannot begin a new epoch: table balance_feed has lost its row"


def test_the_command_waits_for_the_batch_that_locks_the_feed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "COMMAND_MS_MAX", 50)
    with (
        locked(database, LOCK_FEED),
        pytest.raises(DatabaseError, match="cannot begin a new epoch: canceling statement due to statement timeout"),
    ):
        begin_epoch(database.url)
    monkeypatch.undo()
    assert begin_epoch(database.url).seq == 0
