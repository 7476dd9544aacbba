"""Single flight for reads.

Callers that ask for the same thing while it is being read share the *next* read, not the running one, which may have
started before their own save. So there are at most two reads of one thing at a time, however many callers ask for it,
and each caller sees all that was saved before it asked. A read that no caller waits for any more is cancelled; what a
thread has begun for it ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Read(Generic[T]):
    """A read that runs or is about to run."""

    __slots__ = ("callers", "task")

    def __init__(self, task: asyncio.Task[T]) -> None:
        self.task = task
        self.callers = 0


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
            read.task.add_done_callback(lambda done: done.cancelled() or done.exception())  # no caller may be left
        read.callers += 1
        try:
            return await asyncio.shield(read.task)  # one caller that is cancelled does not cancel it for the others
        finally:
            read.callers -= 1
            if not read.callers:
                self._cancel(key, read)
            del read  # the exception of its task refers to this frame, and so to the caller

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
