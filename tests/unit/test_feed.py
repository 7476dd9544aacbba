"""Positions, replays, long polls: what a transport gets of the feed, on a feed in memory.

test_feed_model.py has what holds in any order of events.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import Executor, wait
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from tornado.ioloop import IOLoop

import protocol
from balance.aio import loop_budget
from balance.aio.loop_budget import LoopBudget
from balance.feed import replay
from balance.feed.feed import ATTEMPTS, READS_MAX, Resumption
from balance.feed.feed_slice import FeedSlice
from balance.feed.replay import KEPT_MAX, SENT_MAX, Receiver, ReplayBroken, SlowClient, _first_bytes
from balance.position import NO_TAG, ClaimedPosition, Position, to_tag
from balance.snapshot import EncodedSnapshot
from balance.storage.errors import TIMED_OUT, StoreUnavailable
from balance.storage.feed_store import PAGE_BYTES_MAX, PAGE_ROWS_MAX, PositionFacts
from tests.support.feed import EPOCH, FakeStore, Rig, feed_rig, result_of, snapshot

IP = "192.0.2.1"


class NotedStore(FakeStore):
    """A feed in memory that notes its reads."""

    def __init__(self) -> None:
        super().__init__()
        self.look_ups: list[ClaimedPosition] = []
        self.pages: list[tuple[int, int]] = []

    def look_up(self, claimed: ClaimedPosition):  # type: ignore[no-untyped-def]
        self.look_ups.append(claimed)
        return super().look_up(claimed)

    def page(self, after: int, limit: int, pids: Sequence[int] | None = None):  # type: ignore[no-untyped-def]
        self.pages.append((after, limit))
        return super().page(after, limit, pids)


@pytest.fixture
def rig(io_loop: IOLoop) -> Iterator[Rig]:
    with feed_rig(io_loop, NotedStore()) as rig:
        yield rig


def store_of(rig: Rig) -> NotedStore:
    assert isinstance(rig.store, NotedStore)
    return rig.store


def encode(snapshots: Sequence[EncodedSnapshot], epoch: str) -> list[int]:
    return [one.seq for one in snapshots]


class Reader:
    """A client that replays."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.pages: list[list[int]] = []
        self.is_live = False
        self.go = asyncio.Event()
        self.go.set()

    @property
    def seqs(self) -> list[int]:
        return [seq for page in self.pages for seq in page]

    async def send(self, page: list[int], last: int) -> None:
        assert page[-1] <= last
        self.pages.append(page)
        await self.go.wait()

    def join(self) -> None:
        self.is_live = True

    async def replay(self, position: Position, *pids: int) -> None:
        await self._rig.feed.replay(position, Receiver(encode, self.send, self.join, IP, pids or None))


# Positions ---------------------------------------------------------------------------------------------------


async def test_before_the_start_nothing_is_answered(rig: Rig) -> None:
    assert rig.feed.head is None
    for call in (rig.feed.resume(None), rig.feed.read_end(IP), rig.feed.latest(10, None)):
        with pytest.raises(protocol.Unavailable, match=r"^the database is not there yet$"):
            await call


async def test_a_client_without_a_position_begins_at_the_head(rig: Rig) -> None:
    saved = rig.store.save_elsewhere(3)
    rig.writer()
    head = Position(EPOCH, 3)
    for _ in range(2):
        assert await rig.feed.resume(None) == (False, head, to_tag(saved[-1].id), head, None, None, None)
    assert len(store_of(rig).look_ups) == 1, "the tag is kept"


@pytest.mark.expects_log("the feed goes on")
async def test_a_client_that_begins_at_the_head_has_its_tag_in_the_current_epoch(rig: Rig) -> None:
    rig.store.save_elsewhere(3)
    rig.writer()
    await rig.feed.resume(None)
    epoch = rig.store.begin_epoch(keep=2)
    (saved,) = rig.store.save_elsewhere()
    await rig.until(lambda: rig.tail.position == Position(epoch, 3))
    assert (await rig.feed.resume(None)).tag == to_tag(saved.id)


async def test_a_position_in_memory_is_good_without_the_database(rig: Rig) -> None:
    writer = rig.writer()
    saved = [(await result_of(writer.submit(snapshot()))).snapshot for _ in range(5)]
    head = Position(EPOCH, 5)
    for claimed in (ClaimedPosition(EPOCH, 3), ClaimedPosition(EPOCH, 3, to_tag(saved[2].id))):
        assert await rig.feed.resume(claimed) == (True, Position(EPOCH, 3), to_tag(saved[2].id), head, None, None, None)
    for claimed in (ClaimedPosition(None, 0), ClaimedPosition(EPOCH, 0, NO_TAG)):
        assert await rig.feed.resume(claimed) == (True, Position(EPOCH, 0), NO_TAG, head, None, None, None)
    assert not store_of(rig).look_ups


