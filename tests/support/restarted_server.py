"""A server process that a test kills and starts again, at the same address or each time at another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.support.http_client import request
from tests.support.proxies import free_port
from tests.support.service import SNAPSHOTS, Database, Process, Processes


class Server:
    """A server that can be killed and started again; bots get its address from here, and wait while it does not run."""

    def __init__(self, start: Callable[[], Process]) -> None:
        self._start = start
        self._url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.process: Process

    async def start(self) -> str:
        self.process = self._start()
        self._url.set_result(await asyncio.to_thread(self.process.url))
        return self._url.result()

    @classmethod
    def at_one_address(cls, processes: Processes, database: Database) -> Server:
        """Return a server that has the same address each time that it runs; it does not run yet."""
        port = free_port()
        return cls(lambda: processes("--port", str(port), DATABASE_URL=database.url))

    async def find_server(self) -> str:
        return await asyncio.shield(self._url)

    async def kill(self) -> None:
        self._url = asyncio.get_running_loop().create_future()
        await asyncio.to_thread(self.process.kill)

    async def save(self, pid: int, amount: str) -> None:
        """Save a snapshot with this amount of onchain.rlb."""
        body = f'{{"pid": {pid}, "onchain": {{"rlb": {amount}, "usdt": 0}}, "onsite": {{"rlb": 1, "usd": 2}}}}'
        assert (await request(await self.find_server(), "POST", SNAPSHOTS, body.encode())).status == 201
