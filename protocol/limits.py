"""The settings of a server that its clients should know, with their defaults; the documents state them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits and the address of one server."""

    update_bytes_max: int = 16_384
    """The largest update, as JSON. No server allows more than the default."""
    ping_interval_s: int = 25
    """Seconds between two heartbeats (docs/spec.md, Heartbeat)."""
    ping_timeout_s: int = 20
    """Seconds within which a heartbeat must be answered."""
    address: str = "127.0.0.1:3000"
    """Host and port of the server, as its clients see it."""
    scheme: str = "http"
    """`http`, or `https` where clients speak TLS."""
    prefix: str = ""
    """What comes before every path: empty, or as in `/prefix`."""


DEFAULT = Limits()
