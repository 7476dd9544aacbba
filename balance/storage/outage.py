"""Says in the log that the database stopped serving, why, and that it serves again: one WARNING each.

`failed` and `worked` are called for every statement; only a change of state is logged, and at most one line a second,
however often the state changes. A trouble ends when something of the same kind works: after a save that failed because
the disk is full, reads that work do not mean that the database takes saves. A connection is back when anything works.

Where a supervisor of the database knows the cause, which is better than the error of a broken connection, it calls
`report` with its line. A lost connection is then logged only if there is no report within `report_s_max`, or when it is
back before that: PostgreSQL resets all its sessions by itself when one of its processes crashes.

Threads: any; the methods never block on anything but the log.
"""

from __future__ import annotations

import logging
import threading
import time
from enum import Enum

log = logging.getLogger("balance.outage")

LINE_S = 1.0  # between two lines
AGAIN_S = 30.0  # before another reason for the same outage is logged


class Kind(Enum):
    """What failed; the value begins the line."""

    CONNECTION = "the database is away"
    SAVE = "the database takes no saves"
    READ = "the database answers no reads"


CONNECTION, SAVE, READ = Kind


class Outage:
    """Whether the database serves, as far as is known."""

    def __init__(self, report_s_max: float = 0.0) -> None:
        self._lock = threading.Lock()
        self._troubles: dict[Kind, str] = {}
        self._report_s_max = report_s_max
        self._since = 0.0
        self._logged: str | None = None  # the line that says so; None if the log says that the database serves
        self._withheld: str | None = None  # why the connection was lost, while a report may come
        self._line_at = float("-inf")

    def failed(self, kind: Kind, reason: str) -> None:
        """Note that a statement or a connection failed; the reason is one line for the log."""
        with self._lock:
            if not self._troubles:
                self._since = time.monotonic()
            self._troubles[kind] = reason
            self._log()

    def report(self, line: str) -> None:
        """Log the line of a supervisor, which says why the database is gone."""
        with self._lock:
            if not self._troubles:
                self._since = time.monotonic()
            self._troubles[CONNECTION] = line
            self._write(line)

    def worked(self, kind: Kind) -> None:
        """Note that a statement worked."""
        if not self._troubles and self._logged is None and self._withheld is None:
            return
        with self._lock:
            self._troubles.pop(kind, None)
            self._troubles.pop(CONNECTION, None)
            self._log()

    def _log(self) -> None:
        now = time.monotonic()
        if now - self._line_at < LINE_S:
            return  # the next call says it; one comes at least with each check of the database
        if self._troubles:
            kind, reason = next(iter(self._troubles.items()))
            line = f"{kind.value}, what needs it is answered `unavailable`: {reason}"
            if kind is CONNECTION and self._logged is None and now - self._since < self._report_s_max:
                self._withheld = reason
                return
            if self._logged is None or (line != self._logged and now - self._line_at >= AGAIN_S):
                self._write(line)
        elif self._logged is not None or self._withheld is not None:
            cause = "" if self._withheld is None else f"; it was away: {self._withheld}"
            log.warning("the database is there again, after %.1f s%s", now - self._since, cause)
            self._logged, self._withheld, self._line_at = None, None, now

    def _write(self, line: str) -> None:
        log.warning("%s", line)
        self._logged, self._withheld, self._line_at = line, None, time.monotonic()
