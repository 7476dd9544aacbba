"""Group commit: results before broadcasts, every save done in time, and the end of it.

The batches have their own tests in test_batcher.py, what is published in test_tail.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from uuid import uuid4

import pytest
from tornado.ioloop import IOLoop

from balance.aio.limiter import LimitExceeded
from balance.feed.batcher import BATCH_MIN
from balance.feed.pending import PendingSave
from balance.snapshot import Snapshot
from balance.storage.errors import StoreUnavailable
from tests.support.feed import Rig, feed_rig, result_of, snapshot


@pytest.fixture
def rig(io_loop: IOLoop) -> Iterator[Rig]:
    with feed_rig(io_loop) as rig:
        yield rig


async def test_each_save_is_acknowledged_before_it_is_published(rig: Rig) -> None:
    writer = rig.writer()
    seen: list[str] = []
    rig.listener.on_publish = lambda snapshots: seen.extend(f"published {one.seq}" for one in snapshots)
    await rig.hold(writer, behind=0)
    for _ in range(3):
        writer.submit(snapshot()).add_done_callback(lambda done: seen.append(f"saved {done.result().snapshot.seq}"))
    rig.store.go.set()
    await writer.drain(5)
    assert seen == ["published 1", *(f"{what} {seq}" for what in ("saved", "published") for seq in (2, 3, 4))]


async def test_a_batch_is_acknowledged_and_published_within_one_cork(rig: Rig) -> None:
    seen: list[str] = []

    @contextmanager
    def cork() -> Iterator[None]:
        seen.append("corked")
        yield
        seen.append("sent")

    rig.cork = cork()
    writer = rig.writer()
    rig.listener.on_publish = lambda _: seen.append("published")
    writer.submit(snapshot()).add_done_callback(lambda _: seen.append("saved"))
    await writer.drain(5)
    assert seen == ["corked", "saved", "published", "sent"]


async def test_over_the_limit_a_save_fails_at_once(rig: Rig) -> None:
    writer = rig.writer(pending_max=2)
    pending = await rig.hold(writer, behind=1)
    with pytest.raises(LimitExceeded, match=r"^2 updates wait already$"):
        writer.submit(snapshot())
    rig.store.go.set()
    for save in pending:
        await result_of(save)
    await result_of(writer.submit(snapshot()))


async def test_while_the_store_hangs_every_save_fails_in_time_and_makes_room(rig: Rig) -> None:
    writer = rig.writer(batch_max=1, pending_max=3, save_ms_max=50)
    rig.store.go.clear()
    for _ in range(3):
        saves = [writer.submit(snapshot()) for _ in range(2)]
        assert writer._deadline_timer is not None
        assert writer._deadline_timer.when() <= saves[0].deadline
        answers = await asyncio.gather(*map(result_of, saves), return_exceptions=True)
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    rig.store.go.set()
    while True:
        try:
            await result_of(writer.submit(snapshot()))
            break
        except (StoreUnavailable, LimitExceeded):
            await asyncio.sleep(0)
    await writer.drain(5)
    assert rig.published == list(range(1, len(rig.store.stored) + 1))


async def test_a_save_that_failed_in_time_is_not_stored_later(rig: Rig) -> None:
    writer = rig.writer()
    late = await rig.hold(writer, behind=BATCH_MIN)
    for save in late:
        save.deadline = 0
    writer._expire_overdue()
    for save in late:
        with pytest.raises(StoreUnavailable, match="in time"):
            save.result()
    assert not writer._pending
    rig.store.go.set()
    assert (await result_of(writer.submit(snapshot()))).snapshot.seq == 2
    await writer.drain(5)
    assert rig.published == [1, 2], "the first one was in the store already"


async def test_a_save_fails_at_its_deadline_and_not_before(rig: Rig) -> None:
    writer = rig.writer()
    (save,) = await rig.hold(writer, behind=0)
    save.deadline = writer._loop.time() + 100
    writer._expire_overdue()
    assert not save.done()
    save.deadline = writer._loop.time()
    writer._expire_overdue()
    assert save.done()


async def test_the_deadline_timer_is_set_while_a_save_is_pending(rig: Rig) -> None:
    writer = rig.writer()
    (save,) = await rig.hold(writer, behind=0)
    first = writer._deadline_timer
    assert first is not None
    assert first.when() == save.deadline
    writer._expire_overdue()
    assert not save.done()
    assert writer._deadline_timer is not None
    rig.store.go.set()
    await result_of(save)
    writer._expire_overdue()
    assert writer._deadline_timer is None


async def test_each_save_of_a_batch_that_fails_gets_an_exception_of_its_own(rig: Rig) -> None:
    writer = rig.writer()
    await rig.hold(writer, behind=0)

    def lose() -> None:
        if len(rig.store.batches) == 2:
            raise StoreUnavailable("connection lost in COMMIT")

    rig.store.after = lose
    saves = [writer.submit(snapshot()) for _ in range(2)]
    rig.store.go.set()
    errors = await asyncio.gather(*map(result_of, saves), return_exceptions=True)
    assert [str(error) for error in errors] == ["connection lost in COMMIT"] * 2
    assert errors[0] is not errors[1]
    await rig.until(lambda: rig.published == [1, 2, 3])
    await writer.drain(5)


async def test_a_save_that_the_database_refuses_fails_with_the_reason(rig: Rig) -> None:
    writer = rig.writer()

    def refuse(snapshots: Sequence[Snapshot]) -> None:
        raise ValueError("not for this table")

    rig.store.before = refuse
    with pytest.raises(ValueError, match="not for this table"):
        await result_of(writer.submit(snapshot()))


async def test_the_second_of_two_with_one_id_is_a_duplicate_even_if_the_first_gave_up(rig: Rig) -> None:
    writer = rig.writer()
    await rig.hold(writer, behind=0)
    same = str(uuid4())
    first, second = (asyncio.ensure_future(result_of(writer.submit(snapshot(same)))) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    rig.store.go.set()
    assert (await result_of(second)).duplicate
    await writer.drain(5)
    assert rig.published == [1, 2]


# The end -----------------------------------------------------------------------------------------------------


async def test_at_the_end_what_is_pending_is_saved_and_published_first(rig: Rig) -> None:
    writer = rig.writer(batch_max=1)
    saves = [writer.submit(snapshot()) for _ in range(5)]
    await writer.drain(5)
    assert [save.result().snapshot.seq for save in saves] == [1, 2, 3, 4, 5] == rig.published
    assert writer._deadline_timer is not None
    assert writer._deadline_timer.cancelled()


async def test_what_is_not_appended_before_the_end_fails_and_is_not_stored_later(rig: Rig) -> None:
    writer = rig.writer()
    saves = await rig.hold(writer, behind=BATCH_MIN)
    await writer.drain(0.01)
    for save in saves:
        with pytest.raises(StoreUnavailable, match="the server is stopping"):
            save.result()
    rig.finish_submitted()
    await asyncio.sleep(0.01)
    assert [row.id for row in rig.store.stored] == [saves[0].snapshot.id]


async def test_a_batch_lost_after_the_end_is_polled_for_no_more(rig: Rig) -> None:
    """The thread and its store are closed then."""
    writer = rig.writer()
    (held,) = await rig.hold(writer, behind=0)

    def lose() -> None:
        raise StoreUnavailable("aborted")

    rig.store.after = lose
    await writer.drain(0.01)
    heads = rig.store.heads
    rig.finish_submitted()
    await rig.until(lambda: not writer._batcher.has_in_flight())
    assert held.done()
    await asyncio.sleep(0.05)
    assert rig.store.heads == heads


async def test_the_end_waits_for_what_is_being_published(rig: Rig) -> None:
    writer = rig.writer()
    rig.store.on_page = lambda: time.sleep(0.05)
    await rig.hold(writer, behind=0)
    rig.store.save_elsewhere()
    rig.store.go.set()
    await rig.until(lambda: not writer._pending)
    assert rig.published == []
    await writer.drain(5)
    assert rig.published == [1, 2]


# All of it ---------------------------------------------------------------------------------------------------


async def test_every_save_is_done_and_what_is_stored_is_published_whatever_the_store_does(rig: Rig) -> None:
    """Appends that take as long as a save may, that fail before or after the commit, and that are refused."""
    random = Random(4)
    writer = rig.writer(batch_max=50, pending_max=100_000, save_ms_max=20)
    refused = set()

    def before(snapshots: Sequence[Snapshot]) -> None:
        time.sleep(random.choice([0, 0.001, 0.02, 0.025]))
        if refused.intersection(one.id for one in snapshots):
            raise ValueError("not for this table")

    def after() -> None:
        if random.random() < 0.1:
            raise StoreUnavailable("connection lost in COMMIT")

    rig.store.before, rig.store.after = before, after
    saves: list[PendingSave] = []
    for _ in range(200):
        for _ in range(random.randrange(60)):
            saves.append(writer.submit(snapshot()))
            if random.random() < 0.01:
                refused.add(saves[-1].snapshot.id)
        await asyncio.sleep(0.001)
    rig.store.before, rig.store.after = lambda snapshots: None, lambda: None
    async with asyncio.timeout(10):
        while writer._pending or len(rig.published) < len(rig.store.stored):
            await asyncio.sleep(0.001)
    await writer.drain(10)
    assert all(save.done() for save in saves)
    acknowledged = {save.result().snapshot.id for save in saves if save._error is None}
    assert 0 < len(acknowledged) < len(saves)
    assert acknowledged <= {row.id for row in rig.store.stored}
    assert rig.published == list(range(1, len(rig.store.stored) + 1))


async def test_at_the_end_no_time_is_left_if_it_is_over_already(rig: Rig) -> None:
    writer = rig.writer()
    (save,) = await rig.hold(writer, behind=0)
    async with asyncio.timeout(0.9):
        await writer.drain(-1)
    with pytest.raises(StoreUnavailable, match=r"^the server is stopping$"):
        save.result()


async def test_a_save_that_is_too_late_has_the_reason(rig: Rig) -> None:
    writer = rig.writer()
    (save,) = await rig.hold(writer, behind=0)
    save.deadline = 0
    writer._expire_overdue()
    with pytest.raises(StoreUnavailable, match=r"^the database did not answer in time$"):
        save.result()


async def test_saves_of_one_turn_of_the_event_loop_schedule_one_cut(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, cuts = rig.writer(), list[None]()
    monkeypatch.setattr(writer._batcher, "start_next", lambda: cuts.append(None))
    for turn in range(3):
        for _ in range(5):
            writer.submit(snapshot())
        assert len(cuts) == turn
        await asyncio.sleep(0)
    assert len(cuts) == 3


async def test_batches_are_timed_and_those_that_fail_are_counted(rig: Rig) -> None:
    writer = rig.writer()
    assert (writer.failed_commits, writer.failed_s) == (0, None)
    await result_of(writer.submit(snapshot()))
    assert (writer.commit_rows.sum, 0 <= writer.commit_seconds.sum < 5) == (1, True)

    def lose() -> None:
        raise StoreUnavailable("connection lost in COMMIT")

    rig.store.after = lose
    for failed in (1, 2):
        with pytest.raises(StoreUnavailable):
            await result_of(writer.submit(snapshot()))
        assert writer.failed_commits == failed
    assert writer.failed_s is not None
    assert 0 <= writer.failed_s < 5
    rig.store.after = lambda: None
    await result_of(writer.submit(snapshot()))
    assert (writer.failed_commits, writer.failed_s, writer.commit_rows.sum) == (2, None, 2)
