"""Every client gets every snapshot after its position exactly once, in order, or the right reason why not.

Hypothesis chooses the order in which batches are committed and delivered, other processes save, polls and reads begin,
run and return, the database loses rows and goes away, and clients come, read and leave. Nothing here depends on time or
threads: each step is a rule. The limits of what is in memory and of a page are a few snapshots, so that each is met.

The model keeps what each epoch has had: every answer and every snapshot is compared with that. The changes of the group
`model` in tests/mutants.toml test the model itself.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from itertools import cycle, takewhile
from typing import Any, NamedTuple, cast
from unittest.mock import patch
from uuid import uuid4

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import protocol
from balance.aio.threads import WorkerThread
from balance.feed.feed import Feed, Resumption
from balance.feed.replay import Receiver, ReplayBroken
from balance.feed.tail import Tail
from balance.position import NO_TAG, ClaimedPosition, Position, to_tag
from balance.snapshot import EncodedSnapshot, Snapshot
from balance.storage.append import Appended
from balance.storage.errors import StoreUnavailable
from balance.storage.feed_store import FeedPage, Head
from tests.support.feed import FakeStore, snapshot

COMMON = [
    "every_client_has_room", "another_process_saves", "a_batch_begins", "a_batch_is_committed", "a_batch_is_delivered",
    "a_batch_begins_and_is_committed", "a_batch_is_saved", "the_tail_catches_up",
    "a_call_of_the_tail_runs", "a_call_of_the_tail_returns", "a_read_runs",
]  # fmt: skip
RARE = [
    "a_client_leaves", "the_database_fails_over", "the_database_loses_rows", "rows_are_replaced", "old_rows_are_pruned",
    "a_batch_is_committed_without_an_answer", "the_next_call_of_the_database_fails",
]  # fmt: skip
EVENTS = [*3 * COMMON, *RARE]
SMALL = {
    "balance.feed.recent.SNAPSHOTS_MAX": 7,
    "balance.feed.replay.PAGE_BYTES_MAX": 500,
    "balance.feed.replay.PAGE_ROWS_MAX": 4,
    "balance.feed.tail.ROWS_MAX": 3,
}
PIDS = (None, None, None, (1,), (2, 3))  # the filters of clients
LIMIT = 3  # of a read
IP = "192.0.2.1"
ID_IN_JSON = slice(len('{"id":"'), len('{"id":"') + 36)
TURNS_MAX = 2000  # of the event loop, until nothing is left to do


def events(count: int) -> st.SearchStrategy[bytes]:
    """Choose events; as bytes, which are drawn faster than a list."""
    return st.binary(min_size=count, max_size=count)


class IdleSelector(selectors.SelectSelector):
    """Stops the event loop when it has nothing left to do, instead of a wait for input."""

    loop: asyncio.AbstractEventLoop
    turns = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.turns += 1
        assert self.turns < TURNS_MAX, "the event loop is never idle"
        if timeout is None or timeout > 0:
            self.loop.stop()
        return []


class TimelessLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock does not move: no timer fires, but for those that are due at once."""

    def __init__(self) -> None:
        self._idle = IdleSelector()
        super().__init__(self._idle)
        self._idle.loop = self

    def time(self) -> float:
        return 1000.0

    def run(self) -> None:
        """Run until nothing is left to do without a step of the model."""
        self._idle.turns = 0
        self.run_forever()


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
        self.calls: deque[Callable[[], Any]] = deque()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        self.calls.append(lambda: function(*arguments))
        return Future()

    def execute(self) -> None:
        """Make the oldest call."""
        if self.calls:
            self.calls.popleft()()


