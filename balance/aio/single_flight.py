"""Reads that are shared: who asks what is being read just now waits for the next read, with all who ask it meanwhile.

Not for that one: it may have begun before what they saved. So a hundred dashboards that ask for the newest page cost
the database two reads at a time, and each sees all that was saved before it asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Reads, by what they ask for; on the event loop."""

    def __init__(self) -> None:
        self._reading: dict[Hashable, asyncio.Task[T]] = {}
        self._next: dict[Hashable, asyncio.Task[T]] = {}

    async def get(self, question: Hashable, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Give the outcome of a read that begins after this call does. Raises what `read` raises."""
        task = self._next.get(question)
        if task is None:
            task = asyncio.ensure_future(self._read(question, read, self._reading.get(question)))
            self._next[question] = task
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # all may have given up
        return await asyncio.shield(task)  # who gives up does not end it for the others

    async def _read(
        self, question: Hashable, read: Callable[[], Coroutine[Any, Any, T]], before: asyncio.Task[T] | None
    ) -> T:
        if before is not None:
            await asyncio.wait([before])
        self._reading[question] = self._next.pop(question)
        try:
            return await read()
        finally:
            if question not in self._next:
                del self._reading[question]
