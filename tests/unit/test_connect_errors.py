"""What the errors of a connection to PostgreSQL mean. The servers are some that only answer the start of a session."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import pq

from balance.storage import connect
from balance.storage.connect import error_text, is_lost, is_permanent
from tests.support.session_start import PASSWORD_REQUEST, WELCOME, StartServer, rejection

# Nothing listens there, and no name is resolved for it.
ADDRESS = "host=127.0.0.1 port=1 connect_timeout=1"


def failed(sqlstate: str | None, message: str = "an error") -> psycopg.Error:
    """Return an error as psycopg raises it for this SQLSTATE; None is an error of libpq itself."""
    error = psycopg.OperationalError(message) if sqlstate is None else psycopg.errors.lookup(sqlstate)(message)
    assert error.sqlstate == sqlstate
    return error


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("0A000", True),  # feature_not_supported
        ("22023", True),  # invalid_parameter_value
        ("28000", True),  # invalid_authorization_specification
        ("28P01", True),  # invalid_password
        ("3D000", True),  # invalid_catalog_name: no such database
        ("42501", True),  # insufficient_privilege
        ("42P01", True),  # undefined_table
        ("55000", True),  # object_not_in_prerequisite_state: the database allows no connections
        ("58P01", True),  # undefined_file: a library is missing
        ("08006", False),  # connection_failure
        ("25006", False),  # read_only_sql_transaction
        ("53100", False),  # disk_full
        ("53300", False),  # too_many_connections
        ("55P03", False),  # lock_not_available
        ("57014", False),  # query_canceled
        ("57P03", False),  # cannot_connect_now
        ("58030", False),  # io_error
    ],
)
def test_the_sqlstate_decides_whether_a_rejection_is_permanent(sqlstate: str, expected: bool) -> None:
    assert is_permanent(failed(sqlstate), ADDRESS) is expected


def test_a_server_that_does_not_listen_is_not_a_permanent_error() -> None:
    assert not is_permanent(failed(None, "connection refused"), ADDRESS)


def test_options_that_libpq_rejects_are_a_permanent_error() -> None:
    assert is_permanent(failed(None, "invalid sslmode value"), f"{ADDRESS} sslmode=nonsense")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("host=a,b port=1,2", False),
        ("host=a,b port=1,2,3", True),
        ("hostaddr=127.0.0.1,127.0.0.2 port=1,2", False),
        ("host=/nowhere port=5432", False),
        ("service=that_is_nowhere", True),
        ("sslmode=nonsense", True),
        ("", False),
    ],
)
def test_the_options_are_checked_as_libpq_does(monkeypatch: pytest.MonkeyPatch, options: str, expected: bool) -> None:
    monkeypatch.setattr(connect, "_connection_sqlstate", lambda _: None)
    monkeypatch.setattr(connect, "_may_resolve", lambda _: True)
    assert is_permanent(failed(None), options) is expected


def test_the_options_are_checked_without_waiting_for_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """PQping would wait with the interpreter's lock, so that nothing else runs meanwhile."""
    monkeypatch.setattr(connect, "_connection_sqlstate", lambda _: None)
    with StartServer(b"") as url:
        began = time.monotonic()
        assert not is_permanent(failed(None), f"{url}?connect_timeout=60")
        assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((socket.EAI_NONAME, socket.EAI_NONAME), True),
        ((socket.EAI_NONAME, socket.EAI_AGAIN), False),  # the name service does not answer now
        ((socket.EAI_NONAME, 0), False),
    ],
)
def test_hosts_are_a_permanent_error_if_none_can_have_an_address(
    monkeypatch: pytest.MonkeyPatch, errors: Sequence[int], expected: bool
) -> None:
    results = dict(zip(("a.invalid", "b.invalid"), errors, strict=True))

    def getaddrinfo(name: str, _port: None) -> list[object]:
        if results[name]:
            raise socket.gaierror(results[name], "no address")
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(connect, "_connection_sqlstate", lambda _: None)
    info = "host=a.invalid,b.invalid hostaddr=127.0.0.1,127.0.0.1 port=1 connect_timeout=1"
    assert is_permanent(failed(None), info) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (failed("08006"), True),
        (failed("57P01"), True),  # admin_shutdown
        (failed("57P05"), True),  # idle_session_timeout
        (failed(None), True),
        (OSError("reset"), True),
        (failed("57014"), False),  # query_canceled
        (failed("23505"), False),  # unique_violation
        (failed("53100"), False),  # disk_full
    ],
    ids=lambda value: getattr(value, "sqlstate", None) or str(value),
)
def test_an_outcome_is_unknown_if_the_connection_was_lost(error: Exception, expected: bool) -> None:
    assert is_lost(error) is expected


