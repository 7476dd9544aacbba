"""Handle many items in slices of the event loop's time: what belongs to each client of thousands delays nobody.

Threads: event loop only. Between two slices everything else that is ready runs, and the other threads get the
interpreter's lock.
Not promised: an order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Generic, TypeVar

from balance.aio.loop_budget import GIL_PAUSE_S

log = logging.getLogger("balance.aio")

T = TypeVar("T")
SLICE_S = 0.001  # what an item starts, such as a task, runs in the next turn and takes as long again


class Slices:
    """The time of a coroutine that has much to do: it calls `is_over` between two parts, and then awaits `next`."""

    def __init__(self) -> None:
        self._until = perf_counter() + SLICE_S

    def is_over(self) -> bool:
        """Return whether everything else should have its turn."""
        return perf_counter() >= self._until

    async def next(self) -> None:
        """Let everything else run that is ready; a new slice begins when this returns."""
        _release_lock()
        await asyncio.sleep(0)
        self._until = perf_counter() + SLICE_S


class SlicedWork(Generic[T]):
    """The items that are still to be handled."""

    def __init__(self, handle: Callable[[T], object]) -> None:
        """Call `handle` once for each item."""
        self._handle = handle
        self._items: dict[T, None] = {}
        self._is_scheduled = False

    def add(self, items: Iterable[T]) -> None:
        """Handle these too, from the next turn of the event loop on."""
        self._items.update(dict.fromkeys(items))
        self._schedule()

    def discard(self, item: T) -> None:
        """Do not handle an item, if it is still to be handled."""
        self._items.pop(item, None)

    def finish(self) -> None:
        """Handle all that is left now."""
        while self._items:
            self._handle_one()

    def _schedule(self) -> None:
        if self._items and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._run_slice)

    def _run_slice(self) -> None:
        self._is_scheduled = False
        until = perf_counter() + SLICE_S
        while self._items:
            self._handle_one()
            if perf_counter() >= until:
                break
        _release_lock()
        self._schedule()

    def _handle_one(self) -> None:
        item, _ = self._items.popitem()
        try:
            self._handle(item)
        except Exception:
            log.exception("an item could not be handled")


def _release_lock() -> None:
    """Let a thread run that waits for the interpreter's lock, as in `loop_budget`."""
    time.sleep(GIL_PAUSE_S)
