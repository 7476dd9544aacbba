"""Every client gets every snapshot after its position exactly once, in order, or the right reason why not.

Hypothesis chooses the order in which batches are committed and delivered, other processes save, polls and reads begin,
run and return, the database loses rows and goes away, and clients come, read and leave. Nothing here depends on time or
threads: each step is a rule.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, cast
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import protocol
from balance.aio.threads import WorkerThread
from balance.feed.feed import Feed
from balance.feed.replay import Receiver, ReplayBroken
from balance.feed.tail import Tail
from balance.position import ClaimedPosition, Position, to_tag
from balance.snapshot import EncodedSnapshot, Snapshot
from balance.storage.errors import StoreUnavailable
from balance.storage.feed_store import FeedPage, Head
from balance.storage.store import Appended
from tests.support.feed import FakeStore, snapshot

COMMON = [
    "the_event_loop_runs", "another_process_saves", "a_batch_begins", "a_batch_is_committed", "a_batch_is_delivered",
    "a_batch_begins_and_is_committed", "a_call_of_the_tail_runs", "a_call_of_the_tail_returns", "a_read_runs",
]  # fmt: skip
RARE = [
    "a_client_leaves", "the_database_fails_over", "the_database_loses_rows", "old_rows_are_pruned",
    "a_batch_is_committed_without_an_answer", "the_next_call_of_the_database_fails",
]  # fmt: skip
EVENT = st.sampled_from([*5 * COMMON, *RARE])
TURNS = 12  # of the event loop, in which everything that can go on does


class TimelessLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock does not move: no timer fires."""

    def time(self) -> float:
        return 1000.0


class SteppedWorker:
    """A WorkerThread whose calls run and return when a rule has them do so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()
        self._results: deque[Callable[[], None]] = deque()

    def run(self, function: Callable[..., Any], *arguments: object) -> asyncio.Future[Any]:
        outcome: asyncio.Future[Any] = self._loop.create_future()
        self._calls.append((outcome, lambda: function(*arguments)))
        return outcome

    def execute(self) -> None:
        """Make the oldest call."""
        if self._calls:
            outcome, call = self._calls.popleft()
            if outcome.done():
                return
            try:
                result = call()
            except StoreUnavailable as error:
                self._results.append(lambda error=error: outcome.done() or outcome.set_exception(error))  # type: ignore[misc]
            else:
                self._results.append(lambda: outcome.done() or outcome.set_result(result))

    def deliver(self) -> None:
        """Return the oldest result."""
        if self._results:
            self._results.popleft()()


class SteppedExecutor(Executor):
    """An executor whose calls run when a rule has them do so; they return in the next turn of the event loop."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        self.calls.append(lambda: function(*arguments))
        return Future()

    def execute(self) -> None:
        """Make the oldest call."""
        if self.calls:
            self.calls.pop(0)()


class Store(FakeStore):
    """A feed in memory whose next calls can fail."""

    failing = 0
    page_max = 3

    def _check(self) -> None:
        if self.failing:
            self.failing -= 1
            raise StoreUnavailable("the database cannot be reached")

    def head(self) -> Head:
        self._check()
        return super().head()

    def look_up(self, claimed: ClaimedPosition) -> Any:
        self._check()
        return super().look_up(claimed)

    def page(self, after: int, limit: int, pids: Sequence[int] | None = None) -> FeedPage:
        self._check()
        return super().page(after, min(limit, self.page_max), pids)


class Client:
    """A client, what it has received, and what it knows of its position."""

    def __init__(self, claimed: ClaimedPosition | None, held: dict[int, str] | None) -> None:
        self.claimed = claimed
        self.held = dict(held or {})  # the id of each seq that it has received, also in earlier connections
        self.epoch = ""
        self.last = 0
        self.is_live = False
        self.has_ended = False
        self.room: asyncio.Event = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def receive(self, seq: int, id_: str) -> None:
        assert not self.has_ended
        assert seq == self.last + 1
        self.last = seq
        self.held[seq] = id_


class Transport:
    """A listener that checks what its clients receive."""

    def __init__(self, model: FeedModel) -> None:
        self._model = model
        self.clients: list[Client] = []

    @property
    def has_watchers(self) -> bool:
        return any(client.is_live for client in self.clients)

    def publish(self, snapshots: Sequence[EncodedSnapshot]) -> None:
        try:
            self._publish(snapshots)
        except AssertionError as error:  # which the tail would log
            self._model.failures.append(error)

    def _publish(self, snapshots: Sequence[EncodedSnapshot]) -> None:
        for client in self.clients:
            if client.is_live:
                for one in snapshots:
                    client.receive(one.seq, self._model.id_of(one.json))

    def end_all(self) -> None:
        for client in list(self.clients):
            self.end(client)

    def end(self, client: Client) -> None:
        """Disconnect a client; it comes back later, perhaps, with what it has received."""
        client.has_ended, client.is_live = True, False
        if client in self.clients:
            self.clients.remove(client)
            self._model.gone.append(client)
        if client.task is not None:
            client.task.cancel()


