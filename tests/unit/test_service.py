"""The service on a feed in memory: its life cycle, its errors, what it asks of the store, which reads are shared."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from tornado.ioloop import IOLoop

import protocol
from balance.feed.writer import Writer
from balance.position import Position
from balance.service import Cursor, Page, Service, encode_cursor, now
from balance.snapshot import Saved, Snapshot
from balance.storage.feed_store import Head
from balance.storage.pool import StoreUnavailable
from balance.storage.series_store import SeriesStore
from balance.storage.store import ListRow, Store
from tests.support.feed import EPOCH, Rig, feed_rig, result_of, snapshot

UPDATE = {"onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}}
ID = "01890a5d-ac96-774b-bcce-b302099a8057"
TS = datetime(2025, 11, 7, tzinfo=UTC)
FIRST_PAGE = {"limit": 101, "offset": 0, "before": None, "from_": None, "to": None, "pid": None}
SERVER_STOPS = "the server is stopping"
NOT_THERE = "the database is not there yet"
TOO_LATE = "the database did not answer in time"


def rows(count: int) -> list[ListRow]:
    """Make rows of a list, the newest first, of a feed of 77 snapshots."""
    return [
        ListRow(TS + timedelta(seconds=seq), seq, protocol.Encoded(f'{{"seq":{seq}}}'), 77)
        for seq in range(count, 0, -1)
    ]


class FakeReads:
    """The reads of a store, which note what they were asked for, and can wait and fail."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.rows: list[ListRow] = []
        self.found: Snapshot | None = None
        self.error: Exception | None = None
        self.go = threading.Event()  # a read waits for it
        self.go.set()

    def _note(self, what: str, wanted: Any = None) -> None:
        self.asked.append((what, wanted))
        assert self.go.wait(10)
        if self.error:
            raise self.error

    def total(self) -> int:
        self._note("total")
        return 42

    def find(self, id_: str) -> Snapshot | None:
        self._note("find", id_)
        return self.found

    def page(self, **wanted: Any) -> list[ListRow]:
        self._note("page", wanted)
        return self.rows

    def page_by_seq(self, **wanted: Any) -> list[ListRow]:
        self._note("page_by_seq", wanted)
        return self.rows


class ServiceRig:
    """A service that is not started, its feed and its reads."""

    def __init__(self, feed: Rig, executor: ThreadPoolExecutor) -> None:
        self.feed = feed
        self.reads = FakeReads()
        self._executor = executor

    def new(self, *, pending_max: int = 100, read_ms_max: int = 5000) -> Service:
        """Make the service; it is not started."""
        feed = self.feed
        for worker in (feed.worker, feed.tail_worker):
            worker.start()
        writer = Writer(
            feed.store, feed.worker, feed.tail, nullcontext(), batch_max=10, pending_max=pending_max, save_ms_max=5000
        )
        store = cast("Store", self.reads)
        series = cast("SeriesStore", self.reads)
        executors = self._executor, self._executor
        return Service(writer, feed.feed, store, series, *executors, reads_in_flight_max=4, read_ms_max=read_ms_max)

    def started(self, **limits: int) -> Service:
        """Make the service and start it."""
        service = self.new(**limits)
        service.start(Head(Position(EPOCH, 0), "local"))
        return service


@pytest.fixture
def rig(io_loop: IOLoop) -> Iterator[ServiceRig]:
    with feed_rig(io_loop) as feed, ThreadPoolExecutor(8) as executor:
        rig = ServiceRig(feed, executor)
        try:
            yield rig
        finally:
            rig.reads.go.set()


async def save(service: Service, **fields: object) -> Saved:
    pending = service.begin_save({**UPDATE, **fields})
    with suppress(StoreUnavailable):
        await result_of(pending)
    return service.finish_save(pending)


async def finish_reads(rig: ServiceRig) -> None:
    """Wait for the reads whose callers have given up."""
    others = asyncio.all_tasks() - {asyncio.current_task(), rig.feed.tail._task}
    await asyncio.gather(*others, return_exceptions=True)


def same(page: Page) -> Page:
    return page


# Life cycle --------------------------------------------------------------------------------------------------


async def test_before_the_start_nothing_is_saved_and_nothing_is_read(rig: ServiceRig) -> None:
    service = rig.new()
    assert service.feed.head is None
    with pytest.raises(protocol.Unavailable, match=f"^{NOT_THERE}$"):
        service.begin_save(UPDATE)
    for read in (service.list({}, same), service.find(ID)):
        with pytest.raises(protocol.Unavailable, match=f"^{NOT_THERE}$"):
            await read
    assert not rig.reads.asked


