"""Saves on their way to the store: all that are open, and the thread that appends them, group after group.

A group is taken when the thread has its hands free, not when it is asked to: so it holds what came while the one before
was appended, and the database need not wait for a turn of the event loop between two groups. Where many are open it is
no more than half of them, so that one half is answered, and sends again, while the other is appended. All together
would leave the event loop idle first, and then the database.

Threads: the methods are for the event loop. Only the thread takes, and puts back; a lock keeps it from that while
`forget_ended` looks. `add` needs none: it adds at the end, which a deque does in one step.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple, Protocol

from balance.aio.threads import in_thread
from balance.feed.pending import Saving
from balance.snapshot import Snapshot
from balance.storage.pool import StoreUnavailable
from balance.storage.store import Appended

GROUP_MIN = 32  # so many share a commit well enough; fewer wait for others to come along


class Table(Protocol):
    """What the appender needs of the store."""

    def append(self, snapshots: Sequence[Snapshot]) -> Appended: ...


class Group(NamedTuple):
    """Saves that were appended together, and what became of them."""

    saves: list[Saving]
    outcome: Appended | Exception


class Appender:
    """Appends saves in their order."""

    def __init__(self, store: Table, thread: Executor, *, batch_max: int) -> None:
        self._store = store
        self._thread = thread  # one
        self._batch_max = batch_max
        self.open: deque[Saving] = deque()
        """All that have been taken in and not answered, in their order."""
        self._waiting: deque[Saving] = deque()  # those of them that the thread has not taken
        self._apart = 0  # so many of these go one by one
        self._taking = threading.Lock()

    def __len__(self) -> int:
        """How many saves wait to be taken."""
        return len(self._waiting)

    def add(self, save: Saving) -> None:
        """Take a save in."""
        self.open.append(save)
        self._waiting.append(save)

    def begin(self) -> asyncio.Future[Group | None]:
        """Append what waits when the thread comes to it; None if that is nothing, or can not be appended together."""
        return in_thread(self._thread, self._append_waiting)

    def forget_ended(self) -> None:
        """Make room: forget those at the front that have ended."""
        with self._taking:
            while self.open and not self.open[0].is_open:
                self.open.popleft()
            while self._waiting and not self._waiting[0].is_open:
                self._waiting.popleft()
                self._apart = max(0, self._apart - 1)

    def _append_waiting(self) -> Group | None:
        saves = [save for save in self._take() if save.is_open]
        if not saves:
            return None
        try:
            return Group(saves, self._store.append([save.snapshot for save in saves]))
        except Exception as error:
            if len(saves) == 1 or isinstance(error, StoreUnavailable):
                return Group(saves, error)
            self._put_back(saves)  # one that the database can not take must not take the others with it
            return None

    def _take(self) -> list[Saving]:
        with self._taking:
            most = 1 if self._apart else min(max(len(self.open) // 2, GROUP_MIN), self._batch_max)
            taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), most))]
            self._apart = max(0, self._apart - len(taken))
            return taken

    def _put_back(self, saves: list[Saving]) -> None:
        """Let saves go one by one, before all others."""
        with self._taking:
            self._waiting.extendleft(reversed(saves))
            self._apart = len(saves)
