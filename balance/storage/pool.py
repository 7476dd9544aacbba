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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, LiteralString

import psycopg
import psycopg_pool
from psycopg import Connection
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import TupleRow
from psycopg.types.string import TextLoader

import protocol
from balance.storage.connect import DatabaseError, configure_session, error_text, is_lost, is_permanent, to_conninfo
from balance.storage.migrate import check_schema
from balance.storage.outage import CONNECTION, READ, SAVE, Kind, Outage
from balance.storage.startup_check import check_grants, check_session

WAIT_SLICES = 4

# What a client gets. PostgreSQL's own words name paths, tables and addresses; they go to the log.
UNREACHABLE = "the database cannot be reached"
SLOW = "the database did not answer in time"
UNABLE = "the database cannot do this now"
STOPPING = "the server is stopping"


class StoreUnavailable(Exception):
    """The database cannot be reached, did not answer, or cannot do its work; try again. The text is for clients."""


class DatabaseFault(Exception):
    """The database is not as it was at the start; raised within `Pool.connection`, the text is for the log."""


class Pool:
    """Connections to one database, set up for this service."""

    def __init__(
        self,
        url: str,
        *,
        pool_max: int,
        pool_wait_ms_max: int,
        statement_ms_max: int,
        outage: Outage | None = None,
    ) -> None:
        """Open nothing yet. Raises DatabaseError when `url` is not one."""
        self._wait_s_max = pool_wait_ms_max / 1000
        self._statement_ms_max = statement_ms_max
        self._pool_max = pool_max
        self._conninfo = to_conninfo(url)
        self.outage = outage or Outage()
        self._verdict: tuple[str, bool] = "", False  # the last error of `open`, and whether it needs a person
        self._is_closing = False
        self._connect_error: str | None = None  # why the last attempt to connect failed
        # Since when, and a descriptor of its own for the connection's socket, so that it can be shut down.
        self._lent: dict[Connection[TupleRow], tuple[float, socket.socket]] = {}
        # The sessions, by their process, whose connection was given up while they stored something, and when.
        self._left: dict[int, float] = {}
        self._pool = psycopg_pool.ConnectionPool(
            self._conninfo,
            min_size=1,
            max_size=pool_max,
            open=False,
            connection_class=Session,
            # Transactions are opened where they are meant.
            kwargs={"autocommit": True, "opened": self._configure, "failed": self._note_connect_error},
            max_lifetime=3600,
            reconnect_timeout=0,  # no back-off of its own: the next call makes the next attempt
            name="balance",
        )

    def open(self) -> None:
        """Connect and check the schema.

        Raises StoreUnavailable while the database is away, DatabaseError when it will not come by itself, and
        SchemaError when its tables are not those of this version.
        """
        try:
            with psycopg.connect(self._conninfo, autocommit=True) as connection:
                check_session(connection, self._conninfo, self._pool_max)
                configure_session(connection, statement_ms_max=self._statement_ms_max)
                check_grants(connection)
                check_schema(connection)
        except psycopg.Error as error:
            text = error_text(error)
            if self._verdict[0] != text:
                self._verdict = text, is_permanent(error, self._conninfo)
            if self._verdict[1]:
                raise DatabaseError(f"DATABASE_URL: {text}") from error
            self.outage.failed(CONNECTION, text)
            raise StoreUnavailable(UNREACHABLE) from error
        self.outage.worked(CONNECTION)
        # They warn once per attempt and connection; `outage` says it once.
        logging.getLogger("psycopg").setLevel(logging.ERROR)
        self._pool.open()

    def close(self) -> None:
        """Close every connection, also one that a thread still waits on: that thread gets StoreUnavailable."""
        self._is_closing = True
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

        A backend notices that its client is gone only when it has done what it was asked; until then it may still
        commit. Raises StoreUnavailable.
        """
        for pid, since in list(self._left.items()):
            with self.connection() as connection:
                parameters = {"pid": pid, "seconds": time.monotonic() - since}
                try:
                    found = connection.execute(IS_LEFT, parameters).fetchone()
                except psycopg.errors.InsufficientPrivilege:  # then it stays unknown
                    found = None
            if found is None:
                del self._left[pid]
        return not self._left

    @contextmanager
    def connection(self, *, stores: bool = False) -> Iterator[Connection[TupleRow]]:
        """Lend a connection in autocommit; say so if it `stores` something.

        Raises StoreUnavailable. What is no fault of the database passes as psycopg raised it: a mistake of the caller,
        and the refusal of the very rows that are stored.
        """
        kind = SAVE if stores else READ
        connection = self._take(kind)
        try:
            with socket.socket(fileno=os.dup(connection.fileno())) as line:
                self._lent[connection] = time.monotonic(), line
                yield connection
            self.outage.worked(kind)
        except (psycopg.Error, OSError, DatabaseFault) as error:
            if _is_of_caller(error, stores=stores):
                raise
            raise self._fail(connection, error, kind) from error
        finally:
            self._lent.pop(connection, None)
            self._pool.putconn(connection)

    def _fail(self, connection: Session, error: Exception, kind: Kind) -> StoreUnavailable:
        """Report what went wrong on a connection, give the connection up if it is lost, and say it to the client."""
        lost = not isinstance(error, DatabaseFault) and (connection.closed or is_lost(error))
        if lost and kind is SAVE:
            self._left[connection.backend] = time.monotonic()
        if lost or isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            connection.close()  # a standby that was promoted, or was not, is another server: connect anew
        if self._is_closing:  # by our own hand
            return StoreUnavailable(STOPPING)
        self.outage.failed(CONNECTION if lost else kind, error_text(error))
        if isinstance(error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
            return StoreUnavailable(SLOW)
        return StoreUnavailable(UNREACHABLE if lost else UNABLE)

    def _take(self, kind: Kind) -> Session:
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
                raise StoreUnavailable(STOPPING) from error
            except psycopg.OperationalError:
                continue
            if _stands(connection):
                return connection
            self._pool.putconn(connection)
            self._pool.check()
        if self._connect_error is not None:
            self.outage.failed(CONNECTION, self._connect_error)
            raise StoreUnavailable(UNREACHABLE)
        self.outage.failed(kind, f"all {self._pool_max} connections are in use")
        raise StoreUnavailable(SLOW)

    def _note_connect_error(self, error: psycopg.Error) -> None:
        self._connect_error = error_text(error)

    def _configure(self, connection: Session) -> None:
        self._connect_error = None
        connection.adapters.register_loader("json", _JsonLoader)
        connection.adapters.register_loader("jsonb", _JsonLoader)
        connection.adapters.register_loader("uuid", TextLoader)
        connection.backend = configure_session(connection, statement_ms_max=self._statement_ms_max)


class Session(Connection[TupleRow]):
    """A connection of the pool: set up before it is lent, and its failure to come about is reported."""

    backend = 0  # the process id of its session

    @classmethod
    def connect(  # type: ignore[override]
        cls,
        conninfo: str,
        *,
        opened: Callable[[Session], None],
        failed: Callable[[psycopg.Error], None],
        **options: Any,
    ) -> Session:
        """Connect and call `opened`; call `failed` with what either raises, and raise it."""
        try:
            connection = super().connect(conninfo, **options)
            try:
                opened(connection)
            except BaseException:
                connection.close()
                raise
        except psycopg.Error as error:
            failed(error)
            raise
        return connection


class _JsonLoader(Loader):
    """Gives JSON as the text that it is, but for the spaces around signs: nothing that is stored has one in a text."""

    def load(self, data: Buffer) -> protocol.Encoded:
        return protocol.Encoded(bytes(data).replace(b" ", b""))


def _stands(connection: Connection[TupleRow]) -> bool:
    """Tell whether a connection still stands, without a round trip: one that was closed has its end to be read."""
    if connection.closed:
        return False
    with suppress(psycopg.Error, OSError):
        connection.pgconn.consume_input()  # the server's last words, when there are any
        connection.pgconn.consume_input()  # the end itself
        return connection.pgconn.status == psycopg.pq.ConnStatus.OK
    return False


def _is_of_caller(error: Exception, *, stores: bool) -> bool:
    """Tell whether the caller is at fault: psycopg itself refused, or PostgreSQL refused the very rows to be stored.

    That is for a value (SQLSTATE class 22) or a rule of the table (23). But a number or an id that is taken already is
    not of the rows: the feed does not fit the table, or another program writes to it.
    """
    if not isinstance(error, psycopg.Error) or isinstance(error, psycopg.OperationalError):
        return False
    if error.sqlstate is None:
        return True
    refused = isinstance(error, psycopg.DataError | psycopg.IntegrityError)
    return stores and refused and not isinstance(error, psycopg.errors.UniqueViolation)


# A backend that is left may read what it was sent only later, and commit it then. It is done with it when it has ended,
# or, where a pooler has lent it to somebody else, when it is idle after a statement that began later. A backend that
# began later is another one, which has got the same number.
IS_LEFT: LiteralString = """
SELECT 1 FROM pg_stat_activity, (SELECT clock_timestamp() - make_interval(secs => %(seconds)s) AS at) AS left_
WHERE pid = %(pid)s AND backend_start < left_.at AND (state = 'idle' AND query_start > left_.at) IS NOT TRUE
"""
