"""The findings of a database: one for each thing that the service needs, in the order of the checks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from balance.storage import inspection as module
from balance.storage.connect import DatabaseError, to_conninfo
from balance.storage.inspection import FAIL, OK, WARN, Finding, inspect
from balance.storage.session_settings import SessionFacts
from tests.support.postgres import execute, locked, query
from tests.support.service import Database

# A view and a function in front of those of PostgreSQL: seven of ten connections are in use.
TEN_CONNECTIONS = (
    "CREATE VIEW public.pg_stat_activity AS SELECT 'client backend' AS backend_type FROM generate_series(1, 7) "
    "UNION ALL SELECT 'checkpointer'",
    "CREATE FUNCTION public.current_setting(name text) RETURNS text RETURN "
    "CASE name WHEN 'max_connections' THEN '10' ELSE pg_catalog.current_setting(name) END",
)
SETTING_IS_OFF = (
    "CREATE FUNCTION public.current_setting(name text) RETURNS text RETURN "
    "CASE name WHEN '{}' THEN 'off' ELSE pg_catalog.current_setting(name) END"
)
IN_RECOVERY = "CREATE FUNCTION public.pg_is_in_recovery() RETURNS boolean RETURN true"


def found(url: str, sessions: int = 5, *, is_own: bool = True) -> dict[str, Finding]:
    """Return the finding of each subject, in their order."""
    findings = list(inspect(url, sessions, is_own=is_own))
    by_subject = {one.subject: one for one in findings}
    assert len(by_subject) == len(findings)
    return by_subject


def name_of_role(database: Database) -> str:
    return str(query(database.url, "SELECT current_user")[0][0])


def in_front(database: Database, *statements: str) -> str:
    """Execute the statements; return the URL with which what they create hides what PostgreSQL has by the same name."""
    execute(database.url, *statements)
    return make_conninfo(database.url, options="-c search_path=public,pg_catalog")


@pytest.fixture
def least(database: Database) -> Iterator[str]:
    """Make a role without grants; return the URL with it."""
    role = f"least_{uuid.uuid4().hex}"
    execute(database.url, f"CREATE ROLE {role} LOGIN")
    yield make_conninfo(database.url, user=role)
    execute(database.url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_each_subject_has_a_finding_in_the_order_of_the_checks(database: Database) -> None:
    ((version,),) = query(database.url, "SHOW server_version")
    findings = found(database.url, is_own=False)
    assert list(findings) == ["database", "role", "sessions", "durability", "grants", "migrations", "clock"]
    assert {one.level for one in findings.values()} == {OK}
    assert findings["database"].text == f"PostgreSQL {version} answers"
    assert findings["role"].text == name_of_role(database)
    assert findings["durability"].text == "local: a save is on the disk of one machine, and waits for no standby"
    assert findings["grants"].text == "the role has all that the service needs"
    assert findings["migrations"].text == "the schema is that of this version"


def test_a_superuser_is_a_warning_only_in_a_database_of_the_operator(database: Database, least: str) -> None:
    advice = "the service needs few grants (docs/operations.md, A database of your own)"
    assert found(database.url)["role"] == (WARN, "role", f"{name_of_role(database)} is a superuser; {advice}")
    assert found(least)["role"].level == OK


def test_a_missing_grant_or_migration_is_a_failure_of_its_own(database: Database, least: str) -> None:
    execute(database.url, "DELETE FROM schema_migration WHERE version > 1")
    findings = found(least)
    assert findings["grants"].level == findings["migrations"].level == FAIL
    assert findings["grants"].text.startswith("DATABASE_URL: role least_")
    assert findings["migrations"].text == "permission denied for table schema_migration"
    assert findings["clock"].level == OK
    behind = found(database.url)["migrations"]
    assert behind.level == FAIL
    assert behind.text.startswith("the database is at version 1 and this program needs version ")


def test_a_check_that_cannot_be_made_is_a_failure_and_the_next_ones_go_on(database: Database) -> None:
    findings = found(in_front(database, "CREATE VIEW public.pg_roles AS SELECT current_user AS rolname"))
    assert findings.pop("role") == (FAIL, "role", 'column "rolsuper" does not exist')
    assert {one.level for one in findings.values()} == {OK}


def test_a_standby_is_a_failure_that_names_the_remedy(database: Database) -> None:
    role = found(in_front(database, IN_RECOVERY))["role"]
    assert role == (
        FAIL,
        "role",
        f"{name_of_role(database)}; the server is a standby and cannot save: name the primary",
    )


def test_too_few_free_connections_are_a_warning(database: Database) -> None:
    url = in_front(database, *TEN_CONNECTIONS)
    enough = "3 free connections, of which --pool-max uses up to 3"
    assert found(url, 3)["sessions"] == (OK, "sessions", enough)
    assert found(url, 4)["sessions"] == (WARN, "sessions", "the server has 3 free connections, and --pool-max is 4")


def test_a_pooler_that_shares_sessions_is_a_failure(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Any] = []

    def refuse(connection: psycopg.Connection[Any], info: str, sessions: int, limits: Any) -> None:
        checked.append((info, sessions))
        with limits.limit(connection, 60):
            raise DatabaseError("it shares sessions")

    monkeypatch.setattr(module, "check_session", refuse)
    assert found(database.url, 6)["sessions"] == (FAIL, "sessions", "it shares sessions")
    assert checked == [(to_conninfo(database.url), 6)]


@pytest.mark.parametrize(
    ("name", "settings"),
    [("fsync", "fsync = off and full_page_writes = on"), ("full_page_writes", "fsync = on and full_page_writes = off")],
)
def test_a_server_that_does_not_flush_is_a_failure(database: Database, name: str, settings: str) -> None:
    text = f"{settings}: a crash of the machine may lose snapshots"
    assert found(in_front(database, SETTING_IS_OFF.format(name)))["durability"] == (FAIL, "durability", text)


def test_a_standby_that_commits_wait_for_is_named(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SessionFacts("one, two", None)
    monkeypatch.setattr(module, "configure_session", lambda *_, **__: facts)
    text = "replicated: a save waits for a standby (one, two)"
    assert found(database.url)["durability"] == (OK, "durability", text)
    facts = SessionFacts("one", "local")
    weak = found(database.url)["durability"]
    assert weak.level == FAIL
    assert weak.text.startswith("DATABASE_URL: synchronous_commit = local does not wait")


def test_a_statement_that_waits_is_a_failure_and_the_next_check_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.STATEMENT_MS_MAX == 4_000
    monkeypatch.setattr(module, "STATEMENT_MS_MAX", 50)
    with locked(database, "LOCK TABLE schema_migration"):
        findings = found(database.url)
    assert findings["migrations"] == (FAIL, "migrations", "canceling statement due to statement timeout")
    assert findings["clock"].level == OK


def test_all_checks_together_have_a_limited_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INSPECT_S_MAX", 0.3)
    began = time.monotonic()
    with locked(database, "LOCK TABLE schema_migration"):
        findings = found(database.url)
    assert time.monotonic() - began < module.STATEMENT_MS_MAX / 1000
    assert [one.subject for one in findings.values() if one.level == FAIL] == ["migrations", "clock"]


@pytest.mark.parametrize(
    ("ahead", "level", "text"),
    [
        (0.25, OK, "250 ms from the database's"),
        (1.0, OK, "1000 ms from the database's"),
        (-1.0, OK, "1000 ms from the database's"),
        (1.5, WARN, "this machine is 1.5 s ahead of the database: synchronise both"),
        (-2.5, WARN, "this machine is 2.5 s behind the database: synchronise both"),
    ],
)
def test_the_clock_of_the_database_is_compared_with_the_middle_of_the_request(
    monkeypatch: pytest.MonkeyPatch, ahead: float, level: str, text: str
) -> None:
    times = iter((1_000.0 + ahead - 8, 1_000.0 + ahead + 8))
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: next(times)))
    answer = SimpleNamespace(fetchall=lambda: [(1_000.0,)])
    connection: Any = SimpleNamespace(execute=lambda _sql: answer)
    assert module._check_clock(connection) == (level, "clock", text)


def test_the_clock_of_this_machine_is_near_that_of_the_database(database: Database) -> None:
    clock = found(database.url)["clock"]
    assert clock.level == OK
    assert int(clock.text.partition(" ms ")[0]) < 500


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://127.0.0.1:1/none", "cannot be reached: connection failed: "),
        ("postgresql://[", "DATABASE_URL: is not a PostgreSQL URL such as "),
    ],
)
def test_nothing_follows_if_the_database_cannot_be_used(url: str, text: str) -> None:
    (only,) = inspect(url, 5, is_own=True)
    assert (only.level, only.subject) == (FAIL, "database")
    assert only.text.startswith(text)


def test_nothing_follows_if_the_server_is_too_old(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg.ConnectionInfo, "server_version", 130_000)
    text = "the server is PostgreSQL 13; this program needs 14 or newer"
    assert list(inspect(database.url, 5, is_own=True)) == [(FAIL, "database", text)]
