"""Checks at the start that a database can keep what the service promises: sessions of its own, and the grants.

Each check writes nothing, and raises DatabaseError with one line that names what is missing and the cure.
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

from balance.storage.connect import DatabaseError, read_backend

PROBE_S_MAX = 5.0  # for a pooler to lend a session
CURE = "connect directly to PostgreSQL, or by a pooler in session mode"


def check_session(connection: Connection[TupleRow], conninfo: str, sessions: int) -> None:
    """Check that a connection has one session of PostgreSQL to itself, as a pooler gives only in session mode.

    A pooler is in between if the process id that libpq got is not the session's. It shares sessions if a value that one
    connection sets is gone for it while another is in a transaction. The service needs `sessions` of them, and in each
    the settings that stay (time limits, what a commit waits for), prepared statements, and the process id by which a
    commit without an answer is looked for.

    Raises DatabaseError, and psycopg.Error when the database goes away meanwhile.
    """
    if read_backend(connection) == connection.pgconn.backend_pid:
        return
    value = uuid.uuid4().hex
    connection.execute(SET_VALUE, {"value": value})
    with psycopg.connect(conninfo, autocommit=True) as other:
        too_few = f"the pooler in between lends too few sessions: let its pool have {sessions} or more for this service"
        with _bounded(other, too_few), _statement_mode_refused():
            other.execute("BEGIN")
            other.execute("SELECT 1")
        shared = f"the pooler in between lends a session only for a transaction: {CURE}"
        with _bounded(connection, shared):
            if connection.execute(GET_VALUE).fetchone() != (value,):
                raise DatabaseError(f"DATABASE_URL: {shared}")


def check_grants(connection: Connection[TupleRow]) -> None:
    """Check that the role may do what the service does; README.md lists it. Raises DatabaseError and psycopg.Error."""
    missing = connection.execute(MISSING_GRANTS).fetchall()
    if missing:
        grants = ", ".join(f"{privilege} on {thing}" for privilege, thing in missing)
        (role,) = connection.execute("SELECT current_user").fetchall()[0]
        raise DatabaseError(f"DATABASE_URL: role {role} lacks {grants}: grant it (README, A database of your own)")


@contextmanager
def _statement_mode_refused() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.ProtocolViolation as error:  # such a pooler allows no BEGIN
        raise DatabaseError(
            f"DATABASE_URL: the pooler in between lends a session only for a statement: {CURE}"
        ) from error


@contextmanager
def _bounded(connection: Connection[TupleRow], reason: str) -> Iterator[None]:
    """Give up a connection that does not answer for PROBE_S_MAX, and raise DatabaseError with the reason."""
    has_run_out = threading.Event()

    def give_up() -> None:
        has_run_out.set()
        with suppress(OSError):
            line.shutdown(SHUT_RDWR)  # closing the connection would free what the other thread is using

    with socket(fileno=os.dup(connection.fileno())) as line:
        timer = threading.Timer(PROBE_S_MAX, give_up)
        timer.start()
        try:
            yield
        except psycopg.OperationalError as error:
            if has_run_out.is_set():
                raise DatabaseError(f"DATABASE_URL: {reason}") from error
            raise
        finally:
            timer.cancel()
            timer.join()


SET_VALUE: LiteralString = "SELECT pg_catalog.set_config('balance.session', %(value)s, false)"

GET_VALUE: LiteralString = "SELECT pg_catalog.current_setting('balance.session', true)"

# What is not there at all is for the check of the schema to say.
MISSING_GRANTS: LiteralString = """
SELECT 'USAGE', 'schema ' || current_setting('search_path') WHERE current_schema() IS NULL
UNION ALL
SELECT privilege, thing
FROM (VALUES
    ('SELECT', 'schema_migration', '{version,checksum}'::text[]),
    ('SELECT', 'balance_feed', '{only_row,epoch,last_seq}'),
    ('UPDATE', 'balance_feed', '{last_seq}'),
    ('SELECT', 'balance_snapshot', '{seq,id,ts,pid,onchain,onsite,received_at}'),
    ('INSERT', 'balance_snapshot', '{seq,id,ts,pid,onchain,onsite,received_at}')
) AS needed (privilege, thing, columns)
WHERE EXISTS (
    SELECT FROM unnest(columns) AS name WHERE NOT has_column_privilege(to_regclass(thing), name, privilege)
)
UNION ALL
SELECT DISTINCT 'EXECUTE', 'function ' || called.refobjid::regprocedure::text
FROM pg_constraint AS rule JOIN pg_depend AS called ON called.objid = rule.oid
WHERE rule.conrelid = to_regclass('balance_snapshot')
  AND called.classid = 'pg_constraint'::regclass AND called.refclassid = 'pg_proc'::regclass
  AND NOT has_function_privilege(called.refobjid, 'EXECUTE')
"""