async def test_a_position_of_before_the_memory_is_good_by_the_database(rig: Rig) -> None:
    saved = rig.store.save_elsewhere(5)
    rig.writer()
    tag = to_tag(saved[2].id)
    for claimed in (ClaimedPosition(EPOCH, 3, tag), ClaimedPosition(EPOCH, 3)):
        resumption = await rig.feed.resume(claimed)
        assert resumption == (True, Position(EPOCH, 3), tag, Position(EPOCH, 5), None, None, None)


async def test_a_position_is_not_good_because_another_one_with_its_seq_is_in_memory(rig: Rig) -> None:
    writer = rig.writer()
    for _ in range(5):
        await result_of(writer.submit(snapshot()))
    for claimed, reason in (
        (ClaimedPosition(str(uuid4()), 3), "other_feed"),
        (ClaimedPosition(EPOCH, 3, "12345678"), "diverged"),
        (ClaimedPosition(EPOCH, 0, "12345678"), "diverged"),
    ):
        resumption = await rig.feed.resume(claimed)
        assert (resumption.recovered, resumption.reason) == (False, reason)
    assert len(store_of(rig).look_ups) == 3


@pytest.mark.expects_log("the feed goes on")
async def test_a_position_of_an_older_epoch_is_good_up_to_the_next_one(rig: Rig) -> None:
    rig.store.save_elsewhere(5)
    rig.writer()
    rig.store.begin_epoch(keep=3)
    rig.store.save_elsewhere(4)
    epoch = rig.store.epoch
    good = await rig.feed.resume(ClaimedPosition(EPOCH, 3))
    assert (good.recovered, good.position) == (True, Position(epoch, 3))
    assert rig.tail.position == Position(epoch, 7), "the tail has the epoch that is answered"
    bad = await rig.feed.resume(ClaimedPosition(EPOCH, 4))
    assert (bad.recovered, bad.reason, bad.good_until, bad.position) == (False, "diverged", 3, Position(epoch, 7))
    other = await rig.feed.resume(ClaimedPosition(EPOCH, 3, "12345678"))
    assert (other.recovered, other.reason, other.good_until) == (False, "diverged", None)


@pytest.mark.expects_log("the feed goes on")
async def test_a_position_is_looked_up_once_while_the_tail_comes_to_the_new_epoch(rig: Rig) -> None:
    go, is_held = threading.Event(), False

    def hold() -> None:
        nonlocal is_held
        is_held = True
        assert go.wait(10)

    rig.store.save_elsewhere(5)
    rig.writer()
    rig.store.on_head = hold  # the tail has read the end of the old epoch
    rig.tail.hasten()
    await rig.until(lambda: is_held)
    epoch = rig.store.begin_epoch()
    resuming = asyncio.ensure_future(rig.feed.resume(ClaimedPosition(EPOCH, 3)))
    await rig.until(lambda: bool(store_of(rig).look_ups))
    for _ in range(50):
        await asyncio.sleep(0.001)
    go.set()
    assert (await resuming).position == Position(epoch, 3)
    assert len(store_of(rig).look_ups) == 1


@pytest.mark.expects_log("the feed goes on")
async def test_a_position_that_is_looked_up_while_epochs_change_is_unavailable(rig: Rig) -> None:
    rig.store.save_elsewhere(5)
    rig.writer()
    look_up = rig.store.look_up

    def look_up_too_late(claimed: ClaimedPosition) -> PositionFacts:
        facts = look_up(claimed)
        epoch = rig.store.begin_epoch()
        while rig.tail.position.epoch != epoch:
            time.sleep(0.001)
        return facts

    rig.store.look_up = look_up_too_late  # type: ignore[method-assign]
    with pytest.raises(protocol.Unavailable, match=r"^the epoch of the feed is changing$"):
        await rig.feed.resume(ClaimedPosition(EPOCH, 3))
    assert len(store_of(rig).look_ups) == ATTEMPTS


@pytest.mark.parametrize(
    ("why", "on_the_wire"),
    [
        ((None, None, None), {}),
        (("diverged", 3, None), {"reason": "diverged", "goodUntil": 3}),
        (("pruned", None, 7), {"reason": "pruned"}),
    ],
)
def test_a_resumption_has_its_reason_on_the_wire_if_there_is_one(why: Any, on_the_wire: dict[str, Any]) -> None:
    recovered = not on_the_wire
    resumption = Resumption(recovered, Position(EPOCH, 4), "12345678", Position(EPOCH, 5), *why)
    assert resumption.to_wire() == {"seq": 5, "epoch": EPOCH, "recovered": recovered, **on_the_wire}


@pytest.mark.parametrize(
    ("claimed", "reason", "first"),
    [
        (ClaimedPosition(str(uuid4()), 4), "other_feed", None),
        (ClaimedPosition(EPOCH, 6), "ahead", None),
        (ClaimedPosition(EPOCH, 1), "pruned", 3),
        (ClaimedPosition(EPOCH, 4, "00000000"), "diverged", None),
        (ClaimedPosition(EPOCH, 2, "12345678"), None, None),  # its row is pruned, and nothing after it
    ],
)
async def test_a_position_that_is_not_good_has_its_reason(
    rig: Rig, claimed: ClaimedPosition, reason: str | None, first: int | None
) -> None:
    rig.store.save_elsewhere(5)
    rig.store.first = 3
    rig.writer()
    resumption = await rig.feed.resume(claimed)
    assert (resumption.recovered, resumption.reason, resumption.first) == (reason is None, reason, first)
    assert resumption.good_until is None


