"""Group commit: one flush at a time, answers before broadcasts, no gap and no double in what is published.

The store here is a list that can be told to wait, to fail and to lose its answer; the real one has its own tests.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from random import Random
from uuid import uuid4

import pytest

import protocol
from balance.feed.batcher import GROUP_MIN, Appender, Group
from balance.feed.pending import Saving
from balance.feed.writer import Busy, Writer
from balance.snapshot import Snapshot
from balance.storage.pool import StoreUnavailable
from balance.storage.store import Appended, Position

NOW = datetime(2025, 11, 7, tzinfo=UTC)
EPOCH = str(uuid4())
ONCHAIN, ONSITE = protocol.Encoded('{"rlb":1,"usdt":1}'), protocol.Encoded('{"rlb":1,"usd":1}')


def snapshot(id_: str | None = None) -> Snapshot:
    return Snapshot(id_ or str(uuid4()), NOW, None, ONCHAIN, ONSITE, NOW)


class FakeStore:
    """A feed in memory."""

    def __init__(self) -> None:
        self.epoch = EPOCH
        self.rows: list[Snapshot] = []
        self.groups: list[int] = []  # the size of each append
        self.cuts = 0
        self.settled = True
        self.looks = 0
        self.go = threading.Event()
        self.go.set()
        self.before: Callable[[Sequence[Snapshot]], None] = lambda snapshots: None
        self.after: Callable[[], None] = lambda: None

    def append(self, snapshots: Sequence[Snapshot]) -> Appended:
        self.groups.append(len(snapshots))
        assert self.go.wait(10)
        self.before(snapshots)
        known = {row.id: row for row in self.rows}
        fresh = set()
        for one in snapshots:
            if one.id not in known:
                known[one.id] = one.at(len(self.rows) + 1)
                self.rows.append(known[one.id])
                fresh.add(known[one.id].seq)
        self.after()
        return Appended(self.epoch, [known[one.id] for one in snapshots], fresh)

    def feed(self, after: int, up_to: int, limit: int) -> list[Snapshot]:
        return self.rows[after:up_to][:limit]

    def position(self) -> Position:
        return Position(self.epoch, len(self.rows))

    def is_settled(self) -> bool:
        self.looks += 1
        return self.settled

    def cut_dead(self) -> None:
        """Count it; nothing here is dead, only slow."""
        self.cuts += 1


class Rig:
    """A writer, its store and what it published."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self.thread = thread
        self.store = FakeStore()
        self.published: list[int] = []
        self.taking = threading.Event()

    def finish_begun(self) -> None:
        """Let the store do what has been asked of it, while the event loop stands still."""
        self.store.go.set()
        self.thread.submit(lambda: None).result(10)

    async def until(self, true: Callable[[], bool]) -> None:
        """Let the event loop run until something is so."""
        async with asyncio.timeout(10):
            while not true():
                await asyncio.sleep(0)

    async def until_appending(self, groups: int) -> None:
        """Wait until the store has begun to append so many groups."""
        await self.until(lambda: len(self.store.groups) >= groups)

    async def hold(self, writer: Writer, *, behind: int) -> list[Saving]:
        """Begin a save whose append waits in the store, and so many more behind it."""
        self.store.go.clear()
        first = writer.save(snapshot())
        await self.until_appending(1)
        return [first, *(writer.save(snapshot()) for _ in range(behind))]

    def writer(self, *, batch_max: int = 100, waiting_max: int = 1000, save_ms_max: int = 5000) -> Writer:
        made = Writer(
            self.store,
            self.thread,
            lambda snapshots: self.published.extend(one.seq for one in snapshots),
            batch_max=batch_max,
            waiting_max=waiting_max,
            save_ms_max=save_ms_max,
        )
        made.start(Position(EPOCH, 0))
        return made


@pytest.fixture
def rig() -> Iterator[Rig]:
    with ThreadPoolExecutor(1) as thread:
        rig = Rig(thread)
        yield rig
        rig.store.go.set()


