"""A save that has begun, and who is to hear how it ends.

What an asyncio.Future would be, for a third of the time: whoever waits is called as soon as it ends, and not by a turn
of the event loop for each. It belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from typing import Any

from balance.snapshot import Snapshot

log = logging.getLogger("balance.saving")

Outcome = tuple[Snapshot, bool]
"""What stands under an update's id now, and whether this save put it there."""


class Saving:
    """A save that has begun."""

    __slots__ = ("_error", "_on_end", "_outcome", "deadline", "snapshot")

    def __init__(self, snapshot: Snapshot, deadline: float) -> None:
        self.snapshot = snapshot
        self.deadline = deadline  # of the event loop's clock
        self._outcome: Outcome | None = None
        self._error: Exception | None = None
        self._on_end: Callable[[Saving], None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended yet."""
        return self._outcome is None and self._error is None

    def on_end(self, call: Callable[[Saving], None]) -> None:
        """Call this when it ends. There is one who waits."""
        assert self._on_end is None
        self._on_end = call

    def end(self, outcome: Outcome) -> None:
        """Say that it is saved, unless it has ended before."""
        if self.is_open:
            self._outcome = outcome
            self._tell()

    def fail(self, error: Exception) -> None:
        """Say that it is not known to be saved, unless it has ended before."""
        if self.is_open:
            self._error = error
            self._tell()

    def result(self) -> Outcome:
        """Give the outcome, or raise what it failed with."""
        if self._error is not None:
            raise self._error
        assert self._outcome is not None, "it has not ended"
        return self._outcome

    def __await__(self) -> Generator[Any, None, Outcome]:
        if self.is_open:
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.on_end(lambda _: None if ended.done() else ended.set_result(None))
            yield from ended
        return self.result()

    def _tell(self) -> None:
        if self._on_end is not None:
            try:
                self._on_end(self)
            except Exception:  # the others are to hear of theirs
                log.exception("what became of a save could not be told")
