"""Connections to PostgreSQL: any thread may borrow one, the write thread has one of its own.

Threads: `connection` may be called from any number of threads, `write_connection` from one; a connection is used by one
thread at a time. While the write thread does not use its own, the event loop may: `write_session`,
`idle_write_session`, `begin_use` and `end_use` do not block.

Promises: both give one that works or raise StoreUnavailable within the wait. An error of psycopg which means that the
database went away comes out as StoreUnavailable too; one that is the caller's own mistake passes as psycopg raised it.
After a restart of the database the first call finds it. A connection that is in use for longer than a statement may
take is aborted.

Life cycle: `Pool(url)` checks the URL, `open()` connects, `close()` ends everything.
"""

from __future__ import annotations

import logging
import threading
import time

import psycopg
import psycopg_pool

from balance.storage.connect import DatabaseError, error_text, is_lost, is_permanent, to_conninfo
from balance.storage.database_session import DatabaseSession
from balance.storage.epochs import KnownFeed, check_server
from balance.storage.errors import (
    STOPPING,
    TIMED_OUT,
    UNABLE,
    UNREACHABLE,
    DatabaseFault,
    StoreUnavailable,
    is_of_caller,
)
from balance.storage.migrate import check_schema
from balance.storage.outage import CONNECTION, READ, SAVE, Kind, Outage
from balance.storage.server_probe import Server, ServerProbe
from balance.storage.session_settings import configure_session
from balance.storage.startup_check import CheckedConnections, check_grants, check_session
from balance.storage.use import PoolCounts, Use

CHECKOUT_ATTEMPTS = 4
OPEN_S_MAX = 15.0  # of all checks at the start, of which two give a pooler five seconds each
GRACE = 0.25  # of statement_ms_max, in which several statements of one use may end before it counts as hung
CHECKS = 8  # of the watchdog, within statement_ms_max

