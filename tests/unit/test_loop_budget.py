"""Addresses share the time of the event loop, however many connections they have."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from tornado.http1connection import HTTP1ServerConnection
from tornado.web import RequestHandler

from balance.aio.addresses import to_address
from balance.aio.limiter import CapacityLimiter, LimitExceeded
from balance.aio.loop_budget import TURN_S, WAKEUPS_MAX, LoopBudget


def spin(seconds: float) -> None:
    """Use time of the event loop."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


async def steps(note: Callable[[], object], seconds: float, count: int) -> int:
    for _ in range(count):
        note()
        spin(seconds)
        await asyncio.sleep(0)
    return count


async def test_many_connections_delay_another_address_no_longer_than_one() -> None:
    budget, order = LoopBudget(), list[str]()
    crowd = [
        asyncio.ensure_future(budget.run("1.1.1.1", steps(lambda: order.append("crowd"), TURN_S, 1))) for _ in range(40)
    ]
    other = asyncio.ensure_future(budget.run("2.2.2.2", steps(lambda: order.append("other"), 0, 20)))
    assert await other == 20
    assert len(order) <= 20 + 21 + 2, "between two steps of the other there was one of the crowd"
    await asyncio.gather(*crowd)
    assert order.count("crowd") == 40


async def test_within_an_address_no_connection_waits_forever() -> None:
    budget, order = LoopBudget(), list[int]()
    greedy = asyncio.ensure_future(budget.run("1.1.1.1", steps(lambda: order.append(0), TURN_S, 1000)))
    await asyncio.sleep(0)
    modest = [
        asyncio.ensure_future(budget.run("1.1.1.1", steps(lambda number=number: order.append(number), TURN_S, 1)))
        for number in range(1, 6)
    ]
    await asyncio.gather(*modest)
    assert [number for number in order if number] == [1, 2, 3, 4, 5], "first in, first out"
    assert order.count(0) < 10
    greedy.cancel()
    await asyncio.wait([greedy])


async def test_all_are_served_if_more_wait_than_one_round_wakes() -> None:
    budget, order = LoopBudget(), list[int]()
    first = asyncio.ensure_future(budget.run("1.1.1.1", steps(lambda: None, TURN_S, 1)))
    crowd = [
        asyncio.ensure_future(budget.run("1.1.1.1", steps(lambda number=number: order.append(number), 0, 1)))
        for number in range(3 * WAKEUPS_MAX)
    ]
    await asyncio.wait_for(asyncio.gather(first, *crowd), 5)
    assert order == list(range(3 * WAKEUPS_MAX)), "first in, first out"


async def test_a_long_step_sees_the_end_of_its_turn() -> None:
    budget = LoopBudget()

    async def work() -> tuple[bool, bool]:
        before = budget.is_turn_over()
        spin(TURN_S)
        return before, budget.is_turn_over()

    assert await budget.run("1.1.1.1", work()) == (False, True)


async def test_a_request_through_a_proxy_is_charged_to_its_client() -> None:
    budget = LoopBudget()

    async def request(ip: str, seconds: float) -> bool:
        must_wait = budget.charge_to(ip)
        spin(seconds)
        return must_wait

    assert not await budget.run("10.0.0.1", request("1.1.1.1", TURN_S))
    assert await budget.run("10.0.0.1", request("1.1.1.1", 0)), "this client has used its turn"
    assert not await budget.run("10.0.0.1", request("2.2.2.2", 0)), "its proxy has not"


async def test_results_errors_and_cancellation_pass_through() -> None:
    budget, ended = LoopBudget(), list[str]()

    async def fail() -> None:
        raise LookupError

    async def wait() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("cancelled")

    with pytest.raises(LookupError):
        await budget.run("1.1.1.1", fail())
    waiting = asyncio.ensure_future(wait_in(budget, wait))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == ["cancelled"]


async def test_a_coroutine_that_is_cancelled_while_it_waits_leaves_nothing() -> None:
    budget = LoopBudget()
    await budget.run("1.1.1.1", steps(lambda: None, TURN_S, 1))
    await budget.run("1.1.1.1", steps(lambda: None, TURN_S, 1))
    waiting = [asyncio.ensure_future(budget.run("1.1.1.1", steps(lambda: None, TURN_S, 2))) for _ in range(3)]
    await asyncio.sleep(0)
    assert budget._due
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    del waiting, task
    await asyncio.sleep(0)
    assert not budget._accounts


async def wait_in(budget: LoopBudget, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await budget.run("1.1.1.1", function())


@pytest.mark.parametrize(
    ("one", "other", "is_one"),
    [
        ("127.0.0.1", "127.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("0.0.0.0", "a socket's path", False),
    ],
)
async def test_a_network_of_64_bits_is_one_client(one: str, other: str, is_one: bool) -> None:
    assert (to_address(one) == to_address(other)) is is_one


async def test_an_address_may_hold_as_many_slots_as_it_leaves_free() -> None:
    limiter, held = CapacityLimiter(64, "reads"), Counter[int]()
    with ExitStack() as stack:
        for number in range(5):
            with suppress(LimitExceeded):
                for _ in range(65):
                    stack.enter_context(limiter.slot(f"10.0.0.{number}"))
                    held[number] += 1
    assert list(held.values()) == [32, 16, 8, 4, 2]
    with CapacityLimiter(1, "reads").slot("10.0.0.1"):
        pass


def test_tornado_has_the_private_names_that_are_relied_on() -> None:
    assert inspect.iscoroutinefunction(RequestHandler._execute)
    assert inspect.iscoroutinefunction(HTTP1ServerConnection._server_request_loop)
