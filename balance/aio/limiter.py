"""A concurrency limit, shared out by address, that never queues: a caller over the limit fails at once.

An address may hold at most as many slots as stay free: half of all slots if it is the only one, half of the rest if it
is the second. So no address can use up the slots of the others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from balance.aio.addresses import to_address


class LimitExceeded(Exception):
    """No slot is free. The text is for clients."""


class CapacityLimiter:
    """A number of slots. Event loop only."""

    def __init__(self, capacity: int, what: str) -> None:
        """Make `capacity` slots; `what` names in the plural what holds them, for the texts of LimitExceeded."""
        self._capacity = capacity
        self._what = what
        self._in_use: Counter[str] = Counter()  # by address
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """Return the number of slots that are held."""
        return self._in_use.total()

    @contextmanager
    def slot(self, ip: str) -> Iterator[None]:
        """Hold a slot for a client of this IP address within the block. Raises LimitExceeded."""
        address, in_use = to_address(ip), len(self)
        if in_use >= self._capacity:
            raise LimitExceeded(f"{self._capacity} {self._what} wait already")
        if self._in_use[address] >= self._capacity - in_use:
            raise LimitExceeded(f"{self._in_use[address]} {self._what} of this address wait already")
        self._in_use[address] += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_use[address] -= 1
            if not self._in_use[address]:
                del self._in_use[address]
            if not self._in_use:
                self._idle.set()

    async def wait_idle(self, seconds_max: float) -> None:
        """Wait until every slot is free."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds_max)
