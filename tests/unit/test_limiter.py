"""The limiter: when it is full, for all and for one address; and the wait until nothing holds a slot.

How an address shares with others is tested in test_loop_budget.py.
"""

from __future__ import annotations

import asyncio

import pytest

from balance.aio.limiter import CapacityLimiter, LimitExceeded

ONE, OTHER = "10.0.0.1", "10.0.0.2"


async def test_no_slot_is_free_when_all_are_held() -> None:
    limiter = CapacityLimiter(2, "reads")
    with limiter.slot(ONE):
        with limiter.slot(OTHER), pytest.raises(LimitExceeded, match=r"^2 reads wait already$"):
            limiter.slot("10.0.0.3").__enter__()
        with limiter.slot("10.0.0.3"):
            pass


async def test_an_address_gets_no_slot_beyond_its_half() -> None:
    limiter = CapacityLimiter(4, "reads")
    with limiter.slot(ONE), limiter.slot(ONE):
        with pytest.raises(LimitExceeded, match=r"^2 reads of this address wait already$"):
            limiter.slot(ONE).__enter__()
        with limiter.slot(OTHER):
            pass


async def test_an_address_has_its_slot_back_after_an_error() -> None:
    limiter = CapacityLimiter(2, "reads")
    for _ in range(3):
        with pytest.raises(LookupError), limiter.slot(ONE):
            raise LookupError
    with limiter.slot(ONE):
        pass


async def test_the_wait_ends_when_the_last_slot_is_released() -> None:
    limiter = CapacityLimiter(8, "reads")
    await limiter.wait_idle(0)
    with limiter.slot(ONE):
        with limiter.slot(ONE), limiter.slot(OTHER):
            waiting = asyncio.ensure_future(limiter.wait_idle(60))
        await asyncio.sleep(0.01)
        assert not waiting.done()
    async with asyncio.timeout(5):
        await waiting


async def test_the_wait_ends_after_its_time_while_a_slot_is_held() -> None:
    limiter = CapacityLimiter(2, "reads")
    with limiter.slot(ONE):
        async with asyncio.timeout(5):
            await limiter.wait_idle(0.01)
