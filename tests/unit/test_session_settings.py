"""Which settings a session gets, and what it returns about the durability of its commits; no test has a server."""

from __future__ import annotations

from typing import Any

import pytest

from balance.storage.connect import DatabaseError
from balance.storage.session_settings import (
    FIXED_SETTINGS,
    INHERITED_SETTINGS,
    LOCAL,
    REPLICATED,
    SessionFacts,
    configure_session,
    durability,
    read_backend_pid,
)


class FakeConnection:
    """A connection that notes its statements; each returns the same row, behind as many results as it has."""

    def __init__(self, server_version: int, *row: object) -> None:
        self.info = self
        self.server_version = server_version
        self.row = row
        self.executed: list[tuple[Any, ...]] = []
        self._sets_left = 0

    def execute(self, *statement: Any) -> FakeConnection:
        self.executed.append(statement)
        self._sets_left = statement[0].count(";")
        return self

    def nextset(self) -> bool:
        self._sets_left -= 1
        return self._sets_left >= 0

    def fetchall(self) -> list[tuple[object, ...]]:
        assert self._sets_left <= 0
        return [self.row]


@pytest.mark.parametrize(("local", "command"), [(False, "SET"), (True, "SET LOCAL")])
@pytest.mark.parametrize("version", [140_000, 169_999, 170_000, 180_001])
def test_the_time_limits_of_the_role_are_removed_before_all_settings_are_made(
    version: int, local: bool, command: str
) -> None:
    connection = FakeConnection(version, "one, two", "local", 20)
    facts = configure_session(connection, statement_ms_max=4000, local=local)  # type: ignore[arg-type]
    assert facts == SessionFacts("one, two", "local")
    limits = ["statement_timeout"] if version < 170_000 else ["statement_timeout", "transaction_timeout"]
    assert connection.executed == [
        *((f"{command} {limit} = 0",) for limit in limits),
        (FIXED_SETTINGS, {"statement_ms_max": "4000", "local": local}),
        (INHERITED_SETTINGS, {"local": local}),
    ]


def test_settings_are_those_of_the_session_by_default() -> None:
    connection = FakeConnection(180_000, "", None, 20)
    configure_session(connection, statement_ms_max=1)  # type: ignore[arg-type]
    assert connection.executed[0] == ("SET statement_timeout = 0",)
    assert connection.executed[-1] == (INHERITED_SETTINGS, {"local": False})


@pytest.mark.parametrize("version", [169_999, 170_000])
def test_the_process_id_of_a_backend_is_read_in_one_message_without_a_time_limit(version: int) -> None:
    connection = FakeConnection(version, "42")
    assert read_backend_pid(connection) == 42  # type: ignore[arg-type]
    limits = "SET LOCAL statement_timeout = 0; "
    if version >= 170_000:
        limits += "SET LOCAL transaction_timeout = 0; "
    assert connection.executed == [(f"{limits}SELECT pg_catalog.pg_backend_pid()",)]


@pytest.mark.parametrize("level", ["local", "remote_write", None])
def test_a_commit_that_would_not_wait_for_a_named_standby_is_refused(level: str | None) -> None:
    SessionFacts("", level).check_durability()
    named = SessionFacts("ANY 1 (one, two)", level)
    if level is None:
        named.check_durability()
        return
    with pytest.raises(DatabaseError) as caught:
        named.check_durability()
    assert str(caught.value) == (
        f"DATABASE_URL: synchronous_commit = {level} does not wait for the disk of a standby, and "
        "synchronous_standby_names names one: set synchronous_commit to on"
    )


@pytest.mark.parametrize(("standbys", "expected"), [("", LOCAL), ("ANY 1 (one, two)", REPLICATED)])
def test_a_commit_is_replicated_if_the_server_names_standbys(standbys: str, expected: str) -> None:
    assert durability(standbys) == expected
