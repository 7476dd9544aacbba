"""Batches that are sent to the store one behind the other, before the one before is answered."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import pytest
from tornado.ioloop import IOLoop

from balance.aio.threads import WorkerThread
from balance.feed.batcher import BATCH_MIN, Batch, Batcher
from balance.feed.pending import PendingSave
from balance.feed.writer import Writer
from balance.snapshot import Snapshot
from balance.storage.errors import StoreUnavailable
from tests.support.feed import Rig, SendingStore, feed_rig, result_of, snapshot
from tests.support.waiting import until


@pytest.fixture
def store() -> Iterator[SendingStore]:
    store = SendingStore()
    yield store
    store.close()


@pytest.fixture
def rig(io_loop: IOLoop, store: SendingStore) -> Iterator[Rig]:
    with feed_rig(io_loop, store) as rig:
        yield rig


def submit(writer: Writer, count: int) -> list[PendingSave]:
    return [writer.submit(snapshot()) for _ in range(count)]


def commit(store: SendingStore) -> None:
    """Answer a batch after a time that is longer than that of a broadcast, also on a busy machine."""
    time.sleep(0.02)
    store.answer()


async def turns() -> None:
    """Give the event loop the turns in which it does what it can do now."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_arrives_together_is_sent_in_two_halves_at_once(rig: Rig, store: SendingStore) -> None:
    saves = submit(rig.writer(), 5)
    await turns()
    assert store.sizes == [3, 2]
    store.answer()
    store.answer()
    assert [(await result_of(save)).snapshot.seq for save in saves] == [1, 2, 3, 4, 5]
    assert rig.published == [1, 2, 3, 4, 5]
    assert store.batches == [], "the write thread was not needed"


async def test_one_that_is_alone_is_sent_at_once(rig: Rig, store: SendingStore) -> None:
    writer = rig.writer()
    for seq in (1, 2, 3):
        (save,) = submit(writer, 1)
        await rig.until(lambda: bool(store.sent))
        store.answer()
        assert (await result_of(save)).snapshot.seq == seq


async def test_while_one_half_is_appended_the_other_is_sent_again(rig: Rig, store: SendingStore) -> None:
    writer = rig.writer()

    def send_again(_: PendingSave) -> None:
        writer.submit(snapshot()).add_done_callback(send_again)

    for save in submit(writer, 5):
        save.add_done_callback(send_again)
    for _ in range(20):
        await rig.until(lambda: len(store.sent) == 2)
        commit(store)
    assert set(store.sizes) == {2, 3}


async def test_few_share_a_batch_while_a_broadcast_takes_longer_than_a_commit(rig: Rig, store: SendingStore) -> None:
    writer = rig.writer()
    rig.listener.on_publish = lambda snapshots: time.sleep(0.02)

    def send_again(_: PendingSave) -> None:
        writer.submit(snapshot()).add_done_callback(send_again)

    for save in submit(writer, 4):
        save.add_done_callback(send_again)
    for _ in range(6):
        await rig.until(lambda: bool(store.sent))
        store.answer()
    assert store.sizes[:2] == [2, 2]
    assert store.sizes[-2:] == [4, 4]
    await rig.until(lambda: len(store.sent) == 1)
    submit(writer, 4)
    await turns()
    assert len(store.sent) == 1


async def test_batches_that_are_answered_together_share_the_time_of_their_commits(
    rig: Rig, store: SendingStore
) -> None:
    writer = rig.writer()
    saves = submit(writer, 5)
    await turns()
    for _ in range(2):
        commit(store)
    await result_of(saves[4])
    assert writer._batcher._commit_s > 0.0015


async def test_no_third_batch_is_sent_before_the_first_is_answered(rig: Rig, store: SendingStore) -> None:
    writer = rig.writer()
    for _ in range(3):
        submit(writer, BATCH_MIN)
        await turns()
    assert len(store.sizes) == 2
    store.answer()
    await rig.until(lambda: len(store.sizes) == 3)


async def test_few_are_not_sent_behind_many_that_are_in_flight(rig: Rig, store: SendingStore) -> None:
    writer = rig.writer(batch_max=20)
    submit(writer, 20)
    await turns()
    assert store.sizes == [10, 10]
    commit(store)
    await rig.until(lambda: len(rig.published) == 10)
    submit(writer, 2)
    await turns()
    assert store.sizes == [10, 10]
    submit(writer, 10)
    await turns()
    assert store.sizes == [10, 10, 11]