async def test_a_process_that_is_behind_does_not_call_a_position_ahead(rig: Rig) -> None:
    rig.listener.has_watchers = False
    rig.writer()
    await rig.until(lambda: rig.tail._schedule.seconds_left > 0.9)
    rig.store.save_elsewhere(5)
    resumption = await rig.feed.resume(ClaimedPosition(EPOCH, 4))
    assert (resumption.recovered, resumption.head) == (True, Position(EPOCH, 5))
    reader = Reader(rig)
    async with asyncio.timeout(0.5):
        await reader.replay(resumption.position)
    assert reader.seqs == [5]


async def test_clients_that_begin_are_counted_by_their_outcome_and_reads_are_not(rig: Rig) -> None:
    rig.store.save_elsewhere(5)
    rig.writer()
    for claimed in (None, ClaimedPosition(EPOCH, 3), ClaimedPosition(EPOCH, 4), ClaimedPosition(EPOCH, 6)):
        await rig.feed.resume(claimed)
    await rig.feed.read(ClaimedPosition(EPOCH, 3), 10)
    assert rig.feed.resumptions.counts == {("new", ""): 1, ("recovered", ""): 2, ("not_recovered", "ahead"): 1}


async def test_equal_questions_share_a_read(rig: Rig) -> None:
    rig.store.save_elsewhere(5)
    rig.writer()
    await asyncio.gather(*(rig.feed.resume(ClaimedPosition(EPOCH, 3)) for _ in range(50)))
    assert len(store_of(rig).look_ups) <= 2


async def test_other_questions_have_their_own_answers(rig: Rig) -> None:
    saved = rig.store.save_elsewhere(5)
    rig.writer()
    found = await asyncio.gather(*(rig.feed.resume(ClaimedPosition(EPOCH, seq)) for seq in (2, 3, 4)))
    assert [one.tag for one in found] == [to_tag(one.id) for one in saved[1:4]]


async def test_a_database_that_is_away_is_unavailable(rig: Rig) -> None:
    rig.store.save_elsewhere(5)
    rig.writer()

    def fail(claimed: ClaimedPosition) -> None:
        raise StoreUnavailable("the database cannot be reached")

    rig.store.look_up = fail  # type: ignore[assignment, method-assign]
    with pytest.raises(protocol.Unavailable, match=r"^the database cannot be reached$"):
        await rig.feed.resume(ClaimedPosition(EPOCH, 3))


@contextmanager
def busy(executor: Executor, threads: int) -> Iterator[None]:
    """Keep all threads of an executor busy within the block; at its end, wait until they have done all calls."""
    go = threading.Event()
    calls = [executor.submit(go.wait, 10) for _ in range(threads)]
    try:
        yield
    finally:
        go.set()
        wait([*calls, *(executor.submit(int) for _ in range(threads))])


async def test_a_position_is_not_looked_up_after_its_request_has_timed_out(rig: Rig) -> None:
    rig.store.save_elsewhere(5)
    rig.writer()
    rig.feed._read_s_max = 0.01
    with busy(rig.executor, 2):
        for seq in (3, 4):
            with pytest.raises(protocol.Unavailable):
                await rig.feed.resume(ClaimedPosition(EPOCH, seq))
        with pytest.raises(protocol.Unavailable):
            await rig.feed.read(ClaimedPosition(EPOCH, 3), 10)
    assert store_of(rig).look_ups == []


async def test_a_page_that_no_client_waits_for_any_more_is_not_read(rig: Rig) -> None:
    rig.store.save_elsewhere(5)
    rig.writer()
    with busy(rig.executor, 2):
        replays = [asyncio.ensure_future(Reader(rig).replay(Position(EPOCH, 0))) for _ in range(2)]
        await asyncio.sleep(0.01)
        for replay in replays:
            replay.cancel()
        await asyncio.wait(replays)
    assert store_of(rig).pages == []


async def test_the_latest_snapshots_are_not_read_by_the_threads_of_the_replays(rig: Rig) -> None:
    rig.store.save_elsewhere(5)
    rig.writer()
    with busy(rig.executor, 2):
        assert (await rig.feed.latest(10, None)).position == Position(EPOCH, 5)


# Replays -----------------------------------------------------------------------------------------------------


async def test_a_replay_sends_everything_in_aligned_pages_and_joins(rig: Rig) -> None:
    rig.store.save_elsewhere(2 * PAGE_ROWS_MAX + 500)
    rig.writer()
    reader = Reader(rig)
    await reader.replay(Position(EPOCH, 700))
    assert reader.seqs == list(range(701, 2 * PAGE_ROWS_MAX + 501))
    assert store_of(rig).pages == [(700, 300), (1000, 1000), (2000, 500)]
    assert reader.is_live


