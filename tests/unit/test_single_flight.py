"""A shared read shows each caller all that was saved before its call; there are at most two reads of one thing."""

from __future__ import annotations

import asyncio
import gc
import weakref

from balance.aio.single_flight import SingleFlight


class Source:
    """A value that changes, and whose reads wait until they are let go on."""

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
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_callers_during_a_read_share_the_next_one_which_sees_later_changes() -> None:
    source, flight = Source(), SingleFlight[int]()
    first = asyncio.ensure_future(flight.run("newest", source.read))
    await turn()
    source.value = 1
    others = [asyncio.ensure_future(flight.run("newest", source.read)) for _ in range(100)]
    await turn()
    assert source.reads == 1
    source.let_go_on()
    assert await first == 0
    assert await asyncio.gather(*others) == [1] * 100
    assert source.reads == 2


async def test_a_read_of_another_key_does_not_wait() -> None:
    source, other, flight = Source(), Source(), SingleFlight[int]()
    first = asyncio.ensure_future(flight.run("newest", source.read))
    await turn()
    other.let_go_on()
    assert await flight.run("oldest", other.read) == 0
    assert not first.done()
    source.let_go_on()
    await first


async def test_an_exception_is_raised_to_all_callers_and_the_next_call_reads_again() -> None:
    source, flight = Source(), SingleFlight[int]()
    source.value = -1
    calls = [asyncio.ensure_future(flight.run("newest", source.read)) for _ in range(3)]
    await turn()
    source.let_go_on()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, LookupError)
    source.value = 5
    assert await flight.run("newest", source.read) == 5


async def test_a_read_keeps_no_error_of_the_reads_before_it() -> None:
    class Failure(Exception):
        """One that can be referred to weakly."""

    async def fail() -> None:
        await asyncio.sleep(0)
        raise Failure

    async def call() -> weakref.ref[Failure]:
        try:
            await flight.run("newest", fail)
        except Failure as error:
            return weakref.ref(error)
        raise AssertionError

    flight, errors = SingleFlight[None](), list[weakref.ref[Failure]]()
    gc.disable()
    try:
        following = asyncio.ensure_future(call())
        for _ in range(10):  # there is always a read that waits for the one that runs
            running, following = following, asyncio.ensure_future(call())
            errors.append(await running)
        del running
        assert sum(error() is not None for error in errors) <= 1
    finally:
        gc.enable()
    await following


async def test_a_caller_that_is_cancelled_does_not_end_the_read_for_the_others() -> None:
    source, flight = Source(), SingleFlight[int]()
    cancelled, waiting = (asyncio.ensure_future(flight.run("newest", source.read)) for _ in range(2))
    await turn()
    cancelled.cancel()
    await turn()
    source.let_go_on()
    assert await waiting == 0
    assert source.reads == 1


async def test_a_read_is_cancelled_when_its_last_caller_is() -> None:
    source, flight = Source(), SingleFlight[int]()
    running, last = (asyncio.ensure_future(flight.run("newest", source.read)) for _ in range(2))
    await turn()
    queued = asyncio.ensure_future(flight.run("newest", source.read))
    await turn()
    queued.cancel()
    await turn()
    assert not flight._queued
    running.cancel()
    await turn()
    assert "newest" in flight._running, "it has another caller"
    last.cancel()
    await turn()
    assert not flight._running
    source.let_go_on()
    assert await flight.run("newest", source.read) == 0
    assert source.reads == 2


async def test_a_read_that_waits_for_a_cancelled_one_is_made() -> None:
    source, flight = Source(), SingleFlight[int]()
    running = asyncio.ensure_future(flight.run("newest", source.read))
    await turn()
    waiting = asyncio.ensure_future(flight.run("newest", source.read))
    await turn()
    running.cancel()
    await turn()
    source.let_go_on()
    assert await waiting == 0
    assert source.reads == 2


async def test_nothing_is_kept_of_a_read_that_is_over() -> None:
    source, flight = Source(), SingleFlight[int]()
    source.let_go_on()
    for key in range(10):
        await asyncio.gather(*(flight.run(key, source.read) for _ in range(3)))
    await turn()
    assert not flight._running
    assert not flight._queued
