"""The sessions of a backup and of a restore, the header of the file, and the progress that both report."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from balance.storage import backup as backup_module
from balance.storage import restore as restore_module
from balance.storage.backup import back_up
from balance.storage.backup_file import BackupError, check, opened, written
from balance.storage.connect import DatabaseError
from balance.storage.restore import check_backup, restore
from tests.support.backups import read, save, write
from tests.support.history import append_history
from tests.support.postgres import execute, query
from tests.support.service import Database

SETTINGS = ("transaction_isolation", "transaction_read_only", "statement_timeout", "lock_timeout", "row_security")
# What a role or a database may have set.
OTHERS = "-c statement_timeout=9s -c default_transaction_read_only=on -c default_transaction_isolation=serializable"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "one.backup"


def settings_of(session: psycopg.Connection[Any]) -> list[str]:
    return [session.execute(f"SHOW {name}".encode()).fetchall()[0][0] for name in SETTINGS]


# The sessions


def test_a_backup_reads_one_moment_and_all_rows_without_a_limit_of_time(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    original = backup_module.existing_tables

    def note(session: psycopg.Connection[Any]) -> list[str]:
        found.append(settings_of(session))
        return original(session)

    monkeypatch.setattr(backup_module, "existing_tables", note)
    back_up(make_conninfo(database.url, options=OTHERS), file, "1", lambda *_: None)
    assert found == [["repeatable read", "on", "0", "1min", "off"]]


def test_a_restore_writes_without_a_limit_of_time_whatever_the_role_has_set(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    original = restore_module._load

    def note(session: psycopg.Connection[Any], *rest: Any) -> None:
        found.append(settings_of(session))
        original(session, *rest)

    write(database, file)
    monkeypatch.setattr(restore_module, "_load", note)
    read(Database(make_conninfo(database.url, options=OTHERS)), file)
    assert found == [["read committed", "off", "0", "5s", "on"]]


def test_a_database_that_is_away_is_named_in_one_line(database: Database, file: Path) -> None:
    url = "postgresql://127.0.0.1:1/none"
    with pytest.raises(DatabaseError, match=r"^the database cannot be backed up: connection failed: [^\n]*$"):
        write(Database(url), file)
    write(database, file)
    with pytest.raises(DatabaseError, match=r"^the backup cannot be restored: connection failed: [^\n]*$"):
        read(Database(url), file)


def test_a_feed_without_its_row_is_not_backed_up(database: Database, file: Path) -> None:
    execute(database.url, "DELETE FROM balance_feed")
    with pytest.raises(BackupError, match=r"^table balance_feed has lost its row$"):
        write(database, file)
    assert not file.exists()


# The file


@pytest.mark.usefixtures("kathmandu")
def test_the_header_has_the_time_in_utc_and_the_versions(database: Database, file: Path) -> None:
    save(database, 1, 2)
    header = back_up(database.url, file, "1.2.3", lambda *_: None)
    made_at = datetime.fromisoformat(header.made_at)
    assert made_at.utcoffset() == timedelta(0)
    assert made_at.microsecond == 0
    assert abs(datetime.now(UTC) - made_at) < timedelta(minutes=1)
    ((version, epoch),) = query(database.url, "SELECT current_setting('server_version'), epoch::text FROM balance_feed")
    assert (header.program, header.postgresql, header.epoch, header.rows) == ("1.2.3", version, epoch, 2)
    schema = query(database.url, "SELECT version, name, checksum FROM schema_migration ORDER BY version")
    assert header.schema == schema
    assert check(file, lambda *_: None) == header


def test_the_tables_and_their_rows_have_an_order(database: Database, file: Path) -> None:
    append_history(database, 300)
    execute(database.url, "UPDATE balance_snapshot SET pid = 1 WHERE seq < 100")  # moves them behind the others
    write(database, file)
    with opened(file, lambda *_: None) as backup:
        rows = {name: b"".join(blocks).splitlines() for name, _, blocks in backup.tables()}
    assert list(rows) == ["balance_feed", "balance_epoch", "balance_token", "balance_snapshot"]
    assert [int(row.partition(b"\t")[0]) for row in rows["balance_snapshot"]] == [*range(1, 301)]


def test_a_table_that_this_program_does_not_know_changes_nothing(
    database: Database, blank: Database, file: Path
) -> None:
    header = write(database, file)
    with written(file, header) as writer:
        writer.write_table("balance_other", ["seq"], iter([]), lambda *_: None)
    with pytest.raises(BackupError) as refused:
        read(blank, file)
    assert str(refused.value) == "the backup has a table balance_other, which this program does not know"
    assert query(blank.url, "SELECT to_regclass('balance_feed')") == [(None,)]


# Progress


def test_each_step_reports_what_is_done_and_of_how_much(database: Database, blank: Database, file: Path) -> None:
    append_history(database, 5_000)
    steps: dict[str, list[tuple[int, int]]] = {name: [] for name in ("written", "checked", "loaded", "indexed")}

    def report_of(step: str) -> Any:
        return lambda done, total: steps[step].append((done, total))

    back_up(database.url, file, "1", report_of("written"))
    backup = check_backup(file, report_of("checked"))
    reports = {"report_load": report_of("loaded"), "report_index": report_of("indexed")}
    restore(blank.url, backup, replace=False, **reports)
    size = file.stat().st_size
    ((indexes,),) = query(blank.url, "SELECT count(*) FROM pg_index WHERE indrelid::regclass::text LIKE 'balance_%'")
    for step, total in {"written": 5_000, "checked": size, "loaded": size, "indexed": indexes}.items():
        assert {one for _, one in steps[step]} == {total}, step
        done = [one for one, _ in steps[step]]
        assert max(done) == done[-1] == total, step
    assert [done for done, _ in steps["indexed"]] == [*range(indexes + 1)]


# Replaced tables


@pytest.mark.usefixtures("kathmandu")
def test_the_schema_of_the_tables_of_before_has_the_time_in_utc(database: Database, file: Path) -> None:
    save(database, 1)
    write(database, file)
    before = datetime.now(UTC).replace(microsecond=0)
    aside = read(database, file, replace=True).aside
    assert aside is not None
    moved_at = datetime.strptime(aside, "balance_before_%Y%m%dt%H%M%S").replace(tzinfo=UTC)
    assert before <= moved_at <= datetime.now(UTC)