async def test_what_arrives_during_a_flush_goes_into_one_next_flush(rig: Rig) -> None:
    writer = rig.writer()
    saves = await rig.hold(writer, behind=GROUP_MIN)
    rig.store.go.set()
    assert [(await save)[0].seq for save in saves] == list(range(1, GROUP_MIN + 2))
    assert rig.store.groups == [1, GROUP_MIN]
    await writer.drain(5)
    assert rig.published == list(range(1, GROUP_MIN + 2))


async def test_half_of_all_that_are_open_is_appended_while_the_other_half_sends_again(rig: Rig) -> None:
    writer = rig.writer(batch_max=1000)
    half, is_over = 3 * GROUP_MIN, False

    def send(_answered: Saving | None = None) -> None:
        if not is_over:
            writer.save(snapshot()).on_end(send)

    rig.store.go.clear()
    rig.store.after = rig.store.go.clear
    writer.save(snapshot())
    await rig.until_appending(1)
    for _ in range(2 * half):
        send()
    for groups in range(2, 8):
        rig.store.go.set()
        await rig.until_appending(groups)
        while len(rig.published) < sum(rig.store.groups[:-1]):
            await asyncio.sleep(0)
    # A little more or less where the store takes what it finds while those before are being told.
    assert all(half * 2 // 3 < size < half * 3 // 2 for size in rig.store.groups[1:])
    is_over = True
    rig.store.after = lambda: None
    rig.store.go.set()
    await writer.drain(5)
    assert rig.published == list(range(1, len(rig.store.rows) + 1))


async def test_the_store_goes_on_without_the_event_loop_as_long_as_many_wait(rig: Rig) -> None:
    writer = rig.writer(batch_max=GROUP_MIN)
    saves = await rig.hold(writer, behind=2 * GROUP_MIN)
    rig.finish_begun()  # and the event loop stands still meanwhile
    assert rig.store.groups == [1, GROUP_MIN]
    assert all(save.is_open for save in saves)
    rig.store.go.clear()
    while not rig.published:
        await asyncio.sleep(0)
    rig.finish_begun()
    assert rig.store.groups == [1, GROUP_MIN, GROUP_MIN]
    await writer.drain(5)
    assert rig.published == list(range(1, 2 * GROUP_MIN + 2))


async def test_few_wait_until_those_before_them_are_told(rig: Rig) -> None:
    writer = rig.writer()
    first, *few = await rig.hold(writer, behind=GROUP_MIN - 1)
    rig.finish_begun()
    assert rig.store.groups == [1]
    await first
    assert [(await save)[0].seq for save in few] == list(range(2, GROUP_MIN + 1))
    assert rig.store.groups == [1, GROUP_MIN - 1]
    await writer.drain(5)


async def test_what_was_committed_without_an_answer_is_published_before_the_group_behind_it(rig: Rig) -> None:
    writer = rig.writer()
    lost, *saves = await rig.hold(writer, behind=GROUP_MIN)

    def lose_the_first_answer() -> None:
        if len(rig.store.groups) == 1:
            raise StoreUnavailable("connection lost in COMMIT")

    rig.store.after = lose_the_first_answer
    rig.store.go.set()
    with pytest.raises(StoreUnavailable, match="connection lost"):
        await lost
    assert [(await save)[0].seq for save in saves] == list(range(2, GROUP_MIN + 2))
    await writer.drain(5)
    assert rig.published == list(range(1, GROUP_MIN + 2))


async def test_what_was_given_up_is_looked_for_until_it_can_be_committed_no_more(rig: Rig) -> None:
    given_up: list[Snapshot] = []

    def give_up(snapshots: Sequence[Snapshot]) -> None:
        given_up.extend(snapshots)
        raise StoreUnavailable("the database did not answer in time")

    writer, rig.store.before, rig.store.settled = rig.writer(), give_up, False
    with pytest.raises(StoreUnavailable):
        await writer.save(snapshot())
    await rig.until(lambda: rig.store.looks == 2)
    rig.store.rows.append(given_up[0].at(1))
    await rig.until(lambda: rig.published == [1])
    rig.store.settled = True
    await rig.until(lambda: writer._flushing is None)
    await writer.drain(5)


async def test_who_was_told_in_time_that_he_is_not_saved_is_not_saved_later(rig: Rig) -> None:
    writer = rig.writer()
    late = await rig.hold(writer, behind=GROUP_MIN)
    for save in late:
        save.deadline = 0
    writer._expire()
    for save in late:
        with pytest.raises(StoreUnavailable, match="in time"):
            save.result()
    assert not writer._appender.open
    rig.store.go.set()
    assert (await writer.save(snapshot()))[0].seq == 2
    await writer.drain(5)
    assert rig.published == [1, 2]


async def test_a_dead_line_is_cut_again_and_again_until_the_store_answers_and_never_while_none_is_late(
    rig: Rig,
) -> None:
    writer = rig.writer()
    (save,) = await rig.hold(writer, behind=0)
    writer._expire()
    assert rig.store.cuts == 0
    save.deadline = 0
    for cuts in (1, 2, 3):
        writer._expire()
        assert rig.store.cuts == cuts
        assert writer._expiry is not None, "it comes back by itself"
    rig.store.go.set()
    assert (await writer.save(snapshot()))[0].seq == 2
    writer._expire()
    assert rig.store.cuts == 3
    await writer.drain(5)


async def test_nobody_takes_a_save_while_those_that_have_ended_are_forgotten(rig: Rig) -> None:
    appender = Appender(rig.store, rig.thread, batch_max=100)
    ended, still_open = Saving(snapshot(), 0), Saving(snapshot(), 0)

    class Meddled(deque[Saving]):
        def popleft(self) -> Saving:
            if threading.current_thread() is threading.main_thread():
                taking.append(appender.begin())
                assert not rig.taking.wait(0.05)
            return super().popleft()

    taking: list[asyncio.Future[Group | None]] = []
    rig.store.before = lambda snapshots: rig.taking.set()
    appender._waiting = Meddled()
    for save in (ended, still_open):
        appender.add(save)
    ended.fail(StoreUnavailable("late"))
    appender.forget_ended()
    group = await taking[0]
    assert group is not None
    assert group.saves == [still_open]


async def test_every_save_ends_and_what_is_stored_is_published_whatever_the_store_does(rig: Rig) -> None:
    """Appends that take as long as a save may, that fail before or after the commit, and that take no poison."""
    random = Random(4)
    writer = rig.writer(batch_max=50, waiting_max=100_000, save_ms_max=20)
    poisons = set()

    def before(snapshots: Sequence[Snapshot]) -> None:
        time.sleep(random.choice([0, 0.001, 0.02, 0.025]))
        if poisons.intersection(one.id for one in snapshots):
            raise ValueError("not for this table")

    def after() -> None:
        if random.random() < 0.1:
            raise StoreUnavailable("connection lost in COMMIT")

    rig.store.before, rig.store.after = before, after
    saves: list[Saving] = []
    for _ in range(200):
        for _ in range(random.randrange(60)):
            saves.append(writer.save(snapshot()))
            if random.random() < 0.01:
                poisons.add(saves[-1].snapshot.id)
        await asyncio.sleep(0.001)
    rig.store.before, rig.store.after = lambda snapshots: None, lambda: None
    while writer._flushing is not None:  # until it has caught up
        await asyncio.sleep(0.001)
    await writer.drain(10)
    assert not any(save.is_open for save in saves)
    acknowledged = {save.result()[0].id for save in saves if save._error is None}
    assert 0 < len(acknowledged) < len(saves)
    assert acknowledged <= {row.id for row in rig.store.rows}
    assert rig.published == list(range(1, len(rig.store.rows) + 1))


async def test_after_a_flush_that_was_given_up_the_next_save_goes_on_and_publishes_what_it_left(rig: Rig) -> None:
    writer = rig.writer()
    await rig.hold(writer, behind=GROUP_MIN)
    assert writer._flushing is not None
    writer._flushing.cancel()
    await asyncio.wait([writer._flushing])
    rig.store.go.set()
    assert (await writer.save(snapshot()))[0].seq == GROUP_MIN + 2
    await writer.drain(5)
    assert rig.published == list(range(1, GROUP_MIN + 3))


async def test_what_could_not_be_appended_before_the_end_is_refused_and_not_stored_later(rig: Rig) -> None:
    writer = rig.writer()
    saves = await rig.hold(writer, behind=GROUP_MIN)
    await writer.drain(0.01)
    for save in saves:
        with pytest.raises(StoreUnavailable, match="stopping"):
            save.result()
    rig.finish_begun()
    assert writer._flushing is not None
    await writer._flushing
    assert [row.id for row in rig.store.rows] == [saves[0].snapshot.id]


async def test_a_group_is_told_while_the_next_is_appended_if_many_wait_for_that(rig: Rig) -> None:
    writer = rig.writer(batch_max=GROUP_MIN)
    rig.store.after = rig.store.go.clear  # the next append waits at its beginning
    first, second = ([writer.save(snapshot()) for _ in range(GROUP_MIN)] for _ in range(2))
    while not rig.published or len(rig.store.groups) < 2:
        await asyncio.sleep(0)
    assert rig.store.groups == [GROUP_MIN, GROUP_MIN]
    assert not any(save.is_open for save in first)
    assert all(save.is_open for save in second)
    assert rig.published == list(range(1, GROUP_MIN + 1))
    rig.store.go.set()
    assert [(await save)[0].seq for save in second] == list(range(GROUP_MIN + 1, 2 * GROUP_MIN + 1))
    await writer.drain(5)
    assert rig.published == list(range(1, 2 * GROUP_MIN + 1))


async def test_a_group_is_no_larger_than_its_bound(rig: Rig) -> None:
    writer = rig.writer(batch_max=20)
    await asyncio.gather(*[writer.save(snapshot()) for _ in range(50)])
    assert rig.store.groups == [20, 20, 10]


async def test_each_sender_is_answered_before_his_snapshot_is_published(rig: Rig) -> None:
    writer = rig.writer()
    seen: list[str] = []
    writer._publish = lambda snapshots: seen.extend(f"published {one.seq}" for one in snapshots)

    async def send() -> None:
        stored, _ = await writer.save(snapshot())
        seen.append(f"answered {stored.seq}")

    await asyncio.gather(*[send() for _ in range(3)])
    await writer.drain(5)
    assert seen == [f"{what} {seq}" for what in ("answered", "published") for seq in (1, 2, 3)]


async def test_over_the_bound_a_save_is_refused_at_once(rig: Rig) -> None:
    writer = rig.writer(waiting_max=2)
    rig.store.go.clear()
    taken = [asyncio.ensure_future(writer.save(snapshot())) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await writer.save(snapshot())
    rig.store.go.set()
    await asyncio.gather(*taken)
    await writer.save(snapshot())


async def test_while_the_store_hangs_every_save_is_answered_in_time_and_room_is_made(rig: Rig) -> None:
    writer = rig.writer(batch_max=1, waiting_max=3, save_ms_max=50)
    rig.store.go.clear()
    for _ in range(3):
        saves = [writer.save(snapshot()) for _ in range(2)]
        assert writer._expiry is not None
        assert writer._expiry.when() <= saves[0].deadline
        answers = await asyncio.gather(*saves, return_exceptions=True)
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    rig.store.go.set()
    while True:
        try:
            await writer.save(snapshot())
            break
        except (StoreUnavailable, Busy):
            await asyncio.sleep(0)
    await writer.drain(5)
    assert rig.published == list(range(1, len(rig.store.rows) + 1))


async def test_what_was_committed_but_not_acknowledged_is_published_with_the_next_save(rig: Rig) -> None:
    writer = rig.writer()
    await writer.save(snapshot())

    def lose_the_answer() -> None:
        raise StoreUnavailable("connection lost in COMMIT")

    rig.store.after = lose_the_answer
    lost = snapshot()
    with pytest.raises(StoreUnavailable):
        await writer.save(lost)
    rig.store.after = lambda: None
    stored, fresh = await writer.save(lost)
    assert (stored.seq, fresh) == (2, False)
    await writer.save(snapshot())
    await writer.drain(5)
    assert rig.published == [1, 2, 3]


async def test_what_another_process_saved_is_published_in_its_place(rig: Rig) -> None:
    writer = rig.writer()
    await writer.save(snapshot())
    rig.store.rows += [snapshot().at(seq) for seq in range(2, 3000)]
    await writer.save(snapshot())
    await writer.drain(5)
    assert rig.published == list(range(1, 3001))


async def test_two_of_one_id_in_one_group_are_one_snapshot_published_once(rig: Rig) -> None:
    writer = rig.writer()
    same = str(uuid4())
    results = await asyncio.gather(*[writer.save(snapshot(same)) for _ in range(3)])
    assert [(stored.seq, fresh) for stored, fresh in results] == [(1, True), (1, False), (1, False)]
    await writer.drain(5)
    assert rig.published == [1]


async def test_one_that_can_not_be_stored_takes_none_of_its_group_with_it(rig: Rig) -> None:
    writer = rig.writer(batch_max=GROUP_MIN)
    poison = snapshot()

    def refuse(snapshots: Sequence[Snapshot]) -> None:
        if poison.id in [one.id for one in snapshots]:
            raise ValueError("not for this table")

    rig.store.before = refuse
    first, *group = [snapshot() for _ in range(GROUP_MIN)]
    behind = [snapshot() for _ in range(GROUP_MIN)]
    rig.store.go.clear()
    saves = [writer.save(first)]
    await rig.until_appending(1)
    saves += [writer.save(one) for one in (*group, poison, *behind)]
    rig.store.go.set()
    results = await asyncio.gather(*saves, return_exceptions=True)
    assert isinstance(results[GROUP_MIN], ValueError)
    await writer.drain(5)
    assert [row.id for row in rig.store.rows] == [one.id for one in (first, *group, *behind)]
    assert rig.published == list(range(1, 2 * GROUP_MIN + 1))
    assert rig.store.groups == [1, GROUP_MIN, *[1] * GROUP_MIN, GROUP_MIN]


async def test_beside_one_that_can_not_be_stored_each_is_told_as_soon_as_it_is_stored(rig: Rig) -> None:
    writer = rig.writer()
    poison = snapshot()

    def refuse(snapshots: Sequence[Snapshot]) -> None:
        if poison.id in [one.id for one in snapshots]:
            raise ValueError("not for this table")

    rig.store.before = refuse
    rig.store.after = rig.store.go.clear
    first, second, last = (writer.save(one) for one in (snapshot(), snapshot(), poison))
    assert (await first)[0].seq == 1
    assert second.is_open
    assert last.is_open
    rig.store.go.set()
    assert (await second)[0].seq == 2
    rig.store.go.set()
    with pytest.raises(ValueError, match="not for this table"):
        await last
    await writer.drain(5)


@pytest.mark.expects_log("the feed is another one now")
async def test_a_feed_that_was_reset_is_followed_under_its_new_epoch(rig: Rig) -> None:
    writer = rig.writer()
    await asyncio.gather(*[writer.save(snapshot()) for _ in range(5)])
    rig.store.epoch, rig.store.rows = str(uuid4()), []
    await writer.save(snapshot())
    await writer.drain(5)
    assert writer.position == Position(rig.store.epoch, 1)
    assert rig.published == [1, 2, 3, 4, 5, 1]


async def test_an_old_one_that_is_sent_again_is_not_published_again(rig: Rig) -> None:
    writer = rig.writer()
    old = snapshot()
    await writer.save(old)
    await asyncio.gather(*[writer.save(snapshot()) for _ in range(5)])
    assert (await writer.save(old))[1] is False
    await writer.drain(5)
    assert rig.published == [1, 2, 3, 4, 5, 6]


@pytest.mark.expects_log("the feed is another one now")
async def test_a_feed_that_was_restored_under_its_old_epoch_is_noticed_by_its_numbers(rig: Rig) -> None:
    writer = rig.writer()
    await asyncio.gather(*[writer.save(snapshot()) for _ in range(5)])
    del rig.store.rows[2:]
    await writer.save(snapshot())
    await writer.drain(5)
    assert rig.published == [1, 2, 3, 4, 5, 3]


@pytest.mark.expects_log("the feed is another one now")
async def test_a_new_epoch_and_a_resend_do_not_publish_history_again(rig: Rig) -> None:
    writer = rig.writer()
    old = snapshot()
    await asyncio.gather(*[writer.save(one) for one in (old, snapshot(), snapshot())])
    rig.store.epoch = str(uuid4())
    await asyncio.gather(writer.save(old), writer.save(snapshot()))
    await writer.drain(5)
    assert rig.published == [1, 2, 3, 4]


@pytest.mark.expects_log("the feed has lost seq 2 to 3")
async def test_rows_that_are_gone_stop_nobody(rig: Rig) -> None:
    writer = rig.writer()
    await writer.save(snapshot())
    rig.store.rows += [snapshot().at(2)]
    rig.store.feed = lambda after, up_to, limit: []  # type: ignore[method-assign]
    await writer.save(snapshot())
    await writer.save(snapshot())
    await writer.drain(5)
    assert rig.published == [1, 4]


async def test_a_commit_whose_answer_was_lost_is_published_without_another_save(rig: Rig) -> None:
    writer = rig.writer()

    def lose_the_answer() -> None:
        raise StoreUnavailable("connection lost in COMMIT")

    rig.store.after = lose_the_answer
    with pytest.raises(StoreUnavailable):
        await writer.save(snapshot())
    while not rig.published:
        await asyncio.sleep(0.01)
    assert rig.published == [1]
    await writer.drain(5)


async def test_who_comes_second_with_other_content_is_not_told_that_he_was_first(rig: Rig) -> None:
    """The first of two equal ids in one group gave up before the group was committed."""
    writer = rig.writer()
    rig.store.go.clear()
    same = str(uuid4())
    first = asyncio.ensure_future(writer.save(snapshot(same)))
    second = asyncio.ensure_future(writer.save(snapshot(same)))
    while not rig.store.groups:
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    rig.store.go.set()
    assert (await second)[1] is False
    await writer.drain(5)


@pytest.mark.expects_log("could not be published")
async def test_a_broadcast_that_fails_stops_no_save(rig: Rig) -> None:
    writer = rig.writer()

    def fail(snapshots: Sequence[Snapshot]) -> None:
        raise ValueError("a mistake of ours")

    writer._publish = fail
    assert [(await writer.save(snapshot()))[0].seq for _ in range(3)] == [1, 2, 3]
    await writer.drain(5)


async def test_before_the_database_is_known_and_after_the_end_nothing_is_taken_in(rig: Rig) -> None:
    writer = rig.writer()
    await writer.drain(1)
    with pytest.raises(StoreUnavailable, match="stopping"):
        await writer.save(snapshot())
    writer = Writer(rig.store, rig.thread, lambda snapshots: None, batch_max=1, waiting_max=1, save_ms_max=100)
    with pytest.raises(StoreUnavailable, match="not there yet"):
        await writer.save(snapshot())


async def test_at_the_end_what_was_taken_in_is_answered_and_published_first(rig: Rig) -> None:
    writer = rig.writer(batch_max=1)
    saves = [asyncio.ensure_future(writer.save(snapshot())) for _ in range(5)]
    await asyncio.sleep(0)
    await writer.drain(5)
    assert [(await save)[0].seq for save in saves] == [1, 2, 3, 4, 5] == rig.published


async def test_a_sender_that_gave_up_does_not_stop_the_others(rig: Rig) -> None:
    writer = rig.writer()
    rig.store.go.clear()
    first = asyncio.ensure_future(writer.save(snapshot()))
    second = asyncio.ensure_future(writer.save(snapshot()))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    rig.store.go.set()
    assert (await second)[1]
    await writer.drain(5)
    assert rig.published == [row.seq for row in rig.store.rows]
