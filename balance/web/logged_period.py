"""A time in which new connections are closed or not accepted: one line in the log when it begins, and one at its end.

However many connections come meanwhile, they are counted and have no line of their own.

Threads: event loop only.
"""

from __future__ import annotations

import logging
import time

log = logging.getLogger("balance.connections")

OVER_S = 2.0  # without another connection that is affected: then the time is over


class LoggedPeriod:
    """One reason for which connections are closed or not accepted, and whether it holds now."""

    def __init__(self, end: str) -> None:
        """Describe a reason that does not hold; `end` is the line that it no longer does, without the figures."""
        self._end = end
        self._since: float | None = None  # when it began to hold; None while it does not
        self._last_at = 0.0
        self._closed_count = 0  # since it began

    def note(self, line: str, closed: int) -> None:
        """Note that connections are affected, of which `closed` were closed; log the line if none was before."""
        self._last_at = time.monotonic()
        if self._since is None:
            self._since, self._closed_count = self._last_at, 0
            log.warning("%s", line)
        self._closed_count += closed

    def check(self) -> None:
        """Log the end, if it is over; called at intervals."""
        if self._since is not None and time.monotonic() - self._last_at > OVER_S:
            log.warning("%s, after %.1f s; %d were closed", self._end, self._last_at - self._since, self._closed_count)
            self._since = None
