"""Save and read: the one road that both transports take.

A transport decodes, calls a method here and encodes what it returns; every refusal is a
`protocol.ServiceError`, the same for both. Runs on the event loop; reads go to worker threads.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import protocol
from balance.aio.limiter import Places
from balance.aio.single_flight import Shared
from balance.aio.threads import in_thread
from balance.feed.pending import Saving
from balance.feed.writer import Busy, Writer
from balance.snapshot import Saved, Snapshot, parse_ts
from balance.storage.pool import StoreUnavailable
from balance.storage.store import Position, Store

T = TypeVar("T")
YEAR_ONE = datetime(1, 1, 1, tzinfo=UTC)  # a cursor counts from here: no moment that can be stored comes before
SLOW = "the database did not answer in time"
VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))  # of a UUID, of any digit: its first two bits are 10
LIMIT_DEFAULT = 100  # SEED.md, GET /api/balance/snapshot


@dataclass(frozen=True, slots=True)
class Page:
    """Some snapshots of a list, and how to go on."""

    data: protocol.Encoded  # an array of schemas/snapshot.json, in the order that was asked for
    limit: int
    offset: int
    total: int | None  # None when a filter was given: counting what it leaves would read all of it
    next: str | None  # the cursor of the page after this one


class Place(NamedTuple):
    """A place in a list: after the snapshot of this ts and seq, in a list by seq after the one of this seq."""

    ts: datetime | None  # None in a list by seq
    seq: int

    @property
    def order(self) -> str:
        """The order of the list, as in schemas/list_query.json."""
        return "seq" if self.ts is None else "ts"


class Service:
    """What the system does, whoever asks."""

    def __init__(
        self, writer: Writer, store: Store, threads: Executor, *, reads_in_flight_max: int, read_ms_max: int
    ) -> None:
        self._writer = writer
        self._store = store
        self._threads = threads
        self._lists: Shared[Any] = Shared()
        self.reads = Places(reads_in_flight_max, "reads")
        """Each read holds one, from the question to the last byte of the answer."""
        self.read_s_max = read_ms_max / 1000

    @property
    def position(self) -> Position | None:
        """The last snapshot that watchers were shown; None until the database has been reached."""
        return self._writer.position

    async def save(self, update: Any) -> Saved:
        """Save what a client sent (schemas/balance_update.json); when this returns, it is committed.

        Raises InvalidPayload, Conflict (the id stands for other holdings), Busy and Unavailable.
        """
        saving = self.begin(update)
        with suppress(Exception):  # of which `finish` tells
            await saving
        return self.finish(update, saving)

    def begin(self, update: Any) -> Saving:
        """Begin to save what a client sent; hand what this returns to `finish` when it is done.

        Raises InvalidPayload, Busy and Unavailable.
        """
        if not isinstance(update, protocol.ValidatedUpdate):  # which `decode_update` has validated already
            protocol.check("balance_update", update)
        snapshot = Snapshot.from_update(update, now(), new_id())
        try:
            return self._writer.save(snapshot)
        except Busy as error:
            raise protocol.Busy(str(error)) from error
        except StoreUnavailable as error:
            raise protocol.Unavailable(str(error)) from error

    def finish(self, update: Any, saving: Saving) -> Saved:
        """Say what became of an update. Raises Conflict and Unavailable."""
        try:
            stored, fresh = saving.result()
        except StoreUnavailable as error:
            raise protocol.Unavailable(str(error)) from error
        if not fresh and not stored.says_the_same(Snapshot.from_update(update, stored.ts, stored.id)):
            raise protocol.Conflict("another snapshot has this id", "id")
        return Saved(stored, duplicate=not fresh)

    async def list(self, query: Mapping[str, Any], write: Callable[[Page], T]) -> T:
        """List snapshots (schemas/list_query.json); return what `write` makes of the page, in a worker thread.

        Callers that ask for the same with the same `write` share one read. Raises InvalidPayload and Unavailable.
        """
        protocol.check("list_query", query)
        before = from_cursor(query["cursor"]) if "cursor" in query else None
        order = before.order if before else query.get("order", "ts")  # a place in one list is none in the other
        limit, offset, pid = query.get("limit", LIMIT_DEFAULT), query.get("offset", 0), query.get("pid")
        from_ = parse_ts(query["from"]) if "from" in query else None
        to = parse_ts(query["to"]) if "to" in query else None
        page_of = self._store.page_by_seq if order == "seq" else self._store.page

        def read() -> T:
            found = page_of(limit=limit + 1, offset=offset, before=before, from_=from_, to=to, pid=pid)
            total = None
            if from_ is to is pid is None:
                total = found[0].total if found else self._store.position().seq
            page = found[:limit]
            data = protocol.Encoded(b"[" + b",".join([bytes(entry.shown) for entry in page]) + b"]")
            last = Place(page[-1].ts if order == "ts" else None, page[-1].seq) if len(found) > limit else None
            return write(Page(data, limit, offset, total, to_cursor(last) if last else None))

        try:
            async with asyncio.timeout(self.read_s_max):
                found: T = await self._lists.get((write, *sorted(query.items())), lambda: self._read(read))
        except TimeoutError as error:
            raise protocol.Unavailable(SLOW) from error
        return found

    async def find(self, id_: str) -> Snapshot:
        """Find the snapshot of an id (schemas/get_path.json).

        Raises InvalidPayload, NotFound and Unavailable.
        """
        protocol.check("get_path", {"id": id_})
        found = await self._read(lambda: self._store.find(id_.lower()))
        if found is None:
            raise protocol.NotFound("no snapshot has this id", "id")
        return found

    async def check_database(self) -> None:
        """Ask the database for something small, so that its loss and its return are noticed while nobody asks.

        Raises Unavailable; what was found is in `Outage`.
        """
        await self._read(self._store.position)

    async def drain(self, seconds_max: float) -> None:
        """Wait until the reads in flight are answered."""
        await self.reads.drain(seconds_max)

    async def _read(self, read: Callable[[], T]) -> T:
        if self.position is None:
            raise protocol.Unavailable("the database is not there yet")
        try:
            return await asyncio.wait_for(in_thread(self._threads, read), self.read_s_max)
        except TimeoutError as error:
            self._store.cut_dead()  # or its thread would be lost
            raise protocol.Unavailable(SLOW) from error
        except StoreUnavailable as error:
            raise protocol.Unavailable(str(error)) from error


def now() -> datetime:
    """Read the clock, in whole milliseconds: the form of every timestamp in SEED.md."""
    return _moment(time.time_ns() // 1_000_000)


@lru_cache(1)  # many updates come within one
def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _random_bits() -> Iterator[bytes]:
    """Ten random bytes at a time, of those that the operating system is asked for by the kilobyte."""
    while True:
        pool = os.urandom(1_280)
        yield from (pool[at : at + 10] for at in range(0, 1_280, 10))


_bits = _random_bits()


def new_id() -> str:
    """Make a UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then random ones.

    Ids that grow with time keep the index of a large table dense.
    """
    digits = next(_bits).hex()
    first = _first_digits(time.time_ns() // 1_000_000)
    return f"{first}{digits[:3]}-{VARIANT[digits[3]]}{digits[4:7]}-{digits[7:19]}"


@lru_cache(1)
def _first_digits(milliseconds: int) -> str:
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}-7"


def to_cursor(place: Place) -> str:
    """Write a place: its ts in microseconds since the year 1, in a list by seq 0, and its seq."""
    micros = 0 if place.ts is None else (place.ts - YEAR_ONE) // timedelta(microseconds=1)
    return f"{micros}_{place.seq}"


def from_cursor(cursor: str) -> Place:
    """Read what `to_cursor` wrote; whatever fits schemas/cursor.json names a place."""
    micros, seq = map(int, cursor.split("_"))
    return Place(YEAR_ONE + timedelta(microseconds=micros) if micros else None, seq)
