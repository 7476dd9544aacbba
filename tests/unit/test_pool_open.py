"""How the pool is made and opened, with the checks of a start replaced; no test has a database."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import psycopg_pool
import pytest

from balance.storage import pool as pool_module
from balance.storage.connect import DatabaseError, to_conninfo
from balance.storage.database_session import DatabaseSession
from balance.storage.errors import STOPPING, UNREACHABLE, StoreUnavailable
from balance.storage.outage import CONNECTION
from balance.storage.pool import OPEN_S_MAX, Pool
from balance.storage.session_settings import SessionFacts
from tests.support.pool import URL, make_pool

REFUSED = psycopg.OperationalError("refused")
NO_SESSION = psycopg_pool.PoolTimeout("no session in time")


# Making ------------------------------------------------------------------------------------------------------


def test_the_pool_of_psycopg_opens_nothing_yet_and_makes_sessions_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(psycopg_pool, "ConnectionPool", lambda *args, **options: made.append((args, options)))
    pool = Pool(URL, pool_max=5, pool_wait_ms_max=1000, statement_ms_max=4000)
    ((arguments, options),) = made
    assert arguments == (to_conninfo(URL),)
    assert options == {
        "min_size": 1,
        "max_size": 5,
        "open": False,
        "connection_class": DatabaseSession,
        "kwargs": {
            "autocommit": True, "statement_ms_max": 4000,
            "check": pool._check_server, "connected": pool._note_connected,
        },
        "max_lifetime": 3600,
        "reconnect_timeout": 0,
        "name": "balance",
    }  # fmt: skip


def test_the_thread_of_the_watchdog_has_a_name_and_does_not_keep_the_process() -> None:
    watchdog = make_pool().pool._watchdog
    assert (watchdog.name, watchdog.daemon) == ("balance-watchdog", True)


def test_an_invalid_url_is_refused_when_the_pool_is_made() -> None:
    with pytest.raises(DatabaseError):
        Pool("postgresql://a@b@c", pool_max=2, pool_wait_ms_max=10, statement_ms_max=10)


# Opening -----------------------------------------------------------------------------------------------------


class Start:
    """The checks of `open`, replaced by what notes their arguments and can fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error: psycopg.Error | None = None
        self.is_permanent = False
        self.facts = SessionFacts("", None)
        monkeypatch.setattr(psycopg, "connect", self._connect)
        monkeypatch.setattr(pool_module, "CheckedConnections", lambda: self)
        for name in ("check_session", "check_grants", "check_schema"):
            monkeypatch.setattr(pool_module, name, self._noted(name))
        monkeypatch.setattr(pool_module, "configure_session", self._configure)
        monkeypatch.setattr(pool_module, "is_permanent", self._decide)

    @contextmanager
    def _connect(self, conninfo: str, **options: Any) -> Iterator[str]:
        self.calls.append(("connect", conninfo, options))
        if self.error:
            raise self.error
        yield "connection"

    @contextmanager
    def limit(self, connection: str, seconds: float) -> Iterator[None]:
        self.calls.append(("limit", connection, seconds))
        yield

    def abort(self) -> None:
        self.calls.append(("abort",))

    def _configure(self, connection: str, **options: Any) -> SessionFacts:
        self.calls.append(("configure_session", connection, *options.items()))
        return self.facts

    def _noted(self, name: str) -> Any:
        return lambda *arguments, **options: self.calls.append((name, *arguments, *options.items()))

    def _decide(self, error: psycopg.Error, conninfo: str) -> bool:
        self.calls.append(("is_permanent", error, conninfo))
        return self.is_permanent


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    log = logging.getLogger("psycopg")
    level = log.level
    yield Start(monkeypatch)
    log.setLevel(level)


def test_it_is_opened_after_all_checks_which_one_connection_makes(start: Start) -> None:
    pool, outage, sessions = make_pool(statement_ms_max=4000)
    pool.open()
    assert start.calls == [
        ("connect", to_conninfo(URL), {"autocommit": True}),
        ("limit", "connection", OPEN_S_MAX),
        ("check_session", "connection", to_conninfo(URL), 2, start),
        ("configure_session", "connection", ("statement_ms_max", 4000)),
        ("check_grants", "connection"),
        ("check_schema", "connection"),
    ]
    assert sessions.calls == [("open",)]
    assert (outage.successes, outage.failures) == ([CONNECTION], [])
    assert pool._watchdog.is_alive()
    assert logging.getLogger("psycopg").level == logging.ERROR
    pool.open()
    assert pool._watchdog.is_alive(), "it is started once"
    pool.close()


def test_a_database_that_cannot_be_reached_is_an_outage(start: Start) -> None:
    pool, outage, sessions = make_pool()
    start.error = REFUSED
    with pytest.raises(StoreUnavailable, match=f"^{UNREACHABLE}$") as raised:
        pool.open()
    assert raised.value.__cause__ is REFUSED
    assert (outage.successes, outage.failures) == ([], [(CONNECTION, "refused")])
    assert sessions.calls == []
    start.error = None
    pool.open()
    pool.close()


def test_an_error_that_a_person_must_correct_ends_the_start(start: Start) -> None:
    pool, outage, _ = make_pool()
    start.error, start.is_permanent = REFUSED, True
    with pytest.raises(DatabaseError, match=r"^DATABASE_URL: refused$") as raised:
        pool.open()
    assert raised.value.__cause__ is REFUSED
    assert outage.failures == []


def test_a_commit_that_would_not_wait_for_a_standby_ends_the_start(start: Start) -> None:
    pool, outage, sessions = make_pool()
    start.facts = SessionFacts("one", "local")
    with pytest.raises(DatabaseError, match="synchronous_commit = local does not wait"):
        pool.open()
    assert (outage.successes, outage.failures, sessions.calls) == ([], [], [])


def test_whether_an_error_is_permanent_is_decided_once_for_each_text(start: Start) -> None:
    pool, _, _ = make_pool()
    other = psycopg.OperationalError("no password")
    for error in (REFUSED, REFUSED, other, other, REFUSED):
        start.error = error
        with pytest.raises(StoreUnavailable):
            pool.open()
    decided = [call for call in start.calls if call[0] == "is_permanent"]
    assert decided == [("is_permanent", error, to_conninfo(URL)) for error in (REFUSED, other, REFUSED)]


def test_a_pool_that_is_closed_before_it_is_opened_opens_nothing(start: Start) -> None:
    pool, _, sessions = make_pool()
    pool.close()
    with pytest.raises(StoreUnavailable, match=f"^{STOPPING}$"):
        pool.open()
    assert ("open",) not in sessions.calls
    assert not pool._watchdog.is_alive()


def test_checks_that_are_aborted_by_the_end_do_not_count_as_outage(start: Start) -> None:
    pool, outage, _ = make_pool()
    start.error = REFUSED
    pool.close()
    assert start.calls == [("abort",)]
    with pytest.raises(StoreUnavailable, match=f"^{STOPPING}$") as raised:
        pool.open()
    assert raised.value.__cause__ is REFUSED
    assert outage.failures == []
