"""Logs an outage of the database: one WARNING with the reason when it begins, and one when it ends.

`failed` and `worked` are called for every statement. Only a change of state is logged, and at most one line a second,
however often the state changes. A failure ends when something of the same kind works: after a save that failed because
the disk is full, a read that works does not show that the database saves again. A connection is back when anything
works.

The supervisor of the embedded database knows why it ended, which the error of a lost connection does not show. It calls
`report` with a line. Therefore a lost connection is logged only if no report comes within `report_s_max`. If the
connection is back before that, one line has the loss and the return: PostgreSQL resets all its sessions by itself when
one of its processes crashes.

Threads: any; the methods block on nothing but the log.
"""

from __future__ import annotations

import logging
import threading
import time
from enum import Enum

log = logging.getLogger("balance.outage")

LINE_S = 1.0  # between two lines
REASON_S = 30.0  # before another reason for the same outage is logged


class Kind(Enum):
    """What failed; the value begins the line."""

    CONNECTION = "the database cannot be reached"
    SAVE = "the database cannot save"
    READ = "the database cannot be read"


CONNECTION, SAVE, READ = Kind


class Outage:
    """The state of the database, as the last statements have shown it."""

    def __init__(self, report_s_max: float = 0.0) -> None:
        self._lock = threading.Lock()
        self._failures: dict[Kind, str] = {}  # the reason of each kind that fails
        self._report_s_max = report_s_max
        self._since = 0.0
        self._logged: str | None = None  # the last line of this outage; None if the log has the database as available
        self._withheld: str | None = None  # why the connection was lost, while a report may come
        self._line_at = float("-inf")

    def failed(self, kind: Kind, reason: str) -> None:
        """Record that a statement or a connection failed; the reason is one line for the log."""
        with self._lock:
            if not self._failures:
                self._since = time.monotonic()
            self._failures[kind] = reason
            self._log()

    def report(self, line: str) -> None:
        """Log the line of a supervisor, which names the cause of the outage."""
        with self._lock:
            if not self._failures:
                self._since = time.monotonic()
            self._failures[CONNECTION] = line
            self._write(line)

    def worked(self, kind: Kind) -> None:
        """Record that a statement worked."""
        if not self._failures and self._logged is None and self._withheld is None:
            return
        with self._lock:
            self._failures.pop(kind, None)
            self._failures.pop(CONNECTION, None)
            self._log()

    def fails(self, kind: Kind) -> bool:
        """Return whether this failed when it was tried last."""
        return kind in self._failures

    def _log(self) -> None:
        now = time.monotonic()
        if now - self._line_at < LINE_S:
            return  # a later call logs it; each check of the database makes one
        if self._failures:
            kind, reason = next(iter(self._failures.items()))
            line = f"{kind.value}; requests that need it get `unavailable`: {reason}"
            if kind is CONNECTION and self._logged is None and now - self._since < self._report_s_max:
                self._withheld = reason
                return
            if self._logged is None or (line != self._logged and now - self._line_at >= REASON_S):
                self._write(line)
        elif self._logged is not None or self._withheld is not None:
            cause = "" if self._withheld is None else f"; its connections were lost: {self._withheld}"
            log.warning("the database is available again, after %.1f s%s", now - self._since, cause)
            self._logged, self._withheld, self._line_at = None, None, now

    def _write(self, line: str) -> None:
        log.warning("%s", line)
        self._logged, self._withheld, self._line_at = line, None, time.monotonic()
