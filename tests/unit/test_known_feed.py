"""What a process knows of the feed, and which errors of the database a new session does not survive."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import errors

from balance.position import Position
from balance.storage import epochs
from balance.storage.epochs import KnownFeed, check_server
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
    connection: Any = SimpleNamespace(closed=is_closed, transaction=nullcontext)
    return check_server(connection, Probe(), KnownFeed())
