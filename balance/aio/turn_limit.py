"""Bound how many steps of one kind are taken in a turn of the event loop, however many coroutines are ready to.

Coroutines that wait for the same result become ready in the same turn. If each of them has some work to do then,
everything else waits for all of it.

Threads: event loop only.
"""

from __future__ import annotations

import asyncio
from collections import deque


class TurnLimit:
    """Lets a number of coroutines continue in each turn of the event loop; first in, first out."""

    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._left = per_turn  # in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        """Return in this turn if it has a step left, otherwise in the first one that has."""
        if self._left == self._per_turn:
            asyncio.get_running_loop().call_soon(self._begin_turn)
        if self._left:
            self._left -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _begin_turn(self) -> None:
        self._left = self._per_turn
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():  # it was not cancelled
                turn.set_result(None)
                self._left -= 1
        if self._left < self._per_turn:
            asyncio.get_running_loop().call_soon(self._begin_turn)
