"""Measures how late the event loop runs what is due: everything that it serves is as late.

Threads: event loop only.
Life cycle: `start()`, `stop()`, each once.
"""

from __future__ import annotations

import asyncio

from balance.aio.histogram import Histogram

PROBE_S = 0.25  # between two measurements
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class LoopLag:
    """The lateness of a timer that is due four times a second."""

    def __init__(self) -> None:
        self.seconds = Histogram(BOUNDS_S)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Measure from now on."""
        self._timer = asyncio.get_running_loop().call_later(PROBE_S, self._probe)

    def stop(self) -> None:
        """Measure no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _probe(self) -> None:
        assert self._timer is not None
        self.seconds.observe(max(0.0, asyncio.get_running_loop().time() - self._timer.when()))
        self.start()
