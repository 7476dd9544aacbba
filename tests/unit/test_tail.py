"""The tail: order, gaps, polls, other epochs, listeners that fail, and its end.

The batches come from a writer on a feed in memory, as they do in the service.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator, Sequence
from uuid import uuid4

import pytest
from tornado.ioloop import IOLoop

from balance.feed.batcher import BATCH_MIN
from balance.feed.listeners import Listeners
from balance.feed.poll_schedule import PAUSE_S_MAX, PAUSE_S_MIN
from balance.feed.tail import PAUSE_S_LOST, ROWS_MAX
from balance.feed.writer import Writer
from balance.position import Position
from balance.snapshot import EncodedSnapshot, Snapshot
from balance.storage.errors import StoreUnavailable
from balance.storage.feed_store import FeedPage, Head
from tests.support.feed import EPOCH, FakeListener, Rig, feed_rig, result_of, snapshot


@pytest.fixture
def rig(io_loop: IOLoop) -> Iterator[Rig]:
    with feed_rig(io_loop) as rig:
        yield rig


def lose() -> None:
    raise StoreUnavailable("connection lost in COMMIT")


def raise_once(rig: Rig, name: str, error: Exception) -> None:
    """Have the next call of a hook of the store raise an error."""

    def fail() -> None:
        setattr(rig.store, name, lambda: None)
        raise error

    setattr(rig.store, name, fail)


class Held:
    """Holds calls of the store in their thread until `release`."""

    def __init__(self) -> None:
        self.is_reached = False
        self._go = threading.Event()

    def __call__(self) -> None:
        self.is_reached = True
        assert self._go.wait(10)

    def release(self) -> None:
        self._go.set()


def hold_page_after_read(rig: Rig) -> Held:
    """Have the next pages of the tail wait when their rows have been read."""
    held, page = Held(), rig.store.page

    def read_and_hold(after: int, limit: int, pids: Sequence[int] | None = None) -> FeedPage:
        found = page(after, limit, pids)
        held()
        return found

    rig.store.page = read_and_hold  # type: ignore[method-assign]
    return held


async def release_and_poll(rig: Rig, held: Held) -> None:
    """Release a call of the tail, and wait until the tail has handled its result and polls again."""
    heads = rig.store.heads
    held.release()
    await rig.until(lambda: rig.store.heads > heads)


async def save(writer: Writer, *snapshots: Snapshot) -> None:
    for pending in [writer.submit(one) for one in snapshots or (snapshot(),)]:
        await result_of(pending)


async def save_lost(rig: Rig, writer: Writer, lost: Snapshot | None = None) -> None:
    """Save a snapshot that is committed without an answer."""
    rig.store.after = lose
    with pytest.raises(StoreUnavailable):
        await save(writer, lost or snapshot())
    rig.store.after = lambda: None


async def quiet(rig: Rig) -> None:
    """Wait until the tail polls rarely, so that a test has time before the next poll."""
    await rig.until(lambda: rig.tail._schedule._pause_s == PAUSE_S_MAX)


# Batches -----------------------------------------------------------------------------------------------------


async def test_each_batch_is_published_in_seq_order(rig: Rig) -> None:
    writer = rig.writer()
    await save(writer, *[snapshot() for _ in range(50)])
    assert rig.published == list(range(1, 51))
    assert rig.tail.position == Position(EPOCH, 50)
    assert [one.json for one in rig.listener.snapshots] == [one.encode().json for one in rig.store.stored]


async def test_what_another_process_saved_is_published_before_the_next_batch(rig: Rig) -> None:
    writer = rig.writer()
    await save(writer)
    rig.store.save_elsewhere(3000)
    await save(writer)
    await writer.drain(5)
    assert rig.published == list(range(1, 3003))


async def test_batches_behind_a_gap_wait_until_it_is_filled(rig: Rig) -> None:
    writer, held = rig.writer(), Held()
    await quiet(rig)
    rig.store.on_page = held
    rig.store.save_elsewhere()
    await save(writer)
    later = writer.submit(snapshot())
    await rig.until(lambda: held.is_reached)
    await result_of(later)
    assert rig.published == []
    held.release()
    await writer.drain(5)
    assert rig.published == [1, 2, 3]


async def test_a_batch_that_arrives_between_two_reads_of_a_gap_waits_for_both(rig: Rig) -> None:
    writer = rig.writer()
    await quiet(rig)
    first, second = Held(), Held()
    rig.store.on_page = first
    rig.store.save_elsewhere(ROWS_MAX + 1)
    await save(writer)
    await rig.until(lambda: first.is_reached)
    rig.store.on_page = second
    first.release()
    await rig.until(lambda: second.is_reached)
    await save(writer)
    assert len(rig.published) == ROWS_MAX
    second.release()
    await writer.drain(5)
    assert rig.store.reads == [ROWS_MAX, 1]
    assert rig.published == list(range(1, ROWS_MAX + 4))


async def test_a_gap_that_cannot_be_read_is_filled_later_without_another_save(rig: Rig) -> None:
    writer = rig.writer()
    await quiet(rig)
    raise_once(rig, "on_page", StoreUnavailable("the database cannot be reached"))
    rig.store.save_elsewhere()
    await save(writer)
    await rig.until(lambda: rig.published == [1, 2])


async def test_a_gap_is_filled_without_a_wait_for_the_next_poll(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balance.feed.poll_schedule.PAUSE_S_MAX", 60)
    writer = rig.writer()
    rig.tail._schedule._pause_s = 60
    await rig.until(lambda: rig.tail._schedule.seconds_left > 50)
    rig.store.save_elsewhere()
    await save(writer)
    await rig.until(lambda: rig.published == [1, 2])


async def test_two_of_one_id_in_one_batch_are_one_snapshot_published_once(rig: Rig) -> None:
    writer = rig.writer()
    await rig.hold(writer, behind=0)
    same = str(uuid4())
    pending = [writer.submit(snapshot(same)) for _ in range(3)]
    rig.store.go.set()
    results = [await result_of(one) for one in pending]
    assert [(one.snapshot.seq, one.duplicate) for one in results] == [(2, False), (2, True), (2, True)]
    await writer.drain(5)
    assert rig.published == [1, 2]


async def test_an_old_one_that_is_sent_again_is_not_published_again(rig: Rig) -> None:
    writer = rig.writer()
    old = snapshot()
    await save(writer, old, *[snapshot() for _ in range(5)])
    assert (await result_of(writer.submit(old))).duplicate
    await writer.drain(5)
    assert rig.published == [1, 2, 3, 4, 5, 6]


async def test_the_last_one_sent_again_before_a_new_one_causes_no_read(rig: Rig) -> None:
    writer = rig.writer()
    (held,) = await rig.hold(writer, behind=0)
    for one in (held.snapshot, snapshot()):
        writer.submit(one)
    rig.store.go.set()
    await writer.drain(5)
    assert rig.store.batches == [1, 2]
    assert rig.published == [1, 2]
    assert not rig.store.reads


# Polls -------------------------------------------------------------------------------------------------------


async def test_what_another_process_saves_is_published_without_a_save(rig: Rig) -> None:
    rig.writer()
    rig.store.save_elsewhere(ROWS_MAX + 1)
    await rig.until(lambda: len(rig.published) == ROWS_MAX + 1)
    rig.store.save_elsewhere()
    await rig.until(lambda: rig.published == list(range(1, ROWS_MAX + 3)))


async def test_polls_become_rare_without_news_and_frequent_when_another_process_saves(rig: Rig) -> None:
    rig.writer()
    renewed: list[Position] = []
    rig.store.renew = renewed.append  # type: ignore[assignment, method-assign]
    pauses: list[float] = []
    rig.store.on_head = lambda: pauses.append(rig.tail._schedule._pause_s)
    await quiet(rig)
    assert [round(1000 * pause, 1) for pause in pauses] == [5, 7.5, 11.2, 16.9, 25.3, 38.0, 57.0, 85.4]
    rig.store.save_elsewhere()
    await rig.until(lambda: bool(rig.published))
    assert rig.tail._schedule._pause_s == PAUSE_S_MIN
    assert not renewed, "the end has not gone back"


async def test_without_watchers_nothing_is_read_or_encoded_and_polls_come_once_a_second(rig: Rig) -> None:
    rig.listener.has_watchers = False
    writer = rig.writer()
    await quiet(rig)
    await rig.until(lambda: rig.tail._schedule.seconds_left > 0.9)
    rig.store.save_elsewhere(3)
    await save(writer)
    assert rig.tail.position.seq == 4
    rig.store.save_elsewhere(3)
    heads = rig.store.heads
    await rig.until(lambda: rig.tail.position.seq == 7)
    assert rig.store.heads == heads + 1
    assert rig.published == rig.store.reads == []
    assert rig.tail.recent.after(6) is None


async def test_a_client_that_joins_has_the_tail_polled_soon(rig: Rig) -> None:
    rig.listener.has_watchers = False
    rig.writer()
    await rig.until(lambda: rig.tail._schedule.seconds_left > 0.9)
    await rig.feed.resume(None)
    assert rig.tail._schedule.seconds_left <= PAUSE_S_MIN
    rig.listener.has_watchers = True
    rig.store.save_elsewhere()
    async with asyncio.timeout(0.5):
        await rig.until(lambda: rig.published == [1])


async def test_batches_that_continue_the_feed_replace_polls(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, schedule = rig.writer(), rig.tail._schedule
    await quiet(rig)
    monkeypatch.setattr("balance.feed.poll_schedule.PAUSE_S_MAX", 60.0)
    heads, schedule._pause_s = rig.store.heads, 60.0
    for _ in range(3):
        schedule.poll_within(10)
        await save(writer)
        assert schedule.seconds_left > 40
    assert rig.store.heads == heads


async def test_a_resend_has_what_others_saved_before_it_published(rig: Rig) -> None:
    writer, old = rig.writer(), snapshot()
    await save(writer, old)
    rig.store.save_elsewhere()
    while rig.published != [1, 2]:
        await save(writer, old)
        await asyncio.sleep(0.01)


async def test_resends_without_a_pause_do_not_hold_back_others(rig: Rig) -> None:
    writer, old = rig.writer(), snapshot()
    await save(writer, old)
    rig.store.before = lambda _: time.sleep(0.002)
    is_flooding = True

    def resend(_: object = None) -> None:
        if is_flooding:
            writer.submit(old).add_done_callback(resend)

    for _ in range(200):
        resend()
    await rig.until(rig.tail._has_batch_in_flight)
    rig.store.save_elsewhere()
    await rig.until(lambda: rig.published == [1, 2])
    is_flooding = False
    await writer.drain(5)


async def test_a_poll_publishes_nothing_of_a_batch_that_is_not_acknowledged(rig: Rig) -> None:
    writer, committed, seen = rig.writer(), Held(), list[str]()
    await quiet(rig)
    rig.listener.on_publish = lambda snapshots: seen.extend(f"published {one.seq}" for one in snapshots)
    rig.store.after = committed
    writer.submit(snapshot()).add_done_callback(lambda done: seen.append(f"saved {done.result().snapshot.seq}"))
    await rig.until(lambda: committed.is_reached)
    heads = rig.store.heads
    rig.tail.hasten()
    await asyncio.sleep(0.05)
    assert rig.store.heads == heads, "the result of the batch shows as much"
    assert seen == []
    committed.release()
    await rig.until(lambda: len(seen) == 2)
    assert seen == ["saved 1", "published 1"]


async def test_a_poll_that_sees_a_batch_committed_meanwhile_leaves_it_to_the_batch(rig: Rig) -> None:
    writer, before_read, committed = rig.writer(), Held(), Held()
    await quiet(rig)
    rig.store.on_head = before_read
    rig.tail.hasten()
    await rig.until(lambda: before_read.is_reached)
    rig.store.after = committed
    pending = writer.submit(snapshot())
    await rig.until(lambda: committed.is_reached)
    after_read = Held()
    rig.store.on_head = after_read
    before_read.release()
    await asyncio.sleep(0.02)
    assert not pending.done()
    assert rig.published == []
    committed.release()
    after_read.release()
    await writer.drain(5)
    assert rig.published == [1]


async def test_a_poll_that_a_batch_has_overtaken_is_discarded(rig: Rig) -> None:
    writer, held = rig.writer(), Held()
    await quiet(rig)
    rig.store.on_head = held  # its result, seq 0, has been read
    rig.tail.hasten()
    await rig.until(lambda: held.is_reached)
    await save(writer)
    await save(writer)
    rig.store.on_head = lambda: None
    held.release()
    await rig.until(lambda: rig.store.heads > 12)
    assert rig.tail.position == Position(EPOCH, 2)
    assert rig.published == [1, 2]
    assert rig.store.epochs == {EPOCH: 0}


@pytest.mark.expects_log("the feed goes on")
async def test_a_poll_that_a_batch_of_a_newer_epoch_has_overtaken_is_discarded(rig: Rig) -> None:
    writer, held = rig.writer(), Held()
    await save(writer)
    await quiet(rig)
    rig.store.on_head = held  # its result, of the old epoch, has been read
    rig.tail.hasten()
    await rig.until(lambda: held.is_reached)
    epoch = rig.store.begin_epoch()
    await save(writer)
    rig.store.on_head = lambda: None
    heads = rig.store.heads
    held.release()
    await rig.until(lambda: rig.store.heads > heads)
    assert rig.tail.position == Position(epoch, 2)
    assert rig.listener.ends == 1


async def test_a_batch_that_comes_while_a_poll_reads_rows_is_published_after_them(rig: Rig) -> None:
    writer, held = rig.writer(), Held()
    rig.store.on_page = held
    rig.store.save_elsewhere(2)
    await rig.until(lambda: held.is_reached)
    await save(writer)
    assert rig.published == []
    held.release()
    await writer.drain(5)
    assert rig.published == [1, 2, 3]


async def test_rows_that_a_batch_has_overtaken_while_nobody_watched_are_not_published(rig: Rig) -> None:
    writer, held = rig.writer(), hold_page_after_read(rig)
    rig.store.save_elsewhere(2)
    await rig.until(lambda: held.is_reached)
    rig.listener.has_watchers = False
    await save(writer)
    assert rig.tail.position == Position(EPOCH, 3)
    rig.listener.has_watchers = True  # a client that begins after seq 3
    await release_and_poll(rig, held)
    await save(writer)
    await writer.drain(5)
    assert rig.published == [4]


async def test_a_batch_without_an_answer_is_published_without_another_save(rig: Rig) -> None:
    writer = rig.writer()
    await quiet(rig)
    await save_lost(rig, writer)
    await rig.until(lambda: rig.published == [1])


async def test_after_a_batch_without_an_answer_the_next_poll_is_soon_also_unwatched(rig: Rig) -> None:
    rig.listener.has_watchers = False
    writer = rig.writer()
    await rig.until(lambda: rig.tail._schedule.seconds_left > 0.9)
    await save_lost(rig, writer)
    assert rig.tail._schedule.seconds_left <= PAUSE_S_LOST
    await rig.until(lambda: rig.tail.position.seq == 1)


async def test_a_commit_in_doubt_that_appears_late_is_published(rig: Rig) -> None:
    lost: list[Snapshot] = []

    def give_up(snapshots: Sequence[Snapshot]) -> None:
        lost.extend(snapshots)
        raise StoreUnavailable("the database did not answer in time")

    writer, rig.store.before = rig.writer(), give_up
    with pytest.raises(StoreUnavailable):
        await save(writer)
    await quiet(rig)
    assert rig.published == []
    rig.store.stored.append(lost[0].with_seq(1))
    await rig.until(lambda: rig.published == [1])


async def test_a_batch_without_an_answer_is_published_with_the_next_save(rig: Rig) -> None:
    writer = rig.writer()
    await save(writer)
    lost = snapshot()
    await save_lost(rig, writer, lost)
    stored = await result_of(writer.submit(lost))
    assert (stored.snapshot.seq, stored.duplicate) == (2, True)
    await save(writer)
    await writer.drain(5)
    assert rig.published == [1, 2, 3]


async def test_a_batch_without_an_answer_is_published_before_the_batch_behind_it(rig: Rig) -> None:
    writer = rig.writer()
    lost, *saves = await rig.hold(writer, behind=BATCH_MIN)

    def lose_the_first() -> None:
        if len(rig.store.batches) == 1:
            lose()

    rig.store.after = lose_the_first
    rig.store.go.set()
    with pytest.raises(StoreUnavailable, match="connection lost"):
        await result_of(lost)
    assert [(await result_of(one)).snapshot.seq for one in saves] == list(range(2, BATCH_MIN + 2))
    await writer.drain(5)
    assert rig.published == list(range(1, BATCH_MIN + 2))


async def test_a_poll_that_fails_is_made_again_after_growing_pauses(rig: Rig) -> None:
    rig.writer()
    await quiet(rig)

    def fail() -> None:
        raise StoreUnavailable("the database cannot be reached")

    rig.store.on_head = fail
    pauses = []
    for _ in range(4):
        heads = rig.store.heads
        rig.tail.hasten()
        await rig.until(lambda heads=heads: rig.store.heads > heads and rig.tail._schedule.seconds_left > 0)  # type: ignore[misc]
        pauses.append(round(rig.tail._schedule.seconds_left, 1))
    assert pauses == [0.2, 0.5, 1.0, 1.0]
    rig.store.save_elsewhere()
    rig.store.on_head = lambda: None
    await rig.until(lambda: rig.published == [1])


async def test_after_a_poll_that_failed_batches_replace_none_until_one_works(rig: Rig) -> None:
    """The end of an outage of reads is noticed, also while saves work all the time."""
    writer = rig.writer()
    await quiet(rig)
    raise_once(rig, "on_head", StoreUnavailable("the database cannot be reached"))
    rig.tail.hasten()
    await rig.until(lambda: rig.tail._schedule.is_failing)
    heads = rig.store.heads
    while rig.tail._schedule.is_failing:
        await save(writer)
    assert rig.store.heads == heads + 1


@pytest.mark.expects_log("the feed could not be followed")
async def test_a_mistake_in_a_poll_is_logged_and_stops_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    writer = rig.writer()
    await quiet(rig)
    raise_once(rig, "on_head", LookupError())
    rig.store.save_elsewhere()
    await rig.until(lambda: rig.published == [1])
    raise_once(rig, "on_page", LookupError())
    rig.store.save_elsewhere()
    await save(writer)
    await rig.until(lambda: rig.published == [1, 2, 3])
    assert caplog.messages == ["the feed could not be followed"] * 2
    assert all(one.exc_info and one.exc_info[0] is LookupError for one in caplog.records)


async def test_the_durability_is_that_of_the_last_poll(rig: Rig) -> None:
    rig.writer()
    assert rig.feed.durability == "local"
    rig.store.durability = "replicated"
    await rig.until(lambda: rig.feed.durability == "replicated")


async def test_the_lag_is_the_time_since_a_poll_or_a_batch_has_shown_the_end(rig: Rig) -> None:
    assert rig.tail.lag_s == rig.tail.poll_s == 0
    writer, held = rig.writer(), Held()
    await quiet(rig)
    rig.store.on_head = held
    rig.tail.hasten()
    await rig.until(lambda: held.is_reached)
    await asyncio.sleep(0.05)
    assert 0.04 < rig.tail.poll_s <= rig.tail.lag_s < 10
    await save(writer)
    assert rig.tail.lag_s < rig.tail.poll_s
    await asyncio.sleep(0.05)
    lag_s = rig.tail.lag_s
    assert lag_s > 0.04
    rig.store.on_head = lambda: None
    held.release()
    await rig.until(lambda: rig.tail.poll_s == 0)
    assert rig.tail.lag_s < lag_s


# Positions to wait for ---------------------------------------------------------------------------------------


async def test_a_position_of_another_process_is_reached_by_polling_at_once(rig: Rig) -> None:
    rig.listener.has_watchers = False
    rig.writer()
    await rig.until(lambda: rig.tail._schedule.seconds_left > 0.9)
    rig.store.save_elsewhere(3)
    async with asyncio.timeout(0.5):
        await rig.tail.reach(Position(EPOCH, 3))
    assert rig.tail.position.seq == 3


@pytest.mark.expects_log("the feed goes on")
async def test_a_position_of_a_new_epoch_is_reached_when_the_tail_has_it(rig: Rig) -> None:
    rig.writer()
    await rig.tail.reach(Position(rig.store.begin_epoch(), 0))
    assert rig.tail.position == Position(rig.store.epoch, 0)


async def test_a_wait_for_a_position_ends_with_the_service(rig: Rig) -> None:
    rig.writer()
    waiting = asyncio.ensure_future(rig.tail.reach(Position(EPOCH, 3)))
    await asyncio.sleep(0)
    rig.tail.end_waits()
    with pytest.raises(StoreUnavailable, match=r"^the server is stopping$"):
        await waiting


# Listeners ---------------------------------------------------------------------------------------------------


@pytest.mark.expects_log("could not be published")
async def test_a_listener_that_raises_has_its_clients_resume_and_disturbs_no_other(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    writer, other = rig.writer(), FakeListener()
    rig.feed.subscribe(other)

    def fail(snapshots: Sequence[EncodedSnapshot]) -> None:
        raise ValueError("a mistake of ours")

    rig.listener.on_publish = fail
    await save(writer, *[snapshot() for _ in range(3)])
    rig.listener.on_publish = lambda snapshots: None
    await save(writer)
    await writer.drain(5)
    assert other.published == [1, 2, 3, 4]
    assert other.ends == 0
    assert rig.published == [4], "a part of its watchers may have received the others"
    assert rig.listener.ends == len(caplog.messages) > 0
    assert all(re.fullmatch("[123] snapshots could not be published", one) for one in caplog.messages)


@pytest.mark.expects_log("could not be disconnected", "the feed goes on")
async def test_a_listener_that_cannot_end_its_clients_keeps_no_other_from_it(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("a mistake of ours")

    writer, other = rig.writer(), FakeListener()
    rig.feed.subscribe(other)
    rig.listener.end_all = fail  # type: ignore[method-assign]
    rig.store.begin_epoch()
    await rig.until(lambda: other.ends == 1)
    await save(writer)
    await rig.until(lambda: other.published == [1])
    assert "the clients of a listener could not be disconnected" in caplog.messages


def test_a_client_counts_as_a_watcher_for_two_seconds_after_its_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr("balance.feed.listeners.monotonic", lambda: clock)
    listeners = Listeners()
    assert not listeners.has_watchers
    with listeners.followed():
        clock += 60
        assert listeners.has_watchers
    for clock, is_followed in ((160.0, True), (161.99, True), (162.0, False)):
        assert listeners.has_watchers == is_followed, clock


# Another epoch -----------------------------------------------------------------------------------------------


@pytest.mark.expects_log("the feed goes on")
@pytest.mark.parametrize("left", [2, 5])
async def test_a_poll_that_finds_a_new_epoch_has_every_client_resume(
    rig: Rig, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    writer = rig.writer()
    await save(writer, *[snapshot() for _ in range(5)])
    epoch = rig.store.begin_epoch(keep=left)
    await rig.until(lambda: rig.listener.ends == 1)
    assert rig.tail.position == Position(epoch, left)
    assert rig.tail.recent.after(left - 1) is None
    await save(writer)
    await writer.drain(5)
    assert rig.published == [1, 2, 3, 4, 5, left + 1]
    assert rig.listener.ends == 1
    assert caplog.messages == [
        f"the feed goes on in epoch {epoch} after seq {left}, before it was {EPOCH} after 5: "
        "every watcher has to resume"
    ]


@pytest.mark.expects_log("the feed goes on")
async def test_a_batch_of_a_new_epoch_is_not_published_as_the_clients_resume(rig: Rig) -> None:
    writer = rig.writer()
    await save(writer, *[snapshot() for _ in range(5)])
    await quiet(rig)
    epoch = rig.store.begin_epoch(keep=3)
    await save(writer, snapshot())
    assert rig.tail.position == Position(epoch, 4)
    assert rig.listener.ends == 1
    await save(writer)
    await writer.drain(5)
    assert rig.published == [1, 2, 3, 4, 5, 5]


@pytest.mark.expects_log("the feed goes on")
async def test_a_resend_in_a_new_epoch_does_not_publish_history_again(rig: Rig) -> None:
    writer, old = rig.writer(), snapshot()
    await save(writer, old, *[snapshot() for _ in range(5)])
    await quiet(rig)
    epoch = rig.store.begin_epoch()
    assert (await result_of(writer.submit(old))).duplicate
    await rig.until(lambda: rig.tail.position == Position(epoch, 6))
    await save(writer)
    await writer.drain(5)
    assert rig.published == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.expects_log("the feed goes on")
async def test_a_new_epoch_between_a_poll_and_its_rows_has_the_clients_resume(rig: Rig) -> None:
    writer, held = rig.writer(), Held()
    rig.store.on_page = held
    rig.store.save_elsewhere(2)
    await rig.until(lambda: held.is_reached)
    epoch = rig.store.begin_epoch(keep=1)
    await save(writer)
    assert rig.tail.position == Position(epoch, 2)
    held.release()
    rig.store.on_page = lambda: None
    await save(writer)
    await writer.drain(5)
    assert rig.published == [3]
    assert rig.listener.ends == 1


@pytest.mark.expects_log("the feed goes on")
async def test_rows_of_an_old_epoch_are_not_published_in_the_new_one(rig: Rig) -> None:
    writer, held = rig.writer(), hold_page_after_read(rig)
    rig.store.save_elsewhere(2)
    await rig.until(lambda: held.is_reached)
    epoch = rig.store.begin_epoch()
    await save(writer)
    await release_and_poll(rig, held)
    await save(writer)
    await writer.drain(5)
    assert rig.tail.position == Position(epoch, 4)
    assert rig.published == [4]


@pytest.mark.expects_log("the feed goes on")
async def test_a_counter_that_went_back_begins_a_new_epoch(rig: Rig) -> None:
    writer = rig.writer()
    await save(writer, *[snapshot() for _ in range(5)])
    del rig.store.stored[3:]
    await rig.until(lambda: rig.listener.ends == 1)
    assert len(rig.store.epochs) == 2
    assert rig.tail.position == Position(rig.store.epoch, 3)


@pytest.mark.expects_log("the feed goes on")
async def test_a_batch_below_the_position_has_the_clients_resume(rig: Rig) -> None:
    writer = rig.writer()
    await save(writer, *[snapshot() for _ in range(5)])
    await quiet(rig)
    del rig.store.stored[4:]
    await save(writer)
    assert rig.listener.ends == 1
    await save(writer)
    await writer.drain(5)
    assert rig.published == [1, 2, 3, 4, 5, 6]


@pytest.mark.expects_log("the feed has lost some of seq 2 to 3", "the feed goes on")
async def test_rows_that_are_gone_have_the_clients_resume_and_stop_nothing(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    writer = rig.writer()
    await save(writer)
    await quiet(rig)
    rig.store.first = 4
    rig.store.save_elsewhere(2)
    await save(writer)
    await rig.until(lambda: rig.listener.ends == 1)
    await rig.until(lambda: rig.published == [1, 4])
    await save(writer)
    await writer.drain(5)
    assert rig.published == [1, 4, 5]
    assert caplog.messages[0] == "the feed has lost some of seq 2 to 3"


@pytest.mark.expects_log("the feed has lost some of seq 1 to 3", "the feed goes on")
@pytest.mark.parametrize("left", [[], [1, 3], [3], [2, 3]])
async def test_rows_with_one_missing_are_not_published(rig: Rig, left: list[int]) -> None:
    saved = rig.store.save_elsewhere(3)
    rows = [saved[seq - 1].encode() for seq in left]
    rig.store.page = lambda *_: FeedPage(EPOCH, 3, left[0] if left else None, 3, rows)  # type: ignore[method-assign]
    rig.listener.on_publish = lambda snapshots: pytest.fail("it was published")
    rig.tail_worker.start()
    rig.tail.start(Head(Position(EPOCH, 0), "local"), lambda: False)
    await rig.until(lambda: rig.listener.ends == 1)
    assert rig.tail.position == Position(EPOCH, 3)


@pytest.mark.expects_log("a batch could not be published")
async def test_a_batch_that_cannot_be_published_is_read_from_the_table(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Snapshot) -> EncodedSnapshot:
        monkeypatch.undo()
        raise LookupError

    writer = rig.writer()
    await quiet(rig)
    monkeypatch.setattr(Snapshot, "encode", fail)
    await save(writer)
    await rig.until(lambda: rig.published == [1])
    await save(writer)
    await writer.drain(5)
    assert rig.published == [1, 2]
    assert caplog.messages == ["a batch could not be published"]


# The end -----------------------------------------------------------------------------------------------------


async def test_the_end_does_not_wait_for_a_poll_that_hangs(rig: Rig) -> None:
    writer, held = rig.writer(), Held()
    rig.store.on_head = held
    await rig.until(lambda: held.is_reached)
    await save(writer)
    async with asyncio.timeout(1):
        await writer.drain(5)
    assert rig.published == [1]
    held.release()


async def test_a_tail_is_started_once(rig: Rig) -> None:
    rig.writer()
    with pytest.raises(AssertionError, match=r"^started once$"):
        rig.tail.start(rig.store.head(), lambda: False)
