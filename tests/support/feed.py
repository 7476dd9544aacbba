"""A feed in memory, in place of the store, and a writer on it: for the unit tests of balance.feed."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

from tornado.ioloop import IOLoop

import protocol
from balance.aio.threads import WorkerThread
from balance.feed.feed import Feed
from balance.feed.pending import PendingSave
from balance.feed.tail import Tail
from balance.feed.writer import Writer
from balance.position import ClaimedPosition, Position
from balance.snapshot import EncodedSnapshot, Saved, Snapshot
from balance.storage.append import Appended
from balance.storage.errors import StoreUnavailable
from balance.storage.feed_store import FeedPage, Head, Latest, PositionFacts
from balance.storage.pipeline import Outcome

NOW = datetime(2025, 11, 7, tzinfo=UTC)
EPOCH = str(uuid4())
ONCHAIN, ONSITE = protocol.Encoded('{"rlb":1,"usdt":1}'), protocol.Encoded('{"rlb":1,"usd":1}')


def snapshot(id_: str | None = None) -> Snapshot:
    """Make a snapshot that is not saved."""
    return Snapshot(id_ or str(uuid4()), NOW, None, ONCHAIN, ONSITE, NOW)


async def result_of(save: PendingSave) -> Saved:
    """Wait until a save is done; return its result or raise its exception."""
    if not save.done():
        done = asyncio.get_running_loop().create_future()
        save.add_done_callback(lambda _: done.done() or done.set_result(None))
        await done
    return save.result()


class FakeStore:
    """A feed in memory, whose appends can wait, fail, and lose their answer; the reads are those of FeedStore."""

    def __init__(self) -> None:
        self.epochs = {EPOCH: 0}  # each with the seq after which it began, in their order
        self.stored: list[Snapshot] = []
        self._known_end = 0  # where it ended at the last append or poll
        self.first = 1  # what is before is pruned
        self.batches: list[int] = []  # the size of each append
        self.heads = 0  # the number of polls
        self.reads: list[int] = []  # the number of rows of each read
        self.durability = "local"
        self.go = threading.Event()  # an append waits for it
        self.go.set()
        self.before: Callable[[Sequence[Snapshot]], None] = lambda snapshots: None
        self.after: Callable[[], None] = lambda: None
        self.on_head: Callable[[], None] = lambda: None  # called when a poll has read its result
        self.on_page: Callable[[], None] = lambda: None  # called before rows are read

    @property
    def epoch(self) -> str:
        """The current epoch."""
        return list(self.epochs)[-1]

    def save_elsewhere(self, count: int = 1) -> list[Snapshot]:
        """Store snapshots as another process does."""
        saved = [snapshot().with_seq(len(self.stored) + n) for n in range(1, count + 1)]
        self.stored.extend(saved)
        return saved

    def begin_epoch(self, keep: int | None = None) -> str:
        """Begin a new epoch, after the loss of all rows but the first `keep`; return it."""
        if keep is not None:
            del self.stored[keep:]
        self.epochs[str(uuid4())] = len(self.stored)
        return self.epoch

    connection: socket.socket | None = None

    def send(self, snapshots: Sequence[Snapshot]) -> bool:
        raise AssertionError("there is no connection")

    def flush(self) -> bool:
        raise AssertionError("nothing was sent")

    def receive(self) -> list[Outcome]:
        raise AssertionError("nothing was sent")

    def append(self, snapshots: Sequence[Snapshot]) -> Appended:
        self.batches.append(len(snapshots))
        assert self.go.wait(10)
        self.before(snapshots)
        known = {row.id: row for row in self.stored}
        new, saved = list[Snapshot](), list[Saved]()
        for one in snapshots:
            duplicate = one.id in known
            if not duplicate:
                known[one.id] = one.with_seq(len(self.stored) + len(new) + 1)
                new.append(known[one.id])
            saved.append(Saved(known[one.id], duplicate))
        self.stored.extend(new)  # in one step: another thread sees all of them or none
        epoch, end = self.epoch, len(self.stored)
        self._known_end = end
        self.after()
        return Appended(epoch, end, saved)

    def head(self) -> Head:
        self.heads += 1
        self._known_end = max(self._known_end, len(self.stored))
        head = Head(Position(self.epoch, len(self.stored)), self.durability)
        self.on_head()
        return head

    def renew(self) -> Position:
        if self._known_end > len(self.stored):
            self._known_end = len(self.stored)
            self.begin_epoch()
        return Position(self.epoch, len(self.stored))

    def page(self, after: int, limit: int, pids: Sequence[int] | None = None) -> FeedPage:
        self.on_page()
        epoch, head = self.epoch, len(self.stored)
        rows = [one.encode() for one in self.stored[max(after, self.first - 1) :][:limit]]
        self.reads.append(len(rows))
        passed = [one for one in rows if pids is None or one.pid in pids]
        return FeedPage(epoch, head, rows[0].seq if rows else None, rows[-1].seq if rows else after, passed)

    def look_up(self, claimed: ClaimedPosition) -> PositionFacts:
        epochs = list(self.epochs)
        is_known = claimed.epoch in epochs
        later = epochs[epochs.index(claimed.epoch) + 1 :] if claimed.epoch in epochs else []
        return PositionFacts(
            head=Position(self.epoch, len(self.stored)),
            first=self.first,
            epoch_is_known=is_known,
            good_until=min([self.epochs[one] for one in later], default=None),
            id=self.stored[claimed.seq - 1].id if self.first <= claimed.seq <= len(self.stored) else None,
        )

    def latest(self, limit: int, heard_s: int | None) -> Latest:
        newest = self.stored[-1].encode().json if self.stored else None
        return Latest(Position(self.epoch, len(self.stored)), newest, [])


class SendingStore(FakeStore):
    """A feed in memory to which batches are sent, and that answers them when the test has it do so."""

    def __init__(self) -> None:
        super().__init__()
        self.connection, self._peer = socket.socketpair()
        self.accepts = True  # what is sent; otherwise it is appended
        self.sent: list[Sequence[Snapshot]] = []  # and not answered
        self.sizes: list[int] = []  # of all batches that were sent
        self.flushes = 0  # the number of calls of `flush`, which have something left to send until the third
        self._outcomes: list[Outcome] = []

    def send(self, snapshots: Sequence[Snapshot]) -> bool:
        if self.accepts:
            self.sent.append(snapshots)
            self.sizes.append(len(snapshots))
        return self.accepts

    def flush(self) -> bool:
        self.flushes += 1
        return self.flushes > 2

    def receive(self) -> list[Outcome]:
        self.connection.recv(100)
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def answer(self, *failures: StoreUnavailable | None) -> None:
        """Answer the oldest batch, which is stored, or one for each failure."""
        if failures:
            self._outcomes += failures
            del self.sent[: len(failures)]
        else:
            self._outcomes.append(super().append(self.sent.pop(0)))
            self.batches.pop()  # it counts those that were not sent
        self._peer.send(b"x")

    def disconnect(self) -> None:
        """Close the connection at the other end."""
        self._peer.close()

    def close(self) -> None:
        """Close both ends."""
        self.connection.close()
        self._peer.close()


class FakeListener:
    """A transport that notes what is published; it starts with one watcher."""

    def __init__(self) -> None:
        self.has_watchers = True
        self.published: list[int] = []
        self.snapshots: list[EncodedSnapshot] = []
        self.ends = 0  # how often its clients were disconnected
        self.on_publish: Callable[[Sequence[EncodedSnapshot]], None] = lambda snapshots: None

    def publish(self, snapshots: Sequence[EncodedSnapshot]) -> None:
        self.on_publish(snapshots)
        self.published += [one.seq for one in snapshots]
        self.snapshots += snapshots

    def end_all(self) -> None:
        self.ends += 1


class Rig:
    """A writer and a feed, their store and a listener."""

    def __init__(
        self,
        store: FakeStore,
        worker: WorkerThread,
        tail_worker: WorkerThread,
        executor: Executor,
        read_executor: Executor,
    ) -> None:
        self.store = store
        self.writers: list[Writer] = []
        self.executor = executor
        self.worker, self.tail_worker = worker, tail_worker
        self.listener = FakeListener()
        self.cork: AbstractContextManager[None] = nullcontext()
        self.tail = Tail(self.store, tail_worker)
        self.feed = Feed(self.store, self.tail, executor, read_executor, read_ms_max=5000)
        self.feed.subscribe(self.listener)

    @property
    def published(self) -> list[int]:
        """What the listener got."""
        return self.listener.published

    def writer(self, *, batch_max: int = 100, pending_max: int = 1000, save_ms_max: int = 5000) -> Writer:
        """Make the writer and start it."""
        made = Writer(
            self.store,
            self.worker,
            self.tail,
            self.cork,
            batch_max=batch_max,
            pending_max=pending_max,
            save_ms_max=save_ms_max,
        )
        self.worker.start()
        self.tail_worker.start()
        self.writers.append(made)
        made.start(Head(Position(self.store.epoch, len(self.store.stored)), self.store.durability))
        return made

    def finish_submitted(self) -> None:
        """Let the write thread do what has been submitted to it, while the event loop is blocked."""
        self.store.go.set()
        done = threading.Event()
        self.worker.submit(done.set)
        assert done.wait(10)

    async def until(self, true: Callable[[], bool]) -> None:
        """Let the event loop run until something is so."""
        async with asyncio.timeout(10):
            while not true():
                await asyncio.sleep(0)

    async def hold(self, writer: Writer, *, behind: int) -> list[PendingSave]:
        """Submit a save whose append waits in the store, and some more behind it."""
        self.store.go.clear()
        first = writer.submit(snapshot())
        await self.until(lambda: len(self.store.batches) == 1)
        return [first, *(writer.submit(snapshot()) for _ in range(behind))]


@contextmanager
def feed_rig(io_loop: IOLoop, store: FakeStore | None = None) -> Iterator[Rig]:
    """Give a rig for a test on this event loop; its threads end with the block."""
    workers = WorkerThread("test"), WorkerThread("test-tail")
    with ThreadPoolExecutor(2, "test-replay") as executor, ThreadPoolExecutor(1, "test-read") as read_executor:
        rig = Rig(store or FakeStore(), *workers, executor, read_executor)
        try:
            yield rig
        finally:
            rig.store.go.set()
            rig.tail.stop()
            for writer in rig.writers:
                writer._batcher.stop()
            io_loop.run_sync(partial(asyncio.sleep, 0))
            for worker in workers:
                worker.stop()
                worker.join()
                worker.close()
