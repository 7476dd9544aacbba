"""One connection of the pool: what it loads, its prepared statements, its end, and an abort from another thread."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from select import select
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import pq

import protocol
from balance.storage.connect import DatabaseError, to_conninfo
from balance.storage.database_session import DatabaseSession, _note_warning
from tests.support.postgres import execute
from tests.support.waiting import wait_until

ONE: Any = "SELECT $1::text, $2::int"
RAISE = "DO $$ BEGIN RAISE {} USING MESSAGE = 'first', ERRCODE = '{}'; RAISE {} 'second'; END $$"


def accept(_session: DatabaseSession) -> None:
    """Accept any server."""


def connect(
    url: str,
    check: Callable[[DatabaseSession], None] = accept,
    connected: Callable[[psycopg.Error | None], None] = lambda _: None,
) -> DatabaseSession:
    return DatabaseSession.connect(
        to_conninfo(url), statement_ms_max=4000, check=check, connected=connected, autocommit=True
    )


def end(postgres: str, session: DatabaseSession) -> None:
    """Have the server end a session."""
    execute(postgres, f"SELECT pg_terminate_backend({session.info.backend_pid}, 5000)")


@pytest.fixture
def session(postgres: str) -> Iterator[DatabaseSession]:
    session = connect(postgres)
    yield session
    session.close()


def test_the_result_of_an_attempt_to_connect_is_reported(postgres: str) -> None:
    reported: list[psycopg.Error | None] = []
    connect(postgres, connected=reported.append).close()
    assert reported == [None]
    with pytest.raises(psycopg.OperationalError) as caught:
        connect("host=/nowhere", connected=reported.append)
    assert reported == [None, caught.value]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.errors.ReadOnlySqlTransaction("a standby"), psycopg.errors.ReadOnlySqlTransaction),
        (DatabaseError("weak"), psycopg.OperationalError),
        (OSError("reset"), psycopg.OperationalError),
        (LookupError("a mistake of our own"), LookupError),
    ],
    ids=str,
)
def test_a_session_whose_server_is_refused_is_closed(
    postgres: str, error: Exception, expected: type[Exception]
) -> None:
    checked: list[DatabaseSession] = []
    reported: list[psycopg.Error | None] = []

    def refuse(session: DatabaseSession) -> None:
        checked.append(session)
        assert session.execute("SHOW statement_timeout").fetchone() == ("4s",), "it has its settings"
        raise error

    with pytest.raises(expected, match=str(error)) as caught:
        connect(postgres, refuse, reported.append)
    assert type(caught.value) is expected
    assert checked[0].closed
    assert reported == ([caught.value] if isinstance(caught.value, psycopg.Error) else [])


def test_it_has_its_settings(session: DatabaseSession) -> None:
    assert session.execute("SHOW statement_timeout").fetchone() == ("4s",)


def test_the_first_warning_since_the_last_call_is_returned_once(session: DatabaseSession) -> None:
    assert session.take_warning() is None
    session.execute("SET client_min_messages = notice")
    for level, code in (("WARNING", "01000"), ("WARNING", "55000"), ("NOTICE", "01004")):
        session.execute(RAISE.format(level, code, level).encode())
        assert session.take_warning() == "first"
        assert session.take_warning() is None
    session.execute(RAISE.format("NOTICE", "00000", "NOTICE").encode())
    assert session.take_warning() is None


@pytest.mark.parametrize(
    ("source_function", "is_noted"),
    [("SyncRepWaitForLSN", True), ("GetNewTransactionId", False), ("GetNewMultiXactId", False), ("quickdie", False)],
)
def test_a_warning_that_is_not_about_a_commit_is_ignored(source_function: str, is_noted: bool) -> None:
    notice: Any = SimpleNamespace(
        sqlstate="01000",
        severity_nonlocalized="WARNING",
        source_function=source_function,
        message_primary="first",
    )
    warnings: list[str] = []
    _note_warning(warnings, notice)
    assert warnings == (["first"] if is_noted else [])


def test_json_is_loaded_as_its_text_without_spaces_and_an_id_as_text(session: DatabaseSession) -> None:
    id_ = "01890a5d-ac96-774b-bcce-b302099a8057"
    row = session.execute(
        """SELECT '{"a": 1.50, "b": [1, 2]}'::json, '{"a": 1e3}'::jsonb, %s::uuid""", (id_,)
    ).fetchone()
    assert [bytes(value) for value in row[:2]] == [b'{"a":1.50,"b":[1,2]}', b'{"a":1000}']
    assert all(isinstance(value, protocol.Encoded) for value in row[:2])
    assert row[2] == id_


def test_a_statement_is_prepared_once_under_its_name(session: DatabaseSession) -> None:
    for text in (b"x", b"y"):
        result = session.execute_prepared(b"one", ONE, text, b"7")
        assert (result.get_value(0, 0), result.get_value(0, 1)) == (text, b"7")
    assert session.execute_prepared(b"other", "SELECT 1").get_value(0, 0) == b"1"
    session.execute_prepared(b"one", ONE, b"z", b"7")
    prepared = session.execute(
        "SELECT name, generic_plans + custom_plans FROM pg_prepared_statements WHERE NOT from_sql ORDER BY name"
    ).fetchall()
    assert prepared == [("one", 3), ("other", 1)]
    assert DatabaseSession._statements == frozenset(), "each session has its own"


def test_a_statement_is_prepared_again_after_a_transaction_that_failed(session: DatabaseSession) -> None:
    def fail() -> None:
        with session.transaction():
            session.execute_prepared(b"one", ONE, b"x", b"7")
            session.execute("SELECT 1 / 0")

    for number in range(8):
        for _ in range(number):  # from the sixth on psycopg has one of its own, and deallocates all after a ROLLBACK
            session.execute("SELECT 1")
        with pytest.raises(psycopg.errors.DivisionByZero):
            fail()
        session.execute("SELECT 1")
        assert session.execute_prepared(b"one", ONE, b"x", b"%d" % number).get_value(0, 0) == b"x"


@pytest.mark.expects_log("error ignored in rollback")
def test_a_transaction_on_a_lost_connection_raises_the_error_of_its_statement(
    postgres: str, session: DatabaseSession
) -> None:
    def fail() -> None:
        with session.transaction():
            session.execute_prepared(b"one", "SELECT 1")
            end(postgres, session)
            session.execute("SELECT 1")

    with pytest.raises(psycopg.errors.AdminShutdown):
        fail()


def test_an_error_of_a_prepared_statement_has_its_sqlstate(session: DatabaseSession) -> None:
    with pytest.raises(psycopg.errors.SyntaxError):
        session.execute_prepared(b"wrong", "SELEKT 1")
    with pytest.raises(psycopg.errors.UndefinedTable, match='relation "nothing" does not exist'):
        session.execute_prepared(b"wrong", "SELECT FROM nothing")
    with pytest.raises(psycopg.errors.DivisionByZero):
        session.execute_prepared(b"zero", "SELECT 1 / $1::int", b"0")
    assert session.execute_prepared(b"zero", "SELECT 1 / $1::int", b"1").get_value(0, 0) == b"1"


def test_a_statement_on_a_lost_connection_is_an_operational_error(session: DatabaseSession) -> None:
    session.execute_prepared(b"one", "SELECT 1")
    session.abort()
    with pytest.raises(psycopg.OperationalError) as caught:
        session.execute_prepared(b"one", "SELECT 1")
    assert type(caught.value) is psycopg.OperationalError
    assert "server closed the connection" in str(caught.value)


def send_one(session: DatabaseSession, sql: Any = "SELECT 1") -> None:
    """Send a statement without waiting for its answer."""
    session.prepare(b"sent", sql)
    session.begin_pipeline()
    session.send_prepared(b"sent")
    while not session.flush():
        select([], [session], [])


def test_an_answer_is_input_until_it_is_read(session: DatabaseSession) -> None:
    assert not session.has_input()
    send_one(session)
    wait_until(session.has_input)
    assert session.receive() is not None
    assert not session.has_input()


def test_a_session_that_is_closed_has_no_input_and_nothing_left_to_send(session: DatabaseSession) -> None:
    session.close()
    assert not session.has_input()
    assert session.flush()


def test_the_error_with_which_a_session_ends_is_that_of_what_was_sent(postgres: str, session: DatabaseSession) -> None:
    send_one(session, "SELECT pg_sleep(60)")
    end(postgres, session)
    with pytest.raises(psycopg.errors.AdminShutdown):
        wait_until(lambda: session.receive() is not None)


def test_an_abort_ends_the_statement_of_another_thread(session: DatabaseSession) -> None:
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            session.execute("SELECT pg_sleep(60)")
        except psycopg.OperationalError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert not session.is_aborted
    session.abort()
    thread.join(10)
    assert not thread.is_alive()
    assert session.is_aborted
    assert len(errors) == 1


def test_it_is_alive_until_it_is_aborted_ended_or_closed(postgres: str, session: DatabaseSession) -> None:
    assert session.is_alive()
    assert session.execute("SELECT 1").fetchone() == (1,)
    assert session.is_alive()
    end(postgres, session)
    assert not session.is_alive()
    aborted, closed = connect(postgres), connect(postgres)
    aborted.abort()
    assert not aborted.is_alive()
    closed.close()
    assert not closed.is_alive()
    aborted.close()


def test_after_its_end_its_second_descriptor_is_closed_and_an_abort_does_nothing(session: DatabaseSession) -> None:
    descriptor = session._sock
    assert descriptor is not None
    session.close()
    assert descriptor.fileno() == -1
    session.abort()
    session.close()


def test_a_session_that_is_dropped_leaves_no_descriptor(postgres: str) -> None:
    dropped = connect(postgres)
    descriptor = dropped._sock
    assert descriptor is not None
    dropped.pgconn.finish()
    assert dropped.pgconn.status == pq.ConnStatus.BAD
    del dropped
    gc.collect()
    assert descriptor.fileno() == -1
