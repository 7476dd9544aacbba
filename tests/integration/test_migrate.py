"""Migrations are applied once, in order, each as a whole or not at all."""

from __future__ import annotations

import hashlib
import multiprocessing
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from balance.storage import migrate as module
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

WriteFolder = Callable[..., Path]

COMMAND = "python server.py migrate"
ONE = "CREATE TABLE one (n int);"
TWO = "CREATE TABLE two (n int);"


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def reused(make_empty: Callable[..., str]) -> str:
    """Create the database that the tests of this module use one after the other."""
    return make_empty()


@pytest.fixture
def empty(reused: str) -> str:
    """Return the conninfo of a database without tables; to empty it is faster than to create one for each test."""
    for statement in ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", "GRANT ALL ON SCHEMA public TO public"):
        query(reused, statement)
    return reused


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


def refusal(error: type[SchemaError], call: Callable[[], Any], text: str) -> None:
    """Assert that the call raises exactly this error, with this text of one line."""
    with pytest.raises(SchemaError) as caught:
        call()
    assert (caught.type, str(caught.value)) == (error, text)
    assert "\n" not in text


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
    rows = query(empty, "SELECT version, name, checksum FROM schema_migration ORDER BY version")
    checksums = [hashlib.sha256((SQL_FOLDER / name).read_bytes()).hexdigest() for name in names]
    assert rows == list(zip(range(1, len(names) + 1), names, checksums, strict=True))


def test_the_feed_starts_at_zero_and_each_database_has_an_epoch_of_its_own(make_empty: Callable[..., str]) -> None:
    epochs = set()
    for conninfo in (make_empty(), make_empty()):
        migrate(conninfo)
        [(epoch, last_seq)] = query(conninfo, "SELECT epoch, last_seq FROM balance_feed")
        assert last_seq == 0
        epochs.add(epoch)
    assert len(epochs) == 2


def test_the_domains_of_ledgers_keep_the_rows_as_they_are_and_check_new_ones(empty: str, folder: WriteFolder) -> None:
    before = {path.name: path.read_text() for path in SQL_FOLDER.glob("000[1-4]_*.sql")}
    migrate(empty, folder(before))
    insert = f"""
    INSERT INTO balance_snapshot (seq, id, ts, onchain, onsite, received_at)
    VALUES ({{}}, gen_random_uuid(), now(), '{{{{"rlb":1,"usdt":{"9" * 30}}}}}', '{{{{"rlb":{{}},"usd":1}}}}', now())
    """
    query(empty, insert.format(1, 2))
    stored = "SELECT pg_relation_filenode('balance_snapshot'), xmin::text, onchain, onsite FROM balance_snapshot"
    kept = query(empty, stored)
    assert migrate(empty) == ["0005_check_ledgers_by_domains.sql"]
    assert query(empty, stored) == kept, "neither the table nor the row is written again"
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        query(empty, insert.format(2, -1))
    assert caught.value.diag.constraint_name == "onsite_is_valid"


def test_only_what_is_missing_is_applied(empty: str, folder: WriteFolder) -> None:
    assert migrate(empty, folder({"0001_one.sql": ONE})) == ["0001_one.sql"]
    assert migrate(empty, folder({"0001_one.sql": ONE, "0002_two.sql": TWO})) == ["0002_two.sql"]
    assert tables(empty) == {"schema_migration", "one", "two"}


def test_a_migration_that_fails_leaves_nothing_and_keeps_those_before_it(empty: str, folder: WriteFolder) -> None:
    files = folder({"0001_one.sql": ONE, "0002_two.sql": f"{TWO}\nINSERT INTO two VALUES (1);\nSELECT nonsense;"})
    failed = "0002_two.sql, line 3, failed and changed nothing: "
    refusal(SchemaError, lambda: migrate(empty, files), failed + 'column "nonsense" does not exist')
    assert tables(empty) == {"schema_migration", "one"}
    assert query(empty, "SELECT version FROM schema_migration") == [(1,)]
    assert migrate(empty, folder({"0001_one.sql": ONE, "0002_two.sql": TWO})) == ["0002_two.sql"]


def test_a_first_migration_that_fails_leaves_the_database_empty(empty: str, folder: WriteFolder) -> None:
    files = folder({"0001_one.sql": f"\n{ONE}\nSELECT 1/0;"})
    failed = "0001_one.sql, line 1, failed and changed nothing: "  # PostgreSQL gives no position for this error
    refusal(SchemaError, lambda: migrate(empty, files), f"{failed}division by zero")
    assert tables(empty) == set()


def test_an_error_has_the_line_of_its_position(empty: str, folder: WriteFolder) -> None:
    files = folder({"0001_one.sql": "\nSELECT\nx\n;"})
    failed = "0001_one.sql, line 3, failed and changed nothing: "
    refusal(SchemaError, lambda: migrate(empty, files), f'{failed}column "x" does not exist')


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
        text = f"another process has been migrating this database for 50 ms: wait for it, then run `{COMMAND}`"
        refusal(SchemaError, lambda: migrate(empty, lock_wait_ms_max=50), text)
    assert migrate(empty, lock_wait_ms_max=50) == []


