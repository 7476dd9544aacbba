"""The tail: order, gaps, other feeds, and each change of the lag.

The batches come from a writer on a feed in memory, as they do in the service.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from uuid import uuid4

import pytest

from balance.feed.batcher import BATCH_MIN
from balance.feed.pending import PendingSave
from balance.feed.tail import ROWS_MAX, Lag
from balance.feed.writer import Writer
from balance.position import Position
from balance.snapshot import Snapshot
from balance.storage.errors import StoreUnavailable
from balance.storage.store import FeedEnd
from tests.support.feed import EPOCH, Rig, feed_rig, result_of, snapshot


@pytest.fixture
def rig() -> Iterator[Rig]:
    with feed_rig() as rig:
        yield rig


def lose() -> None:
    raise StoreUnavailable("connection lost in COMMIT")


async def save(writer: Writer, *snapshots: Snapshot) -> None:
    for pending in [writer.submit(one) for one in snapshots or (snapshot(),)]:
        await result_of(pending)


async def save_lost(rig: Rig, writer: Writer, lost: Snapshot | None = None) -> None:
    """Save a snapshot that is committed without an answer."""
    rig.store.after = lose
    with pytest.raises(StoreUnavailable):
        await save(writer, lost or snapshot())
    rig.store.after = lambda: None


async def test_each_batch_is_published_in_seq_order(rig: Rig) -> None:
    writer = rig.writer()
    await save(writer, *[snapshot() for _ in range(50)])
    assert rig.published == list(range(1, 51))
    assert rig.tail.position == Position(EPOCH, 50)


async def test_what_another_process_saved_is_published_before_the_next_batch(rig: Rig) -> None:
    writer = rig.writer()
    await save(writer)
    rig.store.rows += [snapshot().with_seq(seq) for seq in range(2, 3000)]
    await save(writer)
    await writer.drain(5)
    assert rig.published == list(range(1, 3001))


async def test_batches_behind_a_gap_wait_until_it_is_filled(rig: Rig) -> None:
    writer = rig.writer()
    feed, going_on = rig.store.feed, asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow_feed(after: int, up_to: int, limit: int) -> list[Snapshot]:
        asyncio.run_coroutine_threadsafe(going_on.wait(), loop).result(10)
        return feed(after, up_to, limit)

    rig.store.feed = slow_feed  # type: ignore[method-assign]
    rig.store.rows += [snapshot().with_seq(1)]
    await save(writer)
    later = writer.submit(snapshot())
    assert rig.published == []
    going_on.set()
    await result_of(later)
    await writer.drain(5)
    assert rig.published == [1, 2, 3]


async def test_a_batch_that_arrives_between_two_reads_of_a_gap_waits_for_both(rig: Rig) -> None:
    """The first read ends right before the batch behind the gap, so both batches would fit then."""
    writer, feed, loop = rig.writer(), rig.store.feed, asyncio.get_running_loop()
    submitted, later = threading.Event(), list[PendingSave]()

    def submit() -> None:
        later.append(writer.submit(snapshot()))
        submitted.set()

    def feed_in_parts(after: int, up_to: int, limit: int) -> list[Snapshot]:
        if after == 0:
            loop.call_soon_threadsafe(submit)
            assert submitted.wait(10)
        return feed(after, up_to, limit)

    rig.store.feed = feed_in_parts  # type: ignore[method-assign]
    rig.store.rows += [snapshot().with_seq(seq) for seq in range(1, ROWS_MAX + 1)]
    await save(writer)
    await rig.until(lambda: bool(later))
    await result_of(later[0])
    await writer.drain(5)
    assert rig.published == list(range(1, ROWS_MAX + 3))


async def test_a_gap_that_cannot_be_read_is_filled_later_without_another_save(rig: Rig) -> None:
    writer, feed = rig.writer(), rig.store.feed

    def fail_once(after: int, up_to: int, limit: int) -> list[Snapshot]:
        rig.store.feed = feed  # type: ignore[method-assign]
        raise StoreUnavailable("the database cannot be reached")

    rig.store.feed = fail_once  # type: ignore[method-assign]
    rig.store.rows += [snapshot().with_seq(1)]
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


@pytest.mark.expects_log("could not be published")
async def test_a_broadcast_that_fails_stops_no_save(rig: Rig) -> None:
    writer = rig.writer()

    def fail(snapshots: Sequence[Snapshot]) -> None:
        raise ValueError("a mistake of ours")

    works, rig.publish = rig.publish, fail
    assert [(await result_of(writer.submit(snapshot()))).snapshot.seq for _ in range(3)] == [1, 2, 3]
    rig.publish = works
    await save(writer)
    await writer.drain(5)
    assert rig.published == [4], "a part of the watchers may have received the others"


# Another feed ------------------------------------------------------------------------------------------------


@pytest.mark.expects_log("the feed is another one now")
async def test_a_feed_that_was_reset_is_followed_under_its_new_epoch(rig: Rig) -> None:
    writer = rig.writer()
    await save(writer, *[snapshot() for _ in range(5)])
    rig.store.epoch, rig.store.rows = str(uuid4()), []
    await save(writer)
    await writer.drain(5)
    assert rig.tail.position == Position(rig.store.epoch, 1)
    assert rig.published == [1, 2, 3, 4, 5, 1]


@pytest.mark.expects_log("the feed is another one now")
@pytest.mark.parametrize("left", [2, 4])
async def test_a_feed_that_was_restored_under_its_old_epoch_is_noticed_by_its_numbers(rig: Rig, left: int) -> None:
    writer = rig.writer()
    await save(writer, *[snapshot() for _ in range(5)])
    del rig.store.rows[left:]
    await save(writer)
    await writer.drain(5)
    assert rig.published == [1, 2, 3, 4, 5, left + 1]


@pytest.mark.expects_log("the feed is another one now")
async def test_a_new_epoch_and_a_resend_do_not_publish_history_again(rig: Rig) -> None:
    writer = rig.writer()
    old = snapshot()
    await save(writer, old, *[snapshot() for _ in range(5)])
    rig.store.epoch = str(uuid4())
    assert (await result_of(writer.submit(old))).duplicate
    await save(writer)
    await writer.drain(5)
    assert rig.tail.position == Position(rig.store.epoch, 7)
    assert rig.published[:6] == [1, 2, 3, 4, 5, 6]
    assert rig.published[-1] == 7


@pytest.mark.expects_log("the feed has lost seq 2 to 3")
async def test_rows_that_are_gone_stop_nothing(rig: Rig) -> None:
    writer = rig.writer()
    await save(writer)
    rig.store.rows += [snapshot().with_seq(2)]
    rig.store.feed = lambda after, up_to, limit: []  # type: ignore[method-assign]
    await save(writer)
    await save(writer)
    await writer.drain(5)
    assert rig.published == [1, 4]


# Lag ---------------------------------------------------------------------------------------------------------


async def test_a_batch_without_an_answer_is_published_without_another_save(rig: Rig) -> None:
    writer = rig.writer()
    await save_lost(rig, writer)
    assert rig.tail.lag is Lag.UNKNOWN
    await rig.until(lambda: rig.published == [1])
    await rig.until(lambda: rig.tail.lag is Lag.CAUGHT_UP)
    await rig.until(lambda: rig.tail._repair is None)
    assert rig.tail._timer is None
    assert rig.store.end_reads == 1


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


async def test_the_table_is_read_again_while_a_commit_is_in_doubt(rig: Rig) -> None:
    lost: list[Snapshot] = []

    def give_up(snapshots: Sequence[Snapshot]) -> None:
        lost.extend(snapshots)
        raise StoreUnavailable("the database did not answer in time")

    writer, rig.store.before, rig.store.in_doubt = rig.writer(), give_up, True
    with pytest.raises(StoreUnavailable):
        await result_of(writer.submit(snapshot()))
    await rig.until(lambda: rig.tail.lag is Lag.IN_DOUBT)
    assert rig.store.end_reads == 1
    await rig.until(lambda: rig.store.end_reads == 2)
    await rig.until(lambda: rig.tail.lag is Lag.IN_DOUBT)
    rig.store.rows.append(lost[0].with_seq(1))
    rig.store.in_doubt = False
    await rig.until(lambda: rig.published == [1])
    await rig.until(lambda: rig.tail.lag is Lag.CAUGHT_UP)


async def test_a_loss_during_a_read_of_the_table_has_it_read_again(rig: Rig) -> None:
    writer, feed_end, loop = rig.writer(), rig.store.feed_end, asyncio.get_running_loop()
    await save_lost(rig, writer)
    submitted = threading.Event()

    def lose_once() -> None:
        rig.store.after = lambda: None
        lose()

    def submit() -> None:
        writer.submit(snapshot())
        submitted.set()

    def end_before_the_loss() -> FeedEnd:
        rig.store.feed_end = feed_end  # type: ignore[method-assign]
        rig.store.after = lose_once
        loop.call_soon_threadsafe(submit)
        assert submitted.wait(10)
        return feed_end()

    rig.store.feed_end = end_before_the_loss  # type: ignore[method-assign]
    await rig.until(lambda: rig.published == [1, 2])


async def test_rows_of_another_feed_are_not_published_as_what_was_lost(rig: Rig) -> None:
    writer = rig.writer()
    await save(writer)
    rig.store.epoch = str(uuid4())
    await save_lost(rig, writer)
    await rig.until(lambda: rig.tail.lag is Lag.CAUGHT_UP and rig.tail._repair is None)
    assert rig.published == [1]
    assert rig.tail.position == Position(EPOCH, 1)


async def test_a_loss_while_another_is_in_doubt_is_looked_for_sooner(rig: Rig) -> None:
    writer, rig.store.in_doubt = rig.writer(), True
    await save_lost(rig, writer)
    await rig.until(lambda: rig.tail.lag is Lag.IN_DOUBT)
    timer = rig.tail._timer
    await save_lost(rig, writer)
    assert rig.tail.lag is Lag.UNKNOWN
    assert timer is not None
    assert timer.cancelled()
    rig.store.in_doubt = False
    await rig.until(lambda: rig.tail.lag is Lag.CAUGHT_UP)
    assert rig.published == [1, 2]


async def test_a_read_of_the_table_that_fails_is_made_again(rig: Rig) -> None:
    writer, feed_end, feed = rig.writer(), rig.store.feed_end, rig.store.feed
    await save_lost(rig, writer)

    def fail(*_: object) -> FeedEnd:
        rig.store.end_reads += 1
        raise StoreUnavailable("the database cannot be reached")

    def fail_once(after: int, up_to: int, limit: int) -> list[Snapshot]:
        rig.store.feed = feed  # type: ignore[method-assign]
        raise StoreUnavailable("the database cannot be reached")

    rig.store.feed_end, rig.store.feed = fail, fail_once  # type: ignore[method-assign]
    await rig.until(lambda: rig.store.end_reads == 2)
    rig.store.feed_end = feed_end  # type: ignore[method-assign]
    await rig.until(lambda: rig.published == [1])
    assert rig.store.end_reads == 4, "two that failed, one whose rows could not be read, one that worked"
    await rig.until(lambda: rig.tail.lag is Lag.CAUGHT_UP)


@pytest.mark.expects_log("could not be published")
async def test_a_mistake_while_the_table_is_read_is_logged_and_stops_no_save(rig: Rig) -> None:
    writer = rig.writer()

    def fail() -> FeedEnd:
        raise LookupError

    rig.store.feed_end = fail  # type: ignore[method-assign]
    await save_lost(rig, writer)
    await rig.until(lambda: rig.tail.lag is Lag.CAUGHT_UP and rig.tail._repair is None)
    await save(writer)
    await writer.drain(5)
    assert rig.published == [1, 2]


async def test_a_batch_appended_during_a_read_is_acknowledged_before_it_is_published(rig: Rig) -> None:
    writer = rig.writer()
    await save_lost(rig, writer)
    feed_end, seen = rig.store.feed_end, list[str]()
    loop = asyncio.get_running_loop()
    rig.publish = lambda snapshots: seen.extend(f"published {one.seq}" for one in snapshots)

    def submit() -> None:
        writer.submit(snapshot()).add_done_callback(lambda done: seen.append(f"saved {done.result().snapshot.seq}"))

    def slow_end() -> FeedEnd:
        loop.call_soon_threadsafe(submit)
        rig.store.feed_end = feed_end  # type: ignore[method-assign]
        before = feed_end()
        return FeedEnd(before.position, True)

    rig.store.feed_end = slow_end  # type: ignore[method-assign]
    await rig.until(lambda: len(seen) == 3)
    assert [one for one in seen if "published" in one] == ["published 1", "published 2"]
    assert seen.index("saved 2") < seen.index("published 2")
    await writer.drain(5)


async def test_a_batch_that_was_appended_before_a_read_of_the_table_is_published_once(rig: Rig) -> None:
    writer = rig.writer()
    await save_lost(rig, writer)
    rig.store.go.clear()
    pending = writer.submit(snapshot())
    await rig.until(lambda: rig.tail._repair is not None)
    rig.store.go.set()
    await result_of(pending)
    await rig.until(lambda: rig.tail._repair is None)
    assert rig.published == [1, 2]


async def test_at_the_end_the_table_is_not_read_for_what_is_in_doubt(rig: Rig) -> None:
    writer, rig.store.in_doubt = rig.writer(), True
    await save_lost(rig, writer)
    await writer.drain(5)
    assert rig.tail.lag is Lag.CAUGHT_UP
    assert rig.tail._timer is None
    assert rig.store.end_reads == 0


# The log, and what is read from the table --------------------------------------------------------------------


@pytest.mark.expects_log("a batch could not be published")
async def test_each_batch_that_could_not_be_published_is_logged(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def fail(snapshots: Sequence[Snapshot]) -> None:
        raise ValueError("a mistake of ours")

    writer, rig.publish = rig.writer(), fail
    await save(writer)
    rig.store.rows.append(snapshot().with_seq(2))  # the next batch has it missing before it
    await save(writer)
    await writer.drain(5)
    assert caplog.messages == ["a batch could not be published"] * 2


@pytest.mark.expects_log("what may have been saved could not be published")
async def test_a_read_of_the_feed_that_is_a_mistake_is_logged(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> FeedEnd:
        raise LookupError

    writer, rig.store.feed_end = rig.writer(), fail  # type: ignore[method-assign]
    await save_lost(rig, writer)
    await rig.until(lambda: rig.tail.lag is Lag.CAUGHT_UP and rig.tail._repair is None)
    assert caplog.messages == ["what may have been saved could not be published"]


@pytest.mark.expects_log("the feed has lost seq 2 to 3")
async def test_the_log_has_the_numbers_that_are_lost(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    writer = rig.writer()
    await save(writer)
    rig.store.rows += [snapshot().with_seq(2)]
    rig.store.feed = lambda after, up_to, limit: []  # type: ignore[method-assign]
    await save(writer)
    await writer.drain(5)
    assert caplog.messages == ["the feed has lost seq 2 to 3"]


@pytest.mark.expects_log("the feed is another one now")
async def test_a_restored_feed_that_goes_on_with_the_last_number_is_noticed(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    writer = rig.writer()
    await save(writer, *[snapshot() for _ in range(5)])
    del rig.store.rows[4:]
    await save(writer)
    await writer.drain(5)
    assert rig.published == [1, 2, 3, 4, 5, 5]
    assert caplog.messages == [f"the feed is another one now: epoch {EPOCH}, going on from seq 5"]


async def test_the_last_one_sent_again_before_a_new_one_causes_no_read(rig: Rig) -> None:
    writer, feed, reads = rig.writer(), rig.store.feed, list[int]()

    def noted_feed(after: int, up_to: int, limit: int) -> list[Snapshot]:
        reads.append(after)
        return feed(after, up_to, limit)

    rig.store.feed = noted_feed  # type: ignore[method-assign]
    (held,) = await rig.hold(writer, behind=0)
    for one in (held.snapshot, snapshot()):
        writer.submit(one)
    rig.store.go.set()
    await writer.drain(5)
    assert rig.store.batches == [1, 2]
    assert rig.published == [1, 2]
    assert not reads


async def test_a_read_of_the_table_has_no_more_rows_than_its_limit(rig: Rig) -> None:
    writer, feed, sizes = rig.writer(), rig.store.feed, list[int]()

    def counted_feed(after: int, up_to: int, limit: int) -> list[Snapshot]:
        rows = feed(after, up_to, limit)
        sizes.append(len(rows))
        return rows

    rig.store.feed = counted_feed  # type: ignore[method-assign]
    rig.store.rows += [snapshot().with_seq(seq) for seq in range(1, 2 * ROWS_MAX + 1)]
    await save(writer)
    await writer.drain(5)
    assert sizes == [ROWS_MAX, ROWS_MAX, 1]
    assert rig.published == list(range(1, 2 * ROWS_MAX + 2))


async def test_a_loss_after_the_end_causes_no_read_of_the_table(rig: Rig) -> None:
    rig.writer()
    rig.tail.stop_reading()
    rig.tail.note_lost()
    await asyncio.sleep(Lag.UNKNOWN.value * 1.2)
    assert rig.store.end_reads == 0


async def test_a_tail_is_started_once(rig: Rig) -> None:
    rig.writer()
    with pytest.raises(AssertionError, match=r"^started once$"):
        rig.tail.start(Position(EPOCH, 0))
