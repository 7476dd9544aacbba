"""Backup and restore: the file has one moment of the feed, and a restore changes everything or nothing."""

from __future__ import annotations

import gzip
import stat
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from balance.position import ClaimedPosition, Position
from balance.storage import backup as backup_module
from balance.storage import restore as restore_module
from balance.storage.backup_file import BackupError, check
from balance.storage.bulk_load import without_indexes
from balance.storage.connect import DatabaseError
from balance.storage.epochs import begin_epoch
from balance.storage.feed_store import FeedStore
from balance.storage.migrate import SQL_FOLDER, migrate, read_migrations
from balance.storage.pool import Pool
from balance.storage.retention import Pruning
from tests.support.backups import NOW, read, save, write
from tests.support.history import append_history
from tests.support.postgres import temporary_database
from tests.support.service import Database, Processes, check_start_refused
from tests.support.waiting import wait_until

ROWS = "SELECT * FROM balance_snapshot ORDER BY seq"
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() ORDER BY 1"
CONSTRAINTS = (
    "SELECT conrelid::regclass::text AS of, conname, convalidated, pg_get_constraintdef(oid) AS text "
    "FROM pg_constraint WHERE connamespace = current_schema()::regnamespace ORDER BY 1, 2"
)
LOADING = "SELECT pid FROM pg_stat_progress_copy WHERE datname = current_database() AND tuples_processed > 0"
SCHEMAS = "SELECT nspname AS name FROM pg_namespace WHERE nspname LIKE 'balance_before_%' ORDER BY 1"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "one.backup"


def good_until(database: Database, epoch: str, seq: int) -> tuple[bool, int | None]:
    """Return whether an epoch is known, and until which seq its positions are good."""
    pool = Pool(database.url, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000)
    pool.open()
    facts = FeedStore(pool).look_up(ClaimedPosition(epoch, seq))
    pool.close()
    return facts.epoch_is_known, facts.good_until


def epoch_of(database: Database) -> str:
    return str(database.rows("SELECT epoch::text FROM balance_feed")[0]["epoch"])


# Into an empty database


def test_a_restored_database_has_every_row_to_the_last_digit(database: Database, blank: Database, file: Path) -> None:
    save(database, 1, None, 2, 2)
    append_history(database, 3000)
    save(database, 1, received_at=NOW)
    header = write(database, file)
    assert (header.rows, header.last_seq, header.epoch) == (3005, 3005, epoch_of(database))
    restored = read(blank, file)
    assert (restored.position.seq, restored.rows, restored.aside) == (3005, 3005, None)
    assert blank.rows(ROWS) == database.rows(ROWS)
    assert migrate(blank.url) == []


def test_a_restored_database_has_the_indexes_and_constraints_of_a_migrated_one(
    database: Database, blank: Database, file: Path
) -> None:
    append_history(database, 10)
    write(database, file)
    read(blank, file)
    for definitions in (INDEXES, CONSTRAINTS):
        found = blank.rows(definitions)
        assert found == database.rows(definitions)
        assert found


@pytest.mark.parametrize(("of_server", "while_created"), [("64MB", "256MB"), ("1GB", "1GB")])
def test_indexes_are_created_with_at_least_256_mb_and_the_rest_as_set(
    database: Database, of_server: str, while_created: str
) -> None:
    found = []
    with psycopg.connect(database.url) as session:

        def note(*_: Any) -> None:
            found.append(session.execute("SHOW maintenance_work_mem").fetchall()[0][0])

        session.execute(f"SET maintenance_work_mem = '{of_server}'".encode())
        with without_indexes(session, ["balance_snapshot"], note):
            note()
        note()
        session.commit()
        note()
    assert (found[0], *found[-3:]) == (of_server,) * 4
    assert set(found[1:-3]) == {while_created}


def test_a_restored_feed_begins_a_new_epoch_after_its_last_row(database: Database, blank: Database, file: Path) -> None:
    save(database, 1, 2, 3)
    epoch = epoch_of(database)
    write(database, file)
    position = read(blank, file).position
    assert position == Position(epoch_of(blank), 3)
    assert position.epoch != epoch
    assert good_until(blank, epoch, 5) == (True, 3), "what was saved after the backup is lost"
    save(blank, 1)
    assert blank.seqs() == [1, 2, 3, 4]


