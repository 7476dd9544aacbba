"""A limit on what is done at once, shared out by address: a caller over it fails at once.

An address may hold as many places as it leaves free for others: at most half of them, and always some are left, however
many addresses hold as many as they may.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import protocol
from balance.aio.addresses import to_address


class Places:
    """A number of places. Belongs to the event loop."""

    def __init__(self, number: int, what: str) -> None:
        self._number = number
        self._what = what
        self._taken: Counter[str] = Counter()  # by address
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def take(self, ip: str) -> Iterator[None]:
        """Hold a place for a client of this IP address. Raises Busy when there is none."""
        address, taken = to_address(ip), self._taken.total()
        if taken >= self._number:
            raise protocol.Busy(f"{self._number} {self._what} wait already")
        if self._taken[address] >= self._number - taken:
            raise protocol.Busy(f"{self._taken[address]} {self._what} of this address wait already")
        self._taken[address] += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._taken[address] -= 1
            if not self._taken[address]:
                del self._taken[address]
            if not self._taken:
                self._idle.set()

    async def drain(self, seconds_max: float) -> None:
        """Wait until every place is free."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds_max)
