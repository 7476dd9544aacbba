"""The clock of a watch: seconds since 1970 that pass evenly, whatever is done to the clock of the system."""

from __future__ import annotations

import time

JUMP_S = 1.0  # a smaller difference is left, since Python reads the two clocks one after the other


class Clock:
    """Agrees with the clock of the system at the start and after each `adjust`, and counts evenly in between."""

    def __init__(self) -> None:
        self._offset = _offset()

    def __call__(self) -> float:
        return self._offset + time.monotonic()

    def adjust(self) -> bool:
        """Agree with the clock of the system again; return whether that was set, or the machine was suspended."""
        offset = _offset()
        if abs(offset - self._offset) < JUMP_S:
            return False
        self._offset = offset
        return True


def _offset() -> float:
    return time.time() - time.monotonic()
