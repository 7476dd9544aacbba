"""A histogram: how many of the observed values are in each range.

Threads: one observes; any may read, and can see an observation in part.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import inf


class Histogram:
    """Observed values, by range."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """Make a range up to each bound, which belongs to it, and one for all above the last. `bounds` ascend."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum: float = 0
        """Of all values."""

    def observe(self, value: float) -> None:
        """Add a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Yield each bound, and the number of values up to it; the last bound is infinite."""
        return zip((*self._bounds, inf), accumulate(self._counts), strict=True)
