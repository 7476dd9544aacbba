"""Whether the process has descriptors for new connections: counts those that were closed for want of one, and logs it.

Threads: event loop only.
"""

from __future__ import annotations

import resource

from balance.web.logged_period import LoggedPeriod

RESERVED = 64  # for the database, files and the event loop


class Descriptors:
    """The descriptors for connections of clients."""

    def __init__(self) -> None:
        self.limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.dropped = 0
        """The connections that were closed at once."""
        self.failures = 0
        """The attempts to accept a connection that failed."""
        self._shortage = LoggedPeriod("new connections are accepted again")

    def has_room_for(self, descriptor: int) -> bool:
        """Return whether a new connection with this descriptor may stay; one that may not is counted as dropped."""
        if not 0 < self.limit - RESERVED < descriptor:
            return True
        allowed = f"clients may have {self.limit - RESERVED} of {self.limit} open files"
        self._shortage.note(f"new connections are closed: {allowed}", 1)
        self.dropped += 1
        return False

    def note_failure(self, error: OSError) -> None:
        """Count that a connection could not be accepted; it waits until that is possible."""
        self._shortage.note(f"no connection can be accepted: {error.strerror}", 0)
        self.failures += 1

    def check(self) -> None:
        """Log the end of a shortage, if it is over; called at intervals."""
        self._shortage.check()
