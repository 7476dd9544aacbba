"""The newest published snapshots, so that a client that was away for a short time is served without the database.

Threads: event loop only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from balance.snapshot import EncodedSnapshot

SNAPSHOTS_MAX = 1024
BYTES_MAX = 1_048_576


class Recent:
    """A contiguous part of the feed that ends at the position of the tail."""

    def __init__(self) -> None:
        self._snapshots: deque[EncodedSnapshot] = deque()
        self._before = 0  # the seq before the first of them
        self._bytes = 0

    def restart(self, seq: int) -> None:
        """Discard everything; the next snapshot is the one after `seq`."""
        self._snapshots.clear()
        self._before, self._bytes = seq, 0

    def extend(self, snapshots: Sequence[EncodedSnapshot]) -> None:
        """Add the snapshots that follow, and discard the oldest ones over the limits."""
        held = self._snapshots
        held.extend(snapshots)
        self._bytes += sum([len(one.json) for one in snapshots])
        while len(held) > SNAPSHOTS_MAX or self._bytes > BYTES_MAX:
            self._bytes -= len(held.popleft().json)
            self._before += 1

    def reaches(self, seq: int) -> bool:
        """Return whether all snapshots after `seq` are here, and `seq` is published."""
        return 0 <= seq - self._before <= len(self._snapshots)

    def after(self, seq: int) -> list[EncodedSnapshot] | None:
        """Return all snapshots after `seq`, in order; None if not all of them are here, or `seq` is not published."""
        return list(islice(self._snapshots, seq - self._before, None)) if self.reaches(seq) else None

    def find(self, seq: int) -> EncodedSnapshot | None:
        """Return the snapshot with this `seq` if it is here."""
        index = seq - self._before - 1
        return self._snapshots[index] if 0 <= index < len(self._snapshots) else None
