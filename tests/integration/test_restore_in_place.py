"""What a restore in place of other tables moves to their schema and what it leaves, and the grants on the new ones."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from balance.storage import restore as module
from balance.storage.backup_file import BackupError, opened
from tests.support.backups import read, save, write
from tests.support.postgres import execute, query
from tests.support.service import Database

OURS = ["balance_epoch", "balance_feed", "balance_snapshot", "balance_token", "schema_migration"]
TABLES = "SELECT tablename::text FROM pg_tables WHERE schemaname = %s ORDER BY 1"
GRANTS = """
SELECT name, acl FROM (
    SELECT relname::text, unnest(relacl)::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT proname::text, unnest(proacl)::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
) AS found (name, acl) ORDER BY 1, 2
"""


@pytest.fixture
def file(database: Database, tmp_path: Path) -> Path:
    """Return a backup of a database with one snapshot."""
    save(database, 1)
    write(database, tmp_path / "one.backup")
    return tmp_path / "one.backup"


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """Make a role, whose name has to be quoted."""
    name = f"the role {uuid.uuid4().hex}"
    execute(database.url, f'CREATE ROLE "{name}"')
    yield name
    execute(database.url, f'DROP OWNED BY "{name}" CASCADE', f'DROP ROLE "{name}"')


def test_what_is_not_of_this_program_stays_where_it_is(database: Database, file: Path) -> None:
    execute(
        database.url,
        "CREATE TABLE other (n int PRIMARY KEY)",
        "CREATE TABLE schema_migrations (n int)",
        "CREATE FUNCTION other() RETURNS int RETURN 7",
        "CREATE DOMAIN other_domain AS int",
    )
    aside = read(database, file, replace=True).aside
    assert query(database.url, TABLES, aside) == [(name,) for name in OURS]
    assert query(database.url, TABLES, "public") == [(name,) for name in sorted([*OURS, "other", "schema_migrations"])]
    assert query(database.url, "SELECT public.other(), 7::public.other_domain") == [(7, 7)]


def test_roles_with_any_name_and_everyone_keep_their_grants(database: Database, file: Path, role: str) -> None:
    execute(
        database.url,
        f'GRANT SELECT, INSERT ON balance_snapshot TO "{role}"',
        "GRANT SELECT ON schema_migration TO PUBLIC",
        f'GRANT EXECUTE ON FUNCTION balance_ledger_is_valid TO "{role}"',
    )
    before = query(database.url, GRANTS)
    assert len(before) > 4
    read(database, file, replace=True)
    assert query(database.url, GRANTS) == before


def test_a_role_that_owned_the_tables_may_use_the_new_ones(database: Database, file: Path, role: str) -> None:
    execute(
        database.url,
        f'ALTER TABLE balance_snapshot OWNER TO "{role}"',
        f'ALTER FUNCTION balance_ledger_is_valid OWNER TO "{role}"',
        "REVOKE EXECUTE ON FUNCTION balance_ledger_is_valid FROM PUBLIC",
    )
    read(database, file, replace=True)
    may_save = "SELECT has_table_privilege(%s, 'balance_snapshot', 'INSERT')"
    assert query(database.url, may_save, role) == [(True,)]
    executes = [acl for name, acl in query(database.url, GRANTS) if name == "balance_ledger_is_valid"]
    assert any(acl.startswith(f'"{role}"=X/') for acl in executes)


def test_only_a_service_on_this_database_prevents_a_restore(
    database: Database, file: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOPPED_S_MAX", 0.0)
    with (
        psycopg.connect(database.url, application_name="psql", autocommit=True),
        psycopg.connect(postgres, application_name="balance", autocommit=True),
    ):
        assert read(database, file, replace=True).rows == 1
    with (
        psycopg.connect(database.url, application_name="balance", autocommit=True),
        pytest.raises(BackupError, match=r"^a service uses the database: stop it first$"),
    ):
        read(database, file, replace=True)


def test_a_backup_has_the_columns_that_are_stored(database: Database, tmp_path: Path) -> None:
    """A generated column is written by PostgreSQL itself, and one that was dropped is still in its catalogue."""
    save(database, 1)
    execute(
        database.url,
        "ALTER TABLE balance_epoch ADD gone int, ADD twice int GENERATED ALWAYS AS (number * 2) STORED",
        "ALTER TABLE balance_epoch DROP gone",
    )
    write(database, tmp_path / "one.backup")
    with opened(tmp_path / "one.backup", lambda *_: None) as backup:
        columns = {name: columns for name, columns, blocks in backup.tables() if list(blocks)}
    assert columns["balance_epoch"] == ["epoch", "number", "after_seq", "timeline", "system_id", "began_at"]
    with pytest.raises(psycopg.errors.UndefinedColumn):
        query(database.url, "SELECT gone FROM balance_epoch")