async def test_a_client_joins_in_the_turn_in_which_nothing_is_missing(rig: Rig) -> None:
    """What is published in a later turn would be missed."""
    writer, reader = rig.writer(), Reader(rig)
    for _ in range(3):
        await result_of(writer.submit(snapshot()))
    with pytest.raises(StopIteration):
        reader.replay(Position(EPOCH, 1)).send(None)
    assert (reader.pages, reader.is_live) == ([[2, 3]], True)


async def test_a_client_that_does_not_accept_a_page_in_time_is_slow(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "READ_S_MAX", 0.05)
    writer, reader = rig.writer(), Reader(rig)
    await result_of(writer.submit(snapshot()))
    reader.go.clear()
    with pytest.raises(SlowClient):
        await reader.replay(Position(EPOCH, 0))
    assert (reader.pages, reader.is_live) == ([[1]], False)


async def test_in_each_turn_of_the_event_loop_a_few_clients_are_sent_a_page(rig: Rig) -> None:
    writer = rig.writer()
    await result_of(writer.submit(snapshot()))
    readers = [Reader(rig) for _ in range(5 * SENT_MAX)]
    replays = [asyncio.ensure_future(one.replay(Position(EPOCH, 0))) for one in readers]
    sent = [0]
    while not all(one.done() for one in replays):
        await asyncio.sleep(0)
        sent.append(sum(len(one.pages) for one in readers))
    assert sent[-1] == len(readers)
    assert max(after - before for before, after in pairwise(sent)) == SENT_MAX


async def test_many_clients_that_wait_for_their_turns_join_in_them_though_the_feed_goes_on(rig: Rig) -> None:
    await result_of(rig.writer().submit(snapshot()))
    readers = [Reader(rig) for _ in range(100 * SENT_MAX)]
    replays = [asyncio.ensure_future(one.replay(Position(EPOCH, 0))) for one in readers]
    for _ in range(5 * len(readers)):
        rig.tail.advance(rig.store.append([snapshot()]))
        await asyncio.sleep(0)
    assert all(one.done() for one in replays)
    for reader in readers:
        assert reader.is_live
        assert len(reader.pages) <= 2, "and is not behind again after each turn"
        assert reader.seqs == list(range(1, len(reader.seqs) + 1))
    assert max(len(reader.seqs) for reader in readers) > 50


