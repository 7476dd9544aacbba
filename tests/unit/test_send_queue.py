"""The polls of many clients of Socket.IO: a broadcast ends all their waits at once."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from engineio.packet import MESSAGE, Packet

from balance.aio.turn_limit import TurnLimit
from balance.realtime.send_queue import SendQueue


def put(queues: list[SendQueue], text: str) -> None:
    for queue in queues:
        queue.put_nowait(Packet(MESSAGE, text))


async def test_of_many_polls_a_few_are_answered_in_each_turn_with_all_that_has_come() -> None:
    turns, queues = TurnLimit(3), [SendQueue() for _ in range(12)]
    polls = [asyncio.ensure_future(queue.get_batch(16, turns)) for queue in queues]
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
    polls = [asyncio.ensure_future(queue.get_batch(16, turns)) for queue in queues]
    await asyncio.sleep(0)
    queues[1].close()
    put(queues, "first")
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*polls)
    assert [[packet.data for packet in answer] for answer in answers] == [["first"], []]
    assert [queue.unsent_bytes for queue in queues] == [0, 0]