def test_a_pruned_feed_stays_pruned(database: Database, blank: Database, file: Path) -> None:
    save(database, 1, None, None, received_at=NOW - timedelta(days=9))
    save(database, None)
    Pruning(database.url, NOW).run()
    write(database, file)
    assert read(blank, file).rows == 2
    counts = "SELECT last_seq, first_seq, pruned FROM balance_feed"
    assert blank.rows(counts) == database.rows(counts) == [{"last_seq": 4, "first_seq": 4, "pruned": 2}]


def test_a_migrated_database_is_empty_and_its_roles_keep_their_grants(
    database: Database, blank: Database, file: Path
) -> None:
    save(database, 1)
    write(database, file)
    migrate(blank.url)
    name = f"reader_{uuid.uuid4().hex}"
    grants = (
        "SELECT has_table_privilege(%s, 'balance_snapshot', 'SELECT') AS a, "
        "has_column_privilege(%s, 'balance_feed', 'pruned', 'UPDATE') AS b, "
        "has_table_privilege(%s, 'balance_feed', 'DELETE') AS c"
    )
    blank.rows(f"CREATE ROLE {name}")
    try:
        blank.rows(f"GRANT SELECT ON balance_snapshot TO {name}")
        blank.rows(f"GRANT UPDATE (pruned) ON balance_feed TO {name}")
        assert read(blank, file).aside is None
        assert blank.rows(grants, name, name, name) == [{"a": True, "b": True, "c": False}]
        assert blank.rows(SCHEMAS) == []
    finally:
        blank.rows(f"DROP OWNED BY {name}")
        blank.rows(f"DROP ROLE {name}")


