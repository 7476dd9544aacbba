"""What every transport asks of the feed: where it ends, whether a position is good, and what comes after it.

Threads: event loop only; the database is read in threads.

Promises: a client whose position is recovered receives every snapshot after it once, in order, by `replay` and then by
the live tail. A client whose position is not good gets the reason. Only the database itself is asked for one: a process
may be behind.

Life cycle: `drain()` at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import protocol
from balance.aio.single_flight import SingleFlight
from balance.aio.threads import run_in_thread
from balance.aio.turn_limit import TurnLimit
from balance.feed.feed_slice import FeedSlice, encode_list
from balance.feed.listeners import FeedListener
from balance.feed.replay import PageStore, Receiver, Replay, ReplayBroken
from balance.feed.resumption import Resumption, Resumptions, reason_of
from balance.feed.tail import Tail
from balance.position import NO_TAG, ClaimedPosition, Position, to_tag
from balance.storage.errors import TIMED_OUT, StoreUnavailable
from balance.storage.feed_store import Head, Latest, PositionFacts

T = TypeVar("T")

NOT_STARTED = "the database is not there yet"
READS_MAX = 8  # in one turn of the event loop: one snapshot ends the waits of all clients that poll
ATTEMPTS = 3  # to find out about a position while the epoch changes


class FeedReader(PageStore, Protocol):
    """What the feed needs of the store; every method blocks."""

    def head(self) -> Head: ...

    def look_up(self, claimed: ClaimedPosition) -> PositionFacts: ...

    def latest(self, limit: int, heard_s: int | None) -> Latest: ...


class Feed:
    """The feed of one database, as this process follows it."""

    def __init__(
        self, store: FeedReader, tail: Tail, executor: Executor, read_executor: Executor, *, read_ms_max: int
    ) -> None:
        """Read what clients resume from with the threads of `executor`, and `latest` with those of `read_executor`."""
        self._store = store
        self._tail = tail
        self._executor = executor
        self._read_executor = read_executor
        self._read_s_max = read_ms_max / 1000
        self._replay = Replay(store, tail, executor, reach_s_max=self._read_s_max)
        self._lookups: SingleFlight[Any] = SingleFlight()
        self._turns = TurnLimit(READS_MAX)
        self.resumptions = Resumptions()
        """How the clients of event streams and of Socket.IO began."""
        self._known = Position("", 0), ""  # a position, and the tag that the database has for it

    @property
    def head(self) -> Position | None:
        """The last snapshot that was published; None while starting."""
        return self._tail.position if self._tail.is_started else None

    @property
    def replays(self) -> int:
        """The replays that were begun."""
        return self._replay.runs

    @property
    def replayed_rows(self) -> int:
        """The snapshots that all replays have passed, also those that a filter rejected."""
        return self._replay.rows

    @property
    def durability(self) -> str:
        """What "saved" means: `local` or `replicated`."""
        return self._tail.durability

    def subscribe(self, listener: FeedListener) -> None:
        """Publish to a listener from now on."""
        self._tail.subscribe(listener)

    async def resume(self, claimed: ClaimedPosition | None) -> Resumption:
        """Find out whether a client can go on at a position; None is a client without one. Raises Unavailable.

        What it returns is of the turn of the event loop in which it returns: a client that is not recovered has missed
        nothing if it is joined to the live tail in that turn, one that is recovered is joined by `replay`.
        """
        resumption = await self._resume(claimed)
        self.resumptions.count(claimed, resumption)
        return resumption

    async def _resume(self, claimed: ClaimedPosition | None) -> Resumption:
        head = self._current_head()
        self._tail.hasten()
        if claimed is None:
            return await self._begin_at_head()
        tag = self._recent_tag(claimed)
        if tag is not None:
            return Resumption(True, Position(head.epoch, claimed.seq), tag, head)
        async with unavailable_after(self._read_s_max):
            facts = await self._look_up(claimed)
        head = self._tail.position
        reason = reason_of(claimed, facts)
        if reason is None:
            position = Position(head.epoch, claimed.seq)
            if position == head and facts.id is not None:
                self._known = position, to_tag(facts.id)
            return Resumption(True, position, claimed.tag or to_tag(facts.id), max(head, facts.head))
        # A tag that differs shows a restore by hand: from which seq on the feed is another is not known.
        good_until = facts.good_until if facts.good_until is not None and claimed.seq > facts.good_until else None
        return await self._begin_at_head(reason, good_until, facts.first if reason == "pruned" else None)

    async def replay(self, position: Position, receiver: Receiver[T]) -> None:
        """Send everything after a position, and join the live tail; see `Replay.run`.

        Raises ReplayBroken, SlowClient and Unavailable: the client keeps its position and resumes.
        """
        try:
            await self._replay.run(position, receiver)
        except StoreUnavailable as error:
            raise protocol.Unavailable(str(error)) from error

    def read_at_head(self, claimed: ClaimedPosition) -> FeedSlice | None:
        """Return the part after a position without the database, if that is the last one that was published: nothing.

        Return None for any other position.
        """
        head = self._tail.position
        if claimed[:2] != head or claimed.tag not in (None, self._tag_of(head)):
            return None
        return FeedSlice.nothing_after(head)

    async def read_end(self, ip: str) -> FeedSlice:
        """Return the part after the end of the feed: nothing; the clients of one IP address behind each other.

        Raises Unavailable.
        """
        self._current_head()
        with self._tail.followed():
            async with unavailable_after(self._read_s_max):
                await self._catch_up()
            await self._turns.acquire(ip)
            return FeedSlice.nothing_after(self._tail.position)

    async def read(self, after: ClaimedPosition, limit: int) -> FeedSlice:
        """Read at most `limit` snapshots after a position.

        Raises PositionUnknown, PositionPruned and Unavailable.
        """
        with self._tail.followed():
            return await self._read(await self._begin_read(after), limit)

    async def read_next(self, after: ClaimedPosition, limit: int, wait_s: float, ip: str) -> FeedSlice:
        """Wait for a snapshot after a position, and read; the clients of one IP address read behind each other.

        Raises what `read` raises.
        """
        with self._tail.followed():
            position = await self._begin_read(after)
            await self._wait_beyond(position, wait_s)
            await self._turns.acquire(ip)
            if position.epoch != self._tail.position.epoch:  # then the position may not be good any more
                position = await self._begin_read(ClaimedPosition(*position))
            return await self._read(position, limit)

    async def latest(self, limit: int, heard_s: int | None) -> Latest:
        """Read the newest snapshot, and the last one of each pid. Raises Unavailable."""
        self._current_head()
        async with unavailable_after(self._read_s_max):
            found: Latest = await self._shared(self._read_executor, self._store.latest, limit, heard_s)
        return found

    def drain(self) -> None:
        """End the waits: a read that waits for a snapshot returns without one."""
        self._tail.end_waits()

    def _current_head(self) -> Position:
        if not self._tail.is_started:
            raise protocol.Unavailable(NOT_STARTED)
        return self._tail.position

    async def _begin_at_head(self, *why: Any) -> Resumption:
        """Begin at the head, for a client without a position or with one that is not good."""
        async with unavailable_after(self._read_s_max):
            with self._tail.followed():
                while (tag := self._tag_of(head := self._tail.position)) is None:
                    facts = await self._shared(self._executor, self._store.look_up, ClaimedPosition(*head))
                    self._known = head, to_tag(facts.id)
        return Resumption(False, head, tag, head, *why)

    def _tag_of(self, position: Position) -> str | None:
        """Return the tag of the snapshot at a position of the current epoch, if it is in memory."""
        if position.seq == 0:
            return NO_TAG
        found = self._tail.recent.find(position.seq)
        if found is not None:
            return found.tag.decode()
        return self._known[1] if self._known[0] == position else None

    def _recent_tag(self, claimed: ClaimedPosition) -> str | None:
        """Return the tag of a position that is good by what is in memory; of any other, only the database knows."""
        position = self._tail.position
        if claimed.epoch not in (None, position.epoch) or not self._tail.recent.reaches(claimed.seq):
            return None
        tag = self._tag_of(Position(position.epoch, claimed.seq))
        return tag if claimed.tag in (None, tag) else None

    async def _look_up(self, claimed: ClaimedPosition) -> PositionFacts:
        """Ask the database about a position; the tail has the same epoch when this returns."""
        for _ in range(ATTEMPTS):
            epoch = self._tail.position.epoch
            facts: PositionFacts = await self._shared(self._executor, self._store.look_up, claimed)
            if facts.head.epoch != self._tail.position.epoch == epoch:
                await self._tail.reach(facts.head)
            if facts.head.epoch == self._tail.position.epoch:
                return facts
        raise StoreUnavailable("the epoch of the feed is changing")

    async def _begin_read(self, after: ClaimedPosition) -> Position:
        """Return the position after which to read; the tail has what others had committed, or is beyond it."""
        resumption = await self._resume(after)
        if resumption.reason == "pruned":
            assert resumption.first is not None
            raise protocol.PositionPruned(resumption.first)
        if resumption.reason is not None:
            head = resumption.head
            raise protocol.PositionUnknown(resumption.reason, head.epoch, head.seq, resumption.good_until)
        if resumption.position.seq >= self._tail.position.seq:
            async with unavailable_after(self._read_s_max):
                await self._catch_up()
        return resumption.position

    async def _read(self, position: Position, limit: int) -> FeedSlice:
        try:
            async with unavailable_after(self._read_s_max):
                chunk = await self._replay.read(position, encode_list, limit)
            head = self._replay.check(position.epoch)
        except ReplayBroken as error:  # the next request has the reason
            raise protocol.Unavailable(str(error)) from error
        data = protocol.Encoded(chunk.data or b"[]")
        return FeedSlice(position.epoch, position.seq, chunk.last, head, data)

    async def _catch_up(self) -> None:
        """Have the tail publish what was committed before this call."""
        head = await self._shared(self._executor, self._store.head)
        await self._tail.reach(head.position)

    async def _wait_beyond(self, position: Position, seconds: float) -> None:
        """Wait until something after a position is published, or the epoch changes, or the service stops."""
        try:
            async with asyncio.timeout(seconds):
                while self._tail.position.epoch == position.epoch and self._tail.position.seq <= position.seq:
                    await self._tail.wait_for_change()
        except (TimeoutError, StoreUnavailable):
            pass

    async def _shared(self, executor: Executor, function: Callable[..., T], *arguments: Any) -> T:
        """Call the store in a thread; callers that ask for the same share a read."""

        async def read() -> T:
            return await run_in_thread(executor, function, *arguments)

        found: T = await self._lookups.run((function, *arguments), read)
        return found


@asynccontextmanager
async def unavailable_after(seconds: float) -> AsyncIterator[None]:
    """Raise Unavailable from a block that takes too long, or in which the database is not available."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise protocol.Unavailable(TIMED_OUT) from error
    except StoreUnavailable as error:
        raise protocol.Unavailable(str(error)) from error