def test_the_text_of_an_error_is_one_line_without_the_repetition_of_each_attempt() -> None:
    text = "connection failed: refused\n  Is it running?\nMultiple connection attempts failed. All failures were:\n- a"
    assert error_text(failed(None, text)) == "connection failed: refused Is it running?"
    assert error_text(OSError("two\nlines")) == "two lines"


def test_the_text_of_an_error_of_postgresql_is_its_primary_message() -> None:
    class ReportedError(psycopg.Error):
        diag = SimpleNamespace(message_primary="no such\n  table")  # type: ignore[assignment]

    assert error_text(ReportedError("no such table\nLINE 1: SELECT")) == "no such table"


def test_the_sqlstate_of_a_rejected_connection_is_read_from_the_trace_of_libpq() -> None:
    trace = (
        "F\t8\tSSLRequest\t 1234 5679\n"
        'B\t104\tErrorResponse\t S "FATAL" V "FATAL" C "28P01" M "password authentication failed for C "00000""\n'
    )
    assert connect.TRACED_SQLSTATE.findall(trace) == ["28P01"]
    assert connect.TRACED_SQLSTATE.findall('B\t10\tNoticeResponse\t S "NOTICE" C "00000"\n') == []


# An error before the session begins --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (rejection("28P01", "Passwort für »bot« falsch"), "28P01"),
        (rejection("28P01", "Passwort für »bot« falsch", "latin-1"), "28P01"),
        (rejection("53300", 'C "28P01"'), "53300"),
        (PASSWORD_REQUEST + rejection("28000", "no"), "28000"),
        (WELCOME, None),  # meanwhile it accepts
    ],
    ids=["UTF-8", "Latin-1", "a text that looks like an SQLSTATE", "after the password", "accepted"],
)
def test_the_sqlstate_of_a_rejection_is_found_by_another_attempt(answer: bytes, expected: str | None) -> None:
    with StartServer(answer) as url:
        assert connect._connection_sqlstate(url) == expected


@pytest.mark.parametrize(("sqlstate", "expected"), [("3D000", True), ("57P03", False), (None, False)])
def test_the_sqlstate_that_is_found_decides(
    monkeypatch: pytest.MonkeyPatch, sqlstate: str | None, expected: bool
) -> None:
    monkeypatch.setattr(connect, "_connection_sqlstate", {ADDRESS: sqlstate}.__getitem__)
    assert is_permanent(failed(None), ADDRESS) is expected


@pytest.mark.parametrize("trace", ["with", "without"])
def test_a_password_that_the_url_does_not_have_counts_as_an_invalid_one(
    monkeypatch: pytest.MonkeyPatch, trace: str
) -> None:
    if trace == "without":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    server = StartServer(PASSWORD_REQUEST)
    with server:
        host, _, port = server.address.partition(":")
        assert connect._connection_sqlstate(f"host={host} port={port} user=bot passfile=/nowhere") == "28P01"


@pytest.mark.parametrize("answer", [rejection("28P01", "x"), WELCOME], ids=["rejected", "accepted"])
def test_without_a_trace_no_other_sqlstate_is_known(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with StartServer(answer) as url:
        assert connect._connection_sqlstate(url) is None


def test_of_several_hosts_the_last_one_that_answered_decides() -> None:
    with StartServer(rejection("57P03", "x")) as one, StartServer(rejection("28P01", "x")) as other:
        starting, running = (url.rpartition("@")[2].partition("/")[0] for url in (one, other))
        assert connect._connection_sqlstate(f"postgresql://bot:x@{starting},{running}/balance") == "28P01"


@pytest.mark.parametrize(("answer", "has_failed"), [(WELCOME, False), (rejection("57P03", "x"), True)])
def test_an_attempt_is_continued_until_its_outcome(answer: bytes, has_failed: bool) -> None:
    with StartServer(answer) as url:
        attempt = pq.PGconn.connect_start(url.encode())
        assert connect._poll(attempt) is has_failed
        attempt.finish()


def test_a_server_that_does_not_answer_is_waited_for_as_long_as_for_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    original = select.select

    def noted(*arguments: Any) -> Any:
        waits.append(arguments[-1])
        return original(*arguments)

    monkeypatch.setattr(connect, "CONNECT_S_MAX", 0.1)
    monkeypatch.setattr(select, "select", noted)
    with StartServer(b"") as url:
        began = time.monotonic()
        assert connect._connection_sqlstate(url) is None
        assert 0.1 <= time.monotonic() - began < 5
    assert len(waits) < 10, "it sleeps until there is something to do"
    assert max(waits) <= 0.1


@pytest.mark.parametrize("info", ["host=/nowhere", "host=@nothing", "hostaddr=127.0.0.1", ""])
def test_a_server_without_a_name_may_be_there_later(monkeypatch: pytest.MonkeyPatch, info: str) -> None:
    monkeypatch.setattr(connect, "_connection_sqlstate", lambda _: None)
    assert not is_permanent(failed(None), f"{info} port=1")
