"""How the pool checks sessions out, renews the one of the write thread, and closes; no test has a database."""

from __future__ import annotations

import psycopg
import psycopg_pool
import pytest

from balance.storage import pool as pool_module
from balance.storage.epochs import Server
from balance.storage.errors import STOPPING, TIMED_OUT, UNREACHABLE, StoreUnavailable
from balance.storage.outage import CONNECTION, READ, SAVE, Kind
from balance.storage.pool import CHECKOUT_ATTEMPTS
from tests.support.pool import FakeSession, make_pool

REFUSED = psycopg.OperationalError("refused")
NO_SESSION = psycopg_pool.PoolTimeout("no session in time")


# Checking out ------------------------------------------------------------------------------------------------


def test_a_session_is_lent_for_one_block_and_given_back() -> None:
    session = FakeSession()
    pool, outage, sessions = make_pool(session, session, wait_ms_max=1000)
    with pool.connection() as lent:
        assert lent is session  # type: ignore[comparison-overlap]
        assert sessions.calls == [("getconn", 0.25)]
    assert sessions.calls.pop() == ("putconn", session)
    assert outage.successes == [READ]
    with pytest.raises(StoreUnavailable), pool.connection():
        raise psycopg.OperationalError("gone")
    assert sessions.calls.pop() == ("putconn", session)


def test_a_session_that_is_lent_while_the_pool_closes_is_given_back() -> None:
    session = FakeSession()
    pool, _, sessions = make_pool(session)
    use = pool.connection()
    pool.close()
    with pytest.raises(StoreUnavailable, match=f"^{STOPPING}$"), use:
        pass
    assert sessions.calls[-1] == ("putconn", session)


def test_after_a_dead_session_all_are_removed_and_the_next_one_is_lent() -> None:
    dead, session = FakeSession(), FakeSession()
    dead.is_lost = True
    pool, _, sessions = make_pool(dead, session)
    with pool.connection() as lent:
        assert lent is session  # type: ignore[comparison-overlap]
    wait = ("getconn", 0.0025)
    assert sessions.calls == [wait, ("putconn", dead), ("drain",), wait, ("putconn", session)]


def test_a_connection_that_fails_is_tried_again() -> None:
    session = FakeSession()
    pool, outage, _ = make_pool(*[NO_SESSION] * (CHECKOUT_ATTEMPTS - 1), session)
    pool._note_connected(REFUSED)
    with pool.connection() as lent:
        assert lent is session  # type: ignore[comparison-overlap]
    assert outage.failures == []


@pytest.mark.parametrize("kind", [SAVE, READ])
def test_if_every_attempt_to_connect_fails_the_database_cannot_be_reached(kind: Kind) -> None:
    pool, outage, sessions = make_pool(*[NO_SESSION] * CHECKOUT_ATTEMPTS)
    pool._note_connected(REFUSED)
    with pytest.raises(StoreUnavailable, match=f"^{UNREACHABLE}$"):
        pool.write_connection(kind) if kind is SAVE else pool.connection()
    assert outage.failures == [(CONNECTION, "refused")]
    assert len(sessions.calls) == CHECKOUT_ATTEMPTS


@pytest.mark.parametrize("kind", [SAVE, READ])
def test_if_every_session_is_in_use_the_caller_waited_too_long(kind: Kind) -> None:
    pool, outage, _ = make_pool(*[NO_SESSION] * CHECKOUT_ATTEMPTS)
    pool._note_connected(REFUSED)
    pool._note_connected(None)
    with pytest.raises(StoreUnavailable, match=f"^{TIMED_OUT}$"):
        pool.write_connection(kind) if kind is SAVE else pool.connection()
    assert outage.failures == [(kind, "all 2 connections are in use")]


def test_a_pool_that_never_tried_to_connect_has_no_error_of_it() -> None:
    pool, outage, _ = make_pool(*[NO_SESSION] * CHECKOUT_ATTEMPTS)
    with pytest.raises(StoreUnavailable, match=f"^{TIMED_OUT}$"):
        pool.connection()
    assert outage.failures == [(READ, "all 2 connections are in use")]


