"""The operations that both transports call: save, list, find, series.

A transport decodes a request, calls a method here and encodes the result. Every rejection is a `protocol.ServiceError`,
the same for both.

Threads: event loop only; reads run in worker threads.

Life cycle: `start(head)` once the database is known, `drain()` at the end; each once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import protocol
from balance.aio.limiter import CapacityLimiter, LimitExceeded
from balance.aio.single_flight import SingleFlight
from balance.aio.threads import run_in_thread
from balance.feed.feed import NOT_STARTED, Feed
from balance.feed.pending import PendingSave
from balance.feed.writer import Writer
from balance.ids import uuid7
from balance.position import Position
from balance.refusals import Refusals
from balance.series import to_series_query
from balance.snapshot import Saved, Snapshot, parse_ts
from balance.storage.errors import StoreUnavailable
from balance.storage.feed_store import Head
from balance.storage.series_query import TooLarge
from balance.storage.series_store import SeriesStore
from balance.storage.store import Store

T = TypeVar("T")
YEAR_ONE = datetime(1, 1, 1, tzinfo=UTC)  # cursors count from here, since no earlier moment can be stored
TIMED_OUT = "the database did not answer in time"
SERIES_IN_FLIGHT_MAX = 32
LIMIT_DEFAULT = 100  # docs/spec.md, GET /api/balance/snapshot


class Life(Enum):
    """The life cycle of the service; the value is the reason why nothing is saved, for clients."""

    STARTING = NOT_STARTED
    RUNNING = ""
    DRAINING = "the server is stopping"


@dataclass(frozen=True, slots=True)
class Page:
    """Some snapshots of a list, and the cursor of the page after it."""

    data: protocol.Encoded  # an array of schemas/snapshot.json, in the order of the query
    limit: int
    offset: int
    total: int | None  # None with a filter: to count its rows would be to read all of them
    next: str | None  # the cursor of the page after this one


class Series(NamedTuple):
    """Balances over time."""

    position: Position
    """Of which state of the feed they are."""
    data: protocol.Encoded
    """As in schemas/series.json."""


class Cursor(NamedTuple):
    """A position in a list: after the snapshot with this ts and seq."""

    ts: datetime | None  # None in a list by seq
    seq: int

    @property
    def order(self) -> str:
        """The order of the list, as in schemas/list_query.json."""
        return "seq" if self.ts is None else "ts"


class Service:
    """The operations of the service, for any transport."""

    def __init__(
        self,
        writer: Writer,
        feed: Feed,
        store: Store,
        series_store: SeriesStore,
        executor: Executor,
        series_executor: Executor,
        *,
        reads_in_flight_max: int,
        read_ms_max: int,
    ) -> None:
        """Read from the stores with the threads of `executor`, and series with those of `series_executor`."""
        self._writer = writer
        self.feed = feed
        self._store = store
        self._series_store = series_store
        self._executor = executor
        self._series_executor = series_executor
        self._shared_reads: SingleFlight[Any] = SingleFlight()
        self.life = Life.STARTING
        self.read_limiter = CapacityLimiter(reads_in_flight_max, "reads")
        """Each read holds a slot from the request to the last byte of the reply.

        A long poll holds none while it waits, nor for the reply after that.
        """
        self.series_limiter = CapacityLimiter(SERIES_IN_FLIGHT_MAX, "series")
        """Each series holds a slot of these as long: one may take as long as a thousand lists."""
        self.read_s_max = read_ms_max / 1000
        self.saved = 0
        """The updates that were acknowledged, without those that were saved before."""
        self.duplicates = 0
        """The updates that were acknowledged and had been saved before."""
        self.refusals = Refusals()

    def start(self, head: Head) -> None:
        """Begin to save and read; publish the snapshots after `head`."""
        assert self.life is Life.STARTING
        self._writer.start(head)
        self.life = Life.RUNNING

    async def drain(self, seconds_max: float) -> None:
        """Accept no save; wait until all saves are done and published, and all reads are replied to."""
        self.life = Life.DRAINING
        self.feed.drain()
        deadline = time.monotonic() + seconds_max
        await self._writer.drain(seconds_max)
        await self.read_limiter.wait_idle(deadline - time.monotonic())

    def begin_save(self, update: Any) -> PendingSave:
        """Check an update (schemas/balance_update.json) and submit it.

        Pass the pending save to `finish_save` when it is done. Raises InvalidPayload, Busy and Unavailable.
        """
        if not isinstance(update, protocol.ValidatedUpdate):  # which `decode_update` has validated already
            protocol.check("balance_update", update)
        snapshot = Snapshot.from_update(update, now(), "" if update.get("id") else uuid7())
        if self.life is not Life.RUNNING:
            raise protocol.Unavailable(self.life.value)
        try:
            return self._writer.submit(snapshot)
        except LimitExceeded as error:
            raise protocol.Busy(str(error)) from error

    def finish_save(self, pending: PendingSave) -> Saved:
        """Return what was saved. Raises Conflict and Unavailable."""
        try:
            saved = pending.result()
        except StoreUnavailable as error:
            # `pending` keeps it: with its traceback, which refers to `pending`, also the client.
            raise protocol.Unavailable(str(error)) from error.with_traceback(None)
        saved.check(pending.snapshot)
        if saved.duplicate:
            self.duplicates += 1
        else:
            self.saved += 1
        return saved

    async def list(self, query: Mapping[str, Any], write: Callable[[Page], T]) -> T:
        """List snapshots (schemas/list_query.json); return the result of `write` for the page, run in a worker thread.

        Callers with the same query and the same `write` share one read. Raises InvalidPayload and Unavailable.
        """
        protocol.check("list_query", query)
        before = decode_cursor(query["cursor"]) if "cursor" in query else None
        order = before.order if before else query.get("order", "ts")  # a cursor names a row of one of the two lists
        limit, offset, pid = query.get("limit", LIMIT_DEFAULT), query.get("offset", 0), query.get("pid")
        from_ = parse_ts(query["from"]) if "from" in query else None
        to = parse_ts(query["to"]) if "to" in query else None
        page_of = self._store.page_by_seq if order == "seq" else self._store.page

        def read() -> T:
            found = page_of(limit=limit + 1, offset=offset, before=before, from_=from_, to=to, pid=pid)
            total = None
            if from_ is to is pid is None:
                total = found[0].total if found else self._store.total()
            page = found[:limit]
            data = protocol.Encoded(b"[" + b",".join([bytes(row.json) for row in page]) + b"]")
            last = Cursor(page[-1].ts if order == "ts" else None, page[-1].seq) if len(found) > limit else None
            return write(Page(data, limit, offset, total, encode_cursor(last) if last else None))

        return await self._read_shared((write, *sorted(query.items())), read, self._executor)

    async def find(self, id_: str) -> Snapshot:
        """Find the snapshot of an id (schemas/get_path.json).

        Raises InvalidPayload, NotFound and Unavailable.
        """
        protocol.check("get_path", {"id": id_})
        found = await self._read(lambda: self._store.find(id_.lower()), self._executor)
        if found is None:
            raise protocol.NotFound("no snapshot has this id", "id")
        return found

    async def series(self, query: Mapping[str, Any], write: Callable[[Series], T]) -> T:
        """Read balances over time (schemas/series_query.json); return the result of `write`, run in a worker thread.

        Callers with the same query and the same `write` share one read. Raises InvalidPayload and Unavailable.
        """
        protocol.check("series_query", query)
        wanted = to_series_query(query, now())

        def read() -> T:
            found = self._series_store.read(wanted)
            return write(Series(found.position, protocol.Encoded(found.data)))

        try:
            return await self._read_shared((write, wanted), read, self._series_executor)
        except TooLarge as error:
            raise protocol.InvalidPayload(str(error), "points") from error

    async def _read_shared(self, key: tuple[Any, ...], read: Callable[[], T], executor: Executor) -> T:
        """Return the result of `read`, of which those with the same key that are called meanwhile share one call."""
        try:
            async with asyncio.timeout(self.read_s_max):
                result: T = await self._shared_reads.run(key, lambda: self._read(read, executor))
        except TimeoutError as error:
            raise protocol.Unavailable(TIMED_OUT) from error
        return result

    async def _read(self, read: Callable[[], T], executor: Executor) -> T:
        if self.life is Life.STARTING:
            raise protocol.Unavailable(self.life.value)
        try:
            return await asyncio.wait_for(run_in_thread(executor, read), self.read_s_max)
        except TimeoutError as error:
            raise protocol.Unavailable(TIMED_OUT) from error
        except StoreUnavailable as error:
            # The future of the read keeps it: with its traceback, which refers to the future, also the client.
            raise protocol.Unavailable(str(error)) from error.with_traceback(None)


def now() -> datetime:
    """Read the clock, in whole milliseconds: the form of every timestamp in docs/spec.md."""
    return _to_datetime(time.time_ns() // 1_000_000)


@lru_cache(1)  # many updates arrive within one millisecond
def _to_datetime(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def encode_cursor(cursor: Cursor) -> str:
    """Write a cursor as `<ts>_<seq>`, with the ts in microseconds since the year 1, or 0 in a list by seq."""
    micros = 0 if cursor.ts is None else (cursor.ts - YEAR_ONE) // timedelta(microseconds=1)
    return f"{micros}_{cursor.seq}"


def decode_cursor(text: str) -> Cursor:
    """Read what `encode_cursor` wrote; any text that fits schemas/cursor.json is a cursor."""
    micros, seq = map(int, text.split("_"))
    return Cursor(YEAR_ONE + timedelta(microseconds=micros) if micros else None, seq)
