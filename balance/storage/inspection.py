"""Inspect a database for a person: what the service needs of it, what is missing, and what may be wrong.

The checks are those of the start, one finding for each, and some that the start does not need. They write nothing.
Threads: the caller's; each call blocks, within the limits of a connection and of a statement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import LiteralString, NamedTuple

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from balance.storage.connect import DatabaseError, error_text, to_conninfo
from balance.storage.migrate import SchemaError, check_database_server, check_schema
from balance.storage.session_settings import REPLICATED, SessionFacts, configure_session, durability
from balance.storage.startup_check import CheckedConnections, check_grants, check_session

OK, WARN, FAIL = "ok", "warn", "fail"
STATEMENT_MS_MAX = 4_000
INSPECT_S_MAX = 20.0  # of all checks, of which two give a pooler five seconds each
CLOCK_S_MAX = 1.0  # between this machine's clock, which dates the snapshots, and the database's


class Finding(NamedTuple):
    """The result of one check."""

    level: str
    """OK, WARN or FAIL."""
    subject: str
    text: str
    """One line for a person, without a secret."""


def inspect(url: str, sessions: int, *, is_own: bool) -> Iterator[Finding]:
    """Yield what is found of the database at a URL; nothing follows if it cannot be used at all.

    `sessions` is how many the service needs. `is_own` is whether the database is the operator's, not the embedded one.
    """
    checks: dict[str, Callable[[Connection[TupleRow]], Finding]] = {
        "role": lambda connection: _check_role(connection, is_own=is_own),
        "sessions": lambda connection: _check_sessions(connection, info, sessions, limits),
        "durability": _check_durability,
        "grants": _check_grants,
        "migrations": _check_migrations,
        "clock": _check_clock,
    }
    limits = CheckedConnections()
    try:
        info = to_conninfo(url)
        with psycopg.connect(info, autocommit=True) as connection, limits.limit(connection, INSPECT_S_MAX):
            check_database_server(connection)
            version = connection.info.parameter_status("server_version")
            yield Finding(OK, "database", f"PostgreSQL {version} answers")
            for subject, check in checks.items():
                yield _run(subject, check, connection)
    except (DatabaseError, SchemaError) as error:
        yield Finding(FAIL, "database", str(error))
    except psycopg.Error as error:
        yield Finding(FAIL, "database", f"cannot be reached: {error_text(error)}")


def _run(subject: str, check: Callable[[Connection[TupleRow]], Finding], connection: Connection[TupleRow]) -> Finding:
    try:
        return check(connection)
    except (DatabaseError, SchemaError) as error:
        return Finding(FAIL, subject, str(error))
    except psycopg.Error as error:
        return Finding(FAIL, subject, error_text(error))


def _check_role(connection: Connection[TupleRow], *, is_own: bool) -> Finding:
    ((role, is_superuser, in_recovery),) = connection.execute(ROLE).fetchall()
    if in_recovery:
        return Finding(FAIL, "role", f"{role}; the server is a standby and cannot save: name the primary")
    if is_superuser and is_own:
        text = f"{role} is a superuser; the service needs few grants (docs/operations.md, A database of your own)"
        return Finding(WARN, "role", text)
    return Finding(OK, "role", str(role))


def _check_sessions(connection: Connection[TupleRow], info: str, sessions: int, limits: CheckedConnections) -> Finding:
    check_session(connection, info, sessions, limits)
    ((free,),) = connection.execute(FREE_CONNECTIONS).fetchall()
    if free < sessions:
        return Finding(WARN, "sessions", f"the server has {free} free connections, and --pool-max is {sessions}")
    return Finding(OK, "sessions", f"{free} free connections, of which --pool-max uses up to {sessions}")


def _check_durability(connection: Connection[TupleRow]) -> Finding:
    facts: SessionFacts = configure_session(connection, statement_ms_max=STATEMENT_MS_MAX)
    facts.check_durability()
    ((full_page_writes, fsync),) = connection.execute(FLUSHES).fetchall()
    if "off" in (full_page_writes, fsync):
        text = f"fsync = {fsync} and full_page_writes = {full_page_writes}: a crash of the machine may lose snapshots"
        return Finding(FAIL, "durability", text)
    if durability(facts.standbys) == REPLICATED:
        return Finding(OK, "durability", f"replicated: a save waits for a standby ({facts.standbys})")
    return Finding(OK, "durability", "local: a save is on the disk of one machine, and waits for no standby")


def _check_grants(connection: Connection[TupleRow]) -> Finding:
    check_grants(connection)
    return Finding(OK, "grants", "the role has all that the service needs")


def _check_migrations(connection: Connection[TupleRow]) -> Finding:
    check_schema(connection)
    return Finding(OK, "migrations", "the schema is that of this version")


def _check_clock(connection: Connection[TupleRow]) -> Finding:
    before = time.time()
    ((database,),) = connection.execute(CLOCK).fetchall()
    ahead = (before + time.time()) / 2 - database
    if abs(ahead) > CLOCK_S_MAX:
        side = "ahead of" if ahead > 0 else "behind"
        return Finding(WARN, "clock", f"this machine is {abs(ahead):.1f} s {side} the database: synchronise both")
    return Finding(OK, "clock", f"{abs(ahead) * 1000:.0f} ms from the database's")


ROLE: LiteralString = """
SELECT current_user, rolsuper, pg_is_in_recovery() FROM pg_roles WHERE rolname = current_user
"""

FREE_CONNECTIONS: LiteralString = """
SELECT current_setting('max_connections')::int - count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
"""

FLUSHES: LiteralString = "SELECT current_setting('full_page_writes'), current_setting('fsync')"

CLOCK: LiteralString = "SELECT extract(epoch FROM clock_timestamp())::float8"
