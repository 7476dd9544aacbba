"""What a process knows of the feed and when it begins an epoch, with a fake session; test_epochs.py has a database."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import psycopg
import pytest
from psycopg import errors

from balance.position import Position
from balance.storage import epochs
from balance.storage.epochs import Feed, KnownFeed, check_server, note_end, renew_epoch
from balance.storage.server_probe import Server, ServerProbe

SERVER = Server("00000001", "7")


def test_nothing_is_known_at_first() -> None:
    known = KnownFeed()
    assert known.end is None
    assert not known.is_past("a")
    assert not known.went_back(Position("a", 0))


def test_a_feed_that_ends_before_its_known_end_was_put_back() -> None:
    known = KnownFeed()
    known.note(Position("a", 5))
    assert [known.went_back(Position("a", seq)) for seq in (4, 5, 6)] == [True, False, False]
    assert not known.went_back(Position("b", 4)), "a new epoch may begin after any row"


def test_a_later_end_is_noted_and_an_earlier_one_is_not() -> None:
    known = KnownFeed()
    for seq in (5, 7, 6):
        known.note(Position("a", seq))
    assert known.end == Position("a", 7)
    assert not known.is_past("a")


def test_an_epoch_is_over_when_another_one_is_noted() -> None:
    known = KnownFeed()
    known.note(Position("a", 5))
    known.note(Position("b", 3))
    assert known.end == Position("b", 3)
    assert [known.is_past(epoch) for epoch in "ab"] == [True, False]
    assert known.went_back(Position("a", 9))
    known.note(Position("a", 9))
    assert known.end == Position("b", 3)
    assert not known.is_past("b")


def test_epochs_that_are_read_as_over_are_noted_with_the_end() -> None:
    known = KnownFeed()
    known.note(Position("b", 5), ["a"])
    known.note(Position("b", 6))
    assert known.is_past("a")
    assert known.went_back(Position("a", 9))
    known.note(Position("b", 4), ["c"])
    assert not known.is_past("c"), "what was read with an end that is ignored is ignored too"


class Probe(ServerProbe):
    def read(self, connection: psycopg.Connection[Any]) -> Server:
        return SERVER


class FakeSession:
    """A session that has the epochs that are over, and notes when they are read."""

    def __init__(self, *past: str) -> None:
        self.closed = False
        self.transaction = nullcontext
        self.asked: list[Any] = []
        self._past = past

    def execute(self, sql: str, parameters: Any = None) -> FakeSession:
        if sql == epochs.PAST:
            self.asked.append(parameters)
        return self

    def fetchall(self) -> list[tuple[str]]:
        return [(one,) for one in self._past]


def test_the_epochs_that_are_over_are_read_once_for_each_new_one() -> None:
    known = KnownFeed()
    session: Any = FakeSession("a")
    for position in (Position("b", 5), Position("b", 6), Position("c", 6), Position("c", 6)):
        assert note_end(session, Probe(), known, position) == position
        assert known.end == position
    assert session.asked == [("b",), ("c",)]
    assert known.is_past("a")


@pytest.mark.expects_log("a new epoch of the feed begins")
@pytest.mark.parametrize("end", [None, 9])
def test_a_new_epoch_is_logged_with_what_was_before(
    end: int | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    feeds = {epochs.LOCK: Feed("a", 5, "00000002", "6"), epochs.BEGIN: Feed("b", 5, *SERVER)}
    monkeypatch.setattr(epochs, "_read_feed", lambda _, sql, parameters=None: feeds[sql])
    known = KnownFeed()
    if end is not None:
        known.note(Position("a", end))
    session: Any = FakeSession("a")
    assert renew_epoch(session, Probe(), known) == known.end == Position("b", 5)
    assert known.is_past("a")
    assert caplog.messages == [
        f"a new epoch of the feed begins after seq 5: timeline 00000001, system 7; before: seq {end or 5}, "
        "timeline 00000002, system 6"
    ]


@pytest.mark.parametrize("error", [errors.InsufficientPrivilege(), errors.UndefinedTable(), errors.LockNotAvailable()])
def test_a_session_that_may_not_renew_the_epoch_is_opened(
    error: psycopg.Error, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_failing(error, monkeypatch, is_closed=False) == SERVER


@pytest.mark.parametrize(
    ("error", "is_closed"),
    [
        (psycopg.OperationalError("the connection is lost"), False),
        (errors.AdminShutdown(), False),
        (errors.InsufficientPrivilege(), True),
        (psycopg.OperationalError("the connection is lost"), True),
    ],
)
def test_a_session_that_is_lost_is_not_opened(
    error: psycopg.Error, is_closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(type(error)):
        check_failing(error, monkeypatch, is_closed=is_closed)


def check_failing(error: psycopg.Error, monkeypatch: pytest.MonkeyPatch, *, is_closed: bool) -> Server:
    """Check the server of a session in which each statement fails."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(epochs, "_read_feed", fail)
    session: Any = FakeSession()
    session.closed = is_closed
    return check_server(session, Probe(), KnownFeed())
