"""Check at the start that a database gives the service what it needs: sessions of its own, and the grants.

The checks write nothing. They raise DatabaseError with one line that names the fault and the remedy.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import SHUT_RDWR, socket
from typing import LiteralString

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from balance.storage.connect import DatabaseError
from balance.storage.session_settings import read_backend_pid

PROBE_S_MAX = 5.0  # for a pooler to provide a session
REMEDY = "connect directly to PostgreSQL, or through a pooler in session mode"


class CheckedConnections:
    """The connections on which the checks run, each for a limited time.

    Threads: `limit` is for the thread of the checks, `abort` for any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the other two
        self._sockets: list[socket] = []
        self._is_aborted = False

    def abort(self) -> None:
        """Abort each connection, also one that is opened later."""
        with self._lock:
            self._is_aborted = True
            for sock in self._sockets:
                _shut_down(sock)

    @contextmanager
    def limit(self, connection: Connection[TupleRow], seconds: float) -> Iterator[threading.Event]:
        """Abort a connection that is in use for longer: its thread gets OperationalError. The event is set then."""
        is_over = threading.Event()

        def end() -> None:
            is_over.set()
            _shut_down(sock)

        with socket(fileno=os.dup(connection.fileno())) as sock:
            timer = threading.Timer(seconds, end)
            with self._lock:
                self._sockets.append(sock)
                if self._is_aborted:
                    _shut_down(sock)
            timer.start()
            try:
                yield is_over
            finally:
                timer.cancel()
                timer.join()
                with self._lock:
                    self._sockets.remove(sock)


def check_session(
    connection: Connection[TupleRow], conninfo: str, sessions: int, connections: CheckedConnections
) -> None:
    """Check that a connection has a session of PostgreSQL of its own, which a pooler provides only in session mode.

    A pooler is in use if the process id that libpq received is not that of the session. It shares sessions if a
    connection no longer sees a value that it has set while another connection is in a transaction. The service needs
    `sessions` of them. It relies on settings of a session (time limits, what a commit waits for) and on prepared
    statements.

    Raises DatabaseError, and psycopg.Error when the connection is lost meanwhile.
    """
    if read_backend_pid(connection) == connection.pgconn.backend_pid:
        return
    value = uuid.uuid4().hex
    connection.execute(SET_VALUE, {"value": value})
    with psycopg.connect(conninfo, autocommit=True) as other:
        too_few = f"the pooler provides too few sessions: let its pool have {sessions} or more for this service"
        with _time_limit(connections, other, too_few), _statement_mode_rejected():
            other.execute("BEGIN")
            other.execute("SELECT 1")
        shared = f"the pooler provides a session only for a transaction: {REMEDY}"
        with _time_limit(connections, connection, shared):
            if connection.execute(GET_VALUE).fetchone() != (value,):
                raise DatabaseError(f"DATABASE_URL: {shared}")


def check_grants(connection: Connection[TupleRow]) -> None:
    """Check that the role has the grants that docs/operations.md lists. Raises DatabaseError and psycopg.Error."""
    _check_none_missing(connection, MISSING_GRANTS)


def check_prune_grants(connection: Connection[TupleRow]) -> None:
    """Check that the role has what pruning needs beside the other grants. Raises DatabaseError and psycopg.Error."""
    _check_none_missing(connection, MISSING_PRUNE_GRANTS)


def _check_none_missing(connection: Connection[TupleRow], sql: LiteralString) -> None:
    missing = connection.execute(sql).fetchall()
    if missing:
        grants = ", ".join(f"{privilege} on {name}" for privilege, name in missing)
        (role,) = connection.execute("SELECT current_user").fetchall()[0]
        raise DatabaseError(
            f"DATABASE_URL: role {role} lacks {grants}: grant it (docs/operations.md, A database of your own)"
        )


@contextmanager
def _statement_mode_rejected() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.ProtocolViolation as error:  # such a pooler allows no BEGIN
        raise DatabaseError(f"DATABASE_URL: the pooler provides a session only for a statement: {REMEDY}") from error


@contextmanager
def _time_limit(connections: CheckedConnections, connection: Connection[TupleRow], reason: str) -> Iterator[None]:
    """Abort a connection that does not answer within PROBE_S_MAX, and raise DatabaseError with the reason."""
    with connections.limit(connection, PROBE_S_MAX) as is_over:
        try:
            yield
        except psycopg.OperationalError as error:
            if is_over.is_set():
                raise DatabaseError(f"DATABASE_URL: {reason}") from error
            raise


def _shut_down(sock: socket) -> None:
    """Shut a connection's socket down: to close the connection would free memory that another thread uses."""
    with suppress(OSError):
        sock.shutdown(SHUT_RDWR)


SET_VALUE: LiteralString = "SELECT pg_catalog.set_config('balance.session', %(value)s, false)"

GET_VALUE: LiteralString = "SELECT pg_catalog.current_setting('balance.session', true)"

# A table or a column that is missing is left to the check of the schema.
MISSING_GRANTS: LiteralString = """
SELECT 'USAGE', 'schema ' || current_setting('search_path') WHERE current_schema() IS NULL
UNION ALL
SELECT privilege, name
FROM (VALUES
    ('SELECT', 'schema_migration', '{version,checksum}'::text[]),
    ('SELECT', 'balance_feed', '{only_row,epoch,last_seq,timeline,system_id,first_seq,pruned}'),
    ('UPDATE', 'balance_feed', '{epoch,last_seq,timeline,system_id}'),
    ('SELECT', 'balance_epoch', '{epoch,number,after_seq,timeline,system_id}'),
    ('INSERT', 'balance_epoch', '{epoch,number,after_seq,timeline,system_id}'),
    ('SELECT', 'balance_snapshot', '{seq,id,ts,pid,onchain,onsite,received_at}'),
    ('INSERT', 'balance_snapshot', '{seq,id,ts,pid,onchain,onsite,received_at}'),
    ('SELECT', 'balance_token', '{id,name,role,sha256,expires_at,revoked_at,last_used_at}'),
    ('UPDATE', 'balance_token', '{last_used_at}')
) AS needed (privilege, name, columns)
WHERE EXISTS (
    SELECT FROM pg_attribute
    WHERE attrelid = to_regclass(name) AND attname = ANY (columns)
      AND NOT has_column_privilege(attrelid, attnum, privilege)
)
UNION ALL
SELECT 'EXECUTE', 'function ' || oid::regprocedure::text FROM pg_proc
WHERE proname IN ('balance_ledger_is_valid', 'balance_snapshot_json')
  AND pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
  AND NOT has_function_privilege(oid, 'EXECUTE')
"""

MISSING_PRUNE_GRANTS: LiteralString = """
SELECT 'DELETE', 'balance_snapshot' WHERE NOT has_table_privilege('balance_snapshot', 'DELETE')
UNION ALL
SELECT DISTINCT 'UPDATE', 'balance_feed'
FROM unnest('{first_seq,pruned}'::text[]) AS name WHERE NOT has_column_privilege('balance_feed', name, 'UPDATE')
"""
