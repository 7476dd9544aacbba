"""Opens sessions of PostgreSQL that behave the same whatever the server, the database, the role or the library set.

Every connection of the service, of its checks and of the migrations is completed by `to_conninfo` and set up by
`settle`. A setting that comes with the database or the role (ALTER DATABASE … SET, ALTER ROLE … SET) therefore changes
neither what is stored nor what is returned. What DATABASE_URL itself gives in `options` is the explicit choice of the
operator: of it, `search_path` is kept, which is how the tables get into another schema than `public`.

Threads: every function blocks and may be called from any.
"""

from __future__ import annotations

import os
import re
import select
import socket
import time
from collections.abc import MutableMapping
from typing import LiteralString

import psycopg
from psycopg import Connection, conninfo, pq
from psycopg.rows import TupleRow

CONNECT_S_MAX = 3  # one attempt to connect
MULTIPLE = "Multiple connection attempts failed."  # psycopg's words, after which it repeats each attempt

# SQLSTATE classes and codes (PostgreSQL's appendix A) of refusals that no waiting ends: unsupported, bad value, no
# access, no such database, no such object or no privilege, a database that allows no connections, a missing library.
NEEDS_PERSON = ("0A", "22", "28", "3D", "42", "55000", "58P01")
TRANSACTION_TIMEOUT_VERSION = 170_000  # of PostgreSQL
# Variables of libpq that say how to prove who asks and how the line is protected. All others lead somewhere else.
CREDENTIALS = (
    "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGREQUIREAUTH", "PGCHANNELBINDING", "PGREQUIREPEER",
    "PGSSL", "PGGSS", "PGKRB", "PGOAUTH",
    "PGSERVICEFILE", "PGSYSCONFDIR",  # for a service that DATABASE_URL names
)  # fmt: skip
LOCAL = ("/", "@")  # begin a host that is a socket of this machine
LOST = ("08", "57P")  # connection exceptions, and a server or session that is shut down
NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
TRACED_SQLSTATE = re.compile(r'^B\t\d+\tErrorResponse\t.*? C "([0-9A-Z]{5})"', re.MULTILINE)


class DatabaseError(Exception):
    """The database named by DATABASE_URL cannot be used until a person changes something; the text is one line."""


def keep_credentials(environment: MutableMapping[str, str]) -> None:
    """Remove every variable of libpq that could change where a connection leads, or what it sets.

    libpq completes a URL with them: PGHOSTADDR even takes the place of the host that the URL names.
    """
    for name in [name for name in environment if name.startswith("PG") and not name.startswith(CREDENTIALS)]:
        del environment[name]


def to_conninfo(url: str) -> str:
    """Complete a database URL with what every connection asks for. Raises DatabaseError when it is not one.

    No message of this function quotes the URL or a part of it, since any part may belong to a password.
    """
    _refuse_ambiguous(url)
    try:
        # A dead peer is given up after seconds, not after the two hours of TCP's default.
        info = conninfo.make_conninfo(
            url, connect_timeout=CONNECT_S_MAX, keepalives_idle=10, keepalives_interval=5, keepalives_count=2,
            tcp_user_timeout=15_000, application_name="balance", client_encoding="UTF8",
        )  # fmt: skip
    except psycopg.Error:
        # Without the cause: libpq quotes the URL or a part of it.
        raise DatabaseError("DATABASE_URL: is not a PostgreSQL URL such as postgresql://user@host/database") from None
    try:
        for name in _host_names(info):
            if not name.startswith(LOCAL):
                name.encode("idna")  # as the look for its address does, which raises no psycopg.Error
    except UnicodeError:
        raise DatabaseError("DATABASE_URL: names a host that can have no address") from None
    return info