# After these errors the session is closed. A read-only one leads to a standby, and the next may lead to the primary. A
# prepared statement that is gone (DISCARD, DEALLOCATE) or whose result changed is prepared again in a new session.
SESSION_IS_STALE = (
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.InvalidSqlStatementName,
    psycopg.errors.FeatureNotSupported,
)


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
        self._hang_s_max = (1 + GRACE) * statement_ms_max / 1000
        self._pool_max = pool_max
        self._conninfo = to_conninfo(url)
        self.outage = outage or Outage()
        self._verdict: tuple[str, bool] = "", False  # the last error of `open`, and whether it needs a person
        self._connect_error: str | None = None  # of the last attempt to connect, if it failed
        self.write_session: DatabaseSession | None = None
        """The connection of the write thread."""
        self.write_session_is_suspect = False
        """Whether another one has to be made for the next save."""
        self._lock = threading.Lock()  # guards `_checked_out` and the setting of `_closing`
        self._checked_out: dict[DatabaseSession, float] = {}  # the sessions in use, and since when
        self.probe = ServerProbe()
        self.known = KnownFeed()
        self.lacks_standby = False
        """Whether the last commit was not replicated, since its wait for a standby was cancelled."""
        self._primary: Server | None = None  # of the last session that was not in recovery
        self._checked = CheckedConnections()
        self._closing = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="balance-watchdog", daemon=True)
        self._pool = psycopg_pool.ConnectionPool(
            self._conninfo,
            min_size=1,
            max_size=pool_max,
            open=False,
            connection_class=DatabaseSession,
            kwargs={
                "autocommit": True, "statement_ms_max": statement_ms_max,
                "check": self._check_server, "connected": self._note_connected,
            },
            max_lifetime=3600,
            reconnect_timeout=0,  # no back-off of its own: the next call makes the next attempt
            name="balance",
        )  # fmt: skip

    def open(self) -> None:
        """Connect and check the schema.

        Raises StoreUnavailable while the database cannot be reached and once `close` is called, DatabaseError when only
        a person can change that, and SchemaError when its tables are not those of this version.
        """
        try:
            with (
                psycopg.connect(self._conninfo, autocommit=True) as connection,
                self._checked.limit(connection, OPEN_S_MAX),
            ):
                check_session(connection, self._conninfo, self._pool_max, self._checked)
                configure_session(connection, statement_ms_max=self._statement_ms_max).check_durability()
                check_grants(connection)
                check_schema(connection)
        except psycopg.Error as error:
            if self._closing.is_set():  # `close` has aborted the checks
                raise StoreUnavailable(STOPPING) from error
            text = error_text(error)
            if self._verdict[0] != text:
                self._verdict = text, is_permanent(error, self._conninfo)
            if self._verdict[1]:
                raise DatabaseError(f"DATABASE_URL: {text}") from error
            self.outage.failed(CONNECTION, text)
            raise StoreUnavailable(UNREACHABLE) from error
        self.outage.worked(CONNECTION)
        # psycopg and its pool warn at each attempt of each connection; `outage` logs it once.
        logging.getLogger("psycopg").setLevel(logging.ERROR)
        with self._lock:
            if self._closing.is_set():  # meanwhile; what is opened now would never be closed
                raise StoreUnavailable(STOPPING)
            self._pool.open()
            if self._watchdog.ident is None:
                self._watchdog.start()

    def close(self) -> None:
        """Close every connection, also one that is in use or being checked: its thread gets StoreUnavailable."""
        with self._lock:
            self._closing.set()
            idle = self.write_session if self.write_session not in self._checked_out else None
        self._checked.abort()
        self._abort(time.monotonic())
        if idle is not None:
            idle.close()
        self._pool.close(timeout=1)

    def connection(self) -> Use:
        """Lend a connection within a block, to read with. Raises StoreUnavailable."""
        return Use(self, self._check_out(READ), READ, is_borrowed=True)

    def write_connection(self, kind: Kind = SAVE) -> Use:
        """Lend the connection of the write thread; `kind` is what it is used for. Raises StoreUnavailable.

        The rejection of the rows that are saved passes as psycopg raised it.
        """
        return Use(self, self.idle_write_session() or self._renew_write_session(kind), kind)

    def idle_write_session(self) -> DatabaseSession | None:
        """Return the connection of the write thread, which must not use it now; None if a new one is needed."""
        session = self.write_session
        if session is None or self.write_session_is_suspect or not session.is_alive():
            return None
        return session

    def begin_use(self, session: DatabaseSession) -> None:
        """Have the watchdog check a session from now on. Raises StoreUnavailable."""
        with self._lock:
            if self._closing.is_set():
                raise StoreUnavailable(STOPPING)
            self._checked_out[session] = time.monotonic()

    def end_use(
        self, session: DatabaseSession, kind: Kind, error: BaseException | None, *, is_continued: bool = False
    ) -> None:
        """Report how the use of a session ended; if it is continued, another one begins. Raises StoreUnavailable.

        That is for a fault of the database, and may have closed the session: then no other use begins.
        """
        with self._lock:
            if is_continued:
                self._checked_out[session] = time.monotonic()
            else:
                del self._checked_out[session]
        warning = session.take_warning()
        if error is None:
            if kind is SAVE:
                self.lacks_standby = warning is not None
            if warning is not None and kind is SAVE:
                # The wait of the commit for a standby was cancelled: it is committed here, and may be nowhere else.
                raise self._fail(session, DatabaseFault(warning), kind)
            self.outage.worked(kind)
        elif isinstance(error, psycopg.Error | OSError | DatabaseFault) and not is_of_caller(error, kind):
            raise self._fail(session, error, kind) from error

    def give_back(self, session: DatabaseSession) -> None:
        """Take back a session that was lent."""
        self._pool.putconn(session)

    def counts(self) -> PoolCounts:
        """Return the state of the pool; from any thread."""
        stats = self._pool.get_stats()
        return PoolCounts(stats["pool_size"], len(self._checked_out), stats["requests_waiting"])

    def _fail(self, session: DatabaseSession, error: Exception, kind: Kind) -> StoreUnavailable:
        """Report an error of a session, close the session if it is lost, and return the error for the client."""
        lost = not isinstance(error, DatabaseFault) and (session.closed or is_lost(error))
        if lost or isinstance(error, SESSION_IS_STALE):
            with self._lock:
                self._checked_out.pop(session, None)  # of a use that would be continued
            session.close()
        if self._closing.is_set():  # `close` has aborted it
            return StoreUnavailable(STOPPING)
        # libpq finds the socket of an aborted session closed, and would report that the server ended.
        text = f"no answer within {self._hang_s_max:g} s" if session.is_aborted else error_text(error)
        self.outage.failed(CONNECTION if lost else kind, text)
        if isinstance(error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
            return StoreUnavailable(TIMED_OUT)
        return StoreUnavailable(UNREACHABLE if lost else UNABLE)

    def _renew_write_session(self, kind: Kind) -> DatabaseSession:
        """Check out another connection for the write thread, and give the last one back."""
        if self.write_session is not None:
            session, self.write_session = self.write_session, None
            session.close()
            self._pool.putconn(session)
        self.write_session_is_suspect = False
        self.write_session = self._check_out(kind)
        return self.write_session

    def _check_out(self, kind: Kind) -> DatabaseSession:
        """Check out a connection that works, or raise StoreUnavailable within the wait.

        After a restart of the database every pooled connection is dead, and each would fail one call. When one is found
        dead, all are removed at once. The checks of the pool itself would send a query on each, and wait for the answer
        without a limit when the server hangs. The wait is split into several attempts, because the pool tries to
        connect only when it is asked for a connection, and not while a caller waits.
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

    def _check_server(self, session: DatabaseSession) -> None:
        """Check the server of a new session, and its epoch. Raises psycopg.Error."""
        session.server = check_server(session, self.probe, self.known)
        if session.server.timeline is not None:
            if self._primary not in (None, session.server):  # the other sessions may be those of the former primary
                self.write_session_is_suspect = True
                self._pool.drain()
            self._primary = session.server

    def _note_connected(self, error: psycopg.Error | None) -> None:
        self._connect_error = None if error is None else error_text(error)

    def _watch(self) -> None:
        """Abort each connection that is in use for too long.

        The server ends a statement after statement_ms_max: when it has not, it hangs, or a firewall has forgotten the
        connection, and a new one may work.
        """
        while not self._closing.wait(self._statement_ms_max / 1000 / CHECKS):
            if self._abort(time.monotonic() - self._hang_s_max):
                self.write_session_is_suspect = True  # a firewall that forgot one connection has forgotten the others
                self._pool.drain()

    def _abort(self, used_since: float) -> bool:
        """Abort the connections that are in use since that time or before; return whether there is one."""
        with self._lock:
            hung = [session for session, since in self._checked_out.items() if since <= used_since]
            if not self._closing.is_set():  # with something to read, it is this process that is late
                hung = [session for session in hung if not session.has_input()]
            for session in hung:
                session.abort()
        return bool(hung)
