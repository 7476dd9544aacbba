"""Back up the tables of a database to a file, while the service runs.

All tables are read in one REPEATABLE READ transaction, so that the backup is of one moment. Saves go on meanwhile; a
migration waits. The file is the same for every database and every version of PostgreSQL (see `backup_file`). It is not
made by pg_dump: that program does not read a server of a newer version than its own, and a dump has no checksum, no
version of the schema, and no progress.

Threads: the function blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import Connection, IsolationLevel
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Identifier

from balance.storage.backup_file import BackupError, BackupWriter, Header, Report, written
from balance.storage.connect import DatabaseError, error_text, to_conninfo
from balance.storage.migrate import SchemaBehind, check_schema, hold_schema
from balance.storage.session_settings import configure_session

# In the order in which they are restored. Table schema_migration is in the header.
TABLES = ("balance_feed", "balance_epoch", "balance_token", "balance_snapshot")


def back_up(url: str, path: Path, program: str, report: Report) -> Header:
    """Write a backup of the database to a file; return its header. `program` is the version of this program.

    `report` gets the number of snapshots that were written, and of all. Raises BackupError, DatabaseError and
    SchemaError.
    """
    try:
        with psycopg.connect(to_conninfo(url), autocommit=True) as session:
            configure_session(session, statement_ms_max=0)
            hold_schema(session)
            session.execute("SET row_security = off")  # an error, rather than a backup without the rows of others
            session.isolation_level, session.read_only = IsolationLevel.REPEATABLE_READ, True
            with session.transaction():
                with suppress(SchemaBehind):  # the header has the version, and the restore migrates it
                    check_schema(session)
                header = _read_header(session, program)
                with written(path, header) as writer:
                    for name in existing_tables(session):
                        _write_table(session, writer, name, lambda done, _total: report(done, header.rows))
    except psycopg.Error as error:
        raise DatabaseError(f"the database cannot be backed up: {error_text(error)}") from error
    return header


def _read_header(session: Connection[TupleRow], program: str) -> Header:
    if session.execute("SELECT to_regclass('schema_migration') IS NULL").fetchone() == (True,):
        raise BackupError("the database has no tables of this program: there is nothing to back up")
    schema = session.execute("SELECT version, name, checksum FROM schema_migration ORDER BY version").fetchall()
    feed = session.execute("SELECT epoch::text, last_seq FROM balance_feed").fetchone()
    counted = session.execute("SELECT count(*) FROM balance_snapshot").fetchone()
    if feed is None or counted is None:
        raise BackupError("table balance_feed has lost its row")
    (epoch, last_seq), (rows,) = feed, counted
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    postgresql = session.info.parameter_status("server_version") or ""
    return Header([(one[0], one[1], one[2]) for one in schema], epoch, last_seq, rows, made_at, program, postgresql)


def existing_tables(session: Connection[TupleRow]) -> list[str]:
    """Return those of TABLES that the database has, in their order."""
    return [name for (name,) in session.execute(EXISTING, {"names": list(TABLES)}).fetchall()]


def _write_table(session: Connection[TupleRow], writer: BackupWriter, name: str, report: Report) -> None:
    columns = [column for (column,) in session.execute(COLUMNS, {"name": name}).fetchall()]
    copy = SQL("COPY (SELECT {} FROM {} ORDER BY {}) TO STDOUT").format(
        SQL(", ").join(map(Identifier, columns)), Identifier(name), Identifier(columns[0])
    )
    with session.cursor().copy(copy) as rows:
        writer.write_table(name, columns, _bytes_of(rows), report)


def _bytes_of(rows: psycopg.Copy) -> Iterator[bytes]:
    for row in rows:
        yield bytes(row)


EXISTING: LiteralString = """
SELECT name FROM unnest(%(names)s::text[]) WITH ORDINALITY AS wanted (name, number)
WHERE to_regclass(name) IS NOT NULL ORDER BY number
"""

COLUMNS: LiteralString = """
SELECT attname::text FROM pg_attribute
WHERE attrelid = to_regclass(%(name)s) AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum
"""