def _refuse_ambiguous(url: str) -> None:
    """Refuse a URL of which libpq would take a part of the password for the host, the port or the database.

    RFC 3986, section 3.2.1: `@`, `/` and `?` in the user or the password are written %40, %2F and %3F. libpq takes the
    first `@` for the end of the password, and then shows the rest of it as the name of a host.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgresql", "postgres"):
        return  # the form `host=… password=…`, which quotes
    location = rest.partition("?")[0]
    authority, _, path = location.partition("/")
    hosts = authority.rpartition("@")[2]
    ports = [re.sub(r"\[[^]]*\]|[^:]*:?", "", host, count=1).removeprefix(":") for host in hosts.split(",")]
    if location.count("@") > 1 or "@" in path or not all(re.fullmatch("[0-9]*", port) for port in ports):
        raise DatabaseError(
            "DATABASE_URL: cannot be read: write @ as %40, / as %2F and ? as %3F in its user and password, "
            "and the port in digits"
        )


def settle(connection: Connection[TupleRow], *, statement_ms_max: int, local: bool = False) -> int:
    """Set all settings that matter, for the session or (`local`) for the transaction; return the backend's process id.

    libpq's own `backend_pid` is not that: a pooler invents one.
    """
    # A limit that came with the role may be too short even for the statement that sets the others, in a new session.
    if local:
        _lift_limits(connection, "SET LOCAL statement_timeout = 0", "SET LOCAL transaction_timeout = 0")
    else:
        _lift_limits(connection, "SET statement_timeout = 0", "SET transaction_timeout = 0")
    connection.execute(SETTINGS, {"statement_ms_max": str(statement_ms_max), "local": local})
    row = connection.execute(CARRIED, {"local": local}).fetchone()
    assert row is not None
    return int(row[0])


def read_backend(connection: Connection[TupleRow]) -> int:
    """Return the backend's process id, and leave nothing behind in a session that may turn out to be shared.

    One message, which is one transaction: no limit that came with the role is short enough to end it.
    """
    if connection.info.server_version >= TRANSACTION_TIMEOUT_VERSION:
        cursor = connection.execute(
            "SET LOCAL statement_timeout = 0; SET LOCAL transaction_timeout = 0; SELECT pg_catalog.pg_backend_pid()"
        )
    else:
        cursor = connection.execute("SET LOCAL statement_timeout = 0; SELECT pg_catalog.pg_backend_pid()")
    while cursor.nextset():
        pass
    (backend,) = cursor.fetchall()[0]
    return int(backend)


def _lift_limits(connection: Connection[TupleRow], statement: LiteralString, transaction: LiteralString) -> None:
    connection.execute(statement)
    if connection.info.server_version >= TRANSACTION_TIMEOUT_VERSION:
        connection.execute(transaction)


def needs_person(error: psycopg.Error, info: str) -> bool:
    """Tell whether the database refused for a reason that waiting does not end; `info` is the conninfo of the attempt.

    Decided by SQLSTATE. psycopg has none for an error before the session begins, so that attempt is made once more.
    """
    sqlstate = error.sqlstate or _connection_sqlstate(info)
    if sqlstate is not None:
        return sqlstate.startswith(NEEDS_PERSON)
    return pq.PGconn.ping(info.encode()) == pq.Ping.NO_ATTEMPT or not _is_resolved(info)


def is_lost(error: Exception) -> bool:
    """Tell whether an error leaves unknown what became of the statement: the server did not answer it."""
    sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
    return sqlstate is None or sqlstate.startswith(LOST)


def one_line(error: Exception) -> str:
    """Say in one line what PostgreSQL or libpq said: for the log and the operator, never for a client."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join((primary or str(error).partition(MULTIPLE)[0]).split())


def _connection_sqlstate(info: str) -> str | None:
    """Try to connect, and return the SQLSTATE by which the server refused; None if it did not say one.

    libpq keeps the SQLSTATE of a failed connection to itself and gives only the text, which is in the language of the
    server. Its trace of the protocol (PQtrace) has the fields of the server's ErrorResponse. "fe_sendauth: no password
    supplied" comes from libpq alone, before the server refuses: it counts as 28P01, invalid password.
    """
    attempt = pq.PGconn.connect_start(info.encode())
    if not hasattr(os, "memfd_create"):  # nor does psycopg trace elsewhere than on Linux
        return "28P01" if _poll(attempt) and attempt.needs_password else None
    trace = os.memfd_create("trace")
    try:
        attempt.trace(trace)
        attempt.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
        has_failed = _poll(attempt)
        attempt.untrace()
        if has_failed and attempt.needs_password:
            return "28P01"
        found = TRACED_SQLSTATE.findall(os.pread(trace, 2**20, 0).decode(errors="replace"))
        return found[-1] if found else None
    finally:
        attempt.finish()
        os.close(trace)


