"""A shared read shows whoever asked all that was so before he asked; there are no more than two of one question."""

from __future__ import annotations

import asyncio

from balance.aio.single_flight import Shared


class Source:
    """Something that changes, and whose reads take until they are let go on."""

    def __init__(self) -> None:
        self.value = 0
        self.reads = 0
        self._go_on = asyncio.Event()

    async def read(self) -> int:
        self.reads += 1
        seen = self.value
        await self._go_on.wait()
        if seen < 0:
            raise LookupError(seen)
        return seen

    def let_go_on(self) -> None:
        self._go_on.set()


async def turn() -> None:
    """Let everything run until it waits for something."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_asks_during_a_read_gets_the_next_one_which_sees_what_was_changed_meanwhile() -> None:
    source, shared = Source(), Shared[int]()
    first = asyncio.ensure_future(shared.get("newest", source.read))
    await turn()
    source.value = 1
    others = [asyncio.ensure_future(shared.get("newest", source.read)) for _ in range(100)]
    await turn()
    assert source.reads == 1
    source.let_go_on()
    assert await first == 0
    assert await asyncio.gather(*others) == [1] * 100
    assert source.reads == 2


async def test_another_question_is_not_waited_for() -> None:
    source, other, shared = Source(), Source(), Shared[int]()
    first = asyncio.ensure_future(shared.get("newest", source.read))
    await turn()
    other.let_go_on()
    assert await shared.get("oldest", other.read) == 0
    assert not first.done()
    source.let_go_on()
    await first


async def test_what_a_read_raises_is_told_to_all_who_share_it_and_the_next_is_read_anew() -> None:
    source, shared = Source(), Shared[int]()
    source.value = -1
    asking = [asyncio.ensure_future(shared.get("newest", source.read)) for _ in range(3)]
    await turn()
    source.let_go_on()
    for outcome in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(outcome, LookupError)
    source.value = 5
    assert await shared.get("newest", source.read) == 5


async def test_who_gives_up_does_not_end_the_read_for_the_others() -> None:
    source, shared = Source(), Shared[int]()
    impatient, patient = (asyncio.ensure_future(shared.get("newest", source.read)) for _ in range(2))
    await turn()
    impatient.cancel()
    await turn()
    source.let_go_on()
    assert await patient == 0
    assert source.reads == 1


async def test_nothing_is_kept_of_a_question_that_has_been_answered() -> None:
    source, shared = Source(), Shared[int]()
    source.let_go_on()
    for question in range(10):
        await asyncio.gather(*(shared.get(question, source.read) for _ in range(3)))
    await turn()
    assert not shared._reading
    assert not shared._next
