"""The URL of the database, and the meaning of an error of a connection.

Every connection of the service, of its checks and of the migrations has the options of `to_conninfo`, and the settings
of `session_settings.configure_session`.

Threads: every function blocks and may be called from any.
"""

from __future__ import annotations

import os
import re
import select
import socket
import time
from collections.abc import MutableMapping

import psycopg
from psycopg import conninfo, pq

CONNECT_S_MAX = 3  # one attempt to connect
ATTEMPTS_FAILED = "Multiple connection attempts failed."  # in psycopg's text, before a repetition of each attempt

# SQLSTATE classes and codes (PostgreSQL, appendix A) of rejections that last until a person changes something:
# unsupported, bad value, no access, no such database, no such object or no privilege, a database that allows no
# connections, a missing library.
PERMANENT_SQLSTATES = ("0A", "22", "28", "3D", "42", "55000", "58P01")
# Variables of libpq, or their beginnings, that authenticate the client and encrypt the connection. All others change
# where the connection leads or what it sets.
CREDENTIALS = (
    "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGREQUIREAUTH", "PGCHANNELBINDING", "PGREQUIREPEER",
    "PGSSL", "PGGSS", "PGKRB", "PGOAUTH",
    "PGSERVICEFILE", "PGSYSCONFDIR",  # for a service that DATABASE_URL names
)  # fmt: skip
NO_HOST = "/dev/null"  # there is no socket in it
SOCKET_PREFIXES = ("/", "@")  # of a host that is a Unix socket
LOST_SQLSTATES = ("08", "57P")  # connection exceptions, and a server or session that is shut down
NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
TRACED_SQLSTATE = re.compile(r'^B\t\d+\tErrorResponse\t.*? C "([0-9A-Z]{5})"', re.MULTILINE)


class DatabaseError(Exception):
    """The database named by DATABASE_URL cannot be used until a person changes something; the text is one line."""


def keep_only_credentials(environment: MutableMapping[str, str]) -> None:
    """Remove every variable of libpq from the environment but CREDENTIALS.

    libpq completes a URL with these variables, and PGHOSTADDR even overrides the host of the URL.
    """
    for name in [name for name in environment if name.startswith("PG") and not name.startswith(CREDENTIALS)]:
        del environment[name]


def to_conninfo(url: str) -> str:
    """Complete a database URL with the options of every connection. Raises DatabaseError for an invalid URL.

    No message of this function quotes the URL or a part of it, since any part may belong to a password.
    """
    _check_unambiguous(url)
    try:
        # A dead peer is noticed after seconds, not after the two hours that are TCP's default.
        info = conninfo.make_conninfo(
            url, connect_timeout=CONNECT_S_MAX, keepalives_idle=10, keepalives_interval=5, keepalives_count=2,
            tcp_user_timeout=15_000, application_name="balance", client_encoding="UTF8",
        )  # fmt: skip
    except psycopg.Error:
        # Without the cause: libpq quotes the URL or a part of it.
        raise DatabaseError("DATABASE_URL: is not a PostgreSQL URL such as postgresql://user@host/database") from None
    try:
        for name in _host_names(info):
            if not name.startswith(SOCKET_PREFIXES):
                name.encode("idna")  # the search for its address does this, and raises no psycopg.Error
    except UnicodeError:
        raise DatabaseError("DATABASE_URL: names a host that cannot have an address") from None
    return info


def _check_unambiguous(url: str) -> None:
    """Raise DatabaseError for a URL in which libpq would read a part of the password as host, port or database.

    RFC 3986, section 3.2.1: `@`, `/` and `?` in the user or the password are written %40, %2F and %3F. For libpq the
    first `@` ends the password, so that its messages would show the rest as the name of a host.
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


def is_permanent(error: psycopg.Error, info: str) -> bool:
    """Return whether the database rejects connections until a person changes something; `info` is the conninfo.

    The SQLSTATE decides. psycopg has none for an error before the session begins, so the attempt is then repeated.
    """
    sqlstate = error.sqlstate or _connection_sqlstate(info)
    if sqlstate is not None:
        return sqlstate.startswith(PERMANENT_SQLSTATES)
    return not _has_valid_options(info) or not _may_resolve(info)


def is_lost(error: Exception) -> bool:
    """Return whether the connection was lost, so that the outcome of the statement is unknown."""
    sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
    return sqlstate is None or sqlstate.startswith(LOST_SQLSTATES)


def error_text(error: Exception) -> str:
    """Return the message of PostgreSQL or libpq as one line: for the log and the operator, never for a client."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join((primary or str(error).partition(ATTEMPTS_FAILED)[0]).split())


def _connection_sqlstate(info: str) -> str | None:
    """Try to connect, and return the SQLSTATE with which the server rejected the attempt; None if it sent none.

    libpq does not return the SQLSTATE of a failed attempt, only the text, which is in the language of the server. Its
    trace of the protocol (PQtrace) has the fields of the server's ErrorResponse. "fe_sendauth: no password supplied" is
    an error of libpq itself, before the server answers: it counts as 28P01, invalid password.
    """
    attempt = pq.PGconn.connect_start(info.encode())
    if not hasattr(os, "memfd_create"):  # psycopg too supports the trace on Linux only
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
    """Continue an attempt to connect until it fails, succeeds or runs out of time; return whether it failed."""
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


def _has_valid_options(info: str) -> bool:
    """Return whether libpq accepts the options of a conninfo.

    Its PQping returns that, but it also waits for the server, with the interpreter's lock. So the hosts are replaced by
    one to which each attempt fails at once.
    """
    options = conninfo.conninfo_to_dict(info)
    hosts = str(options.get("host") or options.get("hostaddr") or "").split(",")
    local = conninfo.make_conninfo(
        info, host=",".join([NO_HOST] * len(hosts)), hostaddr="", port=options.get("port", "")
    )
    return pq.PGconn.ping(local.encode()) != pq.Ping.NO_ATTEMPT


def _may_resolve(info: str) -> bool:
    """Return whether one of the hosts may have an address, now or when the name service answers again."""
    names = _host_names(info)
    if any(name.startswith(SOCKET_PREFIXES) for name in names):
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
