"""Migrations are applied once, in order, each as a whole; and the tables reject what the schemas reject."""

from __future__ import annotations

import multiprocessing
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from balance.storage.migrate import (
    SQL_FOLDER,
    SchemaAhead,
    SchemaBehind,
    SchemaChanged,
    SchemaError,
    check_schema,
    migrate,
)
from tests.support.postgres import query
from tests.support.service import Database

WriteFolder = Callable[..., Path]

ONE = "CREATE TABLE one (n int);"
TWO = "CREATE TABLE two (n int);"


@pytest.fixture
def make_empty(postgres: str) -> Iterator[Callable[..., str]]:
    """Create an empty database and return its conninfo."""
    names: list[str] = []
    with psycopg.connect(postgres, autocommit=True) as admin:

        def make(encoding: str = "UTF8") -> str:
            names.append(f"balance_empty_{uuid.uuid4().hex}")
            admin.execute(f"CREATE DATABASE {names[-1]} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
            return make_conninfo(postgres, dbname=names[-1])

        yield make
        for name in names:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty(make_empty: Callable[..., str]) -> str:
    return make_empty()


@pytest.fixture
def migrated(database: Database) -> str:
    """Return the conninfo of a migrated database for one test."""
    return database.url


@pytest.fixture
def folder(tmp_path: Path) -> WriteFolder:
    """Write a folder of migrations, `folder({"0001_one.sql": "CREATE …"})`, after removing its old content."""

    def write(files: dict[str, str]) -> Path:
        for path in tmp_path.iterdir():
            path.unlink()
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


def tables(conninfo: str) -> set[str]:
    return {name for (name,) in query(conninfo, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def refusal(error: type[SchemaError], call: Callable[[], Any], *parts: str) -> None:
    """Assert that the call raises exactly this error, as one line that has all the parts in it."""
    with pytest.raises(SchemaError) as caught:
        call()
    text = str(caught.value)
    assert caught.type is error, text
    assert "\n" not in text
    for part in parts:
        assert part in text


def check(conninfo: str, folder: Path = SQL_FOLDER, **options: Any) -> None:
    with psycopg.connect(conninfo, **options) as connection:
        check_schema(connection, folder)
        status = connection.info.transaction_status
        assert status == psycopg.pq.TransactionStatus.IDLE, "no transaction is open"


# Applying


def test_an_empty_database_gets_every_migration_and_a_second_run_does_nothing(empty: str) -> None:
    names = [path.name for path in sorted(SQL_FOLDER.glob("*.sql"))]
    assert migrate(empty) == names
    assert migrate(empty) == []
    assert {"balance_snapshot", "balance_feed", "schema_migration"} <= tables(empty)
    rows = query(empty, "SELECT version, name, length(checksum) FROM schema_migration ORDER BY version")
    assert rows == [(number, name, 64) for number, name in enumerate(names, 1)]


def test_the_feed_starts_at_zero_and_each_database_has_an_epoch_of_its_own(make_empty: Callable[..., str]) -> None:
    epochs = set()
    for conninfo in (make_empty(), make_empty()):
        migrate(conninfo)
        [(epoch, last_seq)] = query(conninfo, "SELECT epoch, last_seq FROM balance_feed")
        assert last_seq == 0
        epochs.add(epoch)
    assert len(epochs) == 2


def test_only_what_is_missing_is_applied(empty: str, folder: WriteFolder) -> None:
    assert migrate(empty, folder({"0001_one.sql": ONE})) == ["0001_one.sql"]
    assert migrate(empty, folder({"0001_one.sql": ONE, "0002_two.sql": TWO})) == ["0002_two.sql"]
    assert tables(empty) == {"schema_migration", "one", "two"}


def test_a_migration_that_fails_leaves_nothing_and_keeps_those_before_it(empty: str, folder: WriteFolder) -> None:
    files = folder({"0001_one.sql": ONE, "0002_two.sql": f"{TWO}\nINSERT INTO two VALUES (1);\nSELECT nonsense;"})
    refusal(SchemaError, lambda: migrate(empty, files), "0002_two.sql, line 3", '"nonsense" does not exist')
    assert tables(empty) == {"schema_migration", "one"}
    assert query(empty, "SELECT version FROM schema_migration") == [(1,)]
    assert migrate(empty, folder({"0001_one.sql": ONE, "0002_two.sql": TWO})) == ["0002_two.sql"]


def test_a_first_migration_that_fails_leaves_the_database_empty(empty: str, folder: WriteFolder) -> None:
    refusal(SchemaError, lambda: migrate(empty, folder({"0001_one.sql": f"{ONE} SELECT 1/0;"})), "division by zero")
    assert tables(empty) == set()


def test_the_text_of_a_migration_is_executed_unchanged(empty: str, folder: WriteFolder) -> None:
    migrate(empty, folder({"0001_one.sql": "CREATE TABLE one AS SELECT '100 %s {x} é – $1'::text AS n;"}))
    assert query(empty, "SELECT n FROM one") == [("100 %s {x} é – $1",)]


def test_a_statement_timeout_of_the_role_does_not_end_a_migration(empty: str, folder: WriteFolder) -> None:
    impatient = make_conninfo(empty, options="-c statement_timeout=50")
    assert migrate(impatient, folder({"0001_one.sql": f"{ONE} SELECT pg_sleep(0.2);"})) == ["0001_one.sql"]


def migrate_on_signal(conninfo: str, folder: Path, start: Any, results: Any) -> None:
    start.wait()
    results.put(migrate(conninfo, folder))


def test_processes_that_migrate_at_once_apply_each_migration_once(empty: str, folder: WriteFolder) -> None:
    files = {f"{n:04}_table.sql": f"CREATE TABLE t{n} (n int); SELECT pg_sleep(0.02);" for n in range(1, 9)}
    path = folder(files)
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Barrier(3), spawn.Queue()
    processes = [spawn.Process(target=migrate_on_signal, args=(empty, path, start, results)) for _ in range(3)]
    for process in processes:
        process.start()
    applied = [name for _ in processes for name in results.get(timeout=60)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
        process.close()
    results.close()
    results.join_thread()
    assert sorted(applied) == sorted(files)
    check(empty, path)


def test_the_wait_for_another_migrating_process_is_bounded(empty: str) -> None:
    migrate(empty)
    with psycopg.connect(empty) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (int.from_bytes(b"balance", "big"),))
        refusal(SchemaError, lambda: migrate(empty, lock_wait_ms_max=50), "another process", "python server.py migrate")
    assert migrate(empty, lock_wait_ms_max=50) == []


def test_the_wait_for_a_table_in_use_is_bounded(
    empty: str, folder: WriteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balance.storage.migrate.TABLE_LOCK_WAIT_MS_MAX", 50)
    migrate(empty, folder({"0001_one.sql": ONE}))
    files = folder({"0001_one.sql": ONE, "0002_two.sql": "ALTER TABLE one ADD m int;"})
    with psycopg.connect(empty) as reader:
        reader.execute("SELECT n FROM one")
        refusal(SchemaError, lambda: migrate(empty, files), "0002_two.sql", "lock timeout")
    assert migrate(empty, files) == ["0002_two.sql"]


# Refusing


@pytest.mark.parametrize(
    ("files", "part"),
    [
        pytest.param({}, "no migrations", id="nothing"),
        pytest.param({"0001_one.sql": ONE, "0003_two.sql": TWO}, "0003 is there and 0002 is not", id="gap"),
        pytest.param({"0002_two.sql": TWO}, "0002 is there and 0001 is not", id="no first"),
        pytest.param({"0001_one.sql": ONE, "0001_two.sql": TWO}, "0001 is there twice", id="duplicate"),
        pytest.param({"0000_one.sql": ONE}, "0000", id="zero"),
        pytest.param({"1_one.sql": ONE}, "1_one.sql", id="short number"),
        pytest.param({"one.sql": ONE}, "one.sql", id="no number"),
    ],
)
def test_a_folder_that_is_not_a_history_is_refused_before_anything_is_applied(
    empty: str, folder: WriteFolder, files: dict[str, str], part: str
) -> None:
    refusal(SchemaError, lambda: migrate(empty, folder(files)), part)
    assert tables(empty) == set()


def test_a_changed_migration_is_refused(empty: str, folder: WriteFolder) -> None:
    migrate(empty, folder({"0001_one.sql": ONE}))
    files = folder({"0001_one.sql": ONE + " ", "0002_two.sql": TWO})
    refusal(SchemaChanged, lambda: migrate(empty, files), "0001_one.sql", "python server.py migrate")
    refusal(SchemaChanged, lambda: check(empty, files), "0001_one.sql", "python server.py migrate")
    assert tables(empty) == {"schema_migration", "one"}


def test_the_line_ends_of_a_checkout_do_not_count_as_a_change(empty: str, folder: WriteFolder) -> None:
    migrate(empty, folder({"0001_one.sql": f"{ONE}\n{TWO}\n"}))
    assert migrate(empty, folder({"0001_one.sql": f"{ONE}\r\n{TWO}\r\n"})) == []


def test_a_newer_database_is_refused(empty: str, folder: WriteFolder) -> None:
    migrate(empty, folder({"0001_one.sql": ONE, "0002_two.sql": TWO}))
    files = folder({"0001_one.sql": ONE})
    refusal(SchemaAhead, lambda: migrate(empty, files), "version 2", "python server.py migrate")
    refusal(SchemaAhead, lambda: check(empty, files), "version 2", "python server.py migrate")


def test_a_database_that_is_behind_is_refused_and_not_changed(empty: str, folder: WriteFolder) -> None:
    refusal(SchemaBehind, lambda: check(empty), "version 0", "run `python server.py migrate`")
    assert tables(empty) == set()
    migrate(empty, folder({"0001_one.sql": ONE}))
    files = folder({"0001_one.sql": ONE, "0002_two.sql": TWO})
    refusal(SchemaBehind, lambda: check(empty, files), "version 1", "version 2", "run `python server.py migrate`")


@pytest.mark.parametrize("options", [{}, {"autocommit": True}, {"row_factory": dict_row}])
def test_the_right_schema_passes_on_any_connection(empty: str, options: dict[str, Any]) -> None:
    migrate(empty)
    check(empty, **options)


def test_another_encoding_is_refused(make_empty: Callable[..., str]) -> None:
    latin = make_empty("LATIN1")
    refusal(SchemaError, lambda: migrate(latin), "LATIN1", "UTF8")
    assert tables(latin) == set()


def test_an_older_server_is_refused(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg.ConnectionInfo, "server_version", 130_014)
    refusal(SchemaError, lambda: migrate(empty), "PostgreSQL 13", "14")


def test_a_role_that_may_not_create_is_refused(postgres: str, empty: str) -> None:
    role = f"balance_reader_{uuid.uuid4().hex}"
    query(postgres, f"CREATE ROLE {role}")
    try:
        query(empty, "REVOKE CREATE ON SCHEMA public FROM public")
        refusal(SchemaError, lambda: migrate(make_conninfo(empty, options=f"-c role={role}")), "permission denied")
    finally:
        query(postgres, f"DROP ROLE {role}")


def test_a_server_that_is_not_there_is_named_in_one_line(tmp_path: Path) -> None:
    refusal(SchemaError, lambda: migrate(f"host={tmp_path} dbname=x"), "cannot be reached", str(tmp_path))


@pytest.mark.parametrize("conninfo", ["postgresql://me:se%cret@host/x", "host=x se%cret", "postgresql://[se%cret"])
def test_an_invalid_conninfo_is_refused_and_not_shown(conninfo: str) -> None:
    with pytest.raises(SchemaError, match="DATABASE_URL") as caught:
        migrate(conninfo)
    assert "cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


# The tables

GOOD = '{"rlb": 100074.99978, "usdt": 7656.36, "usd": 7646.96}'  # valid in both ledgers


def insert(conninfo: str, **values: Any) -> None:
    row = {"seq": 1, "id": uuid.uuid4(), "ts": "2025-11-07T00:45:08.603Z", "pid": 1132978} | {
        "onchain": GOOD, "onsite": GOOD, "received_at": "2025-11-07T00:45:08.7Z"
    } | values  # fmt: skip
    query(
        conninfo,
        """
        INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s)
        """,
        *row.values(),
    )


BAD_LEDGERS = {
    "negative": '{"rlb": -1, "usdt": 1, "usd": 1}',
    "slightly negative": '{"rlb": -1e-30, "usdt": 1, "usd": 1}',
    "missing rlb": '{"usdt": 1, "usd": 1}',
    "missing the currency": '{"rlb": 1}',
    "empty": "{}",
    "string": '{"rlb": "1", "usdt": 1, "usd": 1}',
    "NaN as a string": '{"rlb": "NaN", "usdt": 1, "usd": 1}',
    "boolean": '{"rlb": true, "usdt": 1, "usd": 1}',
    "null": '{"rlb": null, "usdt": 1, "usd": 1}',
    "array amount": '{"rlb": [1], "usdt": 1, "usd": 1}',
    "empty array amount": '{"rlb": [], "usdt": 1, "usd": 1}',
    "object amount": '{"rlb": {"rlb": 1}, "usdt": 1, "usd": 1}',
    "too large": '{"rlb": 1e31, "usdt": 1, "usd": 1}',
    "just too large": '{"rlb": 1000000000000000000000000000000.1, "usdt": 1, "usd": 1}',
    "too small": '{"rlb": 1e-31, "usdt": 1, "usd": 1}',
    "just too small": '{"rlb": 9.99e-31, "usdt": 1, "usd": 1}',
    "another asset": '{"rlb": 1, "usdt": 1, "usd": 1, "btc": -1}',
    "array ledger": '["rlb", "usdt", "usd"]',
    "array of a ledger": f"[{GOOD}]",
    "string ledger": '"rlb"',
    "number ledger": "1",
    "null ledger": "null",
}

GOOD_LEDGERS = {
    "as in the specification": GOOD,
    "zero": '{"rlb": 0, "usdt": 0.0, "usd": 0e5}',
    "largest": '{"rlb": 1e30, "usdt": 1, "usd": 1}',
    "smallest": '{"rlb": 1e-30, "usdt": 1, "usd": 1}',
    "forty digits": '{"rlb": 1234567890.123456789012345678901234567890, "usdt": 1, "usd": 1}',
    "more assets": '{"rlb": 1, "usdt": 1, "usd": 1, "btc": 0.5, "a.b-c_d": 0, "BTC/USDT:USDT": 1, "$wif": 1}',
}


@pytest.mark.parametrize("ledger", ["onchain", "onsite"])
@pytest.mark.parametrize("text", BAD_LEDGERS.values(), ids=BAD_LEDGERS)
def test_a_bad_ledger_is_not_stored(migrated: str, ledger: str, text: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        insert(migrated, **{ledger: text})
    assert caught.value.diag.constraint_name == f"{ledger}_is_valid"


@pytest.mark.parametrize("text", GOOD_LEDGERS.values(), ids=GOOD_LEDGERS)
def test_a_good_ledger_is_stored_to_the_last_digit(migrated: str, text: str) -> None:
    insert(migrated, onchain=text, onsite=text)
    assert query(migrated, "SELECT onchain = %s::jsonb AND onsite = onchain FROM balance_snapshot", text) == [(True,)]


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ({"seq": 0}, "seq_is_positive"),
        ({"seq": -1}, "seq_is_positive"),
        ({"pid": -1}, "pid_is_in_range"),
        ({"pid": 2**53}, "pid_is_in_range"),
        ({"ts": "infinity"}, "ts_is_in_range"),
        ({"ts": "-infinity"}, "ts_is_in_range"),
        ({"ts": "0999-12-30T23:59:59Z"}, "ts_is_in_range"),
        ({"ts": "3000-01-02T00:00:00Z"}, "ts_is_in_range"),
    ],
    ids=str,
)
def test_a_number_or_a_time_out_of_range_is_not_stored(migrated: str, values: dict[str, Any], constraint: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        insert(migrated, **values)
    assert caught.value.diag.constraint_name == constraint


@pytest.mark.parametrize(
    "values",
    [
        {"seq": 2**63 - 1},
        {"pid": None},
        {"pid": 0},
        {"pid": 2**53 - 1},
        {"ts": "1000-01-01T00:00:00+14:00"},
        {"ts": "2999-12-31T23:59:59.999999-12:00"},
    ],
    ids=str,
)
def test_the_ends_of_each_range_are_stored(migrated: str, values: dict[str, Any]) -> None:
    insert(migrated, **values)


@pytest.mark.parametrize("column", ["seq", "id", "ts", "onchain", "onsite", "received_at"])
def test_every_column_but_pid_is_required(migrated: str, column: str) -> None:
    with pytest.raises(psycopg.errors.NotNullViolation):
        insert(migrated, **{column: None})


def test_neither_a_seq_nor_an_id_is_stored_twice(migrated: str) -> None:
    name = uuid.uuid4()
    insert(migrated, seq=1, id=name)
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(migrated, seq=1)
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(migrated, seq=2, id=name)


def test_the_feed_keeps_one_row(migrated: str) -> None:
    for only_row, error in (("true", psycopg.errors.UniqueViolation), ("false", psycopg.errors.CheckViolation)):
        with pytest.raises(error):
            query(migrated, f"INSERT INTO balance_feed VALUES ({only_row}, gen_random_uuid(), 0)")


@pytest.mark.parametrize(
    ("where", "index"),
    [("", "balance_snapshot_newest"), ("WHERE pid = 7", "balance_snapshot_newest_of_pid")],
    ids=["all", "of a pid"],
)
def test_a_page_of_the_list_is_read_in_order_from_an_index(migrated: str, where: str, index: str) -> None:
    with psycopg.connect(migrated) as connection:
        connection.execute(
            """
            INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
            SELECT n, gen_random_uuid(), now() - n * interval '1 second', mod(n, 30), %(good)s, %(good)s, now()
            FROM generate_series(1, 3000) AS n
            """,
            {"good": GOOD},
        )
        connection.execute("ANALYZE balance_snapshot")
        page = f"SELECT seq FROM balance_snapshot {where} ORDER BY ts DESC, seq DESC LIMIT 9"
        plan = connection.execute(f"EXPLAIN {page}")
        text = "\n".join(line for (line,) in plan)
    assert f"using {index} " in text
    assert "Sort" not in text
