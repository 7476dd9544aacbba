"""The result of one save, as a minimal future with one callback.

Unlike asyncio.Future it runs its callback synchronously: acknowledgements are sent before the broadcast, and each costs
a third of the time.

Threads: event loop only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from balance.snapshot import Saved, Snapshot

log = logging.getLogger("balance.feed")


class PendingSave:
    """A save that was submitted."""

    __slots__ = ("_callback", "_error", "_saved", "deadline", "snapshot")

    def __init__(self, snapshot: Snapshot, deadline: float) -> None:
        self.snapshot = snapshot
        self.deadline = deadline  # of the event loop's clock
        self._saved: Saved | None = None
        self._error: Exception | None = None
        self._callback: Callable[[PendingSave], None] | None = None

    def done(self) -> bool:
        """Return whether it has a result or an exception."""
        return self._saved is not None or self._error is not None

    def add_done_callback(self, callback: Callable[[PendingSave], None]) -> None:
        """Call this as soon as it is done, before `set_result` or `set_exception` returns. There is one callback."""
        assert self._callback is None
        self._callback = callback

    def set_result(self, saved: Saved) -> None:
        """Mark it as saved, unless it is done."""
        if not self.done():
            self._saved = saved
            self._run_callback()

    def set_exception(self, error: Exception) -> None:
        """Mark it as failed, unless it is done."""
        if not self.done():
            self._error = error
            self._run_callback()

    def result(self) -> Saved:
        """Return what was saved, or raise the exception."""
        if self._error is not None:
            raise self._error
        assert self._saved is not None, "it is not done"
        return self._saved

    def _run_callback(self) -> None:
        callback, self._callback = self._callback, None  # it refers to the client
        if callback is not None:
            try:
                callback(self)
            except Exception:  # the other saves of its batch must get their results
                log.exception("the callback of a save failed")