async def test_clients_join_in_their_turns_though_several_pages_are_published_meanwhile(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await result_of(rig.writer().submit(snapshot()))
    monkeypatch.setattr(replay, "PAGE_BYTES_MAX", 3 * len(rig.tail.recent.after(0)[0].json))  # type: ignore[index]
    readers = [Reader(rig) for _ in range(100 * SENT_MAX)]
    replays = [asyncio.ensure_future(one.replay(Position(EPOCH, 0))) for one in readers]
    for _ in range(2 * len(readers) // SENT_MAX):
        rig.tail.advance(rig.store.append([snapshot(), snapshot()]))
        await asyncio.sleep(0)
    assert all(one.done() for one in replays)
    assert all(reader.seqs == list(range(1, len(reader.seqs) + 1)) for reader in readers)
    assert max(len(reader.pages) for reader in readers) > 50


async def test_a_client_that_has_to_make_room_is_sent_the_rest_in_another_turn(rig: Rig) -> None:
    await result_of(rig.writer().submit(snapshot()))
    readers = [Reader(rig) for _ in range(5 * SENT_MAX)]
    for one in readers:
        one.go.clear()
    replays = [asyncio.ensure_future(one.replay(Position(EPOCH, 0))) for one in readers]
    await rig.until(lambda: all(one.pages for one in readers))
    rig.tail.advance(rig.store.append([snapshot()]))
    for one in readers:
        one.go.set()
    sent = [len(readers)]
    while not all(one.done() for one in replays):
        await asyncio.sleep(0)
        sent.append(sum(len(one.pages) for one in readers))
    assert all(one.seqs == [1, 2] for one in readers)
    assert max(after - before for before, after in pairwise(sent)) == SENT_MAX


async def test_clients_that_are_held_back_beyond_their_turns_join_though_the_feed_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`LoopBudget` has all clients of an address wait, once one of them has used its time."""
    await result_of(rig.writer().submit(snapshot()))
    budget, clock, live = LoopBudget(), 0.0, list[int]()
    monkeypatch.setattr(loop_budget, "perf_counter", lambda: clock)

    async def send(_page: list[int], _last: int) -> None:
        nonlocal clock
        clock += 0.2 * loop_budget.TURN_S

    def replay_to(number: int) -> Awaitable[None]:
        receiver = Receiver(encode, send, lambda: live.append(number), IP)
        return budget.run(IP, rig.feed.replay(Position(EPOCH, 0), receiver))

    count = 50 * SENT_MAX
    replays = [asyncio.ensure_future(replay_to(number)) for number in range(count)]
    for _ in range(count):
        rig.tail.advance(rig.store.append([snapshot()]))
        await asyncio.sleep(0)
    assert all(one.done() for one in replays)
    assert live == list(range(count))


async def test_a_client_is_not_delayed_by_those_of_another_address_that_come_back(rig: Rig) -> None:
    await result_of(rig.writer().submit(snapshot()))
    sent = list[str]()

    async def replay_to(ip: str) -> None:
        async def send(_page: list[int], _last: int) -> None:
            sent.append(ip)

        await rig.feed.replay(Position(EPOCH, 0), Receiver(encode, send, lambda: None, ip))

    await asyncio.gather(*(replay_to(ip) for ip in [*50 * SENT_MAX * [IP], "192.0.2.2"]))
    assert sent.index("192.0.2.2") < 3 * SENT_MAX


async def test_clients_of_some_pids_are_sent_theirs_in_turns_while_the_feed_goes_on(rig: Rig) -> None:
    def publish() -> None:
        rig.tail.advance(rig.store.append([snapshot(), msgspec.structs.replace(snapshot(), pid=7)]))

    rig.store.save_elsewhere(5)
    rig.writer()
    readers = [Reader(rig) for _ in range(5 * SENT_MAX)]
    with busy(rig.executor, 2):
        replays = [asyncio.ensure_future(one.replay(Position(EPOCH, 2), 7)) for one in readers]
        await rig.until(lambda: bool(rig.feed._replay._pages._running))
        publish()
    sent = [0]
    while not all(one.done() for one in replays):
        await asyncio.sleep(0)
        sent.append(sum(bool(one.pages) for one in readers))
        publish()
    assert max(after - before for before, after in pairwise(sent)) == SENT_MAX
    theirs = [one.seq for one in rig.store.stored if one.pid == 7]
    for reader in readers:
        assert reader.is_live
        assert reader.seqs == theirs[: len(reader.seqs)]


async def test_what_is_published_during_a_replay_is_sent_by_it_before_it_joins(rig: Rig) -> None:
    rig.listener.has_watchers = False
    rig.store.save_elsewhere(5)
    writer, reader = rig.writer(), Reader(rig)
    reader.go.clear()
    replaying = asyncio.ensure_future(reader.replay(Position(EPOCH, 2)))
    await rig.until(lambda: bool(reader.pages))
    await result_of(writer.submit(snapshot()))
    await result_of(writer.submit(snapshot()))
    assert not reader.is_live
    reader.go.set()
    await replaying
    assert reader.pages == [[3, 4, 5], [6, 7]]
    assert store_of(rig).pages == [(2, 3)], "a replay is followed: what is published meanwhile is in memory"


async def test_clients_at_different_positions_share_the_pages_behind_the_first(rig: Rig) -> None:
    rig.store.save_elsewhere(4 * PAGE_ROWS_MAX)
    rig.writer()
    readers = [Reader(rig) for _ in range(20)]
    await asyncio.gather(*(one.replay(Position(EPOCH, n)) for n, one in enumerate(readers)))
    for n, reader in enumerate(readers):
        assert reader.seqs == list(range(n + 1, 4 * PAGE_ROWS_MAX + 1))
    assert len(store_of(rig).pages) < 20 + 3 * 10, "not three for each"


async def test_a_replay_of_some_pids_skips_all_others(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.feed._replay._turns, "acquire", None)  # what a filter rejects needs no turn
    rig.store.save_elsewhere(PAGE_ROWS_MAX + 5)
    writer, reader = rig.writer(), Reader(rig)
    await reader.replay(Position(EPOCH, 0), 7)
    assert (reader.pages, reader.is_live) == ([], True)
    await result_of(writer.submit(snapshot()))
    again = Reader(rig)
    await again.replay(Position(EPOCH, PAGE_ROWS_MAX + 5), 7)
    assert (again.pages, again.is_live) == ([], True)


async def test_replays_and_the_rows_that_they_pass_are_counted(rig: Rig) -> None:
    rig.store.save_elsewhere(PAGE_ROWS_MAX + 5)
    rig.writer()
    assert (rig.feed.replays, rig.feed.replayed_rows) == (0, 0)
    await Reader(rig).replay(Position(EPOCH, 2))
    await Reader(rig).replay(Position(EPOCH, PAGE_ROWS_MAX), 7)  # which rejects them
    assert (rig.feed.replays, rig.feed.replayed_rows) == (2, PAGE_ROWS_MAX + 3 + 5)


async def begin_replay(rig: Rig) -> tuple[Reader, asyncio.Future[None]]:
    """Begin a replay of two pages to a client that does not accept the first one yet."""
    rig.store.save_elsewhere(2 * PAGE_ROWS_MAX)
    rig.writer()
    reader = Reader(rig)
    reader.go.clear()
    replaying = asyncio.ensure_future(reader.replay(Position(EPOCH, 0)))
    await rig.until(lambda: bool(reader.pages))
    return reader, replaying


async def test_a_replay_ends_if_the_next_row_is_pruned(rig: Rig) -> None:
    reader, replaying = await begin_replay(rig)
    rig.store.first = PAGE_ROWS_MAX + 100
    reader.go.set()
    with pytest.raises(ReplayBroken, match=r"^the feed has no seq 1001$"):
        await replaying
    assert not reader.is_live


@pytest.mark.expects_log("the feed goes on")
@pytest.mark.parametrize("in_memory", [True, False])
async def test_a_replay_ends_if_the_epoch_changes(rig: Rig, in_memory: bool) -> None:
    reader, replaying = await begin_replay(rig)
    rig.store.begin_epoch()
    if in_memory:
        await rig.until(lambda: rig.tail.position.epoch != EPOCH)
    reader.go.set()
    with pytest.raises(ReplayBroken, match=r"^the feed has a new epoch$"):
        await replaying


@pytest.mark.expects_log("the feed goes on")
async def test_a_replay_sends_nothing_of_a_newer_epoch_from_memory(rig: Rig) -> None:
    writer, reader = rig.writer(), Reader(rig)
    epoch = rig.store.begin_epoch()
    for _ in range(2):  # the first one has the clients resume
        await result_of(writer.submit(snapshot()))
    assert rig.tail.position == Position(epoch, 2)
    assert rig.tail.recent.reaches(1)
    with pytest.raises(ReplayBroken, match=r"^the feed has a new epoch$"):
        await reader.replay(Position(EPOCH, 1))
    assert (reader.pages, reader.is_live) == ([], False)


@pytest.mark.expects_log("the feed goes on")
async def test_a_page_from_memory_is_not_kept_for_another_epoch(rig: Rig) -> None:
    writer = rig.writer()
    for _ in range(3):
        await result_of(writer.submit(snapshot()))
    await rig.feed.read(ClaimedPosition(EPOCH, 2), 10)
    epoch = rig.store.begin_epoch(keep=1)
    for _ in range(2):
        await result_of(writer.submit(snapshot()))
    assert rig.tail.recent.reaches(2)
    found = await rig.feed.read(ClaimedPosition(epoch, 2), 10)
    assert [one["id"] for one in protocol.loads(bytes(found.data))] == [rig.store.stored[2].id]


@pytest.mark.expects_log("the feed goes on")
async def test_clients_of_two_epochs_share_no_read(rig: Rig) -> None:
    rig.listener.has_watchers = False
    rig.store.save_elsewhere(5)
    rig.writer()
    with busy(rig.executor, 2):
        old = [asyncio.ensure_future(Reader(rig).replay(Position(EPOCH, 0)))]
        await rig.until(lambda: bool(rig.feed._replay._pages._running))
        old.append(asyncio.ensure_future(Reader(rig).replay(Position(EPOCH, 0))))  # its read waits for the first one
        epoch = rig.store.begin_epoch()
        await rig.until(lambda: rig.tail.position.epoch == epoch)
        reader = Reader(rig)
        new = asyncio.ensure_future(reader.replay(Position(epoch, 0)))
        await asyncio.sleep(0.01)
    await new
    assert reader.seqs == [1, 2, 3, 4, 5]
    assert all(isinstance(one, ReplayBroken) for one in await asyncio.gather(*old, return_exceptions=True))


async def test_a_replay_ends_while_the_database_is_away(rig: Rig) -> None:
    rig.store.save_elsewhere(5)
    rig.writer()

    def fail() -> None:
        raise StoreUnavailable("the database cannot be reached")

    rig.store.on_page = fail
    with pytest.raises(protocol.Unavailable, match=r"^the database cannot be reached$"):
        await Reader(rig).replay(Position(EPOCH, 0))


async def test_clients_that_missed_the_same_share_its_bytes(rig: Rig) -> None:
    writer = rig.writer()
    for _ in range(5):
        await result_of(writer.submit(snapshot()))
    calls = []

    def counted(snapshots: Sequence[EncodedSnapshot], epoch: str) -> list[int]:
        calls.append(len(snapshots))
        return [one.seq for one in snapshots]

    readers = [Reader(rig) for _ in range(10)]
    for one in readers:
        await rig.feed.replay(Position(EPOCH, 2), Receiver(counted, one.send, one.join, IP))
    assert calls == [3]
    assert all(one.seqs == [3, 4, 5] for one in readers)
    other, none = Reader(rig), Reader(rig)
    await rig.feed.replay(Position(EPOCH, 3), Receiver(counted, other.send, other.join, IP))
    await rig.feed.replay(Position(EPOCH, 3), Receiver(counted, none.send, none.join, IP, (7,)))
    assert (other.seqs, none.seqs) == ([4, 5], [])


async def test_few_pages_are_kept(rig: Rig) -> None:
    writer = rig.writer()
    for _ in range(KEPT_MAX + 2):
        await result_of(writer.submit(snapshot()))
    for seq in range(KEPT_MAX + 2):
        reader = Reader(rig)
        await reader.replay(Position(EPOCH, seq))
        assert reader.seqs == list(range(seq + 1, KEPT_MAX + 3))
        assert len(rig.feed._replay._kept) <= KEPT_MAX


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ([PAGE_BYTES_MAX - 5, 5, 1], 2),
        ([PAGE_BYTES_MAX - 5, 6], 1),
        ([PAGE_BYTES_MAX // 2] * 4, 2),
        ([PAGE_BYTES_MAX + 1, 1], 1),
        ([1, 1, 1], 3),
    ],
)
def test_a_page_from_memory_has_a_limit_in_bytes_but_at_least_one_snapshot(sizes: list[int], count: int) -> None:
    snapshots = [EncodedSnapshot(seq, b"x" * size) for seq, size in enumerate(sizes, 1)]
    assert _first_bytes(snapshots) == snapshots[:count]


async def test_a_replay_beyond_a_tail_that_does_not_come_there_ends_in_time(rig: Rig) -> None:
    rig.writer()
    rig.feed._replay._reach_s_max = 0.05
    async with asyncio.timeout(5):
        with pytest.raises(protocol.Unavailable, match=f"^{TIMED_OUT}$"):
            await Reader(rig).replay(Position(EPOCH, 3))


# Reads -------------------------------------------------------------------------------------------------------


def seqs_of(slice_: FeedSlice) -> list[int]:
    return [one["seq"] for one in protocol.loads(bytes(slice_.data))]


async def test_a_read_has_at_most_its_limit_and_the_position_to_go_on(rig: Rig) -> None:
    rig.store.save_elsewhere(5)
    rig.writer()
    first = await rig.feed.read(ClaimedPosition(None, 0), 3)
    assert (seqs_of(first), first.epoch, first.after, first.last, first.head) == ([1, 2, 3], EPOCH, 0, 3, 5)
    rest = await rig.feed.read(ClaimedPosition(EPOCH, first.last), 3)
    assert (seqs_of(rest), rest.last, rest.head) == ([4, 5], 5, 5)
    none = await rig.feed.read(ClaimedPosition(EPOCH, 5), 3)
    assert (seqs_of(none), none.last, none.head) == ([], 5, 5)


async def test_a_read_has_what_another_process_saved_before_it(rig: Rig) -> None:
    rig.listener.has_watchers = False
    rig.writer()
    await rig.until(lambda: rig.tail._schedule.seconds_left > 0.9)
    rig.store.save_elsewhere(2)
    assert seqs_of(await rig.feed.read(ClaimedPosition(EPOCH, 0), 10)) == [1, 2]
    rig.store.save_elsewhere(2)
    assert (await rig.feed.read_end(IP)).after == 4


async def test_a_read_that_waits_returns_with_the_next_snapshot(rig: Rig) -> None:
    writer = rig.writer()
    reads = [asyncio.ensure_future(rig.feed.read_next(ClaimedPosition(None, 0), 10, 10, IP)) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert not any(one.done() for one in reads)
    await result_of(writer.submit(snapshot()))
    async with asyncio.timeout(5):
        assert [seqs_of(await one) for one in reads] == [[1]] * 3


async def test_of_many_reads_that_wait_a_few_return_in_each_turn_of_the_event_loop(rig: Rig) -> None:
    await result_of(rig.writer().submit(snapshot()))
    position = ClaimedPosition(EPOCH, 1)
    reads = [asyncio.ensure_future(rig.feed.read_next(position, 10, 10, IP)) for _ in range(5 * READS_MAX)]
    await rig.until(lambda: len(rig.tail._changed._waiters) == len(reads))
    rig.store.save_elsewhere()
    rig.tail.hasten()
    done = [0]
    while done[-1] < len(reads):
        await asyncio.sleep(0)
        done.append(sum(one.done() for one in reads))
    assert max(after - before for before, after in pairwise(done)) == READS_MAX
    assert {tuple(seqs_of(one.result())) for one in reads} == {(2,)}


async def test_a_read_that_waits_is_not_delayed_by_the_reads_of_another_address(rig: Rig) -> None:
    await result_of(rig.writer().submit(snapshot()))
    position, done = ClaimedPosition(EPOCH, 1), list[str]()
    ips = [*20 * READS_MAX * [IP], "192.0.2.2"]
    for ip in ips:
        read = asyncio.ensure_future(rig.feed.read_next(position, 10, 10, ip))
        read.add_done_callback(lambda _read, ip=ip: done.append(ip))
    await rig.until(lambda: len(rig.tail._changed._waiters) == len(ips))
    rig.store.save_elsewhere()
    rig.tail.hasten()
    await rig.until(lambda: len(done) == len(ips))
    assert done.index("192.0.2.2") < 3 * READS_MAX


async def test_of_many_clients_that_begin_at_the_end_a_few_are_answered_in_each_turn(rig: Rig) -> None:
    rig.store.save_elsewhere(3)
    rig.writer()
    reads = [asyncio.ensure_future(rig.feed.read_end(f"192.0.2.{number}")) for number in range(5 * READS_MAX)]
    done = [0]
    while done[-1] < len(reads):
        await asyncio.sleep(0)
        done.append(sum(one.done() for one in reads))
    assert max(after - before for before, after in pairwise(done)) == READS_MAX
    assert all(one.result() == (EPOCH, 3, 3, 3, protocol.Encoded(b"[]")) for one in reads)


async def test_the_feed_is_read_at_its_head_without_the_database_if_the_position_is_good(rig: Rig) -> None:
    rig.store.save_elsewhere(3)
    rig.writer()
    found = rig.feed.read_at_head(ClaimedPosition(EPOCH, 3))
    assert found is not None
    assert (found[:4], seqs_of(found)) == ((EPOCH, 3, 3, 3), [])
    for other in (
        ClaimedPosition(EPOCH, 2),
        ClaimedPosition(str(uuid4()), 3),
        ClaimedPosition(EPOCH, 3, "12345678"),
    ):
        assert rig.feed.read_at_head(other) is None
    assert store_of(rig).look_ups == []


async def test_a_position_at_the_head_is_looked_up_once(rig: Rig) -> None:
    saved = rig.store.save_elsewhere(3)
    rig.writer()
    claimed = ClaimedPosition(EPOCH, 3, to_tag(saved[-1].id))
    for _ in range(3):
        assert seqs_of(await rig.feed.read(claimed, 10)) == []
    assert store_of(rig).look_ups == [claimed]
    assert rig.feed.read_at_head(claimed) is not None
    earlier = ClaimedPosition(EPOCH, 2, to_tag(saved[1].id))
    assert seqs_of(await rig.feed.read(earlier, 10)) == [3]
    assert rig.feed.read_at_head(claimed) is not None, "it stays known"


async def test_a_client_that_has_polled_is_followed_until_it_polls_again(rig: Rig) -> None:
    rig.listener.has_watchers = False
    writer = rig.writer()
    await rig.feed.read(ClaimedPosition(None, 0), 10)
    for _ in range(4):
        await result_of(writer.submit(snapshot()))
    assert seqs_of(await rig.feed.read(ClaimedPosition(EPOCH, 1), 10)) == [2, 3, 4]
    assert store_of(rig).look_ups == store_of(rig).pages == []


async def test_a_read_that_waits_returns_nothing_at_its_end_and_at_that_of_the_service(rig: Rig) -> None:
    rig.writer()
    started_at = time.monotonic()
    assert seqs_of(await rig.feed.read_next(ClaimedPosition(None, 0), 10, 0.1, IP)) == []
    assert time.monotonic() - started_at >= 0.1
    waiting = asyncio.ensure_future(rig.feed.read_next(ClaimedPosition(None, 0), 10, 50, IP))
    await asyncio.sleep(0.02)
    rig.feed.drain()
    async with asyncio.timeout(1):
        assert seqs_of(await waiting) == []


@pytest.mark.expects_log("the feed goes on")
async def test_a_read_that_waits_while_rows_are_lost_gets_the_reason(rig: Rig) -> None:
    rig.store.save_elsewhere(5)
    rig.writer()
    waiting = asyncio.ensure_future(rig.feed.read_next(ClaimedPosition(EPOCH, 5), 10, 50, IP))
    await asyncio.sleep(0.02)
    epoch = rig.store.begin_epoch(keep=3)
    with pytest.raises(protocol.PositionUnknown) as raised:
        await waiting
    assert raised.value.fields == {"reason": "diverged", "epoch": epoch, "head": 3, "goodUntil": 3}


async def test_a_read_after_what_is_pruned_gets_the_first_that_is_kept(rig: Rig) -> None:
    rig.store.save_elsewhere(5)
    rig.store.first = 4
    rig.writer()
    with pytest.raises(protocol.PositionPruned) as raised:
        await rig.feed.read(ClaimedPosition(EPOCH, 1), 10)
    assert raised.value.fields == {"first": 4}


@pytest.mark.expects_log("the feed goes on")
async def test_a_read_during_which_the_epoch_changes_is_unavailable(rig: Rig) -> None:
    rig.store.save_elsewhere(5)
    rig.writer()
    rig.store.on_page = rig.store.begin_epoch  # type: ignore[assignment]
    with pytest.raises(protocol.Unavailable, match=r"^the feed has a new epoch$"):
        await rig.feed.read(ClaimedPosition(EPOCH, 0), 3)


async def test_the_latest_are_read_once_for_callers_that_ask_at_once(rig: Rig) -> None:
    rig.store.save_elsewhere(5)
    rig.writer()
    found = await asyncio.gather(*(rig.feed.latest(10, None) for _ in range(20)))
    assert {one.position for one in found} == {Position(EPOCH, 5)}


async def test_the_latest_are_those_that_are_asked_for(rig: Rig) -> None:
    rig.writer()
    asked: list[tuple[int, int | None]] = []
    latest = rig.store.latest
    rig.store.latest = lambda *which: asked.append(which) or latest(*which)  # type: ignore[func-returns-value, method-assign]
    await rig.feed.latest(10, 60)
    assert asked == [(10, 60)]
