"""Single flight for reads.

Callers that ask for the same thing while it is being read share the *next* read, not the running one, which may have
started before their own save. So there are at most two reads of one thing at a time, however many callers ask for it,
and each caller sees all that was saved before it asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """The reads that run or are about to run, by key. Event loop only."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[T]] = {}
        self._queued: dict[Hashable, asyncio.Task[T]] = {}

    async def run(self, key: Hashable, fetch: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of a read of `key` that starts after this call. Raises what `fetch` raises."""
        task = self._queued.get(key)
        if task is None:
            task = asyncio.ensure_future(self._fetch(key, fetch, self._running.get(key)))
            self._queued[key] = task
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # all callers may have given up
        try:
            return await asyncio.shield(task)  # one caller that is cancelled does not cancel it for the others
        finally:
            del task  # its exception refers to this frame, and so to the caller

    async def _fetch(
        self, key: Hashable, fetch: Callable[[], Coroutine[Any, Any, T]], before: asyncio.Task[T] | None
    ) -> T:
        if before is not None:
            await asyncio.wait([before])
            before = None  # otherwise each failed read would keep all those before it
        self._running[key] = self._queued.pop(key)
        try:
            return await fetch()
        finally:
            if key not in self._queued:
                del self._running[key]
