"""Counts the errors that are sent to clients, and the connections that a limit closes without one.

A code and a transport are of closed lists, so the counts are too.

Threads: event loop only.
"""

from __future__ import annotations

from collections import Counter

from protocol import ServiceError

HTTP, REST, SSE, SOCKET_IO = TRANSPORTS = "http", "rest", "sse", "socket_io"
"""Where an error is sent: `http` is for what no route gets, a request that cannot be read or a closed connection."""


class Refusals:
    """The errors of one process, since its start."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, str]] = Counter()
        """Of all requests and events, by transport and code."""
        self.saves: Counter[str] = Counter()
        """Of updates alone, by code."""

    def count(self, transport: str, error: ServiceError) -> None:
        """Count an error that is sent to a client, or for which its connection is closed."""
        self.answers[transport, error.code] += 1

    def count_save(self, transport: str, error: ServiceError) -> None:
        """Count an error that answers an update."""
        self.saves[error.code] += 1
        self.count(transport, error)
