"""Limits in time: how often each caller or address may do something, and the refusal of what is over a limit.

Each key has a token bucket: it holds BURST_S seconds of the rate, so that a bot that was away may send at once what it
has stored. It is kept as one number, the moment at which the bucket is full again (the generic cell rate algorithm,
ITU-T I.371). A key whose bucket is full needs no entry, so that memory is bounded by the keys of the last BURST_S
seconds.

Threads: event loop only. Nothing waits. While a limit is off (0), `is_on` is all that is read of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import protocol
from balance.config import Config

BURST_S = 10
ROUNDING_S = 1e-6  # by which sums of intervals may be off
ENTRIES_MIN = 1_024  # from which on full buckets are searched for


class RateLimit:
    """How often each key may do one thing."""

    __slots__ = ("_entries_max", "_full_at", "_interval", "_per_s", "_reason", "_what", "clock", "is_on")

    def __init__(self, what: str, per_s: int, reason: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Limit `what`, the name of the policy, to `per_s` a second, 0 for no limit; `reason` goes to a client."""
        self.is_on = per_s > 0
        self.clock = clock
        self._what = what
        self._per_s = per_s
        self._reason = reason
        self._interval = 1 / per_s if per_s else 0.0
        self._full_at: dict[str, float] = {}
        self._entries_max = ENTRIES_MIN

    def __len__(self) -> int:
        return len(self._full_at)

    def acquire(self, key: str) -> None:
        """Count one for a key. Raises RateLimited if its bucket is empty, and counts nothing then."""
        now = self.clock()
        full_at = max(self._full_at.get(key, now), now) + self._interval
        if full_at - now > BURST_S + ROUNDING_S:
            raise self._refusal(full_at - now)
        self._full_at[key] = full_at
        if len(self._full_at) > self._entries_max:
            self._discard_full(now)

    def check(self, key: str) -> None:
        """Check that one could be counted for a key. Raises RateLimited."""
        full_in = self._full_in(key) + self._interval
        if full_in > BURST_S + ROUNDING_S:
            raise self._refusal(full_in)

    def headers(self, key: str) -> dict[str, str]:
        """Return the headers that state what a key has left (draft-ietf-httpapi-ratelimit-headers-11)."""
        return self._headers(self._full_in(key))

    def _full_in(self, key: str) -> float:
        now = self.clock()
        return max(self._full_at.get(key, now) - now, 0.0)

    def _headers(self, full_in: float) -> dict[str, str]:
        remaining = max(int((BURST_S - full_in + ROUNDING_S) * self._per_s), 0)
        return {
            "RateLimit-Policy": f'"{self._what}";q={self._per_s * BURST_S};w={BURST_S}',
            "RateLimit": f'"{self._what}";r={remaining};t={ceil(full_in - ROUNDING_S)}',
        }

    def _refusal(self, full_in: float) -> protocol.RateLimited:
        """Return the error for one that would make a bucket full in `full_in` seconds, later than it may be."""
        wait_s = max(ceil(full_in - BURST_S - ROUNDING_S), 1)
        return protocol.RateLimited(
            f"{self._per_s} {self._reason}", wait_s=wait_s, headers=self._headers(full_in - self._interval)
        )

    def _discard_full(self, now: float) -> None:
        """Discard the full buckets. The work is in proportion to the entries that were added since the last time."""
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        self._entries_max = max(ENTRIES_MIN, 2 * len(self._full_at))


class RateLimits(NamedTuple):
    """The limits in time of one server."""

    saves: RateLimit
    """By token, or by address without one: the updates that are sent."""
    accepts: RateLimit
    """By address: the connections that are opened, each with at most one TLS handshake."""
    handshakes: RateLimit
    """By address: the Socket.IO sessions and the event streams that are begun."""
    failed_logins: RateLimit
    """By address: the credentials that are not valid."""

    @classmethod
    def make(cls, config: Config) -> RateLimits:
        """Make the limits of the settings."""
        return cls(
            RateLimit("saves", config.saves_per_s_max, "updates a second are allowed for one token or address"),
            RateLimit("accepts", config.accepts_per_s_max, "new connections a second are allowed for one address"),
            RateLimit("handshakes", config.handshakes_per_s_max, "handshakes a second are allowed for one address"),
            RateLimit(
                "failed-logins", config.failed_logins_per_s_max, "invalid tokens a second are allowed for one address"
            ),
        )
