"""The polls of many clients of Socket.IO: a broadcast ends all their waits at once."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from engineio.packet import CLOSE, MESSAGE, NOOP, Packet

from balance.aio.turn_limit import TurnLimit
from balance.realtime.send_queue import SendQueue

IP = "192.0.2.1"


def put(queues: list[SendQueue], text: str) -> None:
    for queue in queues:
        queue.put_nowait(Packet(MESSAGE, text))


async def test_of_many_polls_a_few_are_answered_in_each_turn_with_all_that_has_come() -> None:
    turns, queues = TurnLimit(3), [SendQueue() for _ in range(12)]
    polls = [asyncio.ensure_future(queue.get_batch(16, turns, IP)) for queue in queues]
    await asyncio.sleep(0)
    put(queues, "first")
    done = [0]
    while done[-1] < len(polls):
        await asyncio.sleep(0)
        done.append(sum(poll.done() for poll in polls))
        if len(done) == 4:
            put(queues, "second")
    assert max(after - before for before, after in pairwise(done)) == 3
    answers = [[packet.data for packet in poll.result()] for poll in polls]
    assert answers[0] == ["first"]
    assert answers[-1] == ["first", "second"], "in one answer, not in the next one"
    assert {tuple(answer) for answer in answers} == {("first",), ("first", "second")}


async def test_a_queue_that_is_closed_while_its_poll_waits_for_a_turn_ends_the_poll() -> None:
    turns, queues = TurnLimit(1), [SendQueue() for _ in range(2)]
    polls = [asyncio.ensure_future(queue.get_batch(16, turns, IP)) for queue in queues]
    await asyncio.sleep(0)
    queues[1].close()
    put(queues, "first")
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*polls)
    assert [[packet.data for packet in answer] for answer in answers] == [["first"], []]
    assert [queue.unsent_bytes for queue in queues] == [0, 0]


async def wait_for_a_turn(queue: SendQueue, turns: TurnLimit) -> asyncio.Task[list[Packet]]:
    """Return a poll that has packets to return, behind another one that uses the turn."""
    poll = asyncio.ensure_future(queue.get_batch(16, turns, IP))
    await asyncio.sleep(0)
    queue.put_nowait(Packet(MESSAGE, "first"))
    await turns.acquire(IP)
    await asyncio.sleep(0)
    assert not poll.done()
    return poll


async def test_what_waits_for_its_turn_can_still_be_discarded() -> None:
    turns, queue = TurnLimit(1), SendQueue()
    poll = await wait_for_a_turn(queue, turns)
    queue.discard(lambda packet: packet.packet_type == MESSAGE)
    assert [packet.packet_type for packet in await poll] == [NOOP], "the client polls again"
    queue.put_nowait(Packet(MESSAGE, "second"))
    assert [packet.data for packet in await queue.get_batch(16, turns, IP)] == ["second"]
    assert queue.unsent_bytes == 0


async def test_what_has_just_ended_the_wait_of_a_poll_can_still_be_discarded() -> None:
    turns, queue = TurnLimit(1), SendQueue()
    poll = asyncio.ensure_future(queue.get_batch(16, turns, IP))
    await asyncio.sleep(0)
    put([queue], "first")
    put([queue], "second")
    queue.discard(lambda packet: packet.packet_type == MESSAGE)
    assert [packet.packet_type for packet in await poll] == [NOOP]


async def test_a_poll_that_waits_returns_the_last_packet_of_a_queue_that_is_closed() -> None:
    turns = TurnLimit(1)
    for last, expected in ((None, []), (Packet(CLOSE), [CLOSE])):
        waiting, in_turn = SendQueue(), SendQueue()
        polls = [asyncio.ensure_future(waiting.get_batch(16, turns, IP)), await wait_for_a_turn(in_turn, turns)]
        for queue in (waiting, in_turn):
            queue.close(last)
            queue.close()
            queue.put_nowait(Packet(MESSAGE, "too late"))
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*polls)
        assert [[packet.packet_type for packet in answer] for answer in answers] == [expected, expected]
        assert [waiting.unsent_bytes, in_turn.unsent_bytes] == [0, 0]
