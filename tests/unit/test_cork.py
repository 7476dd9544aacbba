"""Frames for one client are coalesced into one write: of a turn of the event loop, or while corked."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from balance.realtime.cork import Cork
from balance.realtime.send_queue import SendQueue


class FakeSession:
    """A session with a real send queue, and a connection that records each write."""

    def __init__(self) -> None:
        self.send_queue = SendQueue()
        self.writes: list[bytes] = []
        self.connection: Any = SimpleNamespace(is_open=True, write=self.writes.append)


@pytest.fixture
def cork() -> Cork:
    return Cork()


def buffer(cork: Cork, session: Any, *frames: bytes) -> None:
    first, *more = frames
    cork.add(session, first)
    for one in more:
        session.send_queue.add_buffered(one)


async def test_the_frames_of_one_turn_leave_in_one_write_in_the_next_turn(cork: Cork) -> None:
    session = FakeSession()
    buffer(cork, session, b"ack", b"event")
    assert session.writes == []
    await asyncio.sleep(0)
    assert session.writes == [b"ackevent"]
    assert not session.send_queue.unsent_bytes


def test_corked_frames_leave_at_the_end_and_schedule_no_further_turn(cork: Cork) -> None:
    session = FakeSession()
    with cork:  # no event loop runs, so that a turn could not be scheduled
        buffer(cork, session, b"ack", b"event")
        assert session.writes == []
    assert session.writes == [b"ackevent"]


async def test_corked_frames_leave_when_the_call_raises_and_the_next_turn_is_not_corked(cork: Cork) -> None:
    session = FakeSession()

    def fail() -> None:
        with cork:
            buffer(cork, session, b"one")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert session.writes == [b"one"]
    buffer(cork, session, b"two")
    await asyncio.sleep(0)
    assert session.writes == [b"one", b"two"]


async def test_frames_buffered_before_the_cork_leave_with_it_and_once(cork: Cork) -> None:
    session = FakeSession()
    buffer(cork, session, b"before")
    with cork:
        session.send_queue.add_buffered(b"within")
    await asyncio.sleep(0)
    assert session.writes == [b"beforewithin"]


async def test_a_broadcast_is_added_only_to_what_clients_of_its_group_are_sent(cork: Cork) -> None:
    live, other, idle = FakeSession(), FakeSession(), FakeSession()
    with cork:
        for session in (live, other):
            buffer(cork, session, b"ack")
        group: Any = {live: None, idle: None}
        assert cork.add_to(group, b"event") == {live}
    assert (live.writes, other.writes, idle.writes) == ([b"ackevent"], [b"ack"], [])


async def test_nothing_is_written_to_a_connection_that_has_closed(cork: Cork) -> None:
    session = FakeSession()
    with cork:
        buffer(cork, session, b"ack")
        session.connection.is_open = False
    assert session.writes == []
    assert not session.send_queue.unsent_bytes
