"""Batches: their size, their order, when the thread cuts the next one, and a save that the database refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest
from tornado.ioloop import IOLoop

from balance.feed.batcher import BATCH_MIN, Batch, Batcher
from balance.feed.pending import PendingSave
from balance.snapshot import Snapshot
from tests.support.feed import Rig, feed_rig, result_of, snapshot


@pytest.fixture
def rig(io_loop: IOLoop) -> Iterator[Rig]:
    with feed_rig(io_loop) as rig:
        yield rig


async def test_what_arrives_during_an_append_goes_into_one_next_batch(rig: Rig) -> None:
    writer = rig.writer()
    saves = await rig.hold(writer, behind=BATCH_MIN)
    rig.store.go.set()
    assert [(await result_of(save)).snapshot.seq for save in saves] == list(range(1, BATCH_MIN + 2))
    assert rig.store.batches == [1, BATCH_MIN]


async def test_half_of_all_that_are_pending_is_appended_while_the_other_half_sends_again(rig: Rig) -> None:
    writer = rig.writer(batch_max=1000)
    half, is_over = 3 * BATCH_MIN, False

    def send(_done: PendingSave | None = None) -> None:
        if not is_over:
            writer.submit(snapshot()).add_done_callback(send)

    rig.store.go.clear()
    rig.store.after = rig.store.go.clear
    writer.submit(snapshot())
    await rig.until(lambda: len(rig.store.batches) == 1)
    for _ in range(2 * half):
        send()
    for batches in range(2, 8):
        rig.store.go.set()
        await rig.until(lambda batches=batches: len(rig.store.batches) >= batches)  # type: ignore[misc]
        await rig.until(lambda: len(rig.published) >= sum(rig.store.batches[:-1]))
    # A little more or less where the thread cuts a batch while the one before it is being acknowledged.
    assert all(half * 2 // 3 < size < half * 3 // 2 for size in rig.store.batches[1:])
    is_over = True
    rig.store.after = lambda: None
    rig.store.go.set()
    await writer.drain(5)
    assert rig.published == list(range(1, len(rig.store.stored) + 1))


async def test_few_wait_until_the_batch_before_them_is_acknowledged(rig: Rig) -> None:
    writer = rig.writer()
    first, *few = await rig.hold(writer, behind=BATCH_MIN - 1)
    rig.finish_submitted()
    assert rig.store.batches == [1]
    await result_of(first)
    assert [(await result_of(save)).snapshot.seq for save in few] == list(range(2, BATCH_MIN + 1))
    assert rig.store.batches == [1, BATCH_MIN - 1]


async def test_few_share_a_batch_with_what_is_sent_in_the_turn_after_an_acknowledgement(rig: Rig) -> None:
    writer = rig.writer()
    first, *_few = await rig.hold(writer, behind=3)
    loop = asyncio.get_running_loop()
    first.add_done_callback(lambda _: loop.call_soon(writer.submit, snapshot()))
    rig.store.go.set()
    await rig.until(lambda: len(rig.store.stored) == 5)
    assert rig.store.batches == [1, 4]


async def test_a_batch_is_no_larger_than_its_limit(rig: Rig) -> None:
    writer = rig.writer(batch_max=20)
    rig.store.go.clear()
    saves = [writer.submit(snapshot()) for _ in range(50)]
    rig.store.go.set()
    for save in saves:
        await result_of(save)
    assert sum(rig.store.batches) == 50
    assert max(rig.store.batches) == 20


async def test_one_that_the_database_refuses_fails_alone(rig: Rig) -> None:
    writer = rig.writer(batch_max=BATCH_MIN)
    refused = snapshot()

    def refuse(snapshots: Sequence[Snapshot]) -> None:
        if refused.id in [one.id for one in snapshots]:
            raise ValueError("not for this table")

    rig.store.before = refuse
    first, *batch = [snapshot() for _ in range(BATCH_MIN)]
    behind = [snapshot() for _ in range(BATCH_MIN)]
    rig.store.go.clear()
    saves = [writer.submit(first)]
    await rig.until(lambda: len(rig.store.batches) == 1)
    saves += [writer.submit(one) for one in (*batch, refused, *behind)]
    rig.store.go.set()
    await writer.drain(5)
    with pytest.raises(ValueError, match="not for this table"):
        saves[BATCH_MIN].result()
    assert [row.id for row in rig.store.stored] == [one.id for one in (first, *batch, *behind)]
    assert rig.published == list(range(1, 2 * BATCH_MIN + 1))
    assert rig.store.batches == [1, BATCH_MIN, *[1] * BATCH_MIN, BATCH_MIN]


async def test_beside_one_that_is_refused_each_is_acknowledged_as_soon_as_it_is_stored(rig: Rig) -> None:
    writer = rig.writer()
    refused = snapshot()

    def refuse(snapshots: Sequence[Snapshot]) -> None:
        if refused.id in [one.id for one in snapshots]:
            raise ValueError("not for this table")

    rig.store.before = refuse
    (held, first, second) = await rig.hold(writer, behind=2)
    last = writer.submit(refused)
    rig.store.after = rig.store.go.clear
    rig.store.go.set()
    await result_of(held)
    rig.store.go.set()  # of the batch of three, which fails, and of the first one alone
    assert (await result_of(first)).snapshot.seq == 2
    assert not second.done()
    assert not last.done()
    rig.store.go.set()
    assert (await result_of(second)).snapshot.seq == 3
    rig.store.go.set()
    with pytest.raises(ValueError, match="not for this table"):
        await result_of(last)


@pytest.mark.expects_log("a batch was not handled")
async def test_a_batch_that_is_not_handled_does_not_keep_the_next_ones_from_being_cut(rig: Rig) -> None:
    sizes: list[int] = []

    def fail(batch: Batch) -> float:
        sizes.append(len(batch.saves))
        raise LookupError

    batcher = Batcher(rig.store, rig.worker, fail, batch_max=100)
    rig.worker.start()
    for number in range(1, 5):
        batcher.submit(PendingSave(snapshot(), 0))
        batcher.start_next()
        await rig.until(lambda number=number: len(sizes) == number)  # type: ignore[misc]
    assert rig.store.batches == sizes == [1] * 4


async def test_after_refused_saves_that_gave_up_the_next_ones_share_a_batch_again(rig: Rig) -> None:
    writer = rig.writer()

    def refuse(snapshots: Sequence[Snapshot]) -> None:
        rig.store.go.clear()  # the first of those that are now appended one by one waits again
        raise ValueError("not for this table")

    saves = await rig.hold(writer, behind=3)
    rig.store.after = lambda: setattr(rig.store, "before", refuse)
    rig.store.go.set()
    await rig.until(lambda: rig.store.batches == [1, 3, 1])
    rig.store.before, rig.store.after = lambda snapshots: None, lambda: None
    for save in saves[1:]:
        save.deadline = 0
    writer._expire_overdue()
    later = [writer.submit(snapshot()) for _ in range(2)]
    rig.store.go.set()
    for save in later:
        await result_of(save)
    assert rig.store.batches == [1, 3, 1, 2]


async def test_a_wake_up_is_not_lost_between_the_thread_and_the_event_loop(rig: Rig) -> None:
    writer = rig.writer()
    for _ in range(2_000):
        async with asyncio.timeout(5):
            await result_of(writer.submit(snapshot()))
    assert rig.store.batches == [1] * 2_000


async def test_few_are_one_batch_after_the_save_before_them_has_given_up(rig: Rig) -> None:
    writer = rig.writer()
    saves = await rig.hold(writer, behind=3)
    for save in saves[:2]:
        save.deadline = 0
    writer._expire_overdue()
    rig.store.go.set()
    await writer.drain(5)
    assert rig.store.batches == [1, 2]


async def test_those_beside_a_refused_one_that_have_given_up_leave_it_alone(rig: Rig) -> None:
    writer, refused = rig.writer(), snapshot()

    def refuse(snapshots: Sequence[Snapshot]) -> None:
        if refused.id in [one.id for one in snapshots]:
            raise ValueError("not for this table")

    rig.store.before = refuse
    held, first, second, third = await rig.hold(writer, behind=3)
    writer.submit(refused)
    rig.store.after = rig.store.go.clear
    rig.store.go.set()
    await result_of(held)
    rig.store.go.set()  # of the batch of four, which fails, and of the first one alone
    await result_of(first)
    await rig.until(lambda: rig.store.batches == [1, 4, 1, 1])
    second.deadline = third.deadline = 0
    writer._expire_overdue()
    for _ in range(2):
        writer.submit(snapshot())
    rig.store.after = lambda: None
    rig.store.go.set()
    await writer.drain(5)
    assert rig.store.batches == [1, 4, 1, 1, 1, 2]


async def test_few_wait_for_the_acknowledgement_although_many_were_waiting_before(rig: Rig) -> None:
    writer = rig.writer()
    saves = await rig.hold(writer, behind=BATCH_MIN)
    for save in saves:
        save.deadline = 0
    writer._expire_overdue()
    writer.submit(snapshot())
    for _ in range(2):
        rig.finish_submitted()
    assert rig.store.batches == [1]
    await writer.drain(5)
    assert rig.store.batches == [1, 1]


async def test_saves_that_arrive_in_one_turn_of_the_event_loop_share_a_batch(rig: Rig) -> None:
    writer = rig.writer()
    for save in [writer.submit(snapshot()) for _ in range(4)]:
        await result_of(save)
    assert rig.store.batches == [4]


async def test_a_batch_that_is_large_enough_starts_with_its_last_save(rig: Rig) -> None:
    batches: list[Batch] = []
    batcher = Batcher(rig.store, rig.worker, lambda batch: batches.append(batch) or 0.0, batch_max=100)
    rig.worker.start()
    for _ in range(BATCH_MIN):
        assert rig.store.batches == []
        batcher.submit(PendingSave(snapshot(), 0))
    await rig.until(lambda: bool(batches))
    assert rig.store.batches == [BATCH_MIN]


async def test_of_two_in_a_batch_only_the_refused_one_fails(rig: Rig) -> None:
    writer, refused, other = rig.writer(), snapshot(), snapshot()

    def refuse(snapshots: Sequence[Snapshot]) -> None:
        if refused in snapshots:
            raise LookupError

    rig.store.before = refuse
    saves = [writer.submit(one) for one in (refused, other)]
    with pytest.raises(LookupError):
        await result_of(saves[0])
    assert (await result_of(saves[1])).snapshot.id == other.id
    assert rig.store.batches == [2, 1, 1]


async def test_one_batch_is_in_flight_until_it_is_delivered(rig: Rig) -> None:
    writer = rig.writer()
    assert not rig.tail._has_batch_in_flight()
    (save,) = await rig.hold(writer, behind=0)
    assert rig.tail._has_batch_in_flight()
    rig.store.go.set()
    await result_of(save)
    assert not rig.tail._has_batch_in_flight()
