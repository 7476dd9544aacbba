"""Saves on their way to the store: all that are open, and the thread that appends them, group after group.

A group is taken when the thread has its hands free, not when it is asked to: so it holds what came while the one before
was appended, and the database need not wait for a turn of the event loop between two groups. Where many are open it is
no more than half of them, so that one half is answered, and sends again, while the other is appended. All together
would leave the event loop idle first, and then the database.

Threads: what is public is for the event loop. Only the thread takes; a lock keeps it from that while `forget_ended`
looks.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple, Protocol

from balance.pool import StoreUnavailable
from balance.saving import Saving
from balance.snapshot import Snapshot
from balance.store import Appended
from balance.threads import in_thread

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
        self._taking = threading.Lock()

    def __len__(self) -> int:
        """How many saves wait to be taken."""
        return len(self._waiting)

    def add(self, save: Saving) -> None:
        """Take a save in."""
        self.open.append(save)
        self._waiting.append(save)

    def begin(self) -> asyncio.Future[list[Group]]:
        """Append what waits when the thread comes to it: nothing, a group, or one by one what fails together."""
        return in_thread(self._thread, self._append_waiting)

    def forget_ended(self) -> None:
        """Make room: forget those at the front that have ended."""
        with self._taking:
            for saves in (self.open, self._waiting):
                while saves and not saves[0].is_open:
                    saves.popleft()

    def _append_waiting(self) -> list[Group]:
        return self._append([save for save in self._take() if save.is_open])

    def _take(self) -> list[Saving]:
        with self._taking:
            size = min(len(self._waiting), self._batch_max, max(len(self.open) // 2, GROUP_MIN))
            return [self._waiting.popleft() for _ in range(size)]

    def _append(self, saves: list[Saving]) -> list[Group]:
        if not saves:
            return []
        try:
            return [Group(saves, self._store.append([save.snapshot for save in saves]))]
        except Exception as error:
            if len(saves) == 1 or isinstance(error, StoreUnavailable):
                return [Group(saves, error)]
            # One that the database can not take must not take the others with it.
            return [group for save in saves if save.is_open for group in self._append([save])]
