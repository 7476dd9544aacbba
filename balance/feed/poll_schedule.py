"""When the tail polls: often while other processes save and there are watchers, rarely while there are none.

Threads: event loop only.
"""

from __future__ import annotations

import asyncio

PAUSE_S_MIN = 0.005  # between two polls, while other processes save
PAUSE_S_MAX = 0.1
PAUSE_GROWTH = 1.5  # after each poll that finds nothing
PAUSE_S_UNWATCHED = 1.0  # while there are no watchers
RETRY_S_MIN, RETRY_S_MAX = 0.25, 1.0  # after the first poll that failed, and after the last of many


class PollSchedule:
    """The time of the next poll, and the wait for it."""

    def __init__(self) -> None:
        """Make the first poll due at once, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._pause_s = PAUSE_S_MIN
        self._retry_s = RETRY_S_MIN
        self._due = self._known_at = self._loop.time()
        self._wakeup: asyncio.Future[None] | None = None  # of the wait that is under way

    @property
    def is_failing(self) -> bool:
        """Whether the last read of the database failed. Then no batch replaces a poll, which shows when reads work."""
        return self._retry_s > RETRY_S_MIN

    @property
    def age_s(self) -> float:
        """The time since the end of the feed was known last, by a poll or by a batch."""
        return self._loop.time() - self._known_at

    @property
    def seconds_left(self) -> float:
        """The time to the next poll; at most 0 if it is due."""
        return self._due - self._loop.time()

    def hasten(self, seconds: float) -> None:
        """Poll within this time, and often from then on."""
        self._pause_s = PAUSE_S_MIN
        self.poll_within(seconds)

    def poll_within(self, seconds: float) -> None:
        """Poll within this time."""
        self._due = min(self._due, self._loop.time() + seconds)
        self.wake()

    def wake(self) -> None:
        """End the wait that is under way."""
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def postpone(self) -> None:
        """Poll after a pause of the same length."""
        self._due = self._loop.time() + self._pause_s

    def note_quiet(self, *, is_watched: bool) -> None:
        """Poll later, since a poll, or a batch that shows as much, has found nothing of other processes."""
        self._known_at = self._loop.time()
        if self.is_failing:
            return
        self._pause_s = min(self._pause_s * PAUSE_GROWTH, PAUSE_S_MAX)
        # A client that is about to join is not counted yet: the pause grows to its maximum first.
        is_idle = self._pause_s == PAUSE_S_MAX and not is_watched
        self._due = self._loop.time() + (PAUSE_S_UNWATCHED if is_idle else self._pause_s)

    def note_found(self, *, is_watched: bool) -> None:
        """Poll soon, since there was something of other processes; without watchers that does not matter."""
        self.note_quiet(is_watched=is_watched)
        if is_watched:
            self._pause_s = PAUSE_S_MIN
            self.postpone()

    def note_worked(self) -> None:
        """Note that the database was read."""
        self._retry_s = RETRY_S_MIN
        self._known_at = self._loop.time()

    def note_failed(self) -> None:
        """Poll after a pause that grows with each failure."""
        self._due = self._loop.time() + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)

    async def wait(self) -> None:
        """Wait until a poll is due, or `wake`."""
        self._wakeup = self._loop.create_future()
        timer = self._loop.call_at(self._due, self.wake)  # `asyncio.timeout` would raise and handle two exceptions
        try:
            await self._wakeup
        finally:
            timer.cancel()
