"""The clients that people use: each version of the official one by each transport, and python-socketio's by polling."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import socketio

from tests.support.node import CLIENTS, FOLDER, node_modules, run_node
from tests.support.payloads import UPDATE, updates
from tests.support.raw_clients import PATH, SocketClient
from tests.support.service import Database, Service
from tests.support.waiting import until

TRANSPORTS = ["polling", "websocket", "polling,websocket"]
VERSIONS = ["3.0", "3.1", *(f"4.{minor}" for minor in range(9))]
END_S_MAX = 10.0


@pytest.fixture(scope="session")
def clients() -> None:
    """Install the packages of every version before the clock of a test runs."""
    node_modules(CLIENTS)


async def lines_of(script: str, *args: str, packages: Path = FOLDER) -> list[Any]:
    """Run a script of tests/js to its end, which must come by itself; return the lines it prints."""
    async with run_node(FOLDER / script, *args, packages=packages) as process:
        async with asyncio.timeout(END_S_MAX):
            output, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b""), output
        return [json.loads(line) for line in output.splitlines()]


async def check_six(service: Service, database: Database, package: str, transports: str, packages: Path) -> None:
    """Check that a client saves six updates at once, sees each snapshot, and ends when it closes."""
    seq = database.count()
    lines = await lines_of("save-six.js", package, service.url, transports, packages=packages)
    assert lines.pop() == ["disconnect", "io client disconnect"]
    what, transport = lines.pop()
    assert (what, transport in transports.split(",")) == ("transport", True)
    assert [payload["success"] for what, payload in lines if what == "saved"] == [True] * 6
    assert [payload for what, payload in lines if what == "snapshot"] == list(range(seq + 1, seq + 7))
    assert len(lines) == 12
    await until(lambda: not service.app.server.eio.sockets)


async def test_the_official_client_saves_six_at_once_by_each_transport_and_ends(
    service: Service, database: Database
) -> None:
    for transports in TRANSPORTS:
        await check_six(service, database, "socket.io-client", transports, FOLDER)


@pytest.mark.slow
@pytest.mark.usefixtures("clients")
@pytest.mark.parametrize("version", VERSIONS)
async def test_each_version_of_the_official_client_saves_by_each_transport(
    service: Service, database: Database, version: str
) -> None:
    for transports in TRANSPORTS:
        await check_six(service, database, f"socket.io-client-{version}", transports, CLIENTS)


@pytest.mark.usefixtures("clients")
async def test_a_msgpack_client_gets_an_error_at_once(service: Service) -> None:
    ((_, _, code, reason),) = await lines_of("foreign-parser.js", service.url, "websocket", packages=CLIENTS)
    assert (code, reason) == (1003, "payload: the first packet must be CONNECT, as text")
    ((_, reason, status, _),) = await lines_of("foreign-parser.js", service.url, "polling", packages=CLIENTS)
    # By the CLOSE packet that ends its poll, or by the status of its POST, whichever comes first.
    assert (reason, status) in (("transport close", None), ("transport error", 400))


@asynccontextmanager
async def python_client(service: Service) -> AsyncIterator[tuple[socketio.AsyncClient, list[int]]]:
    """Connect python-socketio's client by polling; gives it, and the seq of each snapshot that it sees."""
    client, seen = socketio.AsyncClient(reconnection=False), list[int]()
    client.on("balance:snapshot", lambda snapshot: seen.append(snapshot["seq"]))
    await client.connect(service.url, socketio_path=PATH, transports=["polling"])
    yield client, seen
    assert client.connected
    await client.disconnect()


async def test_a_python_client_saves_six_at_once_by_polling(service: Service) -> None:
    async with python_client(service) as (client, seen):
        answers = await asyncio.gather(*[client.call("balance:update", UPDATE) for _ in range(6)])
        assert [answer["success"] for answer in answers] == [True] * 6
        await until(lambda: len(seen) == 6)


async def test_a_python_client_watches_by_polling_while_a_hundred_are_saved(service: Service) -> None:
    async with python_client(service) as (_, seen):
        sender = await SocketClient.connect(service.url)
        answers = [await sender.start_call("balance:update", one) for one in islice(updates(Random(7)), 100)]
        await asyncio.gather(*answers)
        await until(lambda: len(seen) == 100)
        assert seen == list(range(1, 101))
        await sender.close()
