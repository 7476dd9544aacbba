"""A feed in memory, in place of the store, and a writer on it: for the unit tests of balance.feed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from uuid import uuid4

import protocol
from balance.aio.threads import WorkerThread
from balance.feed.pending import PendingSave
from balance.feed.tail import Tail
from balance.feed.writer import Writer
from balance.position import Position
from balance.snapshot import Saved, Snapshot
from balance.storage.store import Appended

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
    """A feed in memory, whose appends can wait, fail, and lose their answer."""

    def __init__(self) -> None:
        self.epoch = EPOCH
        self.rows: list[Snapshot] = []
        self.batches: list[int] = []  # the size of each append
        self.in_doubt = False
        self.end_reads = 0
        self.go = threading.Event()  # an append waits for it
        self.go.set()
        self.before: Callable[[Sequence[Snapshot]], None] = lambda snapshots: None
        self.after: Callable[[], None] = lambda: None

    def append(self, snapshots: Sequence[Snapshot]) -> Appended:
        self.batches.append(len(snapshots))
        assert self.go.wait(10)
        self.before(snapshots)
        known = {row.id: row for row in self.rows}
        saved = []
        for one in snapshots:
            duplicate = one.id in known
            if not duplicate:
                known[one.id] = one.with_seq(len(self.rows) + 1)
                self.rows.append(known[one.id])
            saved.append(Saved(known[one.id], duplicate))
        self.after()
        return Appended(self.epoch, saved)

    def feed(self, after: int, up_to: int, limit: int) -> list[Snapshot]:
        return self.rows[after:up_to][:limit]


class Rig:
    """A writer, its store and what it published."""

    def __init__(self, worker: WorkerThread) -> None:
        self.worker = worker
        self.store = FakeStore()
        self.published: list[int] = []
        self.cork: AbstractContextManager[None] = nullcontext()
        self.publish: Callable[[Sequence[Snapshot]], None] = lambda snapshots: self.published.extend(
            one.seq for one in snapshots
        )
        self.tail = Tail(self.store, worker, self._publish)

    def _publish(self, snapshots: Sequence[Snapshot]) -> None:
        self.publish(snapshots)

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
        self.tail.start(Position(EPOCH, 0))
        made.start()
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
def feed_rig() -> Iterator[Rig]:
    """Give a rig whose thread ends with the block."""
    worker = WorkerThread("test")
    rig = Rig(worker)
    try:
        yield rig
    finally:
        rig.store.go.set()
        worker.stop()
        worker.join()
        worker.close()