async def test_after_the_start_a_save_is_stored_and_published(rig: ServiceRig) -> None:
    service = rig.started()
    assert service.feed.head == Position(EPOCH, 0)
    saved = await save(service, id=ID)
    assert (saved.snapshot.id, saved.snapshot.seq, saved.duplicate) == (ID, 1, False)
    await service.drain(5)
    assert rig.feed.published == [1]
    assert service.feed.head == Position(EPOCH, 1)


async def test_an_update_without_id_and_ts_gets_both(rig: ServiceRig) -> None:
    before = now()
    saved = await save(rig.started())
    assert before <= saved.snapshot.ts == saved.snapshot.received_at <= now()
    protocol.check("get_path", {"id": saved.snapshot.id})


async def test_at_the_end_nothing_is_saved_and_reads_are_answered(rig: ServiceRig) -> None:
    service = rig.started()
    pending = service.begin_save(UPDATE)
    await service.drain(5)
    assert pending.done()
    with pytest.raises(protocol.Unavailable, match=f"^{SERVER_STOPS}$"):
        service.begin_save(UPDATE)
    assert (await service.list({}, same)).total == 42


async def test_the_end_waits_for_the_reads_that_are_not_replied_to(rig: ServiceRig) -> None:
    service = rig.started()
    with service.read_limiter.slot("10.0.0.1"):
        ending = asyncio.ensure_future(service.drain(60))
        await asyncio.sleep(0.02)
        assert not ending.done()
    async with asyncio.timeout(5):
        await ending


async def test_the_end_waits_no_longer_than_its_time(rig: ServiceRig) -> None:
    service = rig.started()
    with service.read_limiter.slot("10.0.0.1"):
        async with asyncio.timeout(5):
            await service.drain(0.02)


async def test_reads_over_the_limit_are_counted_as_reads(rig: ServiceRig) -> None:
    limiter = rig.started().read_limiter
    with limiter.slot("10.0.0.1"), limiter.slot("10.0.0.1"), limiter.slot("10.0.0.2"):
        with pytest.raises(Exception, match=r"^2 reads of this address wait already$"):
            limiter.slot("10.0.0.1").__enter__()
        with limiter.slot("10.0.0.3"), pytest.raises(Exception, match=r"^4 reads wait already$"):
            limiter.slot("10.0.0.4").__enter__()


# Saves -------------------------------------------------------------------------------------------------------


async def test_an_update_that_does_not_fit_its_schema_is_rejected(rig: ServiceRig) -> None:
    with pytest.raises(protocol.InvalidPayload, match=r"^onchain\.rlb: "):
        rig.started().begin_save({**UPDATE, "onchain": {"rlb": -1, "usdt": 2}})


async def test_over_the_limit_a_save_is_rejected_as_busy(rig: ServiceRig) -> None:
    service = rig.started(pending_max=1)
    rig.feed.store.go.clear()
    service.begin_save(UPDATE)
    with pytest.raises(protocol.Busy, match=r"^1 updates wait already$"):
        service.begin_save(UPDATE)


async def test_the_same_update_again_is_a_duplicate_and_other_content_a_conflict(rig: ServiceRig) -> None:
    service = rig.started()
    first = await save(service, id=ID)
    again = await save(service, id=ID)
    assert (again.snapshot, again.duplicate) == (first.snapshot, True)
    with pytest.raises(protocol.Conflict, match=r"^id: another snapshot has this id$"):
        await save(service, id=ID, pid=7)


async def test_a_save_that_the_database_does_not_answer_is_unavailable(rig: ServiceRig) -> None:
    def lose() -> None:
        raise StoreUnavailable("connection lost in COMMIT")

    service = rig.started()
    rig.feed.store.after = lose
    with pytest.raises(protocol.Unavailable, match=r"^connection lost in COMMIT$"):
        await save(service)


# Lists -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "method", "wanted"),
    [
        ({}, "page", {}),
        ({"order": "ts"}, "page", {}),
        ({"order": "seq"}, "page_by_seq", {}),
        ({"limit": 7, "offset": 3}, "page", {"limit": 8, "offset": 3}),
        ({"pid": 5}, "page", {"pid": 5}),
        ({"from": "2025-11-07T00:00:00Z"}, "page", {"from_": TS}),
        ({"to": "2025-11-07T00:00:00Z"}, "page", {"to": TS}),
        ({"cursor": encode_cursor(Cursor(TS, 9)), "order": "seq"}, "page", {"before": Cursor(TS, 9)}),
        ({"cursor": encode_cursor(Cursor(None, 9))}, "page_by_seq", {"before": Cursor(None, 9)}),
    ],
)
async def test_a_query_is_read_from_the_store(
    rig: ServiceRig, query: dict[str, Any], method: str, wanted: dict[str, Any]
) -> None:
    rig.reads.rows = rows(1)
    page = await rig.started().list(query, same)
    assert rig.reads.asked == [(method, {**FIRST_PAGE, **wanted})]
    assert (page.limit, page.offset) == (query.get("limit", 100), query.get("offset", 0))
    has_filter = bool({"from", "to", "pid"} & query.keys())
    assert page.total == (None if has_filter else 77)