# The session of the write thread -------------------------------------------------------------------------------


def test_the_write_session_is_kept_while_it_works() -> None:
    session = FakeSession()
    pool, outage, sessions = make_pool(session)
    for kind in (SAVE, READ):
        with pool.write_connection(kind) as lent:
            assert lent is session  # type: ignore[comparison-overlap]
    assert outage.successes == [SAVE, READ]
    assert sessions.calls == [("getconn", 0.0025)]
    assert not session.closed


@pytest.mark.parametrize("fault", ["is lost", "is suspect"])
def test_a_write_session_that_may_not_work_is_replaced(fault: str) -> None:
    old, new = FakeSession(), FakeSession()
    pool, _, sessions = make_pool(old, new)
    with pool.write_connection():
        pass
    if fault == "is lost":
        old.is_lost = True
    else:
        pool.write_session_is_suspect = True
    for _ in range(2):
        with pool.write_connection() as lent:
            assert lent is new  # type: ignore[comparison-overlap]
    assert old.closed
    wait = ("getconn", 0.0025)
    assert sessions.calls == [wait, ("putconn", old), wait]


def test_a_write_session_that_cannot_be_replaced_is_given_back_once() -> None:
    old, new = FakeSession(), FakeSession()
    pool, _, sessions = make_pool(old, *[NO_SESSION] * CHECKOUT_ATTEMPTS, new)
    with pool.write_connection():
        old.is_lost = True
    with pytest.raises(StoreUnavailable):
        pool.write_connection()
    with pool.write_connection() as lent:
        assert lent is new  # type: ignore[comparison-overlap]
    assert sessions.calls.count(("putconn", old)) == 1


def test_the_sessions_of_a_former_primary_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby and a service that hides its timeline are no other primary."""
    pool, _, sessions = make_pool()
    one, other = Server("00000001", "7"), Server("00000002", "7")
    servers = iter([one, one, Server(None, "7"), one, other, other])
    monkeypatch.setattr(pool_module, "check_server", lambda *_: next(servers))
    drains = []
    for _ in range(6):
        session = FakeSession()
        pool._check_server(session)  # type: ignore[arg-type]
        drains.append(sessions.calls.count(("drain",)))
    assert drains == [0, 0, 0, 0, 1, 1]
    assert pool.write_session_is_suspect
    assert session.server == other


# The end -----------------------------------------------------------------------------------------------------


def test_the_end_closes_what_is_idle_and_aborts_what_is_in_use() -> None:
    writing, reading = FakeSession(), FakeSession()
    pool, _, sessions = make_pool(writing, reading)
    with pool.write_connection():
        pass
    with pytest.raises(StoreUnavailable, match=f"^{STOPPING}$"), pool.connection():  # noqa: PT012
        pool.close()
        assert (writing.closed, writing.aborts) == (True, 0)
        assert (reading.closed, reading.aborts) == (False, 1)
        assert sessions.calls[-1] == ("close", 1)
        raise psycopg.OperationalError("aborted")


def test_the_end_does_not_close_a_write_session_that_its_thread_uses() -> None:
    session = FakeSession()
    pool, _, _ = make_pool(session)
    with pool.write_connection():
        pool.close()
        assert (session.closed, session.aborts) == (False, 1)


def test_the_watchdog_checks_often_enough_to_find_a_session_soon_after_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, _, _ = make_pool(statement_ms_max=4000)
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) > 1

    since: list[float] = []
    monkeypatch.setattr(pool._closing, "wait", wait)
    monkeypatch.setattr(pool_module.time, "monotonic", lambda: 100.0)
    monkeypatch.setattr(pool, "_abort", since.append)
    pool._watch()
    assert waits == [0.5, 0.5]
    assert since == [95.0]
    assert not pool.write_session_is_suspect