def test_a_migration_waits_while_the_schema_is_held_by_one_or_more(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(empty, autocommit=True) as one, psycopg.connect(empty, autocommit=True) as other:
        module.hold_schema(one)
        module.hold_schema(other)
        one.close()
        with pytest.raises(SchemaError, match="another process"):
            migrate(empty, lock_wait_ms_max=50)
        assert other.execute("SHOW lock_timeout").fetchone() == ("1min",)
    monkeypatch.setattr(module, "LOCK_WAIT_MS_MAX", 50)
    with psycopg.connect(empty) as migrating, psycopg.connect(empty, autocommit=True) as session:
        module.acquire_migration_lock(migrating)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            module.hold_schema(session)
        migrating.rollback()
        module.hold_schema(session)


def test_the_wait_for_a_table_in_use_is_bounded(
    empty: str, folder: WriteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balance.storage.migrate.TABLE_LOCK_WAIT_MS_MAX", 50)
    migrate(empty, folder({"0001_one.sql": ONE}))
    files = folder({"0001_one.sql": ONE, "0002_two.sql": "ALTER TABLE one ADD m int;"})
    with psycopg.connect(empty) as reader:
        reader.execute("SELECT n FROM one")
        failed = "0002_two.sql, line 1, failed and changed nothing: "
        refusal(SchemaError, lambda: migrate(empty, files), f"{failed}canceling statement due to lock timeout")
    assert migrate(empty, files) == ["0002_two.sql"]


# Refusing


def test_a_changed_migration_is_refused(empty: str, folder: WriteFolder) -> None:
    migrate(empty, folder({"0001_one.sql": ONE}))
    files = folder({"0001_one.sql": ONE + " ", "0002_two.sql": TWO})
    text = (
        "0001_one.sql differs from the migration that was applied to the database: restore the file, "
        "write the change to a new file, then run `python server.py migrate`"
    )
    refusal(SchemaChanged, lambda: migrate(empty, files), text)
    refusal(SchemaChanged, lambda: check(empty, files), text)
    assert tables(empty) == {"schema_migration", "one"}


def test_the_line_ends_of_a_checkout_do_not_count_as_a_change(empty: str, folder: WriteFolder) -> None:
    migrate(empty, folder({"0001_one.sql": f"{ONE}\n{TWO}\n"}))
    assert migrate(empty, folder({"0001_one.sql": f"{ONE}\r\n{TWO}\r\n"})) == []


def test_a_newer_database_is_refused(empty: str, folder: WriteFolder) -> None:
    migrate(empty, folder({"0001_one.sql": ONE, "0002_two.sql": TWO, "0003_three.sql": "SELECT 3"}))
    files = folder({"0001_one.sql": ONE})
    text = f"the database is at version 3 and this program has only 1: update the program, then run `{COMMAND}`"
    refusal(SchemaAhead, lambda: migrate(empty, files), text)
    refusal(SchemaAhead, lambda: check(empty, files), text)


def test_a_database_that_is_behind_is_refused_and_not_changed(empty: str, folder: WriteFolder) -> None:
    behind = "the database is at version {} and this program needs version {}: run `python server.py migrate`"
    refusal(SchemaBehind, lambda: check(empty), behind.format(0, len(list(SQL_FOLDER.glob("*.sql")))))
    assert tables(empty) == set()
    migrate(empty, folder({"0001_one.sql": ONE}))
    files = folder({"0001_one.sql": ONE, "0002_two.sql": TWO})
    refusal(SchemaBehind, lambda: check(empty, files), behind.format(1, 2))


@pytest.mark.parametrize("options", [{}, {"autocommit": True}, {"row_factory": dict_row}])
def test_the_right_schema_passes_on_any_connection(empty: str, options: dict[str, Any]) -> None:
    migrate(empty)
    check(empty, **options)


def test_another_encoding_is_refused(make_empty: Callable[..., str]) -> None:
    latin = make_empty("LATIN1")
    refusal(
        SchemaError,
        lambda: migrate(latin),
        "the database's encoding is LATIN1; create it again with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
    )
    assert tables(latin) == set()


def test_an_older_server_is_refused(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg.ConnectionInfo, "server_version", 130_000)
    refusal(SchemaError, lambda: migrate(empty), "the server is PostgreSQL 13; this program needs 14 or newer")
    monkeypatch.setattr(psycopg.ConnectionInfo, "server_version", 140_000)
    assert migrate(empty)


def test_a_role_that_may_not_create_is_refused(postgres: str, empty: str) -> None:
    role = f"balance_reader_{uuid.uuid4().hex}"
    query(postgres, f"CREATE ROLE {role}")
    try:
        query(empty, "REVOKE CREATE ON SCHEMA public FROM public")
        refusal(
            SchemaError,
            lambda: migrate(make_conninfo(empty, options=f"-c role={role}")),
            "the database cannot be migrated: permission denied for schema public: migrate as the role that owns the "
            "tables, and let it create in the schema (GRANT USAGE, CREATE ON SCHEMA)",
        )
    finally:
        query(postgres, f"DROP ROLE {role}")


def test_the_settings_of_a_migration_end_with_its_transaction(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    original = module._connection

    @contextmanager
    def look_behind(conninfo: str) -> Iterator[Any]:
        with original(conninfo) as connection:
            yield connection
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                found.append(connection.execute(f"SHOW {name}".encode()).fetchone())

    monkeypatch.setattr(module, "_connection", look_behind)
    migrate(make_conninfo(empty, options="-c statement_timeout=7s -c lock_timeout=8s -c search_path=public"))
    assert found == [("7s",), ("8s",), ("0",)]
