"""Bound how many steps of one kind are taken in a turn of the event loop, however many coroutines are ready to.

Coroutines that wait for the same result become ready in the same turn. If each of them has some work to do then,
everything else waits for all of it. Those of one address wait behind each other, and the addresses take turns: however
many of one wait, the next one of another waits for one step of each address.

Threads: event loop only.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from balance.aio.addresses import to_address


class TurnLimit:
    """Lets a number of coroutines continue in each turn of the event loop."""

    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._left = per_turn  # in this turn
        self._turn = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # by address, the next one first

    async def acquire(self, ip: str) -> int:
        """Return in this turn if it has a step left, otherwise in one of the next; return the number of the turn."""
        if not self._left:
            step: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(to_address(ip), deque()).append(step)
            await step
            if self._left < self._per_turn:  # the turn of this step, or if `LoopBudget` held it back a later one
                return self._turn
        if self._left == self._per_turn:
            asyncio.get_running_loop().call_soon(self._begin_turn)
        self._left -= 1
        return self._turn

    def is_current(self, turn: int | None) -> bool:
        """Return whether a turn that `acquire` has returned goes on; False for None."""
        return turn == self._turn

    def _begin_turn(self) -> None:
        self._turn += 1
        self._left = self._per_turn
        while self._waiting and self._left:
            address, steps = self._waiting.popitem(last=False)
            while steps and steps[0].done():  # it was cancelled
                steps.popleft()
            if steps:
                steps.popleft().set_result(None)
                self._left -= 1
            if steps:
                self._waiting[address] = steps
        if self._left < self._per_turn:
            asyncio.get_running_loop().call_soon(self._begin_turn)
