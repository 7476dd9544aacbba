"""Bring a database to the schema of this program, and say when it is at another one.

The files in sql/ are the schema's history: number, verb, object. Each runs once, in order, in a transaction
of its own; table schema_migration remembers it, with a checksum. There is no way back: what was wrong is put
right by the next file. Blocking calls, for start-up and `python server.py migrate`.

Promised: a migration is there wholly or not at all; two processes may migrate at once. Not promised: that a
server of the previous version keeps running meanwhile.
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
from balance.storage.connect import DatabaseError, one_line, settle, to_conninfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COMMAND = f"{program.COMMAND} migrate"

SERVER_VERSION_MIN = 140_000  # SQL function bodies, as 0001 has them, came with PostgreSQL 14
TURN_WAIT_MS_MAX = 60_000  # for another process that is migrating
# Short, because a statement that waits for a table makes everyone who wants the table wait behind it.
TABLE_WAIT_MS_MAX = 5_000

_ADVISORY_KEY = int.from_bytes(b"balance", "big")  # advisory locks are per database, so this says enough
_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


def _sql_folder() -> Path:
    """Return the folder of the migrations: inside the package where it is installed, beside it in a checkout."""
    package = Path(str(resources.files("balance")))
    inside = package / "sql"
    return inside if inside.is_dir() else package.parent / "sql"


SQL_FOLDER = _sql_folder()


class SchemaError(Exception):
    """The database can not be brought to, or is not at, the schema of this program; the text is one line."""


class SchemaBehind(SchemaError):
    """Migrations are missing in the database."""


class SchemaAhead(SchemaError):
    """The database was migrated by a newer version of this program."""


class SchemaChanged(SchemaError):
    """What was applied to the database is not what stands in sql/."""


@dataclass(frozen=True)
class Migration:
    """One file of sql/."""

    version: int  # from 1, without gaps
    name: str  # the file's name
    text: str  # SQL, any number of statements
    checksum: str  # SHA-256 of the text in hex, line ends as \n whatever the checkout made of them


def migrate(conninfo: str, folder: Path = SQL_FOLDER, turn_wait_ms_max: int = TURN_WAIT_MS_MAX) -> list[str]:
    """Apply what is missing and return the file names applied; an empty list when there was nothing to do.

    Raises SchemaError; the migrations before the one that failed stay applied.
    """
    migrations = read_migrations(folder)
    applied: list[str] = []
    with _connection(conninfo) as connection:
        _refuse_unfit_server(connection)
        while name := _apply_next(connection, migrations, turn_wait_ms_max):
            applied.append(name)
    return applied


def check_schema(connection: psycopg.Connection[Any], folder: Path = SQL_FOLDER) -> None:
    """Return if the database is exactly at this program's schema; reads only, any row factory.

    Raises SchemaBehind, SchemaAhead, SchemaChanged; psycopg's errors pass, their door is the caller's.
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
    """Return the folder's migrations 1, 2, 3 …; raises SchemaError on a gap, a duplicate, a strange name."""
    migrations: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise SchemaError(f"{path.name} in {folder} is not named like 0001_create_balance_snapshot.sql")
        version, expected = int(match[1]), len(migrations) + 1
        if version != expected:
            what = "there twice" if version < expected else f"there and {expected:04} is not"
            raise SchemaError(f"the numbers in {folder} must be 0001, 0002, …: {version:04} is {what}")
        text = path.read_text(encoding="utf-8")
        migrations.append(Migration(version, path.name, text, hashlib.sha256(text.encode()).hexdigest()))
    if not migrations:
        raise SchemaError(f"there are no migrations in {folder}")
    return migrations


