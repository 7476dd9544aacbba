"""Logs an outage of the database: one WARNING with the reason when it begins, and one when it ends.

`failed` and `worked` are called for every statement. Only a change of state is logged, and at most one line a second,
however often the state changes. A failure ends when something of the same kind works: after a save that failed because
the disk is full, a read that works does not show that the database saves again. A connection is back when anything
works.

The supervisor of the embedded database knows why it ended, which the error of a lost connection does not show. It calls
`report` with a line. Therefore a lost connection is logged only if no report comes within `report_s_max`. If the
connection is back before that, one line has the loss and the return: PostgreSQL resets all its sessions by itself when
one of its processes crashes. An outage that is over within a second of the last line has one line too.

The end is logged when nothing has failed for a second: on a disk that is full, now and then a save finds space.

Threads: any; the methods block on nothing but the log.
"""

from __future__ import annotations

import logging
import threading
import time
from enum import Enum

log = logging.getLogger("balance.outage")

LINE_S = 1.0  # between two lines, and without a failure before the end is logged
REASON_S = 30.0  # before another reason for the same outage is logged


class Kind(Enum):
    """What failed; the value begins the line."""

    CONNECTION = "the database cannot be reached"
    SAVE = "the database cannot save"
    READ = "the database cannot be read"


CONNECTION, SAVE, READ = Kind
# How the cause is named in the line that has both the loss and the return.
PAST = {CONNECTION: "its connections were lost", SAVE: "it could not save", READ: "it could not be read"}


class Outage:
    """The state of the database, as the last statements have shown it."""

    def __init__(self, report_s_max: float = 0.0) -> None:
        self._lock = threading.Lock()
        self._failures: dict[Kind, str] = {}  # the reason of each kind that fails
        self._report_s_max = report_s_max
        self._since = 0.0  # when the outage began
        self._over_at = 0.0  # when the last of its failures ended
        self._logged: str | None = None  # the last line of this outage; None if the log has the database as available
        self._withheld: str | None = None  # the cause of an outage without a line, while one must not be written yet
        self._line_at = float("-inf")

    def failed(self, kind: Kind, reason: str) -> None:
        """Record that a statement or a connection failed; the reason is one line for the log."""
        with self._lock:
            self._note_begun()
            self._failures[kind] = reason
            self._log()

    def report(self, line: str) -> None:
        """Log the line of a supervisor, which names the cause of the outage."""
        with self._lock:
            self._note_begun()
            self._failures[CONNECTION] = line
            self._write(line)

    def worked(self, kind: Kind) -> None:
        """Record that a statement worked."""
        if not self._failures and self._logged is None and self._withheld is None:
            return
        with self._lock:
            if self._failures:
                self._failures.pop(kind, None)
                self._failures.pop(CONNECTION, None)
                self._over_at = time.monotonic()
            self._log()

    def fails(self, kind: Kind) -> bool:
        """Return whether this failed when it was tried last."""
        return kind in self._failures

    def _note_begun(self) -> None:
        if not self._failures and self._logged is None and self._withheld is None:
            self._since = time.monotonic()

    def _log(self) -> None:
        now = time.monotonic()
        is_early = now - self._line_at < LINE_S
        if self._failures:
            kind, reason = next(iter(self._failures.items()))
            line = f"{kind.value}; requests that need it get `unavailable`: {reason}"
            if self._logged is None:
                if is_early or (kind is CONNECTION and now - self._since < self._report_s_max):
                    self._withheld = f"{PAST[kind]}: {reason}"
                else:
                    self._write(line)
            elif line != self._logged and now - self._line_at >= REASON_S:
                self._write(line)
        elif now - max(self._line_at, self._over_at) >= LINE_S and not (self._logged is self._withheld is None):
            # Otherwise a later call logs it, unless something fails again; each check of the database makes one.
            cause = "" if self._withheld is None else f"; {self._withheld}"
            log.warning("the database is available again, after %.1f s%s", self._over_at - self._since, cause)
            self._logged, self._withheld, self._line_at = None, None, now

    def _write(self, line: str) -> None:
        log.warning("%s", line)
        self._logged, self._withheld, self._line_at = line, None, time.monotonic()
