"""Cuts pending saves into batches, and appends one batch after the other in the write thread.

One batch is appended at a time; saves that arrive meanwhile go into the next one. All saves that arrive in one turn of
the event loop share a batch, and so one broadcast. If BATCH_MIN saves or more wait when a batch is appended, the write
thread cuts the next one by itself, so that the database does not wait for the event loop. Fewer saves wait until the
batch is acknowledged, and share a commit with what its senders send next. A batch holds at most half of all pending
saves: while one half is appended, the other is acknowledged and its senders send again. With all of them in one batch,
first the event loop would be idle and then the database.

Threads: the methods are for the event loop; `on_batch` is called there too. `_append_next` and what it calls run in the
write thread. The lock guards what both change: `_queue`, `_singles_left`, `_is_idle` and `_in_flight`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import NamedTuple, Protocol

from balance.aio.threads import WorkerThread
from balance.feed.pending import PendingSave
from balance.snapshot import Snapshot
from balance.storage.errors import StoreUnavailable
from balance.storage.store import Appended

BATCH_MIN = 32  # the cost of a commit, shared by this many saves, is small
IN_FLIGHT_MAX = 2  # batches; the limit on the backlog of a client that reads allows for two


class AppendStore(Protocol):
    """What the batcher needs of the store."""

    def append(self, snapshots: Sequence[Snapshot]) -> Appended: ...


class Batch(NamedTuple):
    """Saves that were appended together, and the outcome."""

    saves: list[PendingSave]
    outcome: Appended | Exception
    seconds: float
    """The time that the store took."""


class Batcher:
    """Appends saves in their order."""

    def __init__(
        self, store: AppendStore, worker: WorkerThread, on_batch: Callable[[Batch], None], *, batch_max: int
    ) -> None:
        """Append with the thread of `worker`; call `on_batch` on the event loop with each batch, in their order."""
        self._store = store
        self._worker = worker
        self._on_batch = on_batch
        self._batch_max = batch_max
        self.pending: deque[PendingSave] = deque()
        """All saves that are not done, in their order, and perhaps some that are."""
        self._queue: deque[PendingSave] = deque()  # those of them that are in no batch yet
        self._singles_left = 0  # this many saves at the front of the queue are appended one by one
        self._is_idle = True  # whether the write thread appends no batch, and was not asked to cut one
        self._in_flight = 0  # batches that `on_batch` has not been called with
        self._lock = threading.Lock()
        self._append_since: float | None = None  # when the append that runs now was begun

    def submit(self, save: PendingSave) -> None:
        """Queue a save for the next batch. The caller calls `start_next`; a batch that is large enough starts now."""
        self.pending.append(save)
        self._queue.append(save)  # one step of a deque, so without the lock
        if len(self._queue) >= BATCH_MIN:
            self.start_next()

    def start_next(self) -> None:
        """Have the write thread cut the next batch, if it is idle and enough saves wait; from any thread."""
        with self._lock:
            waiting = len(self._queue)
            if not self._is_idle or waiting < (BATCH_MIN if self._in_flight else 1) or self._in_flight >= IN_FLIGHT_MAX:
                return
            self._is_idle = False
            self._in_flight += 1
        self._worker.submit(self._append_next)

    def has_in_flight(self) -> bool:
        """Return whether there is a batch that may be committed and that `on_batch` has not been called with."""
        return self._in_flight > 0  # one step, so without the lock

    @property
    def append_s(self) -> float:
        """The time for which the append that runs now has lasted; 0 if none does."""
        since = self._append_since
        return 0.0 if since is None else perf_counter() - since

    def discard_done(self) -> None:
        """Discard the saves at the front that are done, so that they no longer count as pending."""
        with self._lock:
            while self.pending and self.pending[0].done():
                self.pending.popleft()
            while self._queue and self._queue[0].done():
                self._queue.popleft()
                self._singles_left = max(0, self._singles_left - 1)

    def _append_next(self) -> None:
        batch = self._append([save for save in self._cut() if not save.done()])
        # Not a loop: other calls to the write thread have their turn between two batches.
        with self._lock:
            self._is_idle = True
            if batch is None:
                self._in_flight -= 1
        self.start_next()
        # Last, so that the event loop wakes up when this thread releases the interpreter's lock.
        if batch is not None:
            self._worker.deliver(partial(self._deliver, batch))

    def _deliver(self, batch: Batch) -> None:
        with self._lock:
            self._in_flight -= 1
        self._on_batch(batch)

    def _append(self, saves: list[PendingSave]) -> Batch | None:
        if not saves:
            return None
        started = self._append_since = perf_counter()
        outcome: Appended | Exception
        try:
            outcome = self._store.append([save.snapshot for save in saves])
        except Exception as error:
            if len(saves) > 1 and not isinstance(error, StoreUnavailable):
                self._requeue_singly(saves)  # the others must not fail with the one that the database refuses
                return None
            outcome = error
        finally:
            self._append_since = None
        return Batch(saves, outcome, perf_counter() - started)

    def _cut(self) -> list[PendingSave]:
        with self._lock:
            limit = 1 if self._singles_left else min(max(len(self.pending) // 2, BATCH_MIN), self._batch_max)
            cut = [self._queue.popleft() for _ in range(min(len(self._queue), limit))]
            self._singles_left = max(0, self._singles_left - len(cut))
            return cut

    def _requeue_singly(self, saves: list[PendingSave]) -> None:
        """Put saves back at the front of the queue, to be appended one by one."""
        with self._lock:
            self._queue.extendleft(reversed(saves))
            self._singles_left = len(saves)
