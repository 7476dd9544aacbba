"""What is read of a server, as far as it allows that.

The session is a fake: tests/integration/test_epochs.py has the tests of the statements.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import errors

from balance.storage.server_probe import (
    MAY_READ_SYSTEM_ID,
    MAY_READ_TIMELINE,
    NO_TIMELINE,
    READ_SYSTEM_ID,
    READ_TIMELINE,
    Server,
    ServerProbe,
)


class FakeSession:
    """Answers each statement of the probe with a value, or raises it."""

    def __init__(self, timeline: Any = "00000001", system_id: Any = "7", *, may_read: bool | None = True) -> None:
        self.values = {
            MAY_READ_TIMELINE: may_read,
            MAY_READ_SYSTEM_ID: may_read,
            READ_TIMELINE: timeline,
            READ_SYSTEM_ID: system_id,
        }
        self.statements: list[str] = []
        self._value: Any = None

    def execute(self, sql: str) -> FakeSession:
        self.statements.append(sql)
        self._value = self.values[sql]
        if isinstance(self._value, Exception):
            raise self._value
        return self

    def fetchall(self) -> list[tuple[Any]]:
        return [(self._value,)]


def read(probe: ServerProbe, *arguments: Any, **more: Any) -> Server:
    return probe.read(session(*arguments, **more))


def session(*arguments: Any, **more: Any) -> Any:
    return FakeSession(*arguments, **more)


def test_the_timeline_and_the_system_are_read() -> None:
    probe = ServerProbe()
    assert probe.can_read_timeline
    assert read(probe) == Server("00000001", "7")
    assert read(probe, "00000002", 8) == Server("00000002", "8")
    assert probe.can_read_timeline


def test_in_recovery_the_timeline_is_not_known_but_can_be_read() -> None:
    probe = ServerProbe()
    assert read(probe, "") == Server(None, "7")
    assert probe.can_read_timeline


@pytest.mark.parametrize("may_read", [False, None])
def test_what_is_not_allowed_is_not_tried(may_read: bool | None) -> None:
    probe, one = ServerProbe(), session(may_read=may_read)
    assert probe.read(one) == Server(None, None)
    assert one.statements == [MAY_READ_TIMELINE, MAY_READ_SYSTEM_ID]
    assert not probe.can_read_timeline
    assert read(probe) == Server("00000001", "7"), "it is asked for again"
    assert probe.can_read_timeline


def test_what_is_refused_in_spite_of_the_grant_is_not_known_and_tried_again() -> None:
    probe, refused = ServerProbe(), errors.InsufficientPrivilege()
    assert read(probe, refused, refused) == Server(None, None)
    assert read(probe) == Server("00000001", "7")


@pytest.mark.parametrize("error", [errors.UndefinedFunction(), errors.FeatureNotSupported()])
def test_what_the_service_does_not_have_is_not_tried_again(error: psycopg.Error) -> None:
    probe, one = ServerProbe(), session(error)
    assert probe.read(one) == Server(None, "7")
    del one.statements[:]
    assert probe.read(one) == Server(None, "7")
    assert one.statements == [MAY_READ_SYSTEM_ID, READ_SYSTEM_ID]
    assert not probe.can_read_timeline


def test_another_error_is_raised() -> None:
    with pytest.raises(errors.AdminShutdown):
        read(ServerProbe(), errors.AdminShutdown())


@pytest.mark.expects_log("may not be read any more")
def test_a_timeline_that_is_hidden_after_it_was_read_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    probe = ServerProbe()
    read(probe)
    for _ in range(2):
        read(probe, may_read=False)
    assert caplog.messages == [NO_TIMELINE]


def test_a_timeline_that_was_never_read_is_not_missed() -> None:
    probe = ServerProbe()
    for timeline in ("", errors.InsufficientPrivilege()):
        read(probe, timeline)
    assert not probe.can_read_timeline


@pytest.mark.expects_log("former primary")
def test_a_server_with_an_older_timeline_than_the_newest_is_refused_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    probe = ServerProbe()
    for timeline in ("00000003", "00000003", "00000001", "00000001", "00000002", "00000003", "00000004"):
        if timeline >= "00000003":
            assert read(probe, timeline) == Server(timeline, "7")
            continue
        with pytest.raises(psycopg.OperationalError) as raised:
            read(probe, timeline)
        reason = f"this server is a former primary: it has timeline {timeline}, and the database is at 00000003"
        assert str(raised.value) == reason
    refused = "a session is refused: this server is a former primary: it has timeline"
    assert caplog.messages == [f"{refused} 0000000{n}, and the database is at 00000003" for n in (1, 2)]
    with pytest.raises(psycopg.OperationalError, match=r"and the database is at 00000004$"):
        read(probe, "00000003")


def test_the_timelines_of_two_systems_are_not_compared() -> None:
    probe = ServerProbe()
    assert read(probe, "00000003", "7") == Server("00000003", "7")
    assert read(probe, "00000001", "8") == Server("00000001", "8")
    assert read(probe, "", "7") == Server(None, "7")