def _poll(attempt: pq.abc.PGconn) -> bool:
    """Go on with an attempt to connect until it fails, succeeds or runs out of time; tell whether it has failed."""
    deadline = time.monotonic() + CONNECT_S_MAX
    while attempt.status != pq.ConnStatus.BAD and time.monotonic() < deadline:
        polled = attempt.connect_poll()
        if polled == pq.PollingStatus.OK:
            return False
        if polled != pq.PollingStatus.FAILED:
            reads = [attempt.socket] if polled == pq.PollingStatus.READING else []
            writes = [] if reads else [attempt.socket]
            select.select(reads, writes, [], max(0.0, deadline - time.monotonic()))
    return attempt.status == pq.ConnStatus.BAD


def _is_resolved(info: str) -> bool:
    """Tell whether one of the hosts may have an address, now or when the name service answers again."""
    names = _host_names(info)
    if any(name.startswith(LOCAL) for name in names):
        return True
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except socket.gaierror as error:
            if error.errno in NO_SUCH_HOST:
                continue
        return True
    return not names


def _host_names(info: str) -> list[str]:
    return [name for name in str(conninfo.conninfo_to_dict(info).get("host") or "").split(",") if name]


# What changes a byte, an error or the time of a statement of this service or of its migrations. Of all others,
# tests/integration/test_session_settings.py shows that they do not.
SETTINGS: LiteralString = """
SELECT pg_catalog.set_config(name, value, %(local)s)
FROM (VALUES
    ('statement_timeout', %(statement_ms_max)s),
    ('lock_timeout', '0'),
    ('idle_session_timeout', '0'),
    -- a transaction that lost its client must not keep the feed locked
    ('idle_in_transaction_session_timeout', %(statement_ms_max)s),
    -- under any other, a statement that waited for the lock would not see what was committed meanwhile
    ('default_transaction_isolation', 'read committed'),
    ('default_transaction_deferrable', 'off'),
    ('DateStyle', 'ISO, YMD'),
    ('IntervalStyle', 'postgres'),
    ('TimeZone', 'UTC'),
    ('timezone_abbreviations', 'Default'),
    ('extra_float_digits', '1'),
    ('bytea_output', 'hex'),
    ('standard_conforming_strings', 'on'),
    ('escape_string_warning', 'on'),
    ('backslash_quote', 'safe_encoding'),
    ('array_nulls', 'on'),
    ('transform_null_equals', 'off'),
    ('quote_all_identifiers', 'off'),
    ('row_security', 'on'),
    ('client_min_messages', 'warning'),
    ('exit_on_error', 'off'),
    ('check_function_bodies', 'on'),
    ('default_table_access_method', 'heap'),
    -- compiling costs more than any statement of ours takes
    ('jit', 'off'),
    ('debug_parallel_query', 'off'), ('force_parallel_mode', 'off'),  -- its name before PostgreSQL 16
    ('plan_cache_mode', 'auto')
) AS wanted (name, value)
WHERE pg_catalog.current_setting(name, true) IS NOT NULL
"""

# Settings of which it matters where they come from.
CARRIED: LiteralString = """
SELECT pg_catalog.pg_backend_pid(),
       pg_catalog.count(pg_catalog.set_config(
           name,
           CASE name
               WHEN 'search_path' THEN 'public'
               WHEN 'default_transaction_read_only' THEN 'off'
               WHEN 'synchronous_commit' THEN 'on'
               -- Every statement has an index. On a table that is small when the plan is made the planner would rather
               -- read all of it, and would keep to that plan while the table grows.
               WHEN 'enable_seqscan' THEN 'off'
               ELSE boot_val  -- enable_…: any kind of plan
           END,
           %(local)s))
FROM (
    SELECT name, setting, boot_val, source,
           source IN ('global', 'database', 'user', 'database user') AS is_carried  -- by ALTER DATABASE or ALTER ROLE
    FROM pg_catalog.pg_settings
) AS found
WHERE (name = 'search_path' AND source <> 'client')  -- given in DATABASE_URL
   -- the configuration of a server that may not write now, such as one whose disk is nearly full, is respected
   OR (name = 'default_transaction_read_only' AND is_carried)
   -- the default of a server may be off, and then "saved" would not mean saved; nor may a role promise less than it
   OR (name = 'synchronous_commit' AND (setting = 'off' OR (is_carried AND setting IN ('local', 'remote_write'))))
   OR pg_catalog.starts_with(name, 'enable_')
"""
