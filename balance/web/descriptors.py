"""Whether the process has descriptors for new connections: counts those that were closed for want of one, and logs it.

A shortage has one line when it begins and one when it is over, however many connections come meanwhile.

Threads: event loop only.
"""

from __future__ import annotations

import logging
import resource
import time

log = logging.getLogger("balance.connections")

RESERVED = 64  # for the database, files and the event loop
OVER_S = 2.0  # without another connection that is affected: then a shortage is over


class Descriptors:
    """The descriptors for connections of clients."""

    def __init__(self) -> None:
        self.limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.dropped = 0
        """The connections that were closed at once."""
        self._dropped_before = 0  # the shortage
        self._since: float | None = None  # when the shortage began; None while there is none
        self._last_at = 0.0

    def has_room_for(self, descriptor: int) -> bool:
        """Return whether a new connection with this descriptor may stay; one that may not is counted as dropped."""
        if not 0 < self.limit - RESERVED < descriptor:
            return True
        self._note(f"new connections are closed: clients may have {self.limit - RESERVED} of {self.limit} open files")
        self.dropped += 1
        return False

    def note_failure(self, error: OSError) -> None:
        """Note that a connection could not be accepted; it waits until that is possible."""
        self._note(f"no connection can be accepted: {error.strerror}")

    def check(self) -> None:
        """Log the end of a shortage, if it is over; called at intervals."""
        if self._since is not None and time.monotonic() - self._last_at > OVER_S:
            seconds, closed = self._last_at - self._since, self.dropped - self._dropped_before
            log.warning("new connections are accepted again, after %.1f s; %d were closed", seconds, closed)
            self._since = None

    def _note(self, line: str) -> None:
        self._last_at = time.monotonic()
        if self._since is None:
            self._since, self._dropped_before = self._last_at, self.dropped
            log.warning("%s", line)
