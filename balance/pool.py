"""Lends working connections to PostgreSQL, and says in one way that there is none.

Threads: any number may borrow at once; a connection is used by one of them at a time.

Promises: `connection()` lends one that works or raises StoreUnavailable within the wait; what psycopg raises of a
database that went away while it was lent comes out as StoreUnavailable too. After a restart of the database the
first call finds it. Not promised: that a call ends by itself while the database hangs; `cut_dead` and `close` end even
those.

Life: `Pool(url)` checks the URL, `open()` connects, `close()` ends everything.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, LiteralString

import psycopg
import psycopg_pool
from psycopg import Connection, conninfo
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import TupleRow
from psycopg.types.string import TextLoader

import protocol
from balance.migrate import check_schema

# What PostgreSQL and libpq say when a person is needed; of everything else a database can be expected to come back.
PERMANENT = (
    "invalid", "authentication failed", "does not exist", "no pg_hba.conf entry", "not permitted to log in",
    "no password supplied", "permission denied", "Name or service not known", "is not currently accepting connections",
)  # fmt: skip

WAIT_SLICES = 4


class DatabaseError(Exception):
    """The database named by DATABASE_URL can not be used."""


class StoreUnavailable(Exception):
    """The database can not be reached, or did not answer; try again."""


class Pool:
    """Connections to one database, set up for this service."""

    def __init__(self, url: str, *, pool_max: int, pool_wait_ms_max: int, statement_ms_max: int) -> None:
        """Open nothing yet. Raises DatabaseError when `url` is not one."""
        self._wait_s_max = pool_wait_ms_max / 1000
        self._statement_ms_max = statement_ms_max
        self._conninfo = to_conninfo(url)
        # Since when, and a descriptor of its own for the connection's socket, so that it can be shut down.
        self._lent: dict[Connection[TupleRow], tuple[float, socket.socket]] = {}
        # The sessions, by their process, whose connection was given up while they stored something, and when.
        self._left: dict[int, float] = {}
        self._pool = psycopg_pool.ConnectionPool(
            self._conninfo,
            min_size=1,
            max_size=pool_max,
            open=False,
            configure=self._configure,
            kwargs={"autocommit": True},  # transactions are opened where they are meant
            max_lifetime=3600,
            reconnect_timeout=0,  # no back-off of its own: whoever asks next makes the next attempt
            name="balance",
        )

    def open(self) -> None:
        """Connect and check the schema.

        Raises StoreUnavailable while the database is away, DatabaseError when it will not come by itself, and
        SchemaError when its tables are not those of this version.
        """
        try:
            with psycopg.connect(self._conninfo, autocommit=True) as connection:
                self._configure(connection)
                check_schema(connection)
        except psycopg.Error as error:
            text = _one_line(error)
            if isinstance(error, psycopg.OperationalError) and not any(sign in text for sign in PERMANENT):
                raise StoreUnavailable(text) from error
            raise DatabaseError(f"DATABASE_URL: {text}") from error
        # It warns once per attempt and connection; here whoever asked is told.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        self._pool.open()

    def close(self) -> None:
        """Close every connection, also one that a thread still waits on: that thread gets StoreUnavailable."""
        self._cut(time.monotonic())
        self._pool.close(timeout=1)

    def cut_dead(self) -> None:
        """Cut each connection that should long have answered, so that its thread gets StoreUnavailable.

        The server ends a statement after statement_ms_max: when it has not, it hangs, or a firewall has forgotten
        the connection, and a new one may work. Never waits; from any thread.
        """
        if self._cut(time.monotonic() - self._statement_ms_max / 1000):
            self._pool.drain()  # what has forgotten this connection has forgotten the idle ones as well

    def _cut(self, lent_before: float) -> int:
        lines = [line for since, line in list(self._lent.values()) if since <= lent_before]
        for line in lines:
            # Closing the connection from this thread would free what the other one is using.
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        return len(lines)

    def is_settled(self) -> bool:
        """Tell whether each session whose connection was given up while it stored something has ended.

        It hears of that only when it has done what it was asked; until then it may still commit. Raises
        StoreUnavailable.
        """
        for pid, since in list(self._left.items()):
            with self.connection() as connection:
                parameters = {"pid": pid, "seconds": time.monotonic() - since}
                try:
                    found = connection.execute(IS_LEFT, parameters).fetchone()
                except psycopg.errors.InsufficientPrivilege:  # then we never know
                    found = None
            if found is None:
                del self._left[pid]
        return not self._left

    @contextmanager
    def connection(self, *, stores: bool = False) -> Iterator[Connection[TupleRow]]:
        """Lend a connection in autocommit; say so if it `stores` something. Raises StoreUnavailable."""
        connection = self._take()
        session = connection.pgconn.backend_pid  # asked now: of a broken connection it is 0
        try:
            with socket.socket(fileno=os.dup(connection.fileno())) as line:
                self._lent[connection] = time.monotonic(), line
                yield connection
        except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction, OSError) as error:
            connection.close()  # a standby that was promoted, or was not, is another server: connect anew
            if stores:
                self._left[session] = time.monotonic()
            raise StoreUnavailable(_one_line(error)) from error
        finally:
            self._lent.pop(connection, None)
            self._pool.putconn(connection)

    def _take(self) -> Connection[TupleRow]:
        """Take a connection that works, or raise StoreUnavailable within the wait.

        A restart of the database leaves every pooled connection dead, and each would fail one call. The first
        that is found dead has all of them thrown out at once: the pool's own check would throw out one, pause,
        and double the pause. The wait is cut in slices because the pool makes an attempt to connect when it is
        asked, not while it is waited for.
        """
        for _ in range(WAIT_SLICES):
            try:
                connection = self._pool.getconn(timeout=self._wait_s_max / WAIT_SLICES)
            except psycopg_pool.PoolClosed as error:
                raise StoreUnavailable("the server is stopping") from error
            except psycopg.OperationalError:
                continue
            if _stands(connection):
                return connection
            self._pool.putconn(connection)
            self._pool.check()
        raise StoreUnavailable("there is no connection to the database")

    def _configure(self, connection: Connection[Any]) -> None:
        connection.adapters.register_loader("json", _JsonLoader)
        connection.adapters.register_loader("jsonb", _JsonLoader)
        connection.adapters.register_loader("uuid", TextLoader)
        connection.execute(SESSION, {"statement_ms_max": str(self._statement_ms_max)})


class _JsonLoader(Loader):
    """Gives JSON as the text that it is, but for the spaces around signs: nothing that is stored has one in a text."""

    def load(self, data: Buffer) -> protocol.Encoded:
        return protocol.Encoded(bytes(data).replace(b" ", b""))


def to_conninfo(url: str) -> str:
    """Complete a database URL with what we ask of every connection. Raises DatabaseError when it is not one."""
    try:
        # A dead peer is given up after seconds, not after the two hours of TCP's default.
        return conninfo.make_conninfo(
            url, connect_timeout=3, keepalives_idle=10, keepalives_interval=5, keepalives_count=2,
            tcp_user_timeout=15_000, application_name="balance",
        )  # fmt: skip
    except psycopg.Error as error:
        # libpq says more, but quotes the URL or a part of it, and that may hold a password.
        raise DatabaseError("DATABASE_URL: is not a PostgreSQL URL such as postgresql://user@host/database") from error


def _stands(connection: Connection[TupleRow]) -> bool:
    """Tell whether a connection still stands, without a round trip: one that was closed has its end to be read."""
    if connection.closed:
        return False
    with suppress(psycopg.Error, OSError):
        connection.pgconn.consume_input()  # the server's last words, when there are any
        connection.pgconn.consume_input()  # the end itself
        return connection.pgconn.status == psycopg.pq.ConnStatus.OK
    return False


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# Not one that began later: then another session has got the number of that process.
IS_LEFT: LiteralString = """
SELECT 1 FROM pg_stat_activity
WHERE pid = %(pid)s AND backend_start < clock_timestamp() - make_interval(secs => %(seconds)s)
"""

SESSION: LiteralString = """
SELECT set_config('timezone', 'UTC', false),
       set_config('statement_timeout', %(statement_ms_max)s, false),
       -- a transaction that lost its client must not keep the feed locked
       set_config('idle_in_transaction_session_timeout', %(statement_ms_max)s, false),
       -- under any other, who waited for the lock would not see what was committed meanwhile
       set_config('default_transaction_isolation', 'read committed', false),
       -- the default of a server may be off, and then "saved" would not mean saved
       set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                  ELSE current_setting('synchronous_commit') END, false)
"""
