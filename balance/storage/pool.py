"""Connections to PostgreSQL: any thread may borrow one, the write thread has one of its own.

Threads: `connection` may be called from any number of threads, `write_connection` from one; a connection is used by one
thread at a time.

Promises: both give one that works or raise StoreUnavailable within the wait. An error of psycopg which means that the
database went away comes out as StoreUnavailable too. After a restart of the database the first call finds it. A
connection that is in use for longer than a statement may take is aborted.

Life cycle: `Pool(url)` checks the URL, `open()` connects, `close()` ends everything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

import psycopg
import psycopg_pool

from balance.storage.connect import DatabaseError, configure_session, error_text, is_lost, is_permanent, to_conninfo
from balance.storage.migrate import check_schema
from balance.storage.outage import CONNECTION, READ, SAVE, Kind, Outage
from balance.storage.session import Session
from balance.storage.startup_check import aborted_after, check_grants, check_session

CHECKOUT_ATTEMPTS = 4
OPEN_S_MAX = 15.0  # of all checks at the start, of which two give a pooler five seconds each
GRACE = 0.25  # of statement_ms_max, in which several statements of one use may end before it counts as hung
LOOKS = 8  # of the watchdog, within statement_ms_max

# What a client gets. PostgreSQL's own words name paths, tables and addresses; they go to the log.
UNREACHABLE = "the database cannot be reached"
TIMED_OUT = "the database did not answer in time"
UNABLE = "the database cannot do this now"
STOPPING = "the server is stopping"

# After these errors the session itself is given up. A standby that was promoted, or was not, is another server. A
# prepared statement that is gone (DISCARD, DEALLOCATE) or whose result changed is prepared again in a new session.
SESSION_IS_STALE = (
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.InvalidSqlStatementName,
    psycopg.errors.FeatureNotSupported,
)


class StoreUnavailable(Exception):
    """The database cannot be reached, did not answer, or cannot do its work; try again. The text is for clients."""


class DatabaseFault(Exception):
    """The database is not as it was at the start; raised while a connection is in use, the text is for the log."""


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
        """Open nothing yet. `pool_max` counts the connection of the write thread too.

        Raises DatabaseError when `url` is not one.
        """
        self._wait_s_max = pool_wait_ms_max / 1000
        self._statement_ms_max = statement_ms_max
        self._pool_max = pool_max
        self._conninfo = to_conninfo(url)
        self.outage = outage or Outage()
        self._verdict: tuple[str, bool] = "", False  # the last error of `open`, and whether it needs a person
        self._connect_error: str | None = None  # of the last attempt to connect, if it failed
        self._write_session: Session | None = None
        self._write_session_is_suspect = False
        self._lock = threading.Lock()  # guards the two below
        self._checked_out: dict[Session, float] = {}  # the sessions in use, and since when
        self._is_closing = False
        self._in_doubt: dict[int, float] = {}  # backends whose session was lost during a save, and when
        self._closed = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="balance-watchdog", daemon=True)
        self._pool = psycopg_pool.ConnectionPool(
            self._conninfo,
            min_size=1,
            max_size=pool_max,
            open=False,
            connection_class=Session,
            kwargs={"autocommit": True, "statement_ms_max": statement_ms_max, "connected": self._note_connected},
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
            with psycopg.connect(self._conninfo, autocommit=True) as connection, aborted_after(connection, OPEN_S_MAX):
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
        # They warn once per attempt and connection; `outage` logs it once.
        logging.getLogger("psycopg").setLevel(logging.ERROR)
        with self._lock:
            if self._is_closing:  # meanwhile; what is opened now would never be closed
                raise StoreUnavailable(STOPPING)
            self._pool.open()
            if self._watchdog.ident is None:
                self._watchdog.start()

    def close(self) -> None:
        """Close every connection, also one that is in use: its thread gets StoreUnavailable."""
        with self._lock:
            self._is_closing = True
            idle = self._write_session if self._write_session not in self._checked_out else None
        self._closed.set()
        self._abort(time.monotonic())
        if idle is not None:
            idle.close()
        self._pool.close(timeout=1)

    @contextmanager
    def connection(self) -> Iterator[Session]:
        """Lend a connection to read with. Raises StoreUnavailable.

        An error that is the caller's own mistake passes as psycopg raised it.
        """
        session = self._check_out(READ)
        try:
            with self._in_use(session, READ):
                yield session
        finally:
            self._pool.putconn(session)

    @contextmanager
    def write_connection(self, kind: Kind = SAVE) -> Iterator[Session]:
        """Give the connection of the write thread; of the same kind as what is done with it. Raises StoreUnavailable.

        An error that is the caller's own mistake passes as psycopg raised it, and so does the rejection of the rows
        that are saved.
        """
        session = self._write_session
        if session is None or self._write_session_is_suspect or not session.is_alive():
            session = self._renew_write_session(kind)
        with self._in_use(session, kind):
            yield session

    def has_in_doubt(self) -> bool:
        """Return whether a save that was lost may still be committed. Write thread only. Raises StoreUnavailable.

        A backend notices a lost client only after its current statement, so until its session is gone the outcome is
        unknown.
        """
        for backend, since in list(self._in_doubt.items()):
            with self.write_connection(READ) as session:
                parameters = {"pid": backend, "seconds": time.monotonic() - since}
                try:
                    found = session.execute(SESSION_ALIVE, parameters).fetchone()
                except psycopg.errors.InsufficientPrivilege:  # then it stays unknown
                    found = None
            if found is None:
                del self._in_doubt[backend]
        return bool(self._in_doubt)

    @contextmanager
    def _in_use(self, session: Session, kind: Kind) -> Iterator[None]:
        """Watch a session while it is used, report how that ends, and raise what the caller is to get."""
        with self._lock:
            if self._is_closing:
                raise StoreUnavailable(STOPPING)
            self._checked_out[session] = time.monotonic()
        try:
            try:
                yield
            finally:
                with self._lock:
                    del self._checked_out[session]
            self.outage.worked(kind)
        except (psycopg.Error, OSError, DatabaseFault) as error:
            if _is_of_caller(error, kind):
                raise
            raise self._fail(session, error, kind) from error

    def _fail(self, session: Session, error: Exception, kind: Kind) -> StoreUnavailable:
        """Report an error of a session, give the session up if need be, and return the error for the client."""
        lost = not isinstance(error, DatabaseFault) and (session.closed or is_lost(error))
        if lost and kind is SAVE:
            self._in_doubt[session.backend] = time.monotonic()
        if lost or isinstance(error, SESSION_IS_STALE):
            session.close()
        if self._is_closing:  # by our own hand
            return StoreUnavailable(STOPPING)
        self.outage.failed(CONNECTION if lost else kind, error_text(error))
        if isinstance(error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
            return StoreUnavailable(TIMED_OUT)
        return StoreUnavailable(UNREACHABLE if lost else UNABLE)

    def _renew_write_session(self, kind: Kind) -> Session:
        """Check out another connection for the write thread, and give the last one back."""
        if self._write_session is not None:
            session, self._write_session = self._write_session, None
            session.close()
            self._pool.putconn(session)
        self._write_session_is_suspect = False
        self._write_session = self._check_out(kind)
        return self._write_session

    def _check_out(self, kind: Kind) -> Session:
        """Check out a connection that works, or raise StoreUnavailable within the wait.

        A restart of the database leaves every pooled connection dead, and each would fail one call. The first
        that is found dead has all of them thrown out at once. The pool's own checks would send something on each, and
        wait for the answer without a limit when the server hangs. The wait is in several attempts because the pool
        makes an attempt to connect when it is asked, not while it is waited for.
        """
        for _ in range(CHECKOUT_ATTEMPTS):
            try:
                session = self._pool.getconn(timeout=self._wait_s_max / CHECKOUT_ATTEMPTS)
            except psycopg_pool.PoolClosed as error:
                raise StoreUnavailable(STOPPING) from error
            except psycopg.OperationalError:
                continue
            if session.is_alive():
                return session
            self._pool.putconn(session)
            self._pool.drain()
        if self._connect_error is not None:
            self.outage.failed(CONNECTION, self._connect_error)
            raise StoreUnavailable(UNREACHABLE)
        self.outage.failed(kind, f"all {self._pool_max} connections are in use")
        raise StoreUnavailable(TIMED_OUT)

    def _note_connected(self, error: psycopg.Error | None) -> None:
        self._connect_error = None if error is None else error_text(error)

    def _watch(self) -> None:
        """Abort each connection that is in use for too long.

        The server ends a statement after statement_ms_max: when it has not, it hangs, or a firewall has forgotten the
        connection, and a new one may work.
        """
        statement_s_max = self._statement_ms_max / 1000
        while not self._closed.wait(statement_s_max / LOOKS):
            if self._abort(time.monotonic() - (1 + GRACE) * statement_s_max):
                self._write_session_is_suspect = True  # a firewall that forgot one connection has forgotten the others
                self._pool.drain()

    def _abort(self, used_since: float) -> bool:
        """Abort the connections that are in use since that time or before; return whether there is one."""
        with self._lock:
            hung = [session for session, since in self._checked_out.items() if since <= used_since]
            for session in hung:
                session.abort()
        return bool(hung)


def _is_of_caller(error: Exception, kind: Kind) -> bool:
    """Return whether the caller is at fault: psycopg itself refused, or PostgreSQL refused the rows to be saved.

    That is for a value (SQLSTATE class 22) or a rule of the table (23). But a number or an id that is stored already is
    not of the rows: the feed does not fit the table, or another program writes to it.
    """
    if not isinstance(error, psycopg.Error) or isinstance(error, psycopg.OperationalError):
        return False
    if error.sqlstate is None:
        return True
    refused = isinstance(error, psycopg.DataError | psycopg.IntegrityError)
    return kind is SAVE and refused and not isinstance(error, psycopg.errors.UniqueViolation)


# A backend in doubt may read what it was sent only later, and commit it then. It is done with it when it has ended,
# or, where a pooler has lent it to another client, when it is idle after a statement that began later. A backend that
# began later is another one, which has got the same number.
SESSION_ALIVE: LiteralString = """
SELECT 1 FROM pg_stat_activity, (SELECT clock_timestamp() - make_interval(secs => %(seconds)s) AS at) AS lost
WHERE pid = %(pid)s AND backend_start < lost.at AND (state = 'idle' AND query_start > lost.at) IS NOT TRUE
"""
