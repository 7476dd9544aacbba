"""Places: so many at once, and whoever comes when all are taken is told so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import protocol


class Places:
    """A number of places, on the event loop."""

    def __init__(self, number: int, what: str) -> None:
        self._number = number
        self._what = what
        self._taken = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold a place. Raises Busy when there is none."""
        if self._taken >= self._number:
            raise protocol.Busy(f"{self._number} {self._what} wait already")
        self._taken += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._taken -= 1
            if not self._taken:
                self._idle.set()

    async def drain(self, seconds_max: float) -> None:
        """Wait until every place is free."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds_max)