def test_a_backup_of_an_older_schema_is_migrated(blank: Database, postgres: str, file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sql"
    folder.mkdir()
    first = sorted(SQL_FOLDER.glob("*.sql"))[0]
    (folder / first.name).write_text(first.read_text())
    with temporary_database(postgres, "template0") as old:
        migrate(old.url, folder)
        append_history(old, 5)
        assert len(write(old, file).schema) == 1
        read(blank, file)
        assert blank.rows(ROWS) == old.rows(ROWS)
    assert migrate(blank.url) == []
    save(blank, 1)
    assert blank.seqs() == [1, 2, 3, 4, 5, 6]


def test_a_restored_table_with_numbers_of_its_own_goes_on_after_the_last_one(database: Database) -> None:
    names = ["balance_probe", "balance_empty", "balance_feed"]
    with psycopg.connect(database.url, autocommit=True) as session:
        for name in names[:2]:
            session.execute(f"CREATE TABLE {name} (id bigint GENERATED ALWAYS AS IDENTITY, n int)".encode())
        session.execute("ALTER TABLE balance_probe ADD gone bigint GENERATED ALWAYS AS IDENTITY")
        session.execute("ALTER TABLE balance_probe DROP gone")
        with session.cursor().copy("COPY balance_probe (id, n) FROM STDIN") as copy:
            copy.write(b"7\t1\n9\t2\n")
        restore_module._advance_identities(session, names)
        for name, expected in (("balance_probe", 10), ("balance_empty", 1)):
            found = session.execute(f"INSERT INTO {name} (n) VALUES (3) RETURNING id".encode()).fetchone()
            assert found == (expected,)


# In place of another one


def test_a_database_with_snapshots_is_replaced_only_on_request(database: Database, file: Path) -> None:
    save(database, 1, 2, 3)
    write(database, file)
    save(database, 4, 5)
    before = database.rows(ROWS)
    with pytest.raises(BackupError, match="the database is not empty"):
        read(database, file)
    assert database.rows(ROWS) == before
    restored = read(database, file, replace=True)
    assert database.rows(ROWS) == before[:3]
    assert restored.aside is not None
    assert database.rows(f"SELECT * FROM {restored.aside}.balance_snapshot ORDER BY seq") == before
    assert database.rows(SCHEMAS) == [{"name": restored.aside}]


@pytest.mark.parametrize("saved", [[], [4, 5]], ids=["at once", "after two more"])
def test_epochs_that_began_after_the_backup_are_known_if_they_continued_it(
    database: Database, file: Path, saved: list[int]
) -> None:
    save(database, 1, 2, 3)
    first = epoch_of(database)
    write(database, file)
    save(database, *saved)
    second = begin_epoch(database.url).epoch
    save(database, 6)
    third = read(database, file, replace=True).position.epoch
    assert [good_until(database, epoch, 6) for epoch in (first, second, third)] == [
        (True, 3), (True, 3), (True, None)
    ]  # fmt: skip


def test_epochs_of_another_feed_than_that_of_the_backup_are_not_known(
    database: Database, blank: Database, file: Path
) -> None:
    migrate(blank.url)
    save(blank, 1, 2, 3)
    write(blank, file)
    save(database, 1, 2, 3)
    second = begin_epoch(database.url).epoch
    read(database, file, replace=True)
    assert good_until(database, second, 2) == (False, None)


def test_epochs_of_a_feed_that_had_lost_rows_of_the_backup_are_not_known(database: Database, file: Path) -> None:
    save(database, 1, 2, 3)
    write(database, file)
    database.rows("DELETE FROM balance_snapshot WHERE seq > 1")
    database.rows("UPDATE balance_feed SET last_seq = 1")
    second = begin_epoch(database.url).epoch
    save(database, 4, 5, 6)
    read(database, file, replace=True)
    assert good_until(database, second, 2) == (False, None), "its seq 2 is another than that of the backup"


def connected_pool(database: Database) -> Pool:
    """Open a pool, as a service does, and have it connect."""
    pool = Pool(database.url, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000)
    pool.open()
    with pool.connection():  # `open` need not have one
        pass
    return pool


def test_a_database_that_a_service_uses_is_not_replaced(database: Database, file: Path) -> None:
    save(database, 1)
    write(database, file)
    pool = connected_pool(database)
    with pytest.raises(BackupError, match=r"^a service uses the database: stop it first$"):
        read(database, file, replace=True)
    pool.close()
    assert database.rows(SCHEMAS) == []


def test_the_sessions_of_a_service_that_stops_are_waited_for(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr(restore_module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    save(database, 1)
    write(database, file)
    pool = connected_pool(database)
    stopping = threading.Timer(0.2, pool.close)
    stopping.start()
    assert read(database, file, replace=True).rows == 1
    stopping.join()
    assert [seconds for seconds in waits if seconds > 0.1] == []


# What is refused


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def edit(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Change the text of a backup, without its checksum."""

    def change(data: bytes) -> bytes:
        text = gzip.decompress(data)
        assert old in text
        return gzip.compress(text.replace(old, new, 1))

    return change


def without_last_line(data: bytes) -> bytes:
    return gzip.compress(gzip.decompress(data).rsplit(b"\n", 2)[0] + b"\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (truncate, "the backup is truncated, and nothing was changed"),
        (lambda data: data[:-1], "the backup is truncated, and nothing was changed"),
        (lambda data: data[:5], "is not a backup of this program"),
        (lambda data: b"", "is not a backup of this program"),
        (without_last_line, "the backup is truncated, and nothing was changed"),
        (flip, "the backup is damaged, and nothing was changed"),
        (lambda data: data + b"more", "the backup is damaged, and nothing was changed"),
        (edit(b"100074.99978", b"900074.99978"), "the backup is damaged, and nothing was changed"),
        (edit(b"COPY balance_snapshot", b"COPY balance_SNAPSHOT"), "the backup is damaged, and nothing was changed"),
        (edit(b'"version": 1', b'"version": 2'), "was made by a newer version of this program: update the program"),
        (edit(b'"balance-backup"', b'"other"'), "is not a backup of this program"),
        (lambda data: b"PGDMP" * 100, "is not a backup of this program"),
        (lambda data: gzip.compress(b"{}\n"), "is not a backup of this program"),
    ],
)
def test_a_file_that_is_not_what_was_written_changes_nothing(
    database: Database, blank: Database, file: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    save(database, *range(500))
    write(database, file)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(BackupError) as caught:
        read(blank, file)
    assert str(caught.value) == f"{file}: {reason}"
    assert blank.rows("SELECT to_regclass('balance_snapshot') AS t") == [{"t": None}]


def test_a_backup_of_a_newer_or_another_schema_changes_nothing(
    database: Database, blank: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(database, file)
    all_ = read_migrations()
    monkeypatch.setattr(restore_module, "read_migrations", lambda: all_[:-1])
    with pytest.raises(BackupError, match="is of version") as refused:
        read(blank, file)
    versions = f"is of version {len(all_)} of the schema and this program has only {len(all_) - 1}"
    assert str(refused.value) == f"{file}: {versions}: update the program"
    monkeypatch.setattr(restore_module, "read_migrations", lambda: [replace(all_[0], checksum="other"), *all_[1:]])
    with pytest.raises(BackupError, match=f"has another {all_[0].name} than this program$"):
        read(blank, file)
    assert blank.rows("SELECT to_regclass('balance_snapshot') AS t") == [{"t": None}]


def test_an_error_while_it_is_loaded_changes_nothing(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(database, 1, 2)
    write(database, file)
    save(database, 3)
    before = database.rows(ROWS)

    def fail(*_: Any) -> None:
        raise psycopg.errors.DiskFull("no space")

    monkeypatch.setattr(restore_module, "begin_next_epoch", fail)
    with pytest.raises(DatabaseError, match=r"^the backup cannot be restored: no space$"):
        read(database, file, replace=True)
    assert database.rows(ROWS) == before
    assert database.rows(SCHEMAS) == []


def test_a_restore_that_is_killed_leaves_nothing_and_can_be_repeated(
    database: Database, blank: Database, file: Path, processes: Processes
) -> None:
    append_history(database, 50_000)
    write(database, file)
    process = processes("restore", str(file), DATABASE_URL=blank.url)
    wait_until(lambda: bool(blank.rows(LOADING)))
    process.kill()
    assert process.stdout == [], "it was killed before its end"
    wait_until(lambda: not blank.rows(LOADING))
    assert blank.rows("SELECT to_regclass('balance_snapshot') AS t") == [{"t": None}]
    assert read(blank, file).rows == 50_000


# The file


def test_a_backup_is_private_and_has_its_name_only_when_it_is_complete(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(database, 1)
    write(database, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()

    def fail(*_: Any) -> None:
        assert file.with_name(f"{file.name}.partial").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(backup_module, "_write_table", fail)
    with pytest.raises(KeyboardInterrupt):
        write(database, file)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_a_full_disk_is_one_line_and_leaves_nothing(database: Database, tmp_path: Path) -> None:
    save(database, 1)
    with pytest.raises(BackupError, match=r"/dev/nowhere/x: cannot be written: No such file or directory$"):
        write(database, Path("/dev/nowhere/x"))
    (tmp_path / "full.partial").symlink_to("/dev/full")
    with pytest.raises(BackupError, match=r"cannot be written: Too many levels of symbolic links$"):
        write(database, tmp_path / "full")


def test_a_backup_beside_saves_is_of_one_moment(database: Database, blank: Database, file: Path) -> None:
    save(database, *[1] * 500)
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            save(database, 2, 3)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        header = write(database, file)
    finally:
        stop.set()
        thread.join()
    read(blank, file)
    assert blank.seqs() == list(range(1, header.last_seq + 1))
    assert check(file, lambda *_: None) == header


def test_there_is_nothing_to_back_up_in_a_database_without_tables(blank: Database, file: Path) -> None:
    reason = "the database has no tables of this program: there is nothing to back up"
    with pytest.raises(BackupError, match=f"^{reason}$"):
        write(blank, file)
    assert not file.exists()


# The commands


def test_the_commands_work_while_a_service_runs_and_print_one_line(
    database: Database, blank: Database, file: Path, processes: Processes
) -> None:
    append_history(database, 7)
    service = processes("--port=0", DATABASE_URL=database.url)
    service.url()
    process = processes("backup", str(file), DATABASE_URL=database.url)
    assert (process.wait(), process.complaints) == (0, [])
    assert process.stdout == [f"{file}: 7 snapshots up to seq 7, {file.stat().st_size} bytes"]
    check_start_refused(processes("restore", str(file), DATABASE_URL=database.url), "a service uses the database")
    assert service.terminate() == 0
    process = processes("restore", str(file), DATABASE_URL=blank.url)
    assert (process.wait(), process.complaints) == (0, [])
    assert process.stdout == [f"restored 7 snapshots; epoch {epoch_of(blank)} begins after seq 7"]
    process = processes("restore", "--replace", str(file), DATABASE_URL=blank.url)
    assert process.wait() == 0
    assert process.stdout[1].startswith("the tables of before are in schema balance_before_")


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_command_that_cannot_work_ends_with_one_line(processes: Processes, tmp_path: Path, command: str) -> None:
    missing = str(tmp_path / "none")
    url = "postgresql://127.0.0.1:1/none"
    reason = {"backup": "the database cannot be backed up: ", "restore": f"{missing}: cannot be read: "}[command]
    check_start_refused(processes(command, missing, DATABASE_URL=url), reason)
    check_start_refused(processes(command, DATABASE_URL=url), "the following arguments are required: FILE")
