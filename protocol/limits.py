"""What whoever runs a server may set otherwise, with the defaults: the documents tell what theirs are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings of one server that its clients should know."""

    update_bytes_max: int = 16_384
    """One update, as JSON; more than this no server allows."""
    ping_interval_s: int = 25
    """Seconds between two heartbeats (SEED.md, Heartbeat)."""
    ping_timeout_s: int = 20
    """Seconds that the answer to a heartbeat may take."""
    address: str = "127.0.0.1:3000"
    """Host and port at which it listens."""


DEFAULT = Limits()
