"""The decisions of the pool by SQLSTATE: the error for the client, and the end of the session."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import errors

from balance.storage import pool as pool_module
from balance.storage.errors import STOPPING, TIMED_OUT, UNABLE, UNREACHABLE, DatabaseFault, StoreUnavailable
from balance.storage.outage import CONNECTION, READ, SAVE, Kind
from balance.storage.pool import Pool, Use
from tests.support.pool import FakeSession, make_pool


class Decision(NamedTuple):
    """The outcome of an error while a session is used to save, and while it is used to read."""

    error: Exception
    text: str | None  # for the client; None if the error passes to the caller as it is
    text_of_read: str | None
    is_lost: bool = False
    is_given_up: bool = False


DECISIONS = {
    "connection lost, without SQLSTATE": Decision(
        psycopg.OperationalError("gone"), UNREACHABLE, UNREACHABLE, is_lost=True
    ),
    "socket lost": Decision(OSError("gone"), UNREACHABLE, UNREACHABLE, is_lost=True),
    "08006 connection failure": Decision(errors.ConnectionFailure("x"), UNREACHABLE, UNREACHABLE, is_lost=True),
    "57P01 terminated": Decision(errors.AdminShutdown("x"), UNREACHABLE, UNREACHABLE, is_lost=True),
    "57P02 crash": Decision(errors.CrashShutdown("x"), UNREACHABLE, UNREACHABLE, is_lost=True),
    "57P03 cannot connect now": Decision(errors.CannotConnectNow("x"), UNREACHABLE, UNREACHABLE, is_lost=True),
    "57014 statement timeout": Decision(errors.QueryCanceled("x"), TIMED_OUT, TIMED_OUT),
    "55P03 lock timeout": Decision(errors.LockNotAvailable("x"), TIMED_OUT, TIMED_OUT),
    "25006 standby": Decision(errors.ReadOnlySqlTransaction("x"), UNABLE, UNABLE, is_given_up=True),
    "26000 statement deallocated": Decision(errors.InvalidSqlStatementName("x"), UNABLE, UNABLE, is_given_up=True),
    "0A000 result type changed": Decision(errors.FeatureNotSupported("x"), UNABLE, UNABLE, is_given_up=True),
    "53100 disk full": Decision(errors.DiskFull("x"), UNABLE, UNABLE),
    "53200 out of memory": Decision(errors.OutOfMemory("x"), UNABLE, UNABLE),
    "53300 too many connections": Decision(errors.TooManyConnections("x"), UNABLE, UNABLE),
    "40001 serialization failure": Decision(errors.SerializationFailure("x"), UNABLE, UNABLE),
    "40P01 deadlock": Decision(errors.DeadlockDetected("x"), UNABLE, UNABLE),
    "42P01 no such table": Decision(errors.UndefinedTable("x"), UNABLE, UNABLE),
    "42501 no privilege": Decision(errors.InsufficientPrivilege("x"), UNABLE, UNABLE),
    "XX001 corrupted": Decision(errors.DataCorrupted("x"), UNABLE, UNABLE),
    "the feed has no row": Decision(DatabaseFault("x"), UNABLE, UNABLE),
    "23505 seq or id is stored": Decision(errors.UniqueViolation("x"), UNABLE, UNABLE),
    "23514 check of the table": Decision(errors.CheckViolation("x"), None, UNABLE),
    "22003 number out of range": Decision(errors.NumericValueOutOfRange("x"), None, UNABLE),
    "a mistake in a call of psycopg": Decision(psycopg.ProgrammingError("x"), None, None),
}


def use(pool: Pool, kind: Kind, error: Exception | None, session: Any) -> None:
    with Use(pool, session, kind):
        assert session in pool._checked_out
        if error is not None:
            raise error


@pytest.mark.parametrize("kind", [SAVE, READ])
@pytest.mark.parametrize("name", DECISIONS)
def test_each_error_is_decided_by_its_sqlstate(name: str, kind: Kind) -> None:
    decision, session = DECISIONS[name], FakeSession()
    pool, outage, _ = make_pool()
    text = decision.text if kind is SAVE else decision.text_of_read
    with pytest.raises(type(decision.error) if text is None else StoreUnavailable) as raised:
        use(pool, kind, decision.error, session)
    if text is not None:
        assert str(raised.value) == text
        assert raised.value.__cause__ is decision.error
        assert [kind for kind, _ in outage.failures] == [CONNECTION if decision.is_lost else kind]
    else:
        assert outage.failures == []
    assert outage.successes == []
    assert session.closed is (decision.is_lost or decision.is_given_up)
    assert pool._checked_out == {}


def test_an_error_on_a_session_that_is_closed_means_that_it_is_lost() -> None:
    session = FakeSession()
    pool, _, _ = make_pool()
    session.closed = True
    with pytest.raises(StoreUnavailable, match=UNREACHABLE):
        use(pool, SAVE, errors.DiskFull("x"), session)


@pytest.mark.parametrize("kind", [SAVE, READ])
def test_a_warning_fails_a_save_and_keeps_its_session(kind: Kind) -> None:
    """The commit may not have waited for a standby."""
    session = FakeSession()
    session.warning = "canceling wait"
    pool, outage, _ = make_pool()
    if kind is READ:
        use(pool, kind, None, session)
        assert outage.successes == [READ]
        return
    with pytest.raises(StoreUnavailable, match=UNABLE):
        use(pool, kind, None, session)
    assert outage.failures == [(SAVE, "canceling wait")]
    assert not session.closed


def test_a_use_that_works_is_noted() -> None:
    pool, outage, _ = make_pool()
    use(pool, SAVE, None, FakeSession())
    assert outage.successes == [SAVE]
    assert pool._checked_out == {}


def test_a_fault_of_our_own_passes_and_frees_the_session() -> None:
    pool, outage, _ = make_pool()
    with pytest.raises(LookupError):
        use(pool, SAVE, LookupError(), FakeSession())
    assert pool._checked_out == {}
    assert (outage.successes, outage.failures) == ([], [])


def test_a_closed_pool_gives_no_session_and_logs_no_outage() -> None:
    pool, outage, _ = make_pool()
    session = FakeSession()

    def close_in_use() -> None:
        with Use(pool, session, SAVE):  # type: ignore[arg-type]
            pool.close()
            assert session.aborts == 1
            raise psycopg.OperationalError("aborted")

    with pytest.raises(StoreUnavailable, match=STOPPING):
        close_in_use()
    assert outage.failures == []
    with pytest.raises(StoreUnavailable, match=STOPPING):
        use(pool, SAVE, None, FakeSession())
    with pytest.raises(StoreUnavailable, match=STOPPING), pool.connection():
        pass
    with pytest.raises(StoreUnavailable, match=STOPPING), pool.write_connection():
        pass


def test_only_sessions_that_are_in_use_for_too_long_are_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, _, _ = make_pool()
    early, late = FakeSession(), FakeSession()
    clock = 100.0
    monkeypatch.setattr(pool_module.time, "monotonic", lambda: clock)
    with Use(pool, early, SAVE):  # type: ignore[arg-type]
        clock = 105.0
        with Use(pool, late, READ):  # type: ignore[arg-type]
            assert pool._abort(99.9) is False
            early.is_answered = True
            assert pool._abort(100.0) is False, "this process is late, not the server"
            early.is_answered = False
            assert pool._abort(100.0) is True
    assert (early.aborts, late.aborts) == (1, 0)
    assert pool._abort(200.0) is False


def test_the_watchdog_aborts_a_hung_session_and_distrusts_the_others() -> None:
    pool, _, sessions = make_pool()
    session = FakeSession()
    pool._watchdog.start()
    began = time.monotonic()
    with Use(pool, session, SAVE):  # type: ignore[arg-type]
        while not session.aborts:
            assert time.monotonic() < began + 10
            time.sleep(0.001)
    assert session.aborted_at - began > 0.01, "a statement may run for 10 ms"
    pool.close()
    pool._watchdog.join(10)
    assert not pool._watchdog.is_alive()
    assert ("drain",) in sessions.calls
    assert pool.write_session_is_suspect
