"""A client that is connected, as an operator sees it. Each transport describes its own clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from balance.request_context import RequestContext


class OpenConnection(NamedTuple):
    """One client that watches."""

    context: RequestContext
    """That of the request that opened it."""
    transport: str
    """`websocket`, `polling` or `sse`."""
    since: float
    """When it was opened, by `time.monotonic`."""
    backlog_bytes: int
    """What waits to be sent, and what the operating system has not accepted."""
    is_live: bool
    """Whether it has been sent everything so far; else it is connecting, or what it has missed is being sent."""
    replayed: int | None = None
    """The `seq` up to which it has been sent what it has missed; None if it is not live and not being sent that yet."""

    def position(self, head: int | None) -> int | None:
        """Return the `seq` up to which it has been sent everything; `head` is the end of the feed, None if unknown."""
        return head if self.is_live else self.replayed


class Transport(Protocol):
    """The clients of one transport."""

    def largest_backlogs(self, count: int) -> Sequence[OpenConnection]:
        """Describe the clients with the largest backlogs, at most this number, the largest first."""
