"""Write the log by a thread of its own, so that a reader that stalls never stalls the service.

A pipe or a terminal accepts nothing while its reader is stopped, and a write then blocks its thread. Here only the
thread of the writer blocks. What waits meanwhile is limited: later lines are dropped, and the next line that is written
has their number.

Threads: `write` may be called from any and never blocks. Life cycle: `close` waits a limited time for what is left.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import TextIO

LINES_MAX = 1_000  # that wait
CLOSE_S_MAX = 1.0


class LogWriter:
    """A stream of text, as `logging.StreamHandler` uses it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._is_closed = False
        self._changed = threading.Condition()  # guards all of these
        self._thread = threading.Thread(target=self._run, name="balance-log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Have a text written, unless too much waits already."""
        with self._changed:
            if len(self._lines) >= LINES_MAX:
                self._dropped += 1
                return
            self._lines.append(text)
            self._changed.notify_all()

    def flush(self) -> None:
        """Return at once: the thread flushes each text."""

    def wait_written(self, seconds_max: float = CLOSE_S_MAX) -> None:
        """Wait until everything is written, but no longer than this."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines, seconds_max)

    def close(self) -> None:
        """Write what is left, for a limited time, and end the thread."""
        self.wait_written()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(0 if self._lines else CLOSE_S_MAX)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._is_closed)
                if self._is_closed:
                    return
                text, dropped = self._lines[0], self._dropped
                self._dropped = 0
            if dropped:
                text = f"{dropped} lines of the log were dropped: their reader was too slow\n{text}"
            with suppress(OSError, ValueError):  # the reader is gone, or the stream is closed
                self._stream.write(text)
                self._stream.flush()
            with self._changed:
                self._lines.popleft()
                self._changed.notify_all()
