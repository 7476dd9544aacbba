"""A PostgreSQL that a test may stop, kill and freeze, and SQL beside the service: locks, sessions, queries."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.embedded import is_running, postmaster, processes_of, start_postgres
from tests.support.service import Database
from tests.support.waiting import wait_until

SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
LOCK_FEED = "SELECT last_seq FROM balance_feed FOR UPDATE"
EMPTY = """
TRUNCATE balance_snapshot, balance_feed, balance_epoch;
INSERT INTO balance_feed (only_row, epoch, last_seq) VALUES (true, gen_random_uuid(), 0);
INSERT INTO balance_epoch (epoch, number, after_seq) SELECT epoch, 1, 0 FROM balance_feed;
"""
LOCK_TABLES = "LOCK TABLE balance_feed, balance_snapshot IN ACCESS EXCLUSIVE MODE"


class Postgres:
    """An embedded PostgreSQL of one test module, which may stop, kill, freeze and start it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server = start_postgres(folder)
        self.url = self._server.url

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server = start_postgres(self.folder)

    def restart(self) -> None:
        self.stop()
        self.start()

    def crash(self) -> None:
        """Kill it, and start it again: it recovers what was committed from its log."""
        os.kill(postmaster(self.folder), signal.SIGKILL)
        crashed = self._server
        wait_until(lambda: not is_running(self.folder))  # its other processes notice, and end
        self.start()
        crashed.stop()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend all its processes within the block; their sockets stay open."""
        pids = processes_of(self.folder)  # the postmaster first, so that it starts no others
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(pids):
                os.kill(pid, signal.SIGCONT)

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Keep it stopped within the block."""
        await asyncio.to_thread(self.stop)
        try:
            yield
        finally:
            await asyncio.to_thread(self.start)

    def terminate_sessions(self, database: Database) -> int:
        """End every session of a database and wait until they are gone; return how many there were."""
        with psycopg.connect(self.url, autocommit=True) as admin:
            found = admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
                (part_of_url(database),),
            )
            return found.rowcount


@contextmanager
def temporary_database(postgres: str, template: str) -> Iterator[Database]:
    """Make a copy of the database `template` on the server `postgres`, and drop it at the end of the block.

    By its files, which costs half of what it costs to write each page to the write-ahead log too.
    """
    name = f"balance_test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        try:
            yield Database(make_conninfo(postgres, dbname=name))
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def execute(url: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def note_updates(url: str, table: str) -> None:
    """Have a trigger note each update of a row in table `noted`: its id, if it has one, and how its commit waits."""
    execute(
        url,
        "CREATE TABLE noted AS SELECT '' AS id, '' AS level WHERE false",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO noted VALUES "
        "(to_jsonb(NEW) ->> ''id'', current_setting(''synchronous_commit'')); RETURN NEW; END'",
        f"CREATE TRIGGER noting AFTER UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION note()",
    )


def query(url: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run one statement and return its rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql, parameters or None)
        return cursor.fetchall() if cursor.description else []


def wait_for_checkpointer(url: str) -> None:
    """Wait until the checkpointer has read the settings that a new session has: it decides whether commits wait.

    It reads them between two checkpoints, so before the second one that is requested now.
    """
    for _ in range(2):
        query(url, "CHECKPOINT")


def part_of_url(database: Database, part: str = "dbname") -> str:
    """Return one part of the address of a database, by default its name."""
    return str(conninfo_to_dict(database.url)[part])


@contextmanager
def locked(database: Database, statement: str) -> Iterator[psycopg.Connection[Any]]:
    """Hold the locks of a statement in another session until the end of the block."""
    with psycopg.connect(database.url) as session:
        session.execute(statement.encode())
        yield session
        session.rollback()


def is_waited_for(database: Database) -> bool:
    """Return whether a session of the database waits for a lock."""
    sql = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(database.rows(sql)[0]["n"])