def encode(snapshots: Sequence[EncodedSnapshot], epoch: str) -> bytes:
    return b"\n".join([epoch.encode(), *[one.json for one in snapshots]])


class FeedModel(RuleBasedStateMachine):
    """A process with a tail, another one that saves, the database, and clients."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = TimelessLoop()
        self.store = Store()
        self.store.save_elsewhere(5)
        self.worker, self.executor = SteppedWorker(self.loop), SteppedExecutor()
        self.tail = Tail(self.store, cast("WorkerThread", self.worker))
        self.feed = Feed(self.store, self.tail, self.executor, read_ms_max=5000)
        self.transport = Transport(self)
        self.feed.subscribe(self.transport)
        self.batches: deque[tuple[list[Snapshot], list[Appended | None]]] = deque()  # in flight, with their outcome
        self.unanswered: set[str] = set()  # ids of this process that are not acknowledged yet
        self.gone: list[Client] = []
        self.failures: list[BaseException] = []
        self.epoch_number = 0

        async def start() -> None:
            self.tail.start(self.store.head(), lambda: bool(self.batches))

        self.loop.run_until_complete(start())
        self._connect(Client(None, None), [])

    def id_of(self, json: bytes) -> str:
        id_: str = protocol.loads(json)["id"]
        assert id_ not in self.unanswered, "it is sent before it is acknowledged"
        return id_

    def run_turns(self) -> None:
        async def turns() -> None:
            for _ in range(TURNS):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    # What happens, alone and in the middle of a poll or of a resumption

    def another_process_saves(self) -> None:
        self.store.save_elsewhere(2)

    def a_batch_begins(self) -> None:
        if len(self.batches) < 2:
            snapshots = [snapshot() for _ in range(2)]
            self.unanswered |= {one.id for one in snapshots}
            self.batches.append((snapshots, []))

    def a_batch_is_committed(self, is_lost: bool = False) -> None:
        for snapshots, outcome in self.batches:
            if not outcome:
                appended = self.store.append(snapshots)
                outcome.append(None if is_lost else appended)
                return

    def a_batch_begins_and_is_committed(self) -> None:
        self.a_batch_begins()
        self.a_batch_is_committed()

    def a_batch_is_committed_without_an_answer(self) -> None:
        self.a_batch_is_committed(is_lost=True)

    def a_batch_is_delivered(self) -> None:
        if self.batches and self.batches[0][1]:
            self.loop.run_until_complete(self._deliver())

    async def _deliver(self) -> None:
        snapshots, (appended,) = self.batches.popleft()
        self.unanswered -= {one.id for one in snapshots}
        if appended is None:
            self.tail.note_lost()
        else:
            self.tail.advance(appended)

    def the_database_fails_over(self) -> None:
        self.store.begin_epoch()

    def the_database_loses_rows(self) -> None:
        self.store.begin_epoch(keep=max(self.store.first - 1, len(self.store.stored) - 3))

    def old_rows_are_pruned(self) -> None:
        self.store.first = min(self.store.first + 3, len(self.store.stored) + 1)

    def the_next_call_of_the_database_fails(self) -> None:
        self.store.failing = 1

    def a_call_of_the_tail_runs(self) -> None:
        self.worker.execute()

    def a_call_of_the_tail_returns(self) -> None:
        self.worker.deliver()

    def a_read_runs(self) -> None:
        self.executor.execute()

    def the_event_loop_runs(self) -> None:
        self.run_turns()

    def a_client_leaves(self) -> None:
        if self.transport.clients:
            self.transport.end(self.transport.clients[-1])

    # The rules

    @rule(events=st.lists(EVENT, min_size=1, max_size=4))
    def something_happens(self, events: list[str]) -> None:
        for event in events:
            getattr(self, event)()

    @rule(count=st.integers(0, 3), between=st.lists(EVENT, min_size=6, max_size=6))
    def a_poll_runs(self, count: int, between: list[str]) -> None:
        self.store.save_elsewhere(count)
        self._poll(between)

    def _poll(self, between: list[str]) -> None:
        self.tail._schedule.poll_within(0)
        self.run_turns()
        for n, event in enumerate(between):
            getattr(self, event)()
            if n % 2:
                self.worker.deliver()
                self.run_turns()
            else:
                self.worker.execute()

    @rule(between=st.lists(EVENT, max_size=6))
    def a_client_comes_for_the_first_time(self, between: list[str]) -> None:
        self._connect(Client(None, None), between)

    @precondition(lambda self: self.gone)
    @rule(index=st.integers(0, 7), has_tag=st.booleans(), between=st.lists(EVENT, max_size=8))
    def a_client_comes_back(self, index: int, has_tag: bool, between: list[str]) -> None:
        before = self.gone.pop(index % len(self.gone))
        tag = to_tag(before.held[before.last]) if has_tag and before.last in before.held else None
        self._connect(Client(ClaimedPosition(before.epoch, before.last, tag), before.held), between)

    @rule(index=st.sampled_from([0, 0, 0, 0, 1, 2]), back=st.integers(-1, 6), between=st.lists(EVENT, max_size=8))
    def a_client_comes_with_any_position(self, index: int, back: int, between: list[str]) -> None:
        epochs = [str(uuid4()), *self.store.epochs][::-1]
        seq = max(0, len(self.store.stored) - back)
        self._connect(Client(ClaimedPosition(epochs[index % len(epochs)] if seq else None, seq), None), between)

    def _connect(self, client: Client, between: list[str]) -> None:
        client.task = self.loop.create_task(self._serve(client))
        client.task.add_done_callback(self._note_failure)
        self.run_turns()
        for event in between:
            self.executor.execute()
            getattr(self, event)()
            client.room.set()
            self.run_turns()

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self.failures.append(error)

    async def _serve(self, client: Client) -> None:
        try:
            resumption = await self.feed.resume(client.claimed)
        except protocol.Unavailable:
            return
        self.transport.clients.append(client)
        client.epoch, client.last = resumption.position
        if not resumption.recovered:
            assert resumption.head == resumption.position == self.feed.head
            self._check_reason(client, resumption)
            client.held, client.is_live = {}, True
            return
        assert client.claimed is not None
        assert client.last == client.claimed.seq <= resumption.head.seq
        self._check_held(client)
        try:
            send, join = partial(self._send, client), partial(self._join, client)
            await self.feed.replay(resumption.position, Receiver(encode, send, join))
        except (ReplayBroken, protocol.Unavailable):
            client.task = None
            self.transport.end(client)

    async def _send(self, client: Client, data: bytes, last: int) -> None:
        epoch, *found = data.split(b"\n")
        assert epoch.decode() == client.epoch
        for one in found:
            client.receive(client.last + 1, self.id_of(one))
            assert protocol.loads(one)["seq"] == client.last
        assert client.last == last
        client.room.clear()
        await client.room.wait()

    def _join(self, client: Client) -> None:
        client.is_live = not client.has_ended

    def _check_reason(self, client: Client, resumption: Any) -> None:
        """Compare the reason with what the database has: it has not changed since it was asked, but for new rows."""
        claimed = client.claimed
        if claimed is None:
            assert resumption.reason is None
            return
        after = self._end_of(claimed.epoch)
        if resumption.reason == "other_feed":
            assert claimed.epoch not in self.store.epochs
        elif resumption.reason == "diverged":
            assert after is not None
            assert resumption.good_until is None or after <= resumption.good_until < claimed.seq
        elif resumption.reason == "pruned":
            assert claimed.seq + 1 < resumption.first <= self.store.first
        else:
            assert resumption.reason == "ahead"

    def _end_of(self, epoch: str | None) -> int | None:
        """Return up to which seq positions of an epoch are good; None if there is no limit."""
        epochs = list(self.store.epochs)
        later = epochs[epochs.index(epoch) + 1 :] if epoch in epochs else []
        return min([self.store.epochs[one] for one in later], default=None)

    def _check_held(self, client: Client) -> None:
        """A client that is recovered in the current epoch holds what the database has."""
        if client.epoch == self.store.epoch:
            for seq, id_ in client.held.items():
                assert self.store.stored[seq - 1].id == id_

    # What holds

    @invariant()
    def every_client_in_the_current_epoch_holds_what_is_stored(self) -> None:
        for client in self.transport.clients:
            self._check_held(client)

    @invariant()
    def nothing_has_failed(self) -> None:
        for error in self.failures:
            raise error

    @invariant()
    def the_epoch_never_goes_back(self) -> None:
        number = list(self.store.epochs).index(self.tail.position.epoch)
        assert number >= self.epoch_number
        self.epoch_number = number

    @invariant()
    def what_is_in_memory_is_the_end_of_what_is_published(self) -> None:
        assert self.tail.recent.after(self.tail.position.seq) == []

    def teardown(self) -> None:
        """Let everything come to its end: each client that is connected has everything then."""
        try:
            self._finish()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.run_turns()
            self.loop.close()

    def _finish(self) -> None:
        self.store.failing, self.store.page_max = 0, 1000
        while self.batches:
            self.a_batch_is_committed()
            self.a_batch_is_delivered()
        end = Position(self.store.epoch, len(self.store.stored))
        for _ in range(15):
            self._poll(["the_event_loop_runs"] * 4)
            while self.executor.calls:
                self.executor.execute()
            for client in self.transport.clients:
                client.room.set()
            self.run_turns()
        assert self.tail.position == end
        for client in self.transport.clients:
            assert client.is_live
            assert (client.epoch, client.last) == end
            self._check_held(client)


TestFeedModel = pytest.mark.expects_log("the feed goes on", "the feed has lost some")(FeedModel.TestCase)
TestFeedModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