async def test_what_is_not_stored_is_appended_before_what_was_sent_and_submitted_after_it(
    rig: Rig, store: SendingStore
) -> None:
    writer = rig.writer()
    saves = submit(writer, 5)
    await turns()
    saves += submit(writer, 3)
    store.answer(None, None)
    await rig.until(lambda: saves[4].done() and bool(store.sent))
    while not saves[7].done():
        if store.sent:
            store.answer()
        await asyncio.sleep(0)
    assert [save.result().snapshot.seq for save in saves] == list(range(1, 9))
    assert store.batches == [5]


async def test_what_is_not_stored_waits_for_the_answer_to_what_was_sent_behind_it(
    rig: Rig, store: SendingStore
) -> None:
    writer = rig.writer()
    saves = submit(writer, 5)
    await turns()
    store.answer(None)
    await turns()
    assert store.batches == []
    saves += submit(writer, 1)
    store.answer(None)
    assert [(await result_of(save)).snapshot.seq for save in saves[:5]] == [1, 2, 3, 4, 5]
    await rig.until(lambda: bool(store.sent))
    store.answer()
    assert (await result_of(saves[5])).snapshot.seq == 6


@pytest.mark.parametrize("failures", [(), (None,)], ids=["stored", "put back"])
async def test_a_batch_that_cannot_be_sent_behind_another_is_appended_after_it(
    rig: Rig, store: SendingStore, failures: tuple[None, ...]
) -> None:
    writer = rig.writer()
    saves = submit(writer, 1)
    await turns()
    store.accepts = False
    saves += submit(writer, 2)
    await turns()
    assert store.batches == []
    store.answer(*failures)
    assert [(await result_of(save)).snapshot.seq for save in saves] == [1, 2, 3]


async def test_of_what_is_put_back_only_the_refused_one_fails_and_the_order_stays(
    rig: Rig, store: SendingStore
) -> None:
    writer, refused = rig.writer(batch_max=3), snapshot()

    def refuse(snapshots: Sequence[Snapshot]) -> None:
        if refused in snapshots:
            raise LookupError

    store.before = refuse
    saves = [writer.submit(one) for one in (snapshot(), refused, snapshot(), snapshot(), snapshot())]
    await turns()
    assert store.sizes == [3, 2]
    store.answer(None, None)
    with pytest.raises(LookupError):
        await result_of(saves[1])
    assert [(await result_of(saves[number])).snapshot.seq for number in (0, 2, 3, 4)] == [1, 2, 3, 4]
    assert store.batches == [3, 1, 1, 1, 2]


