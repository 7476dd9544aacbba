"""The official JavaScript client, which resumes by native recovery with no code of its own, as a watcher."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.node import FOLDER, run_node
from tests.support.service import Database

SCRIPT = FOLDER / "native-recovery.js"


class NativeRecovery:
    """What the client received; it fails when a snapshot is not the next one."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.connections: list[tuple[bool, int | None]] = []  # `socket.recovered` and `goodUntil`
        self.began = 0  # a connection that is not recovered gets what is saved from then on
        self.ids: list[str] = []
        self.ends: list[str] = []  # why each connection ended, or could not be made
        self._process = process
        self._grown = asyncio.Event()
        self._task = asyncio.create_task(self._read())
        self._task.add_done_callback(lambda _: self._grown.set())

    @property
    def seq(self) -> int:
        """The last snapshot received."""
        return self.began + len(self.ids)

    async def until_connected(self, times: int = 1, seconds: float = 15.0) -> None:
        """Wait until it has connected this number of times."""
        async with asyncio.timeout(seconds):
            while len(self.connections) < times:
                await self._wait_for_news()

    async def until(self, seq: int, seconds: float = 15.0) -> None:
        """Wait until it has the snapshot of that `seq`."""
        try:
            async with asyncio.timeout(seconds):
                while self.seq < seq:
                    await self._wait_for_news()
        except TimeoutError as error:
            story = f"{len(self.connections)} connections; the last ends: {self.ends[-5:]}"
            raise TimeoutError(f"it has seq {self.seq} of {seq} after {seconds} s; {story}") from error

    def check_holds_all(self, database: Database) -> None:
        """Check that it has each snapshot that was stored since that connection, in order and once."""
        rows = database.rows("SELECT id FROM balance_snapshot WHERE seq > %s ORDER BY seq", self.began)
        assert self.ids == [str(row["id"]) for row in rows]

    async def _wait_for_news(self) -> None:
        self._grown.clear()
        await self._grown.wait()
        if self._task.done():
            self._task.result()
            raise AssertionError("the client has ended")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._handle(*json.loads(line))
            self._grown.set()

    def _handle(self, event: str, *values: Any) -> None:
        if event == "snapshot":
            seq, id_ = values
            assert seq == self.seq + 1, f"{seq} came after {self.seq}"
            self.ids.append(id_)
            return
        if event == "end":
            self.ends += values
            return
        recovered, seq, good_until = values
        self.connections.append((recovered, good_until))
        if not recovered or len(self.connections) == 1:
            self.began, self.ids = seq, []


@asynccontextmanager
async def native_recovery(url: str) -> AsyncIterator[NativeRecovery]:
    """Run the client within the block."""
    async with run_node(SCRIPT, url) as process:
        watcher = NativeRecovery(process)
        await watcher.until_connected()
        try:
            yield watcher
        finally:
            watcher._task.cancel()
            await asyncio.wait([watcher._task])
    if not watcher._task.cancelled():
        watcher._task.result()
