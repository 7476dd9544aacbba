"""Migrate a database to the schema of this program, and check that a database has it.

The files in sql/ are the history of the schema: number, verb, object. Each runs once, in order, in a transaction of its
own; table schema_migration records it with a checksum. Migrations run forward only: a later file corrects an earlier
one. The calls block; they are for the start and for the command `migrate`.

Promised: a migration is applied completely or not at all; two processes may migrate at once. Not promised: that a
server of the previous version can run meanwhile.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import tuple_row

from balance import program
from balance.storage.connect import DatabaseError, error_text, to_conninfo
from balance.storage.session_settings import configure_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COMMAND = f"{program.COMMAND} migrate"

SERVER_VERSION_MIN = 140_000  # 0001 has an SQL function body, which PostgreSQL 14 introduced
LOCK_WAIT_MS_MAX = 60_000  # for another process that is migrating
# Short, because every other statement on a table waits behind the one that waits for its lock.
TABLE_LOCK_WAIT_MS_MAX = 5_000

_ADVISORY_KEY = int.from_bytes(b"balance", "big")  # advisory locks are per database, so this name is enough
_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


def _sql_folder() -> Path:
    """Return the folder of the migrations: inside the package where it is installed, beside it in a checkout."""
    package = Path(str(resources.files("balance")))
    inside = package / "sql"
    return inside if inside.is_dir() else package.parent / "sql"


SQL_FOLDER = _sql_folder()


class SchemaError(Exception):
    """The database does not have the schema of this program, or cannot be migrated to it; the text is one line."""


class SchemaBehind(SchemaError):
    """Migrations are missing in the database."""


class SchemaAhead(SchemaError):
    """The database was migrated by a newer version of this program."""


class SchemaChanged(SchemaError):
    """A migration that was applied to the database differs from its file in sql/."""


@dataclass(frozen=True)
class Migration:
    """One file of sql/."""

    version: int  # from 1, without gaps
    name: str  # the file's name
    text: str  # SQL, any number of statements
    checksum: str  # SHA-256 of the text in hex, with \n as line end, also in a checkout that has others


def migrate(conninfo: str, folder: Path = SQL_FOLDER, lock_wait_ms_max: int = LOCK_WAIT_MS_MAX) -> list[str]:
    """Apply the missing migrations and return their file names, in order.

    Raises SchemaError; the migrations before the failed one stay applied.
    """
    migrations = read_migrations(folder)
    applied: list[str] = []
    with _connection(conninfo) as connection:
        check_database_server(connection)
        while name := _apply_next(connection, migrations, lock_wait_ms_max):
            applied.append(name)
    return applied


def check_schema(connection: psycopg.Connection[Any], folder: Path = SQL_FOLDER) -> None:
    """Check that the database has exactly the schema of this program. Only reads; works with any row factory.

    Raises SchemaBehind, SchemaAhead and SchemaChanged, and psycopg.Error, which the caller converts.
    """
    migrations = read_migrations(folder)
    with connection.transaction():
        missing = _missing(connection, migrations)
    if missing:
        raise SchemaBehind(
            f"the database is at version {missing[0].version - 1} and this program needs "
            f"version {len(migrations)}: run `{COMMAND}`"
        )


def read_migrations(folder: Path = SQL_FOLDER) -> list[Migration]:
    """Return the folder's migrations 1, 2, 3 …; raises SchemaError for a gap, a duplicate or an invalid name."""
    migrations: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise SchemaError(f"{path.name} in {folder} is not named like 0001_create_balance_snapshot.sql")
        version, expected = int(match[1]), len(migrations) + 1
        if version != expected:
            fault = "there twice" if version < expected else f"there and {expected:04} is not"
            raise SchemaError(f"the numbers in {folder} must be 0001, 0002, …: {version:04} is {fault}")
        text = path.read_text(encoding="utf-8")
        migrations.append(Migration(version, path.name, text, hashlib.sha256(text.encode()).hexdigest()))
    if not migrations:
        raise SchemaError(f"there are no migrations in {folder}")
    return migrations


