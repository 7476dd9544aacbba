"""Restore a backup into an empty database, or in place of the tables of one.

The file is read to its end before anything is changed, and then everything is done in one transaction: the tables are
created as of the version of the backup, filled, and migrated to the version of this program. The restored feed begins a
new epoch, so that a client that has seen more than the backup has gets the reason.

With `replace`, the tables that were there are moved to another schema of the same database. Their roles keep their
grants on the new ones.

Threads: the function blocks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString, NamedTuple

import psycopg
from psycopg import Connection, IsolationLevel, errors
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Identifier, Literal

from balance.position import Position
from balance.storage.backup import existing_tables
from balance.storage.backup_file import BackupError, BackupReader, Header, Report, check, opened
from balance.storage.bulk_load import run_sql, without_indexes
from balance.storage.connect import DatabaseError, error_text, to_conninfo
from balance.storage.epochs import begin_next_epoch
from balance.storage.errors import DatabaseFault
from balance.storage.migrate import (
    Migration,
    acquire_migration_lock,
    apply_migration,
    check_database_server,
    read_migrations,
)
from balance.storage.server_probe import Server, ServerProbe
from balance.storage.session_settings import configure_session

STOPPED_S_MAX = 1.0  # within which the sessions of a service that has stopped end
MADE_BY_MIGRATIONS = ("balance_feed", "balance_epoch")  # the tables that have a row from the beginning


class CheckedBackup(NamedTuple):
    """A file that was read to its end, and is what was written."""

    path: Path
    header: Header
    migrations: list[Migration]
    """Those of this program, of which the backup has the first ones."""


class Restored(NamedTuple):
    """The outcome."""

    position: Position
    """Where the feed ends, in its new epoch."""
    rows: int
    """The number of snapshots."""
    aside: str | None
    """The schema with the tables that were there before; None if the database was empty."""


def check_backup(path: Path, report: Report) -> CheckedBackup:
    """Read a backup to its end; `report` gets what was read of the file. Raises BackupError."""
    header = check(path, report)
    return CheckedBackup(path, header, _check_version(path, header))


def restore(url: str, backup: CheckedBackup, *, replace: bool, report_load: Report, report_index: Report) -> Restored:
    """Restore a backup. The reports get what was read of the file, and then the number of indexes that were created.

    Raises BackupError, DatabaseError and SchemaError; nothing is changed then.
    """
    try:
        with psycopg.connect(to_conninfo(url), autocommit=True) as session:
            session.isolation_level, session.read_only = IsolationLevel.READ_COMMITTED, False
            check_database_server(session)
            server = ServerProbe().read(session)
            with session.transaction():
                configure_session(session, statement_ms_max=0, local=True)
                acquire_migration_lock(session)
                with _moved_aside(session, replace=replace) as aside, opened(backup.path, report_load) as reader:
                    _load(session, reader, backup.migrations, report_index)
                    position = _begin_epoch(session, server, aside)
    except (psycopg.Error, DatabaseFault) as error:
        raise DatabaseError(f"the backup cannot be restored: {error_text(error)}") from error
    return Restored(position, backup.header.rows, aside)


def _check_version(path: Path, header: Header) -> list[Migration]:
    """Return the migrations of this program, of which the backup has the first ones. Raises BackupError."""
    migrations = read_migrations()
    if len(header.schema) > len(migrations):
        raise BackupError(
            f"{path}: is of version {len(header.schema)} of the schema and this program has only {len(migrations)}: "
            "update the program"
        )
    for (version, _name, checksum), migration in zip(header.schema, migrations, strict=False):
        if (version, checksum) != (migration.version, migration.checksum):
            raise BackupError(f"{path}: has another {migration.name} than this program")
    return migrations


@contextmanager
def _moved_aside(session: Connection[TupleRow], *, replace: bool) -> Iterator[str | None]:
    """Move the tables that are there to another schema for the block, and give the new ones their grants at its end.

    Yields the name of the schema; None if there were no tables, or only empty ones, which are then dropped.
    """
    objects = session.execute(OBJECTS).fetchall()
    if not objects:
        yield None
        return
    _check_nobody_is_connected(session)
    is_empty = not any(_has_rows(session, name) for name in existing_tables(session) if name not in MADE_BY_MIGRATIONS)
    if not is_empty and not replace:
        raise BackupError("the database is not empty: restore into one that is, or with --replace")
    grants = session.execute(GRANTS).fetchall()
    aside = f"balance_before_{datetime.now(UTC):%Y%m%dt%H%M%S}"
    run_sql(session, SQL("CREATE SCHEMA {}").format(Identifier(aside)))
    for kind, signature in objects:
        run_sql(session, SQL("ALTER {} {} SET SCHEMA {}").format(SQL(kind), SQL(signature), Identifier(aside)))
    yield None if is_empty else aside
    for (statement,) in grants:
        with suppress(errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction), session.transaction():
            run_sql(session, SQL(statement))
    if is_empty:
        run_sql(session, SQL("DROP SCHEMA {} CASCADE").format(Identifier(aside)))


def _has_rows(session: Connection[TupleRow], table: str) -> bool:
    statement = SQL("SELECT EXISTS (SELECT FROM {})").format(Identifier(table))
    return run_sql(session, statement).fetchone() == (True,)


def _check_nobody_is_connected(session: Connection[TupleRow]) -> None:
    """Check that no service has a connection. PostgreSQL ends the session of one that has just stopped a bit later."""
    deadline = time.monotonic() + STOPPED_S_MAX
    while session.execute(CONNECTED).fetchone() != (0,):
        if time.monotonic() > deadline:
            raise BackupError("a service uses the database: stop it first")
        time.sleep(0.01)
        session.execute("SELECT pg_stat_clear_snapshot()")


def _load(
    session: Connection[TupleRow], backup: BackupReader, migrations: list[Migration], report_index: Report
) -> None:
    """Create the tables, fill and migrate them."""
    version = len(backup.header.schema)
    for migration in migrations[:version]:
        apply_migration(session, migration)
    created = existing_tables(session)
    run_sql(session, SQL("TRUNCATE {}").format(SQL(", ").join(map(Identifier, created))))
    with without_indexes(session, created, report_index):
        for name, columns, blocks in backup.tables():
            if name not in created:
                raise BackupError(f"the backup has a table {name}, which this program does not know")
            with session.cursor().copy(
                SQL("COPY {} ({}) FROM STDIN WITH (FREEZE)").format(
                    Identifier(name), SQL(", ").join(map(Identifier, columns))
                )
            ) as copy:
                for block in blocks:
                    copy.write(block)
    _advance_identities(session, created)
    for migration in migrations[version:]:
        apply_migration(session, migration)
    run_sql(session, SQL("ANALYZE balance_snapshot"))


def _begin_epoch(session: Connection[TupleRow], server: Server, aside: str | None) -> Position:
    """Begin a new epoch, after those of the tables that were there, as far as they continued the backup."""
    if aside is not None:
        _keep_epochs(session, aside)
    return begin_next_epoch(session, server)


def _advance_identities(session: Connection[TupleRow], tables: list[str]) -> None:
    """Let the next row of each table with a number of its own have the number after the last one."""
    for table, column in session.execute(IDENTITIES, {"names": tables}).fetchall():
        names = {"table": table, "column": column}
        (sequence,) = session.execute("SELECT pg_get_serial_sequence(%(table)s, %(column)s)", names).fetchall()[0]
        next_ = SQL("SELECT setval({}, max({})) FROM {}").format(
            Literal(sequence), Identifier(column), Identifier(table)
        )
        run_sql(session, next_)


def _keep_epochs(session: Connection[TupleRow], aside: str) -> None:
    """Record the epochs that began after the backup was made, so that positions in them are not of an unknown feed."""
    old = SQL("{}.balance_epoch").format(Identifier(aside))
    found = session.execute("SELECT to_regclass(%(name)s) IS NOT NULL", {"name": f"{aside}.balance_epoch"}).fetchone()
    if found == (True,):
        run_sql(session, SQL(KEEP_EPOCHS).format(old=old))


# COPY stores the numbers of the backup, and leaves the sequence as it is.
IDENTITIES: LiteralString = """
SELECT name, attname::text FROM unnest(%(names)s::text[]) AS name
JOIN pg_attribute ON attrelid = to_regclass(name) AND attidentity <> '' AND NOT attisdropped
"""

# What the migrations have created in the schema of this program.
OBJECTS: LiteralString = """
SELECT 'TABLE', quote_ident(relname) FROM pg_class
WHERE relnamespace = to_regnamespace(current_schema()) AND relkind = 'r' AND relname ~ '^(balance_|schema_migration$)'
UNION ALL
SELECT 'FUNCTION', oid::regprocedure::text FROM pg_proc
WHERE pronamespace = to_regnamespace(current_schema()) AND proname ~ '^balance_'
UNION ALL
SELECT 'DOMAIN', oid::regtype::text FROM pg_type
WHERE typnamespace = to_regnamespace(current_schema()) AND typtype = 'd' AND typname ~ '^balance_'
"""

# Other sessions of this program: `to_conninfo` gives them their name, which every role may read.
CONNECTED: LiteralString = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'balance' AND pid <> pg_backend_pid()
"""

