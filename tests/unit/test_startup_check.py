"""Whether a pooler is found that shares sessions, or has too few, on fakes of its connections."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from balance.storage import startup_check
from balance.storage.connect import DatabaseError
from balance.storage.startup_check import (
    GET_VALUE,
    MISSING_GRANTS,
    SET_VALUE,
    CheckedConnections,
    check_grants,
    check_session,
)

REMEDY = "connect directly to PostgreSQL, or through a pooler in session mode"
INFO = "host=pooler"


class FakeConnection:
    """A connection to a pooler: notes its statements, and keeps the value that is set, or gets another session's."""

    def __init__(self) -> None:
        self.pgconn = self
        self.backend_pid = 1  # as the pooler invents it
        self.real_pid = 7
        self.executed: list[str] = []
        self.value: str | None = None
        self.shares_its_session = False
        self.error: psycopg.Error | None = None  # of BEGIN
        self.hangs_in: str | None = None  # a statement
        self.exits = 0
        self._socket, self._peer = socket.socketpair()

    def fileno(self) -> int:
        return self._socket.fileno()

    def __enter__(self) -> FakeConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.exits += 1

    def close(self) -> None:
        self._socket.close()
        self._peer.close()

    def send(self, data: bytes) -> None:
        """Send as the server."""
        self._peer.sendall(data)

    def receive(self) -> bytes:
        """Wait for what the server sends, or the end of the connection."""
        return self._socket.recv(1)

    def execute(self, sql: str, parameters: dict[str, str] | None = None) -> FakeConnection:
        self.executed.append(sql)
        if sql == self.hangs_in:
            assert self.receive() == b""
            raise psycopg.OperationalError("aborted")
        if sql == "BEGIN" and self.error:
            raise self.error
        if sql == SET_VALUE:
            assert parameters is not None
            self.value = parameters["value"]
        return self

    def fetchone(self) -> tuple[str | None]:
        return (None if self.shares_its_session else self.value,)


class Poolers:
    """The connection that is checked and the second one, which the check opens."""

    def __init__(self) -> None:
        self.one, self.other = FakeConnection(), FakeConnection()
        self.connections = CheckedConnections()
        self.opened: list[tuple[Any, ...]] = []

    def connect(self, *arguments: Any, **options: Any) -> FakeConnection:
        self.opened.append((*arguments, *options.items()))
        return self.other

    def check(self) -> None:
        check_session(self.one, INFO, 5, self.connections)  # type: ignore[arg-type]


@pytest.fixture
def poolers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Poolers]:
    poolers = Poolers()
    monkeypatch.setattr(startup_check, "read_backend_pid", lambda connection: connection.real_pid)
    monkeypatch.setattr(startup_check, "PROBE_S_MAX", 0.05)
    monkeypatch.setattr(psycopg, "connect", poolers.connect)
    yield poolers
    poolers.one.close()
    poolers.other.close()


def test_a_direct_connection_is_checked_by_its_process_id_alone(poolers: Poolers) -> None:
    poolers.one.real_pid = poolers.one.backend_pid
    poolers.check()
    assert poolers.one.executed == poolers.opened == []


def test_a_pooler_that_keeps_a_session_is_accepted(poolers: Poolers) -> None:
    poolers.check()
    assert poolers.opened == [(INFO, ("autocommit", True))]
    assert poolers.one.executed == [SET_VALUE, GET_VALUE]
    assert poolers.other.executed == ["BEGIN", "SELECT 1"]
    assert poolers.other.exits == 1
    value = poolers.one.value
    poolers.check()
    assert poolers.one.value not in (None, value), "a random one, which no other process sets"


@pytest.mark.parametrize("fault", ["another session", "none left"])
def test_a_pooler_that_shares_a_session_is_refused(poolers: Poolers, fault: str) -> None:
    if fault == "another session":
        poolers.one.shares_its_session = True
    else:
        poolers.one.hangs_in = GET_VALUE
    with pytest.raises(DatabaseError) as caught:
        poolers.check()
    assert str(caught.value) == f"DATABASE_URL: the pooler provides a session only for a transaction: {REMEDY}"


def test_a_pooler_that_allows_no_transaction_is_refused(poolers: Poolers) -> None:
    poolers.other.error = psycopg.errors.ProtocolViolation("no")
    with pytest.raises(DatabaseError) as caught:
        poolers.check()
    assert str(caught.value) == f"DATABASE_URL: the pooler provides a session only for a statement: {REMEDY}"


@pytest.mark.parametrize("statement", ["BEGIN", "SELECT 1"])
def test_a_pooler_without_a_second_session_is_refused(poolers: Poolers, statement: str) -> None:
    poolers.other.hangs_in = statement
    with pytest.raises(DatabaseError) as caught:
        poolers.check()
    assert str(caught.value) == (
        "DATABASE_URL: the pooler provides too few sessions: let its pool have 5 or more for this service"
    )


def test_a_connection_that_is_lost_meanwhile_is_not_the_fault_of_a_pooler(poolers: Poolers) -> None:
    poolers.other.error = psycopg.OperationalError("gone")
    with pytest.raises(psycopg.OperationalError, match="gone"):
        poolers.check()


class Grants:
    """A connection whose role lacks some grants."""

    def __init__(self, *missing: tuple[str, str]) -> None:
        self._results = {MISSING_GRANTS: list(missing), "SELECT current_user": [("bot",)]}

    def execute(self, sql: str) -> Grants:
        self._found = self._results[sql]
        return self

    def fetchall(self) -> list[Any]:
        return self._found


def test_missing_grants_are_named_in_one_line() -> None:
    check_grants(Grants())  # type: ignore[arg-type]
    with pytest.raises(DatabaseError) as caught:
        check_grants(Grants(("SELECT", "balance_feed"), ("USAGE", "schema public")))  # type: ignore[arg-type]
    assert str(caught.value) == (
        "DATABASE_URL: role bot lacks SELECT on balance_feed, USAGE on schema public: "
        "grant it (docs/operations.md, A database of your own)"
    )


# The connections that are checked ----------------------------------------------------------------------------


@pytest.fixture
def connection() -> Iterator[FakeConnection]:
    connection = FakeConnection()
    yield connection
    connection.close()


def test_a_check_that_takes_too_long_ends_with_its_connection(connection: FakeConnection) -> None:
    connections = CheckedConnections()
    with connections.limit(connection, 0.01) as is_over:  # type: ignore[arg-type]
        assert connection.receive() == b""
        assert is_over.is_set()


def test_a_check_that_ends_in_time_leaves_its_connection(connection: FakeConnection) -> None:
    connections = CheckedConnections()
    with connections.limit(connection, 60) as is_over:  # type: ignore[arg-type]
        pass
    connections.abort()
    connection.send(b"x")
    assert connection.receive() == b"x"
    assert not is_over.is_set()


@pytest.mark.parametrize("moment", ["during", "before"])
def test_an_abort_ends_every_check_also_a_later_one(connection: FakeConnection, moment: str) -> None:
    connections, other = CheckedConnections(), FakeConnection()
    if moment == "before":
        connections.abort()
    with connections.limit(connection, 60) as is_over, connections.limit(other, 60):  # type: ignore[arg-type]
        if moment == "during":
            connections.abort()
        assert (connection.receive(), other.receive()) == (b"", b"")
        assert not is_over.is_set(), "its time is not over"
    other.close()
