"""A limit on the connections of each address.

A connection counts from its acceptance to its end. One of a trusted proxy carries the requests of many clients: it
counts for the client of each request, from the head of the request to the end of its response, or to the end of
the stream or WebSocket that it becomes.

A few connections over the limit are served for one request, which is answered with the reason; more are closed at once.

Threads: event loop only.
"""

from __future__ import annotations

from collections.abc import Callable

import protocol

ANSWERED_MAX = 16  # connections of one address over the limit that get an answer


class Slot:
    """One counted connection."""

    __slots__ = ("_release", "is_over")

    def __init__(self, release: Callable[[], None], *, is_over: bool) -> None:
        self._release: Callable[[], None] | None = release
        self.is_over = is_over
        """Whether the connection is over the limit."""

    def release(self) -> None:
        """Count the connection no more; a second call changes nothing."""
        if self._release is not None:
            release, self._release = self._release, None
            release()


class ConnectionLimit:
    """How many connections each address has."""

    def __init__(self, per_address_max: int) -> None:
        """Limit each address to this number of connections; 0 turns the limit off."""
        self.is_on = per_address_max > 0
        self._max = per_address_max
        self._counts: dict[str, int] = {}  # by address, of those with a connection

    def __len__(self) -> int:
        return len(self._counts)

    def acquire(self, address: str) -> Slot | None:
        """Count one more connection of an address; None if it is to be closed at once."""
        number = self._counts.get(address, 0) + 1
        if number > self._max + ANSWERED_MAX:
            return None
        self._counts[address] = number
        return Slot(lambda: self._release(address), is_over=number > self._max)

    def _release(self, address: str) -> None:
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]

    def refusal(self) -> protocol.RateLimited:
        """Return the answer to a request on a connection over the limit."""
        headers = {
            "RateLimit-Policy": f'"connections";q={self._max};qu="concurrent-requests"',
            "RateLimit": '"connections";r=0',
        }
        return protocol.RateLimited(f"{self._max} connections are allowed for one address", headers=headers)