# The grants of all roles but the one that restores, which owns the new tables; as statements. A role that owned the
# tables of before has all grants on them, also if no grant was ever made.
GRANTS: LiteralString = """
WITH grantee AS (
    SELECT oid, quote_ident(rolname) AS name FROM pg_roles WHERE rolname <> current_user UNION ALL SELECT 0, 'PUBLIC'
), tables AS (
    SELECT oid, relname, coalesce(relacl, acldefault('r', relowner)) AS relacl FROM pg_class
    WHERE relnamespace = to_regnamespace(current_schema()) AND relkind = 'r'
      AND relname ~ '^(balance_|schema_migration$)'
)
SELECT format('GRANT %s ON %I TO %s', privilege_type, relname, name)
FROM tables, aclexplode(relacl) AS acl JOIN grantee ON grantee.oid = acl.grantee
UNION ALL
SELECT format('GRANT %s (%I) ON %I TO %s', privilege_type, attname, relname, name)
FROM tables JOIN pg_attribute ON attrelid = tables.oid AND NOT attisdropped,
     aclexplode(attacl) AS acl JOIN grantee ON grantee.oid = acl.grantee
UNION ALL
SELECT format('GRANT EXECUTE ON FUNCTION %s TO %s', pg_proc.oid::regprocedure, name)
FROM pg_proc, aclexplode(proacl) AS acl JOIN grantee ON grantee.oid = acl.grantee
WHERE pronamespace = to_regnamespace(current_schema()) AND proname ~ '^balance_'
"""

# Only if both feeds are the same up to the end of the restored one: the old feed continued it, and lost nothing of it
# later.
KEEP_EPOCHS: LiteralString = """
INSERT INTO balance_epoch (epoch, number, after_seq, timeline, system_id, began_at)
SELECT old.epoch, old.number, old.after_seq, old.timeline, old.system_id, old.began_at
FROM {old} AS old, balance_feed, (SELECT max(number) AS number FROM balance_epoch) AS last
WHERE old.number > last.number
  AND EXISTS (SELECT FROM {old} AS same WHERE same.epoch = balance_feed.epoch)
  AND NOT EXISTS (SELECT FROM {old} AS later WHERE later.number > last.number AND later.after_seq < last_seq)
"""
