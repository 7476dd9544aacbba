"""Sends a client what it missed, page by page, and joins it to the tail with no gap and no duplicate.

A page comes from the newest snapshots in memory if they reach back far enough, otherwise from the database: as JSON
that PostgreSQL wrote, read and encoded in a thread. Pages end at multiples of PAGE_ROWS_MAX, so that clients that came
at different positions ask for the same pages soon; equal pages that are asked for at once are read once. No page
reaches beyond the tail: a snapshot of this process is sent to nobody before it is acknowledged.

Threads: event loop only, but for `_read`, which runs in a thread of the executor.

Promises: the memory of a replay is bounded by its page, whatever was missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import Executor
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from balance.aio.single_flight import SingleFlight
from balance.aio.threads import run_in_thread
from balance.aio.turn_limit import TurnLimit
from balance.feed.tail import Tail
from balance.position import Position
from balance.snapshot import EncodedSnapshot
from balance.storage.errors import TIMED_OUT, StoreUnavailable
from balance.storage.feed_store import PAGE_BYTES_MAX, PAGE_ROWS_MAX, FeedPage

KEPT_MAX = 8  # encoded pages from memory
READ_S_MAX = 30.0  # for a client to accept one page
SENT_MAX = 2  # clients that are sent a page in one turn of the event loop: all that wait for a page get it at once

T = TypeVar("T")
Encoder = Callable[[Sequence[EncodedSnapshot], str], T]
"""Encodes snapshots of an epoch for a transport; called in any thread, never with no snapshots."""


class ReplayBroken(Exception):
    """The rest of a replay cannot be sent: the epoch has changed, or rows are gone. The client has to resume."""


class SlowClient(Exception):
    """A client has not accepted a page in READ_S_MAX. It has to be disconnected, and resumes."""


class PageStore(Protocol):
    """What a replay needs of the store; the method blocks."""

    def page(self, after: int, limit: int, pids: Sequence[int] | None) -> FeedPage: ...


class Chunk(NamedTuple, Generic[T]):
    """A part of the feed, encoded."""

    last: int
    """The last `seq` that was looked at, whether or not a filter let it pass."""
    data: T | None
    """None if no snapshot passed the filter."""


class Receiver(NamedTuple, Generic[T]):
    """A client that is sent what it has missed."""

    encode: Encoder[T]
    send: Callable[[T, int], Awaitable[None]]
    """Sends a page, with which everything up to this `seq` is sent; returns when the client has room for more."""
    join: Callable[[], None]
    """Has the client receive what is published from now on."""
    ip: str
    """The IP address of the client: addresses take turns."""
    pids: tuple[int, ...] | None = None
    """The process ids of the snapshots that it gets, sorted; None for all snapshots."""


class Replay:
    """Reads the feed between a position and the tail."""

    def __init__(self, store: PageStore, tail: Tail, executor: Executor, *, reach_s_max: float) -> None:
        """Read with the threads of `executor`; wait at most `reach_s_max` for a tail that is behind the client."""
        self._store = store
        self._tail = tail
        self._executor = executor
        self._reach_s_max = reach_s_max
        self._pages: SingleFlight[Chunk[Any]] = SingleFlight()
        self._kept: dict[Hashable, Chunk[Any]] = {}
        self._turns = TurnLimit(SENT_MAX)
        self.runs = 0
        """The replays that were begun."""
        self.rows = 0
        """The snapshots that all replays have passed, also those that a filter rejected."""

    async def run(self, position: Position, receiver: Receiver[T]) -> None:
        """Send everything after a position, then call `join` in the same turn of the event loop as the last check.

        Raises ReplayBroken, SlowClient and StoreUnavailable.
        """
        self.runs += 1
        after = position
        chunk: Chunk[T] | None
        with self._tail.followed():
            while after.seq != self.check(after.epoch):
                chunk = await self.read(after, receiver.encode, PAGE_ROWS_MAX, receiver.pids)
                turn = await self._turns.acquire(receiver.ip) if chunk.data is not None else None
                while chunk is not None:
                    after, chunk = await self._send(chunk, after, receiver), None
                    if self._turns.is_current(turn):  # the client had room for all of it
                        # The rest too: what is published while it waits for a turn would leave it behind after each.
                        chunk = self._read_recent(after, receiver.encode, PAGE_ROWS_MAX, receiver.pids)
            receiver.join()

    async def read(
        self, after: Position, encode: Encoder[T], limit: int, pids: tuple[int, ...] | None = None
    ) -> Chunk[T]:
        """Read a part of the feed after a position, at most `limit` snapshots and none beyond the tail.

        If the tail is behind the position, wait for it. Raises ReplayBroken and StoreUnavailable.
        """
        if after.seq > self.check(after.epoch):
            await self.reach(after)
        limit = min(limit, self.check(after.epoch) - after.seq)
        if limit <= 0:
            return Chunk(after.seq, None)
        recent = self._read_recent(after, encode, limit, pids)
        if recent is not None:
            return recent
        limit = min(limit, PAGE_ROWS_MAX - after.seq % PAGE_ROWS_MAX)

        async def read() -> Chunk[T]:
            return await run_in_thread(self._executor, self._read, after, encode, limit, pids)

        return await self._pages.run((after, encode, limit, pids), read)

    async def reach(self, position: Position) -> None:
        """Wait for the tail to reach a position that another process has sent. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(self._reach_s_max):
                await self._tail.reach(position)
        except TimeoutError as error:
            raise StoreUnavailable(TIMED_OUT) from error

    def check(self, epoch: str) -> int:
        """Return the `seq` of the tail. Raises ReplayBroken if its epoch is another."""
        if self._tail.position.epoch != epoch:
            raise ReplayBroken("the feed has a new epoch")
        return self._tail.position.seq

    async def _send(self, chunk: Chunk[T], after: Position, receiver: Receiver[T]) -> Position:
        """Send a client that has everything up to a position the next part of the feed; return where that ends."""
        self.rows += chunk.last - after.seq
        if chunk.data is not None:
            await _send_in_time(receiver.send(chunk.data, chunk.last))
        return Position(after.epoch, chunk.last)

    def _read_recent(
        self, after: Position, encode: Encoder[T], limit: int, pids: tuple[int, ...] | None
    ) -> Chunk[T] | None:
        """Encode the first snapshots after a position, up to `limit` and PAGE_BYTES_MAX, if they are in memory.

        Clients that ask for the same share the bytes. Raises ReplayBroken.
        """
        self.check(after.epoch)
        recent = self._tail.recent.after(after.seq)
        if not recent:
            return None
        page = _first_bytes(recent[:limit])
        key = encode, after.epoch, page[0].seq, page[-1].seq, pids
        chunk = self._kept.get(key)
        if chunk is None:
            passed = page if pids is None else [one for one in page if one.pid in pids]
            chunk = Chunk(page[-1].seq, encode(passed, after.epoch) if passed else None)
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            self._kept[key] = chunk
        return chunk

    def _read(self, after: Position, encode: Encoder[T], limit: int, pids: Sequence[int] | None) -> Chunk[T]:
        page = self._store.page(after.seq, limit, pids)
        if page.epoch != after.epoch:
            raise ReplayBroken("the feed has a new epoch")
        if page.first != after.seq + 1:
            raise ReplayBroken(f"the feed has no seq {after.seq + 1}")
        return Chunk(page.last, encode(page.snapshots, page.epoch) if page.snapshots else None)


async def _send_in_time(sending: Awaitable[None]) -> None:
    """Wait until a client has accepted a page. Raises SlowClient."""
    try:
        async with asyncio.timeout(READ_S_MAX):
            await sending
    except TimeoutError as error:
        raise SlowClient from error


def _first_bytes(snapshots: Sequence[EncodedSnapshot]) -> Sequence[EncodedSnapshot]:
    """Return the first snapshots, at least one, up to PAGE_BYTES_MAX of JSON."""
    size = 0
    for count, one in enumerate(snapshots):
        size += len(one.json)
        if size > PAGE_BYTES_MAX:
            return snapshots[: max(1, count)]
    return snapshots
