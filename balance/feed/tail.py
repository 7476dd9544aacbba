"""Follows the feed by `seq`: publishes what is committed, by this process and by others, in order and without a gap.

A batch of this process that continues the feed is published at once. Where it does not, another process has saved
meanwhile, or an earlier batch was committed without an answer: the rows before it are read from the table first.
Without batches the end of the feed is polled: often while other processes save and there are watchers, rarely while
there are none. So a commit that was in doubt is published whenever it appears.

Threads: event loop only; the store is called in a thread of the tail's own.

Promises: each snapshot after the position of `start` is published once, in `seq` order, to the listeners that have
watchers. A snapshot of this process is published after it is acknowledged. When the feed has lost rows or has a new
epoch, every listener ends its clients, so that they resume and learn whether their position is still good.

Not promised: that anything is published while a batch of this process waits for the database.

Life cycle: `start(head, …)`, `end_waits()`, `drain()`, `stop()`, each once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from balance.aio.threads import WorkerThread
from balance.feed.listeners import FeedListener, Listeners
from balance.feed.poll_schedule import PAUSE_S_MIN, PollSchedule
from balance.feed.recent import Recent
from balance.position import Position
from balance.snapshot import EncodedSnapshot
from balance.storage.append import Appended
from balance.storage.errors import STOPPING, StoreUnavailable
from balance.storage.feed_store import FeedPage, Head

log = logging.getLogger("balance.feed")

PAUSE_S_LOST = 0.25  # before the poll after a batch without an answer
ROWS_MAX = 500  # of one read of the table


class TailStore(Protocol):
    """What the tail needs of the store; every method blocks."""

    def head(self) -> Head: ...

    def page(self, after: int, limit: int) -> FeedPage: ...

    def renew(self) -> Position: ...


class Tail:
    """The position up to which the feed is published."""

    def __init__(self, store: TailStore, worker: WorkerThread) -> None:
        """Call the store in the thread of `worker`, which must not be that of the batches."""
        self._store = store
        self._worker = worker
        self.position = Position("", 0)
        """The last snapshot that was published; of no feed before `start`."""
        self.durability = ""
        """What a commit promises: `local` or `replicated`; as of the last poll."""
        self.recent = Recent()
        self._listeners = Listeners()
        self._unpublished: deque[Appended] = deque()  # batches with rows missing before the first
        self._batches = 0  # that were passed to `advance`
        self._has_batch_in_flight: Callable[[], bool]
        self._schedule: PollSchedule
        self._changed = asyncio.Event()  # set for a moment at each change of the position
        self._task: asyncio.Task[None] | None = None
        self._is_ending = False  # whether no call may wait any more
        self._polling_since: float | None = None  # by the clock of the event loop; None while no poll runs

    @property
    def is_started(self) -> bool:
        """Whether there is a position."""
        return self._task is not None

    @property
    def lag_s(self) -> float:
        """The time since the end of the feed was known last, by a poll or by a batch; 0 before `start`."""
        return self._schedule.age_s if self.is_started else 0.0

    @property
    def poll_s(self) -> float:
        """The time for which the poll that runs now has waited for the database; 0 if none does."""
        since = self._polling_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    def subscribe(self, listener: FeedListener) -> None:
        """Publish to a listener from now on."""
        self._listeners.add(listener)

    def start(self, head: Head, has_batch_in_flight: Callable[[], bool]) -> None:
        """Publish what comes after `head`.

        `has_batch_in_flight` returns whether a batch of this process may be committed and has not come to `advance`.
        """
        assert self._task is None, "started once"
        self._schedule = PollSchedule()
        self.position, self.durability = head
        self.recent.restart(self.position.seq)
        self._has_batch_in_flight = has_batch_in_flight
        self._task = asyncio.get_running_loop().create_task(self._follow())

    def advance(self, appended: Appended) -> None:
        """Publish the feed up to the last snapshot of a batch. Never fails, since the batch is acknowledged already."""
        self._batches += 1
        self._unpublished.append(appended)
        if not self._publish_batches():
            self._schedule.wake()

    def note_lost(self) -> None:
        """Note that a batch got no answer, and may have been committed."""
        self._schedule.poll_within(PAUSE_S_LOST)

    def hasten(self) -> None:
        """Poll soon and often, since a client comes that wants to be up to date."""
        self._schedule.hasten(PAUSE_S_MIN)

    def followed(self) -> AbstractContextManager[None]:
        """Follow the feed within a block as closely as for a watcher."""
        return self._listeners.followed()

    async def wait_for_change(self) -> None:
        """Wait until the position has changed. Raises StoreUnavailable at the end."""
        self._check_running()
        await self._changed.wait()

    async def reach(self, wanted: Position) -> None:
        """Wait until everything up to a position is published, or the epoch changes.

        Raises StoreUnavailable at the end; while the database is away it waits.
        """
        epoch = self.position.epoch
        while self.position.epoch == epoch and (wanted.epoch != epoch or self.position.seq < wanted.seq):
            self._check_running()
            self._schedule.hasten(0)
            await self._changed.wait()

    async def drain(self) -> None:
        """Wait until every batch is published."""
        while self._unpublished:
            await self._changed.wait()

    def end_waits(self) -> None:
        """End the calls that wait for the tail, now and from now on: they raise StoreUnavailable."""
        self._is_ending = True
        self._note_change()

    def stop(self) -> None:
        """Poll no more, and read no more rows."""
        if self._task is not None:
            self._task.cancel()

    # Batches

    def _publish_batches(self) -> bool:
        """Publish batches until none is left (True), or rows are missing before one (False)."""
        while self._unpublished:
            try:
                if not self._publish_batch(self._unpublished[0]):
                    return False
            except Exception:
                log.exception("a batch could not be published")
            if self._unpublished:
                self._unpublished.popleft()
        return True

    def _publish_batch(self, appended: Appended) -> bool:
        """Publish what is new of a batch; return False if rows are missing before it."""
        position, end = self.position, Position(appended.epoch, appended.end)
        new = [one.snapshot for one in appended.saved if not one.duplicate]
        before, is_watched = end.seq - len(new), self._listeners.has_watchers
        if end.epoch != position.epoch or before < position.seq:
            self._restart(end)
        elif not is_watched:
            self._skip_to(end)
        elif before > position.seq:
            return False
        elif new:
            self._publish([one.encode() for one in new])
        self._schedule.note_quiet(is_watched=is_watched)
        return True

    # Publishing

    def _publish(self, snapshots: Sequence[EncodedSnapshot]) -> None:
        """Publish the snapshots that follow the position, and advance it to the last of them."""
        self.position = Position(self.position.epoch, snapshots[-1].seq)
        self.recent.extend(snapshots)
        self._listeners.publish(snapshots)
        self._note_change()

    def _skip_to(self, position: Position) -> None:
        """Advance without watchers."""
        self.position = position
        self.recent.restart(position.seq)
        self._note_change()

    def _restart(self, position: Position) -> None:
        """Go on at a position that does not follow, and end every client, so that it resumes."""
        log.warning(
            "the feed goes on in epoch %s after seq %d, before it was %s after %d: every watcher has to resume",
            *position, *self.position,
        )  # fmt: skip
        self._unpublished.clear()
        self._skip_to(position)
        self._listeners.end_all()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed.clear()  # those that wait now go on, each in its turn

    def _check_running(self) -> None:
        if self._is_ending:
            raise StoreUnavailable(STOPPING)

    # Polling

    async def _follow(self) -> None:
        while True:
            if self._unpublished:
                await self._fill_gap()
            elif self._schedule.seconds_left > 0:
                await self._schedule.wait()
            elif self._has_batch_in_flight() and not self._schedule.is_failing:
                self._schedule.postpone()  # its result shows what the poll would
            else:
                await self._poll()

    async def _fill_gap(self) -> None:
        """Publish the rows before a batch, and the batch."""
        appended = self._unpublished[0]
        try:
            await self._publish_rows(appended.end - sum([not one.duplicate for one in appended.saved]))
            self._schedule.note_worked()
            self._publish_batches()
            self._schedule.note_found(is_watched=self._listeners.has_watchers)
        except Exception as error:
            self._unpublished.clear()  # a later poll or batch has the same rows missing
            self._fail(error)
        self._note_change()

    async def _poll(self) -> None:
        """Publish what other processes have committed."""
        batches, self._polling_since = self._batches, asyncio.get_running_loop().time()
        try:
            head = await self._worker.run(self._store.head)
            self._schedule.note_worked()
            self.durability = head.durability
            if self._batches != batches or self._has_batch_in_flight():
                # The rows may be those of a batch of this process, which is to be acknowledged first; and a batch that
                # was delivered meanwhile may be newer than this result.
                self._schedule.postpone()
            else:
                await self._publish_up_to(head.position)
        except Exception as error:
            self._fail(error)
        finally:
            self._polling_since = None

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, StoreUnavailable):  # which `outage` has logged
            log.error("the feed could not be followed", exc_info=error)
        self._schedule.note_failed()

    async def _publish_up_to(self, head: Position) -> None:
        """Publish the rows up to the end of the feed. Raises StoreUnavailable."""
        position = self.position
        note = self._schedule.note_found if head.seq > position.seq else self._schedule.note_quiet
        note(is_watched=self._listeners.has_watchers)
        if head.epoch != position.epoch:
            self._restart(head)
        elif head.seq < position.seq:  # the database was put back; the next poll finds the new epoch
            await self._worker.run(self._store.renew)
        else:
            await self._publish_rows(head.seq)

    async def _publish_rows(self, last: int) -> None:
        """Publish the rows of the table after the position, to seq `last`. Raises StoreUnavailable."""
        epoch = self.position.epoch
        while self.position.epoch == epoch and self.position.seq < last:
            before = self.position
            if not self._listeners.has_watchers:
                self._skip_to(Position(epoch, last))
                return
            page = await self._worker.run(self._store.page, before.seq, min(last - before.seq, ROWS_MAX))
            if page.epoch != epoch:  # its rows may be those of a batch that is not acknowledged
                raise StoreUnavailable("the feed has a new epoch")
            if self.position != before:  # a batch has moved it meanwhile
                continue
            rows = page.snapshots
            if rows and rows[0].seq == before.seq + 1 and rows[-1].seq == before.seq + len(rows):
                self._publish(rows)
            else:
                log.error("the feed has lost some of seq %d to %d", before.seq + 1, last)
                self._restart(Position(epoch, last))
