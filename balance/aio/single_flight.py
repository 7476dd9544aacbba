"""Single flight for reads.

Callers that ask for the same thing while it is being read share the *next* read, not the running one, which may have
started before their own save. So there are at most two reads of one thing at a time, however many callers ask for it,
and each caller sees all that was saved before it asked. A read that no caller waits for any more is cancelled; what a
thread has begun for it ends by itself.

A result that many callers wait for is passed to a part of them in each turn of the event loop: each then has some work
to do, and everything else would wait for all of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
WOKEN_MIN = 8  # callers in one turn of the event loop
TURNS_MAX = 32  # until all callers have the result: their own time limits run on


class _Read(Generic[T]):
    """A read that runs or is about to run."""

    __slots__ = ("callers", "task", "waiting")

    def __init__(self, task: asyncio.Task[T]) -> None:
        self.task = task
        self.callers = 0
        self.waiting: deque[asyncio.Future[T]] = deque()
        """What the callers wait for, in their order."""
        task.add_done_callback(lambda done: self._wake(done, max(WOKEN_MIN, -(-len(self.waiting) // TURNS_MAX))))

    def _wake(self, task: asyncio.Task[T], per_turn: int) -> None:
        """Pass the result to the next callers."""
        error = None if task.cancelled() else task.exception()  # no caller may be left
        for _ in range(min(per_turn, len(self.waiting))):
            caller = self.waiting.popleft()
            if caller.done():  # it was cancelled
                continue
            if task.cancelled():
                caller.cancel()
            elif error is not None:
                caller.set_exception(error)
            else:
                caller.set_result(task.result())
        if self.waiting:
            asyncio.get_running_loop().call_soon(self._wake, task, per_turn)


class SingleFlight(Generic[T]):
    """The reads that run or are about to run, by key. Event loop only."""

    def __init__(self) -> None:
        self._running: dict[Hashable, _Read[T]] = {}
        self._queued: dict[Hashable, _Read[T]] = {}

    async def run(self, key: Hashable, fetch: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of a read of `key` that starts after this call. Raises what `fetch` raises."""
        read = self._queued.get(key)
        if read is None:
            read = _Read(asyncio.ensure_future(self._fetch(key, fetch, self._running.get(key))))
            self._queued[key] = read
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        read.waiting.append(result)
        read.callers += 1
        try:
            return await result  # not of the task: one caller that is cancelled does not cancel it for the others
        finally:
            read.callers -= 1
            if not read.callers:
                self._cancel(key, read)
            del read, result  # their exception refers to this frame, and so to the caller

    def _cancel(self, key: Hashable, read: _Read[T]) -> None:
        """Cancel a read, if it is not done."""
        read.task.cancel()
        if self._queued.get(key) is read:
            del self._queued[key]

    async def _fetch(self, key: Hashable, fetch: Callable[[], Coroutine[Any, Any, T]], before: _Read[T] | None) -> T:
        if before is not None:
            await asyncio.wait([before.task])
            before = None  # otherwise each failed read would keep all those before it
        self._running[key] = self._queued.pop(key)
        try:
            return await fetch()
        finally:
            del self._running[key]
