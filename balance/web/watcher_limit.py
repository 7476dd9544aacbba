"""Limits on the clients that watch: how many there are, and how often one address begins to."""

from __future__ import annotations

from collections.abc import Sized

import protocol
from balance.aio.addresses import to_address
from balance.rate_limit import RateLimit


class WatcherLimit:
    """A limit on the clients that watch, on all transports together, and on the handshakes of each address."""

    def __init__(self, watchers_max: int, handshakes: RateLimit, *watchers: Sized) -> None:
        """Limit the number of all watchers; the length of each of `watchers` is that of one transport."""
        self._watchers_max = watchers_max
        self._handshakes = handshakes
        self._watchers = watchers

    def check(self) -> None:
        """Check that one more client may watch. Raises Busy."""
        if sum([len(one) for one in self._watchers]) >= self._watchers_max:
            raise protocol.Busy(f"{self._watchers_max} clients are connected already")

    def count_handshake(self, ip: str) -> None:
        """Count the handshake of a client with this IP address. Raises RateLimited."""
        if self._handshakes.is_on:
            self._handshakes.acquire(to_address(ip))
