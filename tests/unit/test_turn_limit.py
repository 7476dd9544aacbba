"""Some coroutines continue in each turn of the event loop: the addresses in turn, in each first in, first out."""

from __future__ import annotations

import asyncio

import pytest

from balance.aio import loop_budget
from balance.aio.loop_budget import LoopBudget
from balance.aio.turn_limit import TurnLimit

IP = "192.0.2.1"


async def turns_of(limit: TurnLimit, count: int) -> list[int]:
    """Start coroutines that are ready at once; return in which turn each of them continued."""
    turn, turns = 0, list[int]()

    async def step() -> None:
        await limit.acquire(IP)
        turns.append(turn)

    steps = [asyncio.ensure_future(step()) for _ in range(count)]
    while not all(step.done() for step in steps):
        turn += 1
        await asyncio.sleep(0)
    return turns


async def test_of_many_that_are_ready_a_few_continue_in_each_turn() -> None:
    turns = await turns_of(TurnLimit(3), 20)
    assert len(turns) == 20
    assert turns == sorted(turns), "first in, first out"
    assert max(turns.count(turn) for turn in turns) == 3
    assert max(turns) <= 2 * 7 + 1, "no turn passes unused for long"


async def test_a_coroutine_that_is_alone_waits_for_nothing() -> None:
    limit = TurnLimit(2)
    for _ in range(10):
        assert await turns_of(limit, 1) == [1]


async def test_when_nothing_waits_the_event_loop_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    limit, calls = TurnLimit(2), list[None]()
    begin_turn = limit._begin_turn
    monkeypatch.setattr(limit, "_begin_turn", lambda: calls.append(None) or begin_turn())
    await limit.acquire(IP)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(calls) == 1


async def test_a_cancelled_wait_uses_no_step() -> None:
    limit, order = TurnLimit(1), list[int]()

    async def step(number: int) -> None:
        await limit.acquire(IP)
        order.append(number)

    steps = [asyncio.ensure_future(step(number)) for number in range(4)]
    await asyncio.sleep(0)
    steps[1].cancel()
    steps[2].cancel()
    await asyncio.gather(*steps, return_exceptions=True)
    assert order == [0, 3]
    assert await turns_of(limit, 1) == [1], "it goes on as before"


async def test_the_addresses_take_turns_however_many_of_one_wait() -> None:
    limit, order = TurnLimit(2), list[str]()

    async def step(ip: str) -> None:
        await limit.acquire(ip)
        order.append(ip)

    ips = [*8 * ["192.0.2.1"], *3 * ["192.0.2.2"], "2001:db8::1", "2001:db8::2"]
    await asyncio.gather(*map(step, ips))
    assert order[:2] == 2 * ["192.0.2.1"], "which waited for nothing"
    rounds = [["192.0.2.1", "192.0.2.2", "2001:db8::1"], ["192.0.2.1", "192.0.2.2", "2001:db8::2"]]
    assert [order[2:5], order[5:8]] == rounds, "a /64 of IPv6 is one address"
    assert order[8:] == ["192.0.2.1", "192.0.2.2", *3 * ["192.0.2.1"]]


async def test_cancelled_waits_of_an_address_do_not_delay_it() -> None:
    limit, order = TurnLimit(1), list[str]()

    async def step(ip: str) -> None:
        await limit.acquire(ip)
        order.append(ip)

    steps = [asyncio.ensure_future(step(ip)) for ip in [*20 * ["192.0.2.1"], *20 * ["192.0.2.2"]]]
    await asyncio.sleep(0)
    for cancelled in steps[1:19]:
        cancelled.cancel()
    await asyncio.gather(*steps, return_exceptions=True)
    assert order[:3] == ["192.0.2.1", "192.0.2.1", "192.0.2.2"]
    assert order[3:] == 19 * ["192.0.2.2"]


async def test_a_coroutine_that_continues_after_its_turn_has_the_one_in_which_it_continues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one does that `LoopBudget` holds back."""
    limit, budget, clock = TurnLimit(1), LoopBudget(), 0.0
    monkeypatch.setattr(loop_budget, "perf_counter", lambda: clock)
    were_current = list[tuple[bool, bool]]()

    async def step() -> None:
        turn = await limit.acquire(IP)
        before = limit.is_current(turn)
        await asyncio.sleep(0)
        were_current.append((before, limit.is_current(turn)))

    async def use_the_time_of_the_address() -> None:
        nonlocal clock
        while len(were_current) < 3:
            clock += loop_budget.TURN_S
            await asyncio.sleep(0)

    others = asyncio.ensure_future(budget.run(IP, use_the_time_of_the_address()))
    await asyncio.gather(*(budget.run(IP, step()) for _ in range(3)), others)
    assert were_current == 3 * [(True, False)]
    assert await turns_of(limit, 2) == await turns_of(TurnLimit(1), 2)


async def test_a_turn_is_current_until_the_coroutine_waits() -> None:
    limit, were_current = TurnLimit(2), list[tuple[bool, bool]]()

    async def step() -> None:
        turn = await limit.acquire(IP)
        before = limit.is_current(turn)
        await asyncio.sleep(0)
        were_current.append((before, limit.is_current(turn)))

    await asyncio.gather(*(step() for _ in range(7)))
    assert were_current == 7 * [(True, False)]
    assert not limit.is_current(None)
