"""A clock that a test sets."""

from __future__ import annotations


class Clock:
    """Returns the seconds that a test has set; time passes only by `advance`."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
