"""Notices that the clock of the machine was set: timestamps and the expiry of credentials follow it at once.

Threads: event loop only.
Life cycle: `start()`, `stop()`, each once.
"""

from __future__ import annotations

import asyncio
import logging
import time

log = logging.getLogger("balance.clock")

CHECK_S = 1.0
JUMP_S_MIN = 1.0  # against the monotonic clock: a clock that is slewed moves by less than a millisecond in a second


class ClockWatch:
    """Compares the clock with the monotonic clock, and logs each jump."""

    def __init__(self) -> None:
        self.jumps = 0
        """How often the clock was set by a second or more; also after the machine was suspended."""
        self._ahead = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Compare from now on."""
        self._ahead = _ahead()
        self._schedule()

    def stop(self) -> None:
        """Compare no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(CHECK_S, self._check)

    def _check(self) -> None:
        before, self._ahead = self._ahead, _ahead()
        jump = self._ahead - before
        if abs(jump) >= JUMP_S_MIN:
            self.jumps += 1
            log.warning("the clock of this machine was set %s by %.1f s", "forward" if jump > 0 else "back", abs(jump))
        self._schedule()


def _ahead() -> float:
    """Return by how many seconds the clock is ahead of the monotonic clock."""
    return time.time() - time.monotonic()
