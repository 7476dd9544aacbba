"""The official JavaScript client resumes by its own recovery, with no line of code but `auth: {recovery: true}`."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from tests.support.history import append_history, begin_epoch
from tests.support.node import CLIENTS, FOLDER, node_modules, run_node
from tests.support.payloads import UPDATE
from tests.support.service import Database, MakeService, Service

LINE_S_MAX = 20.0


@pytest.fixture(scope="session")
def clients() -> None:
    """Install the packages of every version before the clock of a test runs."""
    node_modules(CLIENTS)


class Client:
    """The script recovery.js, and the lines that it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def next(self) -> list[object]:
        assert self._process.stdout is not None
        async with asyncio.timeout(LINE_S_MAX):
            line: list[object] = json.loads(await self._process.stdout.readline())
        return line

    async def connect(self) -> tuple[bool, dict[str, object]]:
        """Wait until it is connected; return what socket.io-client calls `recovered`, and the event `connected`."""
        lines = [await self.next(), await self.next()]
        assert [line[0] for line in lines] == ["connect", "connected"]
        return bool(lines[0][1]), lines[1][1]  # type: ignore[return-value]

    async def seqs(self, count: int) -> list[object]:
        lines = [await self.next() for _ in range(count)]
        assert {line[0] for line in lines} <= {"snapshot"}, lines
        return [line[1] for line in lines]

    async def cut(self) -> None:
        """Have it lose its connection."""
        self._process.send_signal(signal.SIGUSR2)
        assert await self.next() == ["disconnect", "forced close"]


async def save(service: Service, count: int) -> None:
    for _ in range(count):
        assert (await service.post(UPDATE)).status == 201


@pytest.mark.usefixtures("clients")
@pytest.mark.expects_log("every watcher has to resume")
@pytest.mark.parametrize("transports", ["websocket", "polling", "polling,websocket"])
@pytest.mark.parametrize("version", ["4.6", "4.8"])
async def test_the_client_misses_nothing_and_knows_whether_it_has_recovered(
    database: Database, make_service: MakeService, version: str, transports: str
) -> None:
    append_history(database, 3)
    service = await make_service()
    package = f"socket.io-client-{version}"
    async with run_node(FOLDER / "recovery.js", package, service.url, transports, packages=CLIENTS) as process:
        client = Client(process)
        assert (await client.connect())[0] is False
        await save(service, 2)
        assert await client.seqs(2) == [4, 5]
        await client.cut()
        append_history(database, 1200)
        recovered, greeting = await client.connect()
        assert (recovered, greeting["recovered"]) == (True, True)
        assert await client.seqs(1200) == list(range(6, 1206))
        await save(service, 1)
        assert await client.seqs(1) == [1206]

        begin_epoch(database, 1206)
        assert (await client.next())[0] == "disconnect"
        assert (await client.connect())[0] is True, "a new epoch that has lost nothing"
        await save(service, 1)
        assert await client.seqs(1) == [1207]

        begin_epoch(database, 1000)
        assert (await client.next())[0] == "disconnect"
        recovered, greeting = await client.connect()
        assert recovered is False
        assert greeting.items() >= {"recovered": False, "reason": "diverged", "goodUntil": 1000, "seq": 1000}.items()
        await save(service, 1)
        assert await client.seqs(1) == [1001]
