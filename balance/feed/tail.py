"""Follows the feed by `seq`: publishes what is committed, in order and without a gap.

A batch that continues the feed where publishing ended is published at once. Where it does not, another process has
saved meanwhile, or an earlier batch was committed without an answer: the rows before it are read from the table first.
After a batch without an answer the table is read even if no batch follows.

Threads: event loop only; the store is called in the write thread, between two batches.

Promises: each snapshot of the feed after `start(position)` is published once, in `seq` order, also one whose commit was
not answered, as soon as the database answers again.

Not promised: that what another process saves is published before this process saves something too.

Life cycle: `start(position)`, `stop_reading()`, `drain()`, each once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from balance.aio.threads import WorkerThread
from balance.position import Position
from balance.snapshot import Snapshot
from balance.storage.errors import StoreUnavailable
from balance.storage.store import Appended, FeedEnd

log = logging.getLogger("balance.feed")

ROWS_MAX = 100  # of one read of the table


class Lag(Enum):
    """Whether the table may have snapshots that no batch brings; the value is the seconds before it is read."""

    CAUGHT_UP = 0.0  # it has none, and is not read
    UNKNOWN = 0.25  # a batch got no answer, and may have been committed
    IN_DOUBT = 1.0  # the session of that batch still runs, and may still commit it


class TailStore(Protocol):
    """What the tail needs of the store."""

    def feed(self, after: int, up_to: int, limit: int) -> list[Snapshot]: ...

    def feed_end(self) -> FeedEnd: ...


class Tail:
    """The position up to which the feed is published."""

    def __init__(self, store: TailStore, worker: WorkerThread, publish: Callable[[Sequence[Snapshot]], None]) -> None:
        """Call the store in the thread of `worker`, and `publish` with snapshots in `seq` order.

        `worker` must be the thread of the batches: what it read before a batch is then delivered before that batch.
        """
        self._store = store
        self._worker = worker
        self._publish = publish
        self.position: Position | None = None
        """The last snapshot that was published; None before `start`."""
        self.lag = Lag.CAUGHT_UP
        self._unpublished: deque[Appended] = deque()
        self._repair: asyncio.Task[None] | None = None  # runs while rows are read from the table
        self._timer: asyncio.TimerHandle | None = None  # of the pause before the table is read
        self._read_is_due = False
        self._is_stopping = False

    def start(self, position: Position) -> None:
        """Publish what comes after `position`."""
        assert self.position is None, "started once"
        self.position = position

    def advance(self, appended: Appended) -> None:
        """Publish the feed up to the last snapshot of a batch. Never fails, since the batch is acknowledged already."""
        self._unpublished.append(appended)
        if self._repair is None and not self._publish_batches():
            self._start_repair()

    def note_lost(self) -> None:
        """Note that a batch got no answer, and may have been committed."""
        self._set_lag(Lag.UNKNOWN)

    def stop_reading(self) -> None:
        """From now on read no rows of the table but those that are missing before a batch."""
        self._is_stopping = True
        self._set_lag(Lag.CAUGHT_UP)

    async def drain(self) -> None:
        """Wait until every batch is published."""
        if self._repair is not None:
            await asyncio.wait([self._repair])

    def _publish_batches(self) -> bool:
        """Publish batches until none is left (True), or rows are missing before one (False)."""
        while self._unpublished:
            try:
                if not self._publish_batch(self._unpublished[0]):
                    return False
            except Exception:
                log.exception("a batch could not be published")
            self._unpublished.popleft()
        return True

    def _publish_batch(self, appended: Appended) -> bool:
        """Publish what is new of a batch; return False if rows are missing before it."""
        position = self._adopt_feed(appended)
        stored = {one.snapshot.seq: one.snapshot for one in appended.saved}
        new = [stored[seq] for seq in sorted(stored) if seq > position.seq]
        if new and new[-1].seq != position.seq + len(new):
            return False
        self._publish_next(new)
        return True

    def _adopt_feed(self, appended: Appended) -> Position:
        """Continue in the feed of a batch, if it is another one than before; return the position."""
        assert self.position is not None
        inserted = [one.snapshot.seq for one in appended.saved if not one.duplicate]
        if appended.epoch != self.position.epoch or (inserted and inserted[0] <= self.position.seq):
            # The feed was reset or restored: the table does not hold what was published.
            first = inserted[0] if inserted else max(one.snapshot.seq for one in appended.saved) + 1
            log.error("the feed is another one now: epoch %s, going on from seq %d", appended.epoch, first)
            self.position = Position(appended.epoch, first - 1)
        return self.position

    def _publish_next(self, snapshots: Sequence[Snapshot]) -> None:
        """Publish the snapshots that follow the position, and advance it to the last of them."""
        if snapshots:
            assert self.position is not None
            self.position = Position(self.position.epoch, snapshots[-1].seq)
            self._publish(snapshots)

    def _set_lag(self, lag: Lag) -> None:
        """Set the lag, and read the table after its pause."""
        if lag is self.lag and self._timer is not None:
            return
        self.lag = lag
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if lag is not Lag.CAUGHT_UP and not self._is_stopping:
            self._timer = asyncio.get_running_loop().call_later(lag.value, self._make_read_due)

    def _make_read_due(self) -> None:
        self._timer = None
        self._read_is_due = True
        self._start_repair()

    def _start_repair(self) -> None:
        if self._repair is None:
            self._repair = asyncio.get_running_loop().create_task(self._repair_all())

    async def _repair_all(self) -> None:
        """Publish batches that have rows missing before them, and read the table when that is due."""
        try:
            while self._unpublished or self._read_is_due:
                await self._repair_batches()
                if self._read_is_due:
                    self._read_is_due = False
                    await self._catch_up()
        finally:
            self._repair = None

    async def _repair_batches(self) -> None:
        while not self._publish_batches():
            last = max(one.snapshot.seq for one in self._unpublished[0].saved)
            try:
                await self._publish_rows(last)
            except StoreUnavailable:
                self.note_lost()
            except Exception:
                log.exception("a batch could not be published")
            self._unpublished.popleft()

    async def _catch_up(self) -> None:
        """Publish what the table holds, and find out whether a batch without an answer may still be committed."""
        try:
            end = await self._worker.run(self._store.feed_end)
            # What was appended before the read has come back before it: none of that is published from the table.
            await self._repair_batches()
            assert self.position is not None
            if end.position.epoch == self.position.epoch:
                await self._publish_rows(end.position.seq)
            lag = Lag.IN_DOUBT if end.in_doubt else Lag.CAUGHT_UP
        except StoreUnavailable:
            lag = Lag.UNKNOWN
        except Exception:
            log.exception("what may have been saved could not be published")
            lag = Lag.CAUGHT_UP
        if self._timer is None:  # otherwise a batch was lost meanwhile, and its pause has begun
            self._set_lag(lag)

    async def _publish_rows(self, last: int) -> None:
        """Publish the rows of the table after the position, to seq `last`. Raises StoreUnavailable."""
        assert self.position is not None
        while self.position.seq < last:
            rows = await self._worker.run(self._store.feed, self.position.seq, last, ROWS_MAX)
            if not rows:
                log.error("the feed has lost seq %d to %d", self.position.seq + 1, last)
                self.position = Position(self.position.epoch, last)
            self._publish_next(rows)
