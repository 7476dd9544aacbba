"""Group commit: many saves, one transaction, one order.

One group is appended at a time, and what arrives meanwhile waits for the next. After the commit each sender is answered
first, and then the snapshots are published, in `seq` order and without a gap. Where many wait, the appender has been
told to go on with them before, so that the database and the event loop work at once.

Threads: all that stands here runs on the event loop; the store is called in one worker thread, here and by the
appender.

Promises: `save` ends within `save_ms_max`, whatever the database does, and a queue that is full refuses at
once with Busy. What ends in Unavailable may have been committed or not; the sender finds out by sending it
again under the same id. It is published either way, if it was committed: as soon as the database answers again, or
by the next flush, which sees the gap that it left and fills it from the table, as it does with what another process
saved.

Life: `start(position)` once the database is known, `drain()` at the end; both once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from itertools import islice, takewhile
from typing import Protocol

from balance.aio.threads import in_thread
from balance.feed.batcher import GROUP_MIN, Appender, Group, Table
from balance.feed.pending import Saving
from balance.snapshot import Snapshot
from balance.storage.pool import StoreUnavailable
from balance.storage.store import Appended, Position

log = logging.getLogger("balance.writer")

CATCH_UP_ROWS_MAX = 100  # read at once when the feed has moved on without us
CATCH_UP_PAUSE_S = 0.25  # between two looks at a database of which an answer was lost
UNSETTLED_PAUSE_S = 1.0  # and between two more, while what it was asked may still be committed
EXPIRY_S = 1.0  # between two looks at the saves that are open, at most


class Busy(Exception):
    """Too many saves wait already; this one was not taken in."""


class Log(Table, Protocol):
    """What the writer needs of the store."""

    def feed(self, after: int, up_to: int, limit: int) -> list[Snapshot]: ...

    def position(self) -> Position: ...

    def is_settled(self) -> bool: ...

    def cut_dead(self) -> None: ...


class Writer:
    """Takes snapshots one by one, appends them in groups, publishes what was committed."""

    def __init__(
        self,
        store: Log,
        thread: Executor,
        publish: Callable[[Sequence[Snapshot]], None],
        *,
        batch_max: int,
        waiting_max: int,
        save_ms_max: int,
    ) -> None:
        self._store = store
        self._thread = thread
        self._publish = publish
        self._waiting_max = waiting_max
        self._save_s_max = save_ms_max / 1000
        self._appender = Appender(store, thread, batch_max=batch_max)
        self._begun: deque[asyncio.Future[Group | None]] = deque()  # appends that are not told: one, and one behind it
        self._arrived = asyncio.Event()
        self._flushing: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._closed = False
        self._behind = False  # something may have been committed that was not published
        self._unsettled = False  # and may still be, later
        self._overdue = False  # a save has run out of time while the store has not answered
        self.position: Position | None = None  # the last snapshot that was published; None before `start`

    def start(self, position: Position) -> None:
        """Begin at `position`: what comes after it is published from now on."""
        assert self.position is None, "started once"
        self.position = position
        self._loop = asyncio.get_running_loop()  # kept, since asking for it takes a call of the operating system

    def save(self, snapshot: Snapshot) -> Saving:
        """Begin to append a snapshot.

        Raises Busy when it was not taken in, StoreUnavailable when it is not known to be committed; the latter also
        by the outcome.
        """
        if self._closed or self.position is None:
            raise StoreUnavailable("the server is stopping" if self._closed else "the database is not there yet")
        if len(self._appender.open) >= self._waiting_max:
            raise Busy(f"{self._waiting_max} updates wait already")
        save = Saving(snapshot, self._loop.time() + self._save_s_max)
        self._appender.add(save)
        self._arrived.set()
        if self._flushing is None:
            self._flushing = self._loop.create_task(self._flush_all())
        else:
            self._begin_behind()
        if self._expiry is None:
            self._expiry = self._loop.call_at(save.deadline, self._expire)
        return save

    async def drain(self, seconds_max: float) -> None:
        """Take nothing more in and wait until all that was taken in is answered and published."""
        self._closed = True
        self._arrived.set()
        if self._flushing is not None:
            await asyncio.wait([self._flushing], timeout=seconds_max)
        for save in self._appender.open:
            save.fail(StoreUnavailable("the server is stopping"))
        if self._expiry is not None:
            self._expiry.cancel()

    async def _flush_all(self) -> None:
        """Append group after group, and tell what became of each."""
        try:
            while True:
                self._overdue = False
                if not self._begun and len(self._appender):
                    self._begun.append(self._appender.begin())
                if self._begun:
                    group = await self._begun[0]
                    self._begun.popleft()
                    self._begin_behind()
                    if group is not None:
                        await self._tell(group)
                    if not self._begun and len(self._appender):
                        # What came in while that went out goes with these: in the first turn the event loop finds that
                        # there is something to be read, in the second it has been read.
                        await asyncio.sleep(0)
                        await asyncio.sleep(0)
                elif self._behind and not self._closed:
                    await self._catch_up()
                else:
                    break
        finally:
            self._flushing = None
            if self._begun:  # it was cancelled, or failed by a mistake of ours
                self._begun.clear()
                self._behind = True

    def _begin_behind(self) -> None:
        """Have the appender go on at once, behind what it does now, with what waits, if that is many."""
        if len(self._begun) < 2 and len(self._appender) >= GROUP_MIN:
            self._begun.append(self._appender.begin())

    async def _tell(self, group: Group) -> None:
        """Say to a group's senders what became of it, and publish it if it was appended."""
        if isinstance(group.outcome, Appended):
            await self._tell_appended(group.saves, group.outcome)
            return
        if isinstance(group.outcome, StoreUnavailable):
            self._behind = True  # it may have been committed
            for save in group.saves:
                save.fail(StoreUnavailable(str(group.outcome)))  # one each: they are raised, each in its place
        else:
            group.saves[0].fail(group.outcome)
        self._appender.forget_ended()

    async def _tell_appended(self, saves: list[Saving], appended: Appended) -> None:
        fresh = set(appended.fresh)
        for save, stored in zip(saves, appended.snapshots, strict=True):
            # The first of two equal ids in one group is the one that was stored.
            is_fresh = stored.seq in fresh
            fresh.discard(stored.seq)
            save.end((stored, is_fresh))
        self._appender.forget_ended()
        # Whoever awaits one of these runs before this goes on: the answer comes first, then the broadcast.
        await asyncio.sleep(0)
        try:
            await self._publish_group(appended)
        except Exception:  # it is saved, and answered, whatever becomes of the broadcast
            log.exception("what was saved could not be published")

    async def _publish_group(self, appended: Appended) -> None:
        """Publish the feed from where it was left to the last snapshot of the group."""
        assert self.position is not None
        group = {one.seq: one for one in appended.snapshots}
        last = max(group)
        first = min(appended.fresh, default=last + 1)
        if appended.epoch != self.position.epoch or (appended.fresh and first <= self.position.seq):
            # Reset or restored: what was published is not what stands there now.
            log.error("the feed is another one now: epoch %s, going on from seq %d", appended.epoch, first)
            self.position = Position(appended.epoch, first - 1)
        after = self.position.seq
        new = [group[seq] for seq in sorted(group) if seq > after]
        if [one.seq for one in new] == list(range(after + 1, after + 1 + len(new))):
            self._move(new)
        else:
            await self._publish_from_store(last)

    async def _publish_from_store(self, last: int) -> None:
        """Publish what the table has, from where publishing was left to `last`."""
        assert self.position is not None
        while self.position.seq < last:
            try:
                missed = await in_thread(self._thread, self._store.feed, self.position.seq, last, CATCH_UP_ROWS_MAX)
            except StoreUnavailable:
                self._behind = True
                return
            if not missed:
                log.error("the feed has lost seq %d to %d", self.position.seq + 1, last)
                self.position = Position(self.position.epoch, last)
            self._move(missed)

    async def _catch_up(self) -> None:
        """After a commit of which nothing is known: find out, once the database answers, and publish what it left.

        And again, while what was given up may still be committed.
        """
        assert self.position is not None
        self._arrived.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), UNSETTLED_PAUSE_S if self._unsettled else CATCH_UP_PAUSE_S)
        if self._arrived.is_set():
            return  # what has arrived goes first, and its flush sees the gap as well
        self._behind = self._unsettled = False
        try:
            is_settled = await in_thread(self._thread, self._store.is_settled)
            position = await in_thread(self._thread, self._store.position)
            if position.epoch == self.position.epoch:
                await self._publish_from_store(position.seq)
            self._unsettled = not is_settled
            self._behind = self._behind or self._unsettled
        except StoreUnavailable:
            self._behind = True
        except Exception:
            log.exception("what may have been saved could not be published")

    def _move(self, snapshots: Sequence[Snapshot]) -> None:
        if snapshots:
            assert self.position is not None
            self.position = Position(self.position.epoch, snapshots[-1].seq)
            self._publish(snapshots)

    def _expire(self) -> None:
        """Answer every save whose time is up, give up a line that is dead, and come back for what is left."""
        now = self._loop.time()
        late = list(takewhile(lambda save: save.deadline <= now, self._appender.open))
        for save in late:
            save.fail(StoreUnavailable("the database did not answer in time"))
        self._appender.forget_ended()
        self._overdue = self._overdue or bool(late)
        if self._overdue:
            self._store.cut_dead()
        deadlines = [save.deadline for save in islice(self._appender.open, 1)]
        if self._flushing is not None:
            deadlines.append(now + min(EXPIRY_S, self._save_s_max))  # before that of any save that is still to come
        self._expiry = self._loop.call_at(min(deadlines), self._expire) if deadlines else None