class Store(FakeStore):
    """A feed in memory whose next calls can fail, and that keeps what each epoch has had."""

    failing = 0
    failures = 0
    page_max = 3

    def __init__(self) -> None:
        super().__init__()
        self.histories: dict[str, list[str]] = {self.epoch: []}  # the ids of each epoch, in their order
        self.pids: dict[str, int | None] = {}  # of each id
        self._next_pids = cycle((1, None, 2, 3))

    def snapshots(self, count: int) -> list[Snapshot]:
        made = [msgspec.structs.replace(snapshot(), pid=next(self._next_pids)) for _ in range(count)]
        self.pids |= {one.id: one.pid for one in made}
        return made

    def save(self, snapshots: Sequence[Snapshot]) -> Appended:
        """Append as any process does."""
        appended = self.append(snapshots)
        self.histories[self.epoch] = [one.id for one in self.stored]
        return appended

    def begin_epoch(self, keep: int | None = None) -> str:
        epoch = super().begin_epoch(keep)
        self.histories[epoch] = [one.id for one in self.stored]
        return epoch

    def common(self, epoch: str) -> int:
        """Return how many snapshots of an epoch are those of the table too, from the first one on."""
        pairs = zip(self.histories[epoch], self.histories[self.epoch], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _check(self) -> None:
        if self.failing:
            self.failing -= 1
            self.failures += 1
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


class Answer(NamedTuple):
    """What a client may receive as the answer to its position."""

    reason: str | None
    good_until: int | None = None
    first: int | None = None


class Client:
    """A client, what it has received, and what it knows of its position."""

    def __init__(self, claimed: ClaimedPosition | None, pids: tuple[int, ...] | None = None, encoder: int = 0) -> None:
        self.claimed = claimed
        self.pids = pids
        self.encode = encode_otherwise if encoder % 2 else encode
        self.answers: set[Answer] = set()  # those that were true since it came
        self.failures = 0  # of the database, before it came
        self.tail_epoch = ""  # when it came
        self.epoch = ""
        self.last = 0  # the last seq that it has received, or after which it began
        self.tag: str | None = None  # of that snapshot
        self.is_waiting = False
        self.is_live = False
        self.has_ended = False
        self.room: asyncio.Event = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def lets_pass(self, pid: int | None) -> bool:
        return self.pids is None or pid in self.pids


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
        epoch, end = self._model.tail.position
        assert end == snapshots[-1].seq
        for client in self.clients:
            if client.is_live:
                for one in snapshots:
                    if client.lets_pass(one.pid):
                        self._model.receive(client, one, epoch)

    def end_all(self) -> None:
        is_needed = self._model.store.first > 1 or any(
            client.epoch != self._model.tail.position.epoch for client in self.clients
        )
        if self.clients and not is_needed:
            self._model.failures.append(AssertionError("clients are disconnected, and the feed has no gap"))
        for client in list(self.clients):
            self.end(client)

    def end(self, client: Client) -> None:
        """Disconnect a client; it comes back later, perhaps, with the position that it has."""
        client.has_ended, client.is_live = True, False
        if client in self.clients:
            self.clients.remove(client)
            self._model.gone.append(client)
        if client.task is not None:
            client.task.cancel()


Page = tuple[str, str, Sequence[EncodedSnapshot]]


def encode(snapshots: Sequence[EncodedSnapshot], epoch: str) -> Page:
    return "encode", epoch, snapshots


def encode_otherwise(snapshots: Sequence[EncodedSnapshot], epoch: str) -> Page:
    return "encode_otherwise", epoch, snapshots


class FeedModel(RuleBasedStateMachine):
    """A process with a tail, another one that saves, the database, and clients."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = [patch(name, value) for name, value in SMALL.items()]
        for one in self.patches:
            one.start()
        self.loop = TimelessLoop()
        self.store = Store()
        self.store.save(self.store.snapshots(5))
        self.worker, self.executor = SteppedWorker(self.loop), SteppedExecutor()
        self.tail = Tail(self.store, cast("WorkerThread", self.worker))
        self.feed = Feed(self.store, self.tail, self.executor, self.executor, read_ms_max=5000)
        self.transport = Transport(self)
        self.feed.subscribe(self.transport)
        self.batches: deque[tuple[list[Snapshot], list[Appended | None]]] = deque()  # in flight, with their outcome
        self.commits = 0  # of batches
        self.unanswered: set[str] = set()  # ids of this process that are not acknowledged yet
        self.coming: list[Client] = []  # those whose position is looked up
        self.gone: list[Client] = []
        self.failures: list[BaseException] = []
        self.epoch_number = 0
        self.loop.set_exception_handler(self._note_exception)
        self.loop.call_soon(lambda: self.tail.start(self.store.head(), lambda: bool(self.batches)))
        self.loop.run()
        self._connect(Client(None))

    # What happens, alone and in the middle of a poll or of a resumption

    def happen(self, event: int) -> None:
        getattr(self, EVENTS[event % len(EVENTS)])()
        self._note_answers()

    def _note_answers(self) -> None:
        for client in self.coming:
            client.answers |= self._true_answers(client.claimed)

    def every_client_has_room(self) -> None:
        for client in self.transport.clients:
            client.room.set()

    def another_process_saves(self) -> None:
        self.store.save(self.store.snapshots(2))

    def a_batch_begins(self) -> None:
        if len(self.batches) < 2:
            snapshots = self.store.snapshots(2)
            self.unanswered |= {one.id for one in snapshots}
            self.batches.append((snapshots, []))

    def a_batch_is_committed(self, is_lost: bool = False) -> None:
        for snapshots, outcome in self.batches:
            if not outcome:
                self.commits += 1
                if self.commits % 3 == 0 and self.store.stored:  # a client has repeated a save
                    snapshots.insert(0, self.store.stored[-1])
                appended = self.store.save(snapshots)
                outcome.append(None if is_lost else appended)
                return

    def a_batch_begins_and_is_committed(self) -> None:
        self.a_batch_begins()
        self.a_batch_is_committed()

    def a_batch_is_committed_without_an_answer(self) -> None:
        self.a_batch_is_committed(is_lost=True)

    def a_batch_is_delivered(self) -> None:
        if self.batches and self.batches[0][1]:
            self.loop.call_soon(self._deliver)
            self.loop.run()

    def _deliver(self) -> None:
        snapshots, (appended,) = self.batches.popleft()
        self.unanswered -= {one.id for one in snapshots}
        if appended is None:
            self.tail.note_lost()
        else:
            self.tail.advance(appended)

    def a_batch_is_saved(self) -> None:
        self.a_batch_begins_and_is_committed()
        self.a_batch_is_delivered()

    def the_tail_catches_up(self) -> None:
        self.tail._schedule.poll_within(0)
        for _ in range(4):
            self.loop.run()
            self.worker.execute()
            self.worker.deliver()

    def the_database_fails_over(self) -> None:
        self.store.begin_epoch()

    def the_database_loses_rows(self) -> None:
        self.store.begin_epoch(keep=max(self.store.first - 1, len(self.store.stored) - 3))

    def rows_are_replaced(self) -> None:
        count = min(2, len(self.store.stored) + 1 - self.store.first)
        self.store.begin_epoch(keep=len(self.store.stored) - count)
        self.store.save(self.store.snapshots(count))

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

    def a_client_leaves(self) -> None:
        if self.transport.clients:
            self.transport.end(self.transport.clients[-1])

    # The rules

    @rule(between=events(3))
    def something_happens(self, between: bytes) -> None:
        for event in between:
            self.happen(event)
            self.loop.run()

    @rule(count=st.integers(0, 3), between=events(6))
    def a_poll_runs(self, count: int, between: bytes) -> None:
        self.store.save(self.store.snapshots(count))
        self._note_answers()
        self._poll(between)

    def _poll(self, between: bytes) -> None:
        self.tail._schedule.poll_within(0)
        self.loop.run()
        for n, event in enumerate(between):
            self.happen(event)
            if n % 2:
                self.worker.deliver()
                self.loop.run()
            else:
                self.worker.execute()

    @rule(between=events(4), pids=st.sampled_from(PIDS))
    def a_client_comes_for_the_first_time(self, between: bytes, pids: tuple[int, ...] | None) -> None:
        self._connect(Client(None, pids), between=between)

    @precondition(lambda self: self.gone)
    @rule(index=st.integers(0, 7), has_tag=st.booleans(), between=events(8))
    def a_client_comes_back(self, index: int, has_tag: bool, between: bytes) -> None:
        before = self.gone.pop(index % len(self.gone))
        claimed = ClaimedPosition(before.epoch, before.last, before.tag if has_tag else None)
        self._connect(Client(claimed, before.pids, index), between=between)

    @rule(choice=st.binary(min_size=5, max_size=5), between=events(6))
    def two_clients_come_with_any_position(self, choice: bytes, between: bytes) -> None:
        claimed, which = self._any_position(choice), choice[4]
        one = Client(claimed, PIDS[which % len(PIDS)], which)
        other = Client(claimed, PIDS[which // 8 % len(PIDS)], which // 2)  # what they have in common is read once
        self._connect(one, other, between=between)

    @rule(choice=st.binary(min_size=4, max_size=4), between=events(6), waits=st.booleans())
    def a_client_reads(self, choice: bytes, between: bytes, waits: bool) -> None:
        self._connect(Client(self._any_position(choice)), between=between, read_s=60 if waits else 0)

    def _any_position(self, choice: bytes) -> ClaimedPosition:
        """Choose a position: mostly near one where the answer changes, or of what is in memory."""
        epochs = [*self.store.histories, str(uuid4())][::-1]
        epoch = epochs[choice[0] % 16 % len(epochs) if choice[0] % 16 < 9 else 1]
        end = self.tail.position.seq
        ends = [len(self.store.stored), self.store.first - 1, *[*self.store.epochs.values()][:-3:-1], end, end - 7, 0]
        seq = max(0, ends[choice[1] % len(ends)] + choice[2] % 5 - 2)
        history = self.store.histories.get(epoch, [])
        true_tag = NO_TAG if seq == 0 else history[seq - 1][-8:] if seq <= len(history) else "12345678"
        tag = (None, true_tag, true_tag, "87654321")[choice[3] % 4]
        return ClaimedPosition(None if seq == 0 and choice[0] % 2 else epoch, seq, tag)

    def _connect(self, *clients: Client, between: bytes = b"", read_s: float | None = None) -> None:
        self.loop.run()
        for client in clients:
            serve = self._serve(client) if read_s is None else self._read(client, read_s)
            client.task = self.loop.create_task(serve)
            client.task.add_done_callback(self._note_failure)
        self.loop.run()
        for event in between:
            self.executor.execute()
            for client in clients:
                client.room.set()
            self.happen(event)
            self.loop.run()

    def _note_exception(self, _: object, context: dict[str, Any]) -> None:
        self.failures.append(context.get("exception") or AssertionError(context["message"]))

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self.failures.append(error)

    @contextmanager
    def _coming(self, client: Client) -> Iterator[None]:
        """Collect the true answers for a client within a block, in which it gets one."""
        client.answers = self._true_answers(client.claimed)
        client.failures, client.tail_epoch = self.store.failures, self.tail.position.epoch
        self.coming.append(client)
        try:
            yield
        finally:
            self.coming.remove(client)
            client.answers |= self._true_answers(client.claimed)

    async def _serve(self, client: Client) -> None:
        try:
            with self._coming(client):
                resumption = await self.feed.resume(client.claimed)
        except protocol.Unavailable:
            assert self._may_be_unavailable(client)
            return
        self.transport.clients.append(client)
        client.epoch, client.last = resumption.position
        self._check_resumption(client, resumption)
        client.tag = resumption.tag
        if not resumption.recovered:
            client.is_live = True
            return
        try:
            send, join = partial(self._send, client), partial(self._join, client)
            await self.feed.replay(resumption.position, Receiver(client.encode, send, join, IP, client.pids))
        except ReplayBroken:
            assert self._is_broken(client.epoch, client.last)
            self._end_replay(client)
        except protocol.Unavailable:
            assert self.store.failures > client.failures
            self._end_replay(client)

    def _end_replay(self, client: Client) -> None:
        client.task = None
        self.transport.end(client)

    def _check_resumption(self, client: Client, resumption: Resumption) -> None:
        position, head, end = resumption.position, resumption.head, self.tail.position
        assert resumption.recovered == (client.claimed is not None and resumption.reason is None)
        self._check_answer(client, resumption.reason, resumption.good_until, resumption.first)
        assert position.epoch == head.epoch == end.epoch
        if resumption.recovered:
            assert client.claimed is not None
            assert position.seq == client.claimed.seq
            assert max(position.seq, end.seq) <= head.seq <= len(self.store.histories[head.epoch])
        else:
            assert position == head == end
        if position.epoch == self.store.epoch and position.seq >= self.store.first:
            assert resumption.tag == self._true_tag(position)

    def _check_answer(self, client: Client, *answer: Any) -> None:
        assert Answer(*answer) in client.answers

    async def _send(self, client: Client, page: Page, last: int) -> None:
        encoder, epoch, snapshots = page
        assert encoder == client.encode.__name__
        assert 0 < len(snapshots) <= SMALL["balance.feed.replay.PAGE_ROWS_MAX"]
        for one in snapshots:
            self.receive(client, one, epoch)
        assert client.last <= last
        client.room.clear()
        await client.room.wait()

    def receive(self, client: Client, one: EncodedSnapshot, epoch: str) -> None:
        """Check that a snapshot is the next one for a client, and acknowledged."""
        assert not client.has_ended
        assert client.epoch == epoch
        assert one.seq > client.last
        assert client.lets_pass(one.pid)
        self._check_nothing_missed(client, one.seq - 1)
        self._check_json(epoch, one.seq, one.json)
        client.last, client.tag = one.seq, one.tag.decode()

    def _check_json(self, epoch: str, seq: int, json: bytes) -> None:
        id_ = json[ID_IN_JSON].decode()
        assert id_ == self.store.histories[epoch][seq - 1]
        assert id_ not in self.unanswered, "it is sent before it is acknowledged"

    def _check_nothing_missed(self, client: Client, last: int) -> None:
        """Check that nothing between what a client has received and a seq is for it."""
        missed = self.store.histories[client.epoch][client.last : last]
        assert not any(client.lets_pass(self.store.pids[id_]) for id_ in missed)

    def _join(self, client: Client) -> None:
        assert client.epoch == self.tail.position.epoch
        assert client.last <= self.tail.position.seq
        self._check_nothing_missed(client, self.tail.position.seq)
        client.is_live = not client.has_ended

    async def _read(self, client: Client, wait_s: float) -> None:
        claimed, stored = client.claimed, len(self.store.stored)
        assert claimed is not None
        epoch = self.store.epoch
        client.is_waiting = wait_s > 0
        try:
            with self._coming(client):
                if wait_s:
                    found = await self.feed.read_next(claimed, LIMIT, wait_s, IP)
                else:
                    found = await self.feed.read(claimed, LIMIT)
        except protocol.PositionUnknown as error:
            self._check_answer(client, error.fields["reason"], error.fields.get("goodUntil"))
        except protocol.PositionPruned as error:
            self._check_answer(client, "pruned", None, error.fields["first"])
        except protocol.Unavailable:
            assert self._may_be_unavailable(client) or self._is_broken(client.tail_epoch, claimed.seq)
        else:
            self._check_answer(client, None)
            snapshots = [protocol.encode(one) for one in protocol.loads(bytes(found.data))]
            assert len(snapshots) <= LIMIT
            assert found.epoch == self.tail.position.epoch
            assert (found.after, found.last) == (claimed.seq, claimed.seq + len(snapshots))
            assert found.last <= found.head <= len(self.store.histories[found.epoch])
            for seq, json in enumerate(snapshots, found.after + 1):
                self._check_json(found.epoch, seq, json)
            if not snapshots and found.epoch == epoch:
                assert found.head >= stored
                assert wait_s == 0 or client.tail_epoch != epoch

    def _may_be_unavailable(self, client: Client) -> bool:
        return self.store.failures > client.failures or client.tail_epoch != self.store.epoch

    def _is_broken(self, epoch: str, last: int) -> bool:
        """Return whether a replay cannot go on after a seq."""
        return not epoch == self.tail.position.epoch == self.store.epoch or last + 1 < self.store.first

    def _true_tag(self, position: Position) -> str:
        return to_tag(self.store.histories[position.epoch][position.seq - 1]) if position.seq else NO_TAG

    def _true_answers(self, claimed: ClaimedPosition | None) -> set[Answer]:
        """Return the answer that the database has now, and that of what is published, if it is recent."""
        if claimed is None:
            return {Answer(None)}
        answers, end = {self._true_answer(claimed)}, self.tail.position
        is_recent = 0 <= end.seq - claimed.seq <= SMALL["balance.feed.recent.SNAPSHOTS_MAX"]
        if claimed.epoch in (None, end.epoch) and is_recent:
            true_tag = self._true_tag(Position(end.epoch, claimed.seq))
            true_tags = {None, true_tag, NO_TAG if claimed.seq < self.store.first else true_tag}  # one is not known
            answers |= {Answer(None)} if claimed.tag in true_tags else set()
        return answers

    def _true_answer(self, claimed: ClaimedPosition) -> Answer:
        epoch, seq, tag = claimed
        store = self.store
        if epoch is not None and epoch not in store.histories:
            return Answer("other_feed")
        if epoch not in (None, store.epoch) and seq > store.common(epoch):
            return Answer("diverged", store.common(epoch))
        if seq > len(store.stored):
            return Answer("ahead")
        if seq + 1 < store.first:
            return Answer("pruned", None, store.first)
        is_there = seq == 0 or seq >= store.first
        is_other = tag is not None and tag != self._true_tag(Position(store.epoch, seq))
        return Answer("diverged") if is_there and is_other else Answer(None)

    # What holds

    @invariant()
    def nothing_has_failed(self) -> None:
        for error in self.failures:
            raise error

    @invariant()
    def every_client_is_in_the_epoch_of_the_tail(self) -> None:
        for client in self.transport.clients:
            assert client.epoch == self.tail.position.epoch

    @invariant()
    def the_epoch_never_goes_back(self) -> None:
        number = list(self.store.epochs).index(self.tail.position.epoch)
        assert number >= self.epoch_number
        self.epoch_number = number

    @invariant()
    def what_is_in_memory_is_the_end_of_what_is_published(self) -> None:
        epoch, end = self.tail.position
        published = self.store.histories[epoch][:end]
        assert (self.tail.recent.after(end), self.tail.recent.after(end + 1)) == ([], None)
        for seq in range(max(0, end - SMALL["balance.feed.recent.SNAPSHOTS_MAX"] - 1), end + 2):
            found = self.tail.recent.after(seq)
            assert found is None or [one.json[ID_IN_JSON].decode() for one in found] == published[seq:]
            one = self.tail.recent.find(seq)
            assert one is None or one.json[ID_IN_JSON].decode() == published[seq - 1]

    def teardown(self) -> None:
        """Let everything come to its end: each client that is connected has everything then."""
        try:
            self._finish()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run()
            self.loop.close()
            for one in self.patches:
                one.stop()

    def _finish(self) -> None:
        self.store.failing, self.store.page_max = 0, 1000
        while self.batches:
            self.a_batch_is_committed()
            self.a_batch_is_delivered()
        end = Position(self.store.epoch, len(self.store.stored))
        rounds_max = 10 + end.seq  # each can be one page
        while rounds_max and not self._is_finished(end):
            rounds_max -= 1
            self._poll(bytes(4))
            while self.executor.calls:
                self.executor.execute()
            self.every_client_has_room()
            self.loop.run()
        self.nothing_has_failed()
        assert self._is_finished(end)
        for client in self.transport.clients:
            self._check_nothing_missed(client, end.seq)

    def _is_finished(self, end: Position) -> bool:
        is_up_to_date = self.tail.position == end and all(
            client.epoch == end.epoch for client in self.transport.clients
        )
        clients = [*self.transport.clients, *self.coming]
        return is_up_to_date and all(client.is_live or client.is_waiting for client in clients)


TestFeedModel = pytest.mark.expects_log("the feed goes on", "the feed has lost some")(FeedModel.TestCase)
TestFeedModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
