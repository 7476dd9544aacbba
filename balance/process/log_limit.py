"""A log handler that writes at most one line a second of each kind, so that a repeated fault does not flood the log.

The program installs the handler once, and code logs as usual. Records are of one kind if the same line of code logs
them with the same type of exception. The first record is written at once. Of the records of the next second only the
last is written, at the end of that second, with the number of omitted ones. A message of several lines (a traceback) is
written in full once a minute, otherwise as its first line and the exception. The records of `balance.request_log`,
which has a limit of its own, are all written.

A function that logs on behalf of its callers passes `stacklevel=2`, so that each caller is a kind of its own.

Threads: any may log; the logging module holds the handler's lock around `emit`. Each burst starts one timer thread,
which lives for a second at most. Life cycle: `close`, which `logging.shutdown` calls at exit, writes the withheld
records.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any, TextIO

from balance.process.log_writer import LogWriter
from balance.request_log import SAMPLED

LINE_S = 1.0  # between two lines of one kind
TRACEBACK_S = 60.0  # between two of one kind that are written with all their lines


@dataclass(slots=True)
class _Kind:
    """The state of one kind; times are of the monotonic clock."""

    line_due: float = 0.0
    traceback_due: float = 0.0
    withheld: logging.LogRecord | None = None  # the last record since the last line
    omitted: int = 0  # records before that one, since the last line


class LimitedHandler(logging.StreamHandler[Any]):
    """Writes at most one line a second of each kind to a stream, by default stderr."""

    def __init__(self, stream: TextIO | LogWriter | None = None) -> None:
        super().__init__(stream)
        # The lines of code that log and the types of exceptions limit its size.
        self._kinds: dict[tuple[object, ...], _Kind] = {}
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or withhold it if one of its kind was written within the last second."""
        if hasattr(record, SAMPLED):
            super().emit(record)
            return
        exception = record.exc_info[0] if record.exc_info else None
        kind = self._kinds.setdefault((record.name, record.pathname, record.lineno, exception), _Kind())
        now = time.monotonic()
        if kind.withheld is None and now >= kind.line_due:
            self._write(kind, record, now)
            return
        if kind.withheld is not None:
            kind.omitted += 1
        kind.withheld = record
        self._start_timer(kind.line_due - now)

    def close(self) -> None:
        """Write the withheld records and close the handler."""
        if self._timer is not None:
            self._timer.cancel()
        self._write_withheld(before=float("inf"))
        super().close()

    def _start_timer(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = threading.Timer(max(0.0, seconds), self._end_second)
            self._timer.daemon = True
            self._timer.start()

    def _end_second(self) -> None:
        assert self.lock is not None, "every handler has a lock"
        with self.lock:
            self._timer = None
            now = time.monotonic()
            self._write_withheld(before=now)
            due = [kind.line_due for kind in self._kinds.values() if kind.withheld is not None]
            if due:
                self._start_timer(min(due) - now)

    def _write_withheld(self, before: float) -> None:
        now = time.monotonic()
        for kind in self._kinds.values():
            if kind.withheld is not None and kind.line_due <= before:
                self._write(kind, kind.withheld, now)

    def _write(self, kind: _Kind, record: logging.LogRecord, now: float) -> None:
        written = copy.copy(record)  # other handlers get the record unchanged
        written.msg, written.args = record.getMessage(), None
        if now < kind.traceback_due:
            written.msg = _first_line(written.msg)
            if record.exc_info and record.exc_info[1] is not None:
                written.msg += f": {type(record.exc_info[1]).__name__}: {_first_line(str(record.exc_info[1]))}"
            written.exc_info = written.exc_text = written.stack_info = None
        else:
            kind.traceback_due = now + TRACEBACK_S
        if kind.omitted:
            written.msg += f" (and {kind.omitted} more of this kind)"
        kind.line_due, kind.withheld, kind.omitted = now + LINE_S, None, 0
        super().emit(written)


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