async def test_the_total_is_read_if_the_page_is_empty(rig: ServiceRig) -> None:
    page = await rig.started().list({"offset": 50}, same)
    assert page == Page(protocol.Encoded("[]"), 100, 50, 42, None)


async def test_a_page_with_more_behind_it_has_a_cursor_of_its_last_row(rig: ServiceRig) -> None:
    rig.reads.rows = rows(4)
    service = rig.started()
    page = await service.list({"limit": 3}, same)
    assert protocol.dumps(page.data) == '[{"seq":4},{"seq":3},{"seq":2}]'
    assert page.next == encode_cursor(Cursor(TS + timedelta(seconds=2), 2))
    assert (await service.list({"limit": 3, "order": "seq"}, same)).next == encode_cursor(Cursor(None, 2))
    assert (await service.list({"limit": 4}, same)).next is None


async def test_a_query_that_does_not_fit_its_schema_is_rejected(rig: ServiceRig) -> None:
    with pytest.raises(protocol.InvalidPayload, match=r"^limit: "):
        await rig.started().list({"limit": 0}, same)


async def test_callers_with_one_query_and_one_function_to_write_it_share_a_read(rig: ServiceRig) -> None:
    def other(page: Page) -> int | None:
        return page.total

    service = rig.started()
    rig.reads.rows = rows(1)
    rig.reads.go.clear()
    queries: list[dict[str, Any]] = [{"limit": 5, "pid": 1}] * 2 + [{"pid": 1, "limit": 5}] + [{"limit": 5, "pid": 2}]
    calls = [asyncio.ensure_future(service.list(query, same)) for query in queries]
    calls.append(asyncio.ensure_future(service.list(queries[0], cast("Callable[[Page], Page]", other))))
    await asyncio.sleep(0.02)
    rig.reads.go.set()
    *pages, total = await asyncio.gather(*calls)
    assert [page.limit for page in pages] == [5] * 4
    assert total is None
    assert sorted(wanted["pid"] for _, wanted in rig.reads.asked) == [1, 1, 2]


# Reads -------------------------------------------------------------------------------------------------------


async def test_a_snapshot_is_found_by_its_id_in_any_case(rig: ServiceRig) -> None:
    rig.reads.found = snapshot()
    assert await rig.started().find(ID.upper()) is rig.reads.found
    assert rig.reads.asked == [("find", ID)]


async def test_an_id_that_no_snapshot_has_is_not_found(rig: ServiceRig) -> None:
    service = rig.started()
    with pytest.raises(protocol.NotFound, match=r"^id: no snapshot has this id$"):
        await service.find(ID)
    with pytest.raises(protocol.InvalidPayload, match=r"^id: "):
        await service.find("none")


async def test_a_read_that_the_database_does_not_answer_in_time_is_unavailable(rig: ServiceRig) -> None:
    service = rig.started(read_ms_max=20)
    rig.reads.go.clear()
    for read in (service.list({}, same), service.find(ID)):
        started_at = time.monotonic()
        with pytest.raises(protocol.Unavailable, match=f"^{TOO_LATE}$"):
            await read
        assert 0.02 <= time.monotonic() - started_at < 5
    rig.reads.go.set()
    await finish_reads(rig)


async def test_the_time_of_a_list_includes_the_wait_for_the_read_before_it(rig: ServiceRig) -> None:
    service = rig.started()
    rig.reads.go.clear()
    first = asyncio.ensure_future(service.list({}, same))
    await asyncio.sleep(0.02)
    service.read_s_max = 0.01
    with pytest.raises(protocol.Unavailable, match=f"^{TOO_LATE}$"):
        await service.list({}, same)
    assert not first.done()
    rig.reads.go.set()
    await first
    await finish_reads(rig)


async def test_a_read_while_the_database_is_lost_is_unavailable(rig: ServiceRig) -> None:
    service = rig.started()
    rig.reads.error = StoreUnavailable("the database cannot be reached")
    for read in (service.list({}, same), service.find(ID)):
        with pytest.raises(protocol.Unavailable, match=r"^the database cannot be reached$"):
            await read


def test_the_clock_is_read_in_whole_milliseconds() -> None:
    before = datetime.now(UTC)
    read = now()
    assert before - timedelta(milliseconds=1) <= read <= datetime.now(UTC)
    assert read.microsecond % 1000 == 0
    assert read.tzinfo is UTC
