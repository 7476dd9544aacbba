"""Group commit: many saves in one transaction, in one order.

Saves that arrive while a batch is committed go into the next ones. After the commit each save gets its result, whose
callback acknowledges it, and then the batch is published.

Threads: event loop only.

Promises: a save is done within `save_ms_max`, whatever the database does; over `pending_max` it fails at once.

Not promised: that a save which fails with StoreUnavailable is not committed. It may be, and then it is published; its
sender finds out by sending it again under the same id.

Life cycle: `start(head)`, `drain()`, each once.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractContextManager
from itertools import takewhile
from time import perf_counter

from balance.aio.histogram import Histogram
from balance.aio.limiter import LimitExceeded
from balance.aio.threads import WorkerThread
from balance.feed.batcher import AppendStore, Batch, Batcher
from balance.feed.pending import PendingSave
from balance.feed.tail import Tail
from balance.snapshot import Snapshot
from balance.storage.append import Appended
from balance.storage.errors import StoreUnavailable
from balance.storage.feed_store import Head

log = logging.getLogger("balance.feed")

COMMIT_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
COMMIT_BOUNDS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Writer:
    """Saves snapshots in batches, and has the tail publish what was committed."""

    def __init__(
        self,
        store: AppendStore,
        worker: WorkerThread,
        tail: Tail,
        cork: AbstractContextManager[None],
        *,
        batch_max: int,
        pending_max: int,
        save_ms_max: int,
    ) -> None:
        """Acknowledge and publish each batch within `cork`, which sends each client both in one write."""
        self._tail = tail
        self._cork = cork
        self._pending_max = pending_max
        self._save_s_max = save_ms_max / 1000
        self._batcher = Batcher(store, worker, self._finish_batch, batch_max=batch_max)
        self._pending = self._batcher.pending
        self._loop: asyncio.AbstractEventLoop
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        self._next_is_scheduled = False
        self.commit_seconds = Histogram(COMMIT_BOUNDS_S)
        """Of each batch that was committed: the time in the database, and the number of its saves, also duplicates."""
        self.commit_rows = Histogram(COMMIT_BOUNDS_ROWS)
        self.failed_commits = 0
        """The batches that failed or got no answer; one without an answer may have been committed."""
        self._failed_at: float | None = None  # when the last batch failed; None if it was committed

    @property
    def pending(self) -> int:
        """The number of saves that are not answered, and perhaps some that just were."""
        return len(self._pending)

    @property
    def waiting_s(self) -> float:
        """The time for which the oldest save that is not answered has waited; 0 if there is none."""
        for save in self._pending:
            if not save.done():
                return self._loop.time() + self._save_s_max - save.deadline
        return 0.0

    @property
    def failed_s(self) -> float | None:
        """The time since the last batch failed; None if it was committed, or there was none."""
        return None if self._failed_at is None else self._loop.time() - self._failed_at

    @property
    def append_s(self) -> float:
        """The time for which the batch that is appended now has waited for the database; 0 if there is none."""
        return self._batcher.append_s

    def start(self, head: Head) -> None:
        """Save on the running event loop, and have the tail publish what comes after `head`."""
        self._loop = asyncio.get_running_loop()  # kept, since asking for it makes a system call
        self._tail.start(head, self._batcher.has_in_flight)

    def submit(self, snapshot: Snapshot) -> PendingSave:
        """Save a snapshot. Raises LimitExceeded; the result may be StoreUnavailable."""
        if len(self._pending) >= self._pending_max:
            raise LimitExceeded(f"{self._pending_max} updates wait already")
        save = PendingSave(snapshot, self._loop.time() + self._save_s_max)
        self._batcher.submit(save)
        self._schedule_next()
        if self._deadline_timer is None:
            self._deadline_timer = self._loop.call_at(save.deadline, self._expire_overdue)
        return save

    async def drain(self, seconds_max: float) -> None:
        """Wait until all saves are done and published; fail what is not done by then. Then stop the tail."""
        try:
            async with asyncio.timeout(max(0.0, seconds_max)):
                if self._pending:
                    self._drained = self._loop.create_future()
                    await self._drained
                await self._tail.drain()
        except TimeoutError:
            for save in list(self._pending):
                save.set_exception(StoreUnavailable("the server is stopping"))
        self._tail.stop()
        self._batcher.stop()
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()

    def _finish_batch(self, batch: Batch) -> float:
        """Give each save of a batch its result, whose callback answers the sender; then publish the batch.

        Returns the seconds that it took to publish it.
        """
        if isinstance(batch.outcome, Appended):
            self.commit_seconds.observe(batch.seconds)
            self.commit_rows.observe(len(batch.saves))
            self._failed_at = None
            with self._cork:
                for save, saved in zip(batch.saves, batch.outcome.saved, strict=True):
                    save.set_result(saved)
                self._discard_done()
                answered_at = perf_counter()
                self._tail.advance(batch.outcome)
            return perf_counter() - answered_at
        self.failed_commits += 1
        self._failed_at = self._loop.time()
        if isinstance(batch.outcome, StoreUnavailable):
            self._tail.note_lost()
            for save in batch.saves:
                save.set_exception(StoreUnavailable(str(batch.outcome)))  # one each, since each is raised
        else:
            batch.saves[0].set_exception(batch.outcome)
        self._discard_done()
        return 0.0

    def _discard_done(self) -> None:
        """Discard the saves that are done; have the next batch cut, or let `drain` go on."""
        self._batcher.discard_done()
        if self._pending:
            self._schedule_next()
        if self._drained is not None and not self._pending and not self._drained.done():
            self._drained.set_result(None)

    def _schedule_next(self) -> None:
        """Have the next batch cut in the next turn of the event loop: all that arrives in one turn shares a batch."""
        if not self._next_is_scheduled:
            self._next_is_scheduled = True
            self._loop.call_soon(self._start_next)

    def _start_next(self) -> None:
        self._next_is_scheduled = False
        self._batcher.start_next()

    def _expire_overdue(self) -> None:
        """Fail the saves that are past their deadline, and re-arm the timer."""
        now = self._loop.time()
        for save in list(takewhile(lambda save: save.deadline <= now, self._pending)):
            save.set_exception(StoreUnavailable("the database did not answer in time"))
        self._discard_done()
        self._deadline_timer = None
        if self._pending:
            self._deadline_timer = self._loop.call_at(self._pending[0].deadline, self._expire_overdue)