async def test_without_a_descriptor_to_watch_the_connection_by_the_write_thread_appends(
    rig: Rig, store: SendingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    writer = rig.writer()
    monkeypatch.setattr(os, "dup", fail)
    for seq in (1, 2, 3):
        assert (await result_of(writer.submit(snapshot()))).snapshot.seq == seq
    monkeypatch.undo()
    (save,) = submit(writer, 1)
    await rig.until(lambda: bool(store.sent))
    store.answer()
    assert (await result_of(save)).snapshot.seq == 4


@pytest.mark.expects_log("a batch was not sent")
async def test_an_answered_batch_is_acknowledged_although_the_next_one_cannot_be_sent(
    rig: Rig, store: SendingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(snapshots: Sequence[Snapshot]) -> bool:
        raise MemoryError

    writer = rig.writer()
    saves = submit(writer, 1)
    await turns()
    saves += submit(writer, 1)
    await turns()
    saves += submit(writer, 1)
    monkeypatch.setattr(store, "send", fail)
    for _ in range(2):
        store.answer()
    assert [(await result_of(save)).snapshot.seq for save in saves] == [1, 2, 3]
    assert store.batches == [1]


async def test_an_error_is_that_of_its_batch_alone(rig: Rig, store: SendingStore) -> None:
    saves = submit(rig.writer(), 5)
    await turns()
    store.answer(StoreUnavailable("lost"))
    store.answer()
    for save in saves[:3]:
        with pytest.raises(StoreUnavailable, match="lost"):
            await result_of(save)
    assert [(await result_of(save)).snapshot.seq for save in saves[3:]] == [1, 2]


async def test_after_batches_that_failed_few_are_halved_again(rig: Rig, store: SendingStore) -> None:
    writer = rig.writer()
    for sizes in ([3, 2], [3, 2, 3, 2]):
        saves = submit(writer, 5)
        await turns()
        assert store.sizes == sizes
        store.answer(*[StoreUnavailable("lost")] * 2)
        await rig.until(saves[4].done)


def test_the_time_of_a_commit_is_the_shortest_of_late(store: SendingStore) -> None:
    batcher = Batcher(store, WorkerThread("unused"), lambda batch: 0.0, batch_max=1)
    for seconds, estimate in ((0.1, 0.1), (0.3, 0.105), (0.104, 0.104)):
        batcher._finish(Batch([], StoreUnavailable(""), seconds))
        assert batcher._commit_s == pytest.approx(estimate)


async def test_saves_that_gave_up_are_not_put_back(rig: Rig, store: SendingStore) -> None:
    writer = rig.writer()
    saves = submit(writer, 5)
    await turns()
    saves[0].deadline = saves[1].deadline = 0
    writer._expire_overdue()
    store.answer(None, None)
    assert [(await result_of(save)).snapshot.seq for save in saves[2:]] == [1, 2, 3]
    assert store.batches == [3]


async def test_what_does_not_fit_into_the_buffers_is_sent_when_there_is_room(rig: Rig, store: SendingStore) -> None:
    submit(rig.writer(), 1)
    await rig.until(lambda: store.flushes == 3)
    await turns()
    assert store.flushes == 3
    store.answer()
    await rig.until(lambda: rig.published == [1])


async def test_a_connection_that_ends_while_nothing_is_in_flight_costs_no_turns(rig: Rig, store: SendingStore) -> None:
    writer = rig.writer()
    submit(writer, 1)
    await turns()
    store.answer()
    await rig.until(lambda: rig.published == [1])
    store.disconnect()
    await rig.until(lambda: writer._batcher._socket._connection is None)
    store.accepts = False
    (save,) = submit(writer, 1)
    assert (await result_of(save)).snapshot.seq == 2


async def test_a_drain_waits_for_what_was_sent(rig: Rig, store: SendingStore) -> None:
    writer = rig.writer()
    submit(writer, 5)
    drained = asyncio.ensure_future(writer.drain(5))
    await turns()
    store.answer()
    await turns()
    assert not drained.done()
    store.answer()
    await drained
    assert rig.published == [1, 2, 3, 4, 5]


# In time -----------------------------------------------------------------------------------------------------


async def leave_sent(writer: Writer, store: SendingStore) -> list[PendingSave]:
    """Leave two batches unanswered, and some saves in the queue behind them."""
    saves = submit(writer, 5)
    await turns()
    saves += submit(writer, 3)
    await turns()
    assert store.sizes == [3, 2]
    return saves


async def leave_blocked(writer: Writer, store: SendingStore) -> list[PendingSave]:
    """Leave a batch unanswered, and another one that cannot be sent behind it."""
    saves = submit(writer, 1)
    await turns()
    store.accepts = False
    saves += submit(writer, 2)
    await turns()
    assert writer._batcher._is_blocked
    return saves


async def leave_put_back(writer: Writer, store: SendingStore) -> list[PendingSave]:
    """Leave a batch put back, while that behind it is unanswered."""
    saves = submit(writer, 5)
    await turns()
    store.answer(None)
    await turns()
    assert (writer._batcher._put_back_left, len(store.sent)) == (3, 1)
    return saves


async def leave_in_thread(writer: Writer, store: SendingStore) -> list[PendingSave]:
    """Leave a batch in the write thread, and some saves in the queue behind it."""
    store.go.clear()
    saves = submit(writer, 5)
    await turns()
    store.answer(None, None)
    saves += submit(writer, 2)
    await until(lambda: store.batches == [5])
    return saves


async def leave_one_by_one(writer: Writer, store: SendingStore) -> list[PendingSave]:
    """Leave the first of a batch that is appended one by one in the write thread."""

    def refuse(snapshots: Sequence[Snapshot]) -> None:
        store.before = lambda _: None
        store.go.clear()
        raise LookupError

    store.before = refuse
    saves = submit(writer, 5)
    await turns()
    store.answer(None, None)
    await until(lambda: store.batches == [5, 1])
    return saves


@pytest.mark.parametrize("leave", [leave_sent, leave_blocked, leave_put_back, leave_in_thread, leave_one_by_one])
async def test_a_save_fails_in_time_wherever_it_is_and_the_next_one_is_stored(
    rig: Rig, store: SendingStore, leave: Callable[[Writer, SendingStore], Awaitable[list[PendingSave]]]
) -> None:
    writer = rig.writer(save_ms_max=500)
    saves = await leave(writer, store)
    assert not any(save.done() for save in saves)
    for save in saves:
        with pytest.raises(StoreUnavailable, match="in time"):
            await asyncio.wait_for(result_of(save), 5)
    assert writer.pending == 0
    store.go.set()
    store.accepts = True
    (save,) = submit(writer, 1)
    async with asyncio.timeout(5):
        while not save.done():
            if store.sent:
                store.answer()
            await asyncio.sleep(0)
    assert not save.result().duplicate
