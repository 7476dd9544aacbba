"""What a connection to PostgreSQL is opened with, and what its errors mean; no test connects to a server."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from balance.storage import connect
from balance.storage.connect import error_text, is_lost, is_permanent, to_conninfo

# Nothing listens there, and no name is resolved for it.
ADDRESS = "host=127.0.0.1 port=1 connect_timeout=1"


def failed(sqlstate: str | None, message: str = "an error") -> psycopg.Error:
    """Return an error as psycopg raises it for this SQLSTATE; None is an error of libpq itself."""
    error = psycopg.OperationalError(message) if sqlstate is None else psycopg.errors.lookup(sqlstate)(message)
    assert error.sqlstate == sqlstate
    return error


@pytest.mark.parametrize(
    "url", ["postgresql://bot@db.example/balance?connect_timeout=600", "host=db.example user=bot dbname=balance"]
)
def test_a_url_is_completed_so_that_a_dead_peer_is_noticed_after_seconds(url: str) -> None:
    options = conninfo_to_dict(to_conninfo(url))
    assert options.pop("host") == "db.example"
    assert options.pop("user") == "bot"
    assert options.pop("dbname") == "balance"
    assert {name: str(value) for name, value in options.items()} == {
        "application_name": "balance",
        "client_encoding": "UTF8",
        "connect_timeout": "3",
        "keepalives_count": "2",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "tcp_user_timeout": "15000",
    }


def test_options_and_encryption_of_a_url_are_kept() -> None:
    options = conninfo_to_dict(to_conninfo("postgresql://db.example/?options=-csearch_path%3Dapp&sslmode=verify-full"))
    assert (options["options"], options["sslmode"]) == ("-csearch_path=app", "verify-full")


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


def test_the_sqlstate_of_a_rejected_connection_is_read_from_the_trace_of_libpq() -> None:
    trace = (
        "F\t8\tSSLRequest\t 1234 5679\n"
        'B\t104\tErrorResponse\t S "FATAL" V "FATAL" C "28P01" M "password authentication failed for C "00000""\n'
    )
    assert connect.TRACED_SQLSTATE.findall(trace) == ["28P01"]
    assert connect.TRACED_SQLSTATE.findall('B\t10\tNoticeResponse\t S "NOTICE" C "00000"\n') == []
