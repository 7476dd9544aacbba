"""The transports that send the feed to their clients.

Threads: event loop only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from balance.snapshot import EncodedSnapshot

log = logging.getLogger("balance.feed")

BETWEEN_POLLS_S_MAX = 2.0  # of a client, in which the newest snapshots stay in memory for it


class FeedListener(Protocol):
    """A transport that sends the feed to its clients. Event loop only; no method waits."""

    @property
    def has_watchers(self) -> bool:
        """Whether it has a client to publish to; without one, nothing is encoded for it."""

    def publish(self, snapshots: Sequence[EncodedSnapshot]) -> None:
        """Send snapshots to all clients; they follow those of the call before."""

    def end_all(self) -> None:
        """Disconnect every client, so that it resumes."""


class Listeners:
    """All transports, and the calls that follow the feed for a while. A listener that fails disturbs no other."""

    def __init__(self) -> None:
        self._listeners: list[FeedListener] = []
        self._followers = 0
        self._followed_at = float("-inf")  # when the last of them ended, by the monotonic clock

    def add(self, listener: FeedListener) -> None:
        """Publish to a listener from now on."""
        self._listeners.append(listener)

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Count as a watcher within a block, and for a while after it: a client that polls comes again."""
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            self._followed_at = monotonic()

    @property
    def has_watchers(self) -> bool:
        """Whether there is a client to publish to."""
        is_followed = self._followers > 0 or monotonic() - self._followed_at < BETWEEN_POLLS_S_MAX
        return is_followed or any(listener.has_watchers for listener in self._listeners)

    def publish(self, snapshots: Sequence[EncodedSnapshot]) -> None:
        """Publish to every listener that has watchers."""
        for listener in self._listeners:
            try:
                if listener.has_watchers:
                    listener.publish(snapshots)
            except Exception:
                log.exception("%d snapshots could not be published", len(snapshots))
                _end_all(listener)  # a part of its clients may have received them

    def end_all(self) -> None:
        """Disconnect the clients of every listener, so that they resume."""
        for listener in self._listeners:
            _end_all(listener)


def _end_all(listener: FeedListener) -> None:
    try:
        listener.end_all()
    except Exception:
        log.exception("the clients of a listener could not be disconnected")