@contextmanager
def _connection(conninfo: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Connect in autocommit; psycopg's errors become SchemaError of one line."""
    try:
        connection = psycopg.connect(to_conninfo(conninfo), autocommit=True)
    except DatabaseError as error:
        raise SchemaError(str(error)) from None
    except psycopg.Error as error:
        raise SchemaError(f"the database cannot be reached: {one_line(error)}") from error
    with connection:
        # What the database or the role has as defaults would hold for the transactions, since they begin by BEGIN.
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        connection.read_only = connection.deferrable = False
        try:
            yield connection
        except psycopg.Error as error:
            raise SchemaError(f"the database cannot be migrated: {_reason(error)}") from error


def _refuse_unfit_server(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    version = connection.info.server_version
    if version < SERVER_VERSION_MIN:
        raise SchemaError(f"the server is PostgreSQL {version // 10_000}; this program needs 14 or newer")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise SchemaError(
            f"the database's encoding is {encoding}; make it anew with CREATE DATABASE … ENCODING 'UTF8' "
            "TEMPLATE template0"
        )


def _apply_next(
    connection: psycopg.Connection[tuple[Any, ...]], migrations: Sequence[Migration], turn_wait_ms_max: int
) -> str | None:
    """Apply the first missing migration in one transaction and return its name, None when none is missing."""
    with connection.transaction():
        # For the transaction only, so that a pooler that lends each transaction another session keeps nothing of it.
        # No limit on the time of a statement: what must be bounded is the waiting.
        settle(connection, statement_ms_max=0, local=True)
        _take_turn(connection, turn_wait_ms_max)
        missing = _missing(connection, migrations)
        if not missing:
            return None
        migration = missing[0]
        if migration.version == 1:
            connection.execute(CREATE_HISTORY)
        try:
            connection.execute(migration.text.encode())
        except psycopg.Error as error:
            line = migration.text.count("\n", 0, int(error.diag.statement_position or 1) - 1) + 1
            raise SchemaError(
                f"{migration.name}, line {line}, failed and left nothing behind: {_reason(error)}"
            ) from error
        connection.execute(
            """
            INSERT INTO schema_migration (version, name, checksum)
            VALUES (%(version)s, %(name)s, %(checksum)s)
            """,
            {"version": migration.version, "name": migration.name, "checksum": migration.checksum},
        )
        return migration.name


def _take_turn(connection: psycopg.Connection[tuple[Any, ...]], turn_wait_ms_max: int) -> None:
    """Take the lock that serialises migrating processes, held to the end of the transaction.

    Of the transaction, not of the session, so that it also holds behind a pooler that shares sessions.
    """
    set_lock_timeout = "SELECT set_config('lock_timeout', %(value)s, true)"
    connection.execute(set_lock_timeout, {"value": f"{turn_wait_ms_max}ms"})
    try:
        connection.execute("SELECT pg_advisory_xact_lock(%(key)s)", {"key": _ADVISORY_KEY})
    except psycopg.errors.LockNotAvailable as error:
        raise SchemaError(
            f"another process has been migrating this database for {turn_wait_ms_max} ms: "
            f"wait for it, then run `{COMMAND}`"
        ) from error
    connection.execute(set_lock_timeout, {"value": f"{TABLE_WAIT_MS_MAX}ms"})


def _missing(connection: psycopg.Connection[Any], migrations: Sequence[Migration]) -> Sequence[Migration]:
    """Return the migrations that the database does not have; raises SchemaAhead, SchemaChanged."""
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute("SELECT to_regclass('schema_migration') IS NULL")
    if cursor.fetchone() == (True,):
        return migrations
    cursor.execute("SELECT version, checksum FROM schema_migration ORDER BY version")
    applied = cursor.fetchall()
    if len(applied) > len(migrations):
        raise SchemaAhead(
            f"the database is at version {applied[-1][0]} and this program knows only {len(migrations)}: "
            f"update the program, then run `{COMMAND}`"
        )
    for (version, checksum), migration in zip(applied, migrations, strict=False):
        if (version, checksum) != (migration.version, migration.checksum):
            raise SchemaChanged(
                f"{migration.name} is not what was applied to the database: put the file back as it was, "
                f"write the change as a new file, then run `{COMMAND}`"
            )
    return migrations[len(applied) :]


def _reason(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return (
            f"{one_line(error)}: migrate as the role that owns the tables, "
            "and let it create in the schema (GRANT USAGE, CREATE ON SCHEMA)"
        )
    return one_line(error)


CREATE_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migration (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