@contextmanager
def _connection(conninfo: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Connect in autocommit; convert psycopg.Error in the block to SchemaError of one line."""
    try:
        connection = psycopg.connect(to_conninfo(conninfo), autocommit=True)
    except DatabaseError as error:
        raise SchemaError(str(error)) from None
    except psycopg.Error as error:
        raise SchemaError(f"the database cannot be reached: {error_text(error)}") from error
    with connection:
        # Without these, the defaults of the database or the role would apply to each transaction.
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        connection.read_only = connection.deferrable = False
        try:
            yield connection
        except psycopg.Error as error:
            raise SchemaError(f"the database cannot be migrated: {_reason(error)}") from error


def check_database_server(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Check that the server and the database can have the tables. Raises SchemaError."""
    version = connection.info.server_version
    if version < SERVER_VERSION_MIN:
        raise SchemaError(f"the server is PostgreSQL {version // 10_000}; this program needs 14 or newer")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise SchemaError(
            f"the database's encoding is {encoding}; create it again with CREATE DATABASE … ENCODING 'UTF8' "
            "TEMPLATE template0"
        )


def _apply_next(
    connection: psycopg.Connection[tuple[Any, ...]], migrations: Sequence[Migration], lock_wait_ms_max: int
) -> str | None:
    """Apply the first missing migration in one transaction; return its name, or None if none is missing."""
    with connection.transaction():
        # For the transaction only: a pooler may give each transaction another session, where no setting may be left.
        # No limit on the time of a statement, since a migration may last long; only the wait for locks is limited.
        configure_session(connection, statement_ms_max=0, local=True)
        acquire_migration_lock(connection, lock_wait_ms_max)
        missing = _missing(connection, migrations)
        if not missing:
            return None
        apply_migration(connection, missing[0])
        return missing[0].name


def apply_migration(connection: psycopg.Connection[tuple[Any, ...]], migration: Migration) -> None:
    """Apply one migration in the transaction of the caller, and record it. Raises SchemaError."""
    if migration.version == 1:
        connection.execute(CREATE_HISTORY)
    try:
        connection.execute(migration.text.encode())
    except psycopg.Error as error:
        line = migration.text.count("\n", 0, int(error.diag.statement_position or 1) - 1) + 1
        raise SchemaError(f"{migration.name}, line {line}, failed and changed nothing: {_reason(error)}") from error
    connection.execute(
        """
        INSERT INTO schema_migration (version, name, checksum)
        VALUES (%(version)s, %(name)s, %(checksum)s)
        """,
        {"version": migration.version, "name": migration.name, "checksum": migration.checksum},
    )


def acquire_migration_lock(
    connection: psycopg.Connection[tuple[Any, ...]], lock_wait_ms_max: int = LOCK_WAIT_MS_MAX
) -> None:
    """Acquire the lock that serialises migrating processes, up to the end of the transaction.

    A lock of the session would not work behind a pooler that shares sessions.
    """
    set_lock_timeout = "SELECT set_config('lock_timeout', %(value)s, true)"
    connection.execute(set_lock_timeout, {"value": f"{lock_wait_ms_max}ms"})
    try:
        connection.execute("SELECT pg_advisory_xact_lock(%(key)s)", {"key": _ADVISORY_KEY})
    except psycopg.errors.LockNotAvailable as error:
        raise SchemaError(
            f"another process has been migrating this database for {lock_wait_ms_max} ms: "
            f"wait for it, then run `{COMMAND}`"
        ) from error
    connection.execute(set_lock_timeout, {"value": f"{TABLE_LOCK_WAIT_MS_MAX}ms"})


def hold_schema(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Have every migration wait until the session ends. Raises psycopg.Error if one runs for too long."""
    connection.execute("SELECT set_config('lock_timeout', %(value)s, false)", {"value": f"{LOCK_WAIT_MS_MAX}ms"})
    connection.execute("SELECT pg_advisory_lock_shared(%(key)s)", {"key": _ADVISORY_KEY})


def _missing(connection: psycopg.Connection[Any], migrations: Sequence[Migration]) -> Sequence[Migration]:
    """Return the migrations that the database does not have; raises SchemaAhead and SchemaChanged."""
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute("SELECT to_regclass('schema_migration') IS NULL")
    if cursor.fetchone() == (True,):
        return migrations
    cursor.execute("SELECT version, checksum FROM schema_migration ORDER BY version")
    applied = cursor.fetchall()
    if len(applied) > len(migrations):
        raise SchemaAhead(
            f"the database is at version {applied[-1][0]} and this program has only {len(migrations)}: "
            f"update the program, then run `{COMMAND}`"
        )
    for (version, checksum), migration in zip(applied, migrations, strict=False):
        if (version, checksum) != (migration.version, migration.checksum):
            raise SchemaChanged(
                f"{migration.name} differs from the migration that was applied to the database: restore the file, "
                f"write the change to a new file, then run `{COMMAND}`"
            )
    return migrations[len(applied) :]


def _reason(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return (
            f"{error_text(error)}: migrate as the role that owns the tables, "
            "and let it create in the schema (GRANT USAGE, CREATE ON SCHEMA)"
        )
    return error_text(error)


CREATE_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migration (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
