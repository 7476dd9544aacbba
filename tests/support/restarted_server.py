"""A server process that a test kills and starts again, each time at another address."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.support.service import Process


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

    async def find_server(self) -> str:
        return await asyncio.shield(self._url)

    async def kill(self) -> None:
        self._url = asyncio.get_running_loop().create_future()
        await asyncio.to_thread(self.process.kill)
