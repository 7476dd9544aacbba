"""Saves of some clients in any order of events: each gets one result, and those of a client are stored in its order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import pytest
from tornado.ioloop import IOLoop

from balance.feed.pending import PendingSave
from balance.feed.writer import Writer
from balance.snapshot import Snapshot
from balance.storage.append import Appended
from balance.storage.errors import StoreUnavailable
from tests.support.feed import Rig, SendingStore, feed_rig, snapshot

CLIENTS, TURNS = 6, 150


class FaultyStore(SendingStore):
    """A store that refuses, loses and fails what it is given, as PostgreSQL may."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.connection.setblocking(False)
        self.refused: set[str] = set()
        self._random = random
        self._has_failed = False  # one of those that are in flight: what is behind it is not stored either

    def send(self, snapshots: Sequence[Snapshot]) -> bool:
        self.accepts = len({one.id for one in snapshots}) == len(snapshots) and self._random.random() > 0.05
        return super().send(snapshots)

    def receive(self) -> list[Appended | StoreUnavailable | None]:
        outcomes = super().receive()
        self._has_failed = self._has_failed and bool(self.sent)
        return outcomes

    def step(self) -> None:
        """Answer the oldest batch that is in flight, if there is one."""
        if not self.sent:
            return
        stored = {one.id for one in self.stored}
        if any(one.id in stored | self.refused for one in self.sent[0]) or self._has_failed:
            self._has_failed = True
            self.answer(None)
        elif (luck := self._random.random()) < 0.14:
            self._has_failed = True
            self.answer(None if luck < 0.08 else StoreUnavailable("lost"))
        else:
            self.answer()

    def append(self, snapshots: Sequence[Snapshot]) -> Appended:
        assert not self.sent, "nothing is in flight while the write thread appends"
        if any(one.id in self.refused for one in snapshots):
            raise LookupError
        if self._random.random() < 0.05:
            raise StoreUnavailable("lost")
        return super().append(snapshots)


async def run(random: Random, rig: Rig, store: FaultyStore) -> None:
    writer = rig.writer(batch_max=random.choice([1, 3, 20, 100]), pending_max=100_000, save_ms_max=60_000)
    saves: list[list[PendingSave]] = [[] for _ in range(CLIENTS)]
    ids: list[str] = []
    for _ in range(TURNS):
        for _ in range(random.choice([0, 0, 1, 2, 5, 40])):
            one = snapshot(random.choice(ids) if ids and random.random() < 0.03 else None)
            ids.append(one.id)
            if random.random() < 0.01:
                store.refused.add(one.id)
            random.choice(saves).append(writer.submit(one))
        if random.random() < 0.1:
            give_up(writer, 3)
        for _ in range(random.randrange(3)):
            store.step()
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        while writer.pending:
            store.step()
            await asyncio.sleep(0)
    for each in saves:
        stored = [save._saved for save in each if save._saved is not None and not save._saved.duplicate]
        assert all(save.done() for save in each)
        assert [one.snapshot.seq for one in stored] == sorted(one.snapshot.seq for one in stored)


def give_up(writer: Writer, count: int) -> None:
    """Let the time of the oldest saves be over."""
    for save in list(writer._pending)[:count]:
        save.deadline = 0
    writer._expire_overdue()


@pytest.mark.parametrize("seed", range(20))
def test_saves_of_a_client_are_stored_in_its_order_whatever_fails(io_loop: IOLoop, seed: int) -> None:
    random = Random(seed)
    store = FaultyStore(random)
    with feed_rig(io_loop, store) as rig:
        io_loop.run_sync(lambda: run(random, rig, store))
    store.close()
