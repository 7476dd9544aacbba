"""Clients that connect and disconnect leave nothing behind in the service, however they end.

Clients of every kind use a server process: they watch or send over WebSocket, polling and REST, upgrade or abort an
upgrade, do not read, never send CONNECT, close properly or vanish. After each round, when the last session has ended,
the process is measured: memory, objects, tasks, threads, descriptors. Two watchers stay connected and receive every
snapshot in order, and every acknowledged update is in the list. Random values are seeded.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

import pytest
from tornado.websocket import WebSocketClientConnection

import protocol
from tests.support.http_client import HttpClient, request
from tests.support.payloads import updates
from tests.support.raw_clients import PollingClient, SocketClient, open_websocket
from tests.support.service import SNAPSHOTS, Database, Process, Processes, memory_kb
from tests.support.workload import Bot, PollingBot, RestBot, SendLog, SocketBot, Watcher, check_seen, sending

SEED = 20251107
AT_ONCE = 8  # visitors
READS = 32  # as many reads as one address may have in flight
QUIET_S_MAX = 30.0  # until the session of a vanished client ends: a heartbeat, and the timeout of its answer
GROWTH_MAX = 200  # of 55,000 objects; a leaked session has at least five, and a round has fifty sessions
POLL_TASKS, POLL_DESCRIPTORS = 2, 1  # the polling watcher may be counted between two polls
SETTINGS = ("--port=0", "--ping-interval-s=1", "--ping-timeout-s=2", "--connect-ms-max=2000")


@dataclass(frozen=True)
class Sample:
    """The size of a server while only the two watchers use it."""

    rss_kb: int
    objects: int  # tracked by the garbage collector
    entries: int  # of its dicts, lists and sets
    tasks: int
    threads: int
    descriptors: int


class Server:
    """A server process, and measurements of its size."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def sample(self, sessions: int) -> Sample:
        """Wait until there are this number of sessions, and measure."""
        async with asyncio.timeout(QUIET_S_MAX):
            while (counted := await self._count())["sessions"] != sessions:
                await asyncio.sleep(0.1)
        of = Path(f"/proc/{self.process.pid}")
        return Sample(
            rss_kb=memory_kb(self.process.pid, "VmRSS"),
            objects=counted["objects"],
            entries=counted["entries"],
            tasks=counted["tasks"],
            threads=len(list((of / "task").iterdir())),
            descriptors=len(list((of / "fd").iterdir())),
        )

    async def _count(self) -> dict[str, int]:
        lines = len(self.process.stdout)
        os.kill(self.process.pid, signal.SIGUSR1)
        async with asyncio.timeout(QUIET_S_MAX):
            while len(self.process.stdout) == lines:  # a thread reads the output
                await asyncio.sleep(0.01)
        counted: dict[str, int] = json.loads(self.process.stdout[-1])
        return counted


class Visitors:
    """Clients that connect, do one thing, and disconnect, with or without a close."""

    def __init__(self, url: str, random: Random, send_log: SendLog, stays: Watcher) -> None:
        self._url = url
        self._random = random
        self._send_log = send_log
        self._stays = stays
        self._updates = updates(random)
        self._visits: list[Callable[[], Awaitable[None]]] = [
            lambda: self._watch(SocketClient),
            lambda: self._watch(PollingClient),
            lambda: self._send(SocketClient),
            lambda: self._send(PollingClient),
            self._send_and_vanish,
            self._post,
            self._read_nothing,
            self._never_connect,
            self._upgrade,
            self._abort_an_upgrade,
        ]

    async def run(self, visits: int) -> None:
        """Run this number of visits, AT_ONCE at a time. Raises the failure of a visit."""
        left = iter(range(visits))

        async def visit() -> None:
            for _ in left:
                await self._random.choice(self._visits)()

        async with asyncio.TaskGroup() as visitors:
            for _ in range(AT_ONCE):
                visitors.create_task(visit())

    async def _leave(self, client: SocketClient | PollingClient) -> None:
        if self._random.random() < 0.5:
            if isinstance(client, SocketClient):
                client.drop()
            else:
                client.http.close()
        await client.close()

    async def _watch(self, kind: type[SocketClient | PollingClient]) -> None:
        client = await kind.connect(self._url)
        for _ in range(self._random.randrange(10)):
            await client.expect("balance:snapshot")
        await self._leave(client)

    async def _send(self, kind: type[SocketClient | PollingClient]) -> None:
        client = await kind.connect(self._url)
        for _ in range(self._random.randrange(1, 5)):
            update = next(self._updates)
            self._send_log.sent[update["id"]] = update
            (answer,) = await client.call("balance:update", update, timeout=10)
            self._send_log.acknowledge(update, answer)
        await self._leave(client)

    async def _send_and_vanish(self) -> None:
        client = await SocketClient.connect(self._url)
        for _ in range(self._random.randrange(1, 20)):
            update = next(self._updates)
            self._send_log.sent[update["id"]] = update
            await client.emit("balance:update", update)
        client.drop()
        await client.close()

    async def _post(self) -> None:
        http, update = HttpClient({"Content-Type": "application/json"}), next(self._updates)
        self._send_log.sent[update["id"]] = update
        response = await http.fetch(self._url + SNAPSHOTS, "POST", protocol.dumps(update), timeout=10)
        assert response.status == 201, response.raw
        self._send_log.acknowledge(update, protocol.loads(response.raw)["data"] | {"success": True})
        http.close()

    async def _read_nothing(self) -> None:
        client = await SocketClient.connect(self._url)
        await client.stop_reading()
        await self._stays.until(self._stays.seq + self._random.randrange(100))
        client.drop()
        await client.close()

    async def _never_connect(self) -> None:
        client = await self._random.choice([SocketClient, PollingClient]).open(self._url)
        await self._leave(client)

    async def _upgrade(self) -> None:
        client, socket = await self._probe()
        await socket.write_message("5")
        for _ in range(self._random.randrange(1, 10)):
            frame = await asyncio.wait_for(socket.read_message(), 10)
            assert frame is not None
            if frame == "2":
                await socket.write_message("3")
        socket.close()
        while await socket.read_message() is not None:
            pass
        await client.close()

    async def _abort_an_upgrade(self) -> None:
        client, socket = await self._probe()
        socket.close()
        await client.call("ping", timeout=10)
        await self._leave(client)

    async def _probe(self) -> tuple[PollingClient, WebSocketClientConnection]:
        client = await PollingClient.connect(self._url)
        sid = client.handshake["sid"]
        socket = await open_websocket(self._url, query=f"EIO=4&transport=websocket&sid={sid}")
        await socket.write_message("2probe")
        assert await socket.read_message() == "3probe"
        return client, socket


async def soak(processes: Processes, database: Database, *, seconds: float, rounds_min: int, visits: int) -> None:
    """Run rounds of visits, at least `rounds_min` and for at least `seconds`, and check the promises of the module."""
    server = Server(processes(*SETTINGS, script="tests/support/counting_server.py", DATABASE_URL=database.url))
    url = await asyncio.to_thread(server.process.url)
    random, began = Random(SEED), time.monotonic()
    stay = [await Watcher.connect(url, kind) for kind in (SocketClient, PollingClient)]
    for answer in await asyncio.gather(*(request(url, "GET", SNAPSHOTS) for _ in range(READS))):
        assert answer.status == 200  # makes all its threads and connections
    acknowledged: set[str] = set()
    samples: list[Sample] = []
    while len(samples) < rounds_min or time.monotonic() - began < seconds:
        acknowledged |= await visit(url, random, visits, stay, database)
        samples.append(await server.sample(len(stay)))
    check_flat(samples)
    assert acknowledged <= await listed(url)
    for watcher in stay:
        await watcher.close()
    assert await asyncio.to_thread(server.process.terminate) == 0
    assert not [line for line in server.process.stderr if "disconnected slow client" not in line]


async def visit(url: str, random: Random, visits: int, stay: list[Watcher], database: Database) -> set[str]:
    """Run visits while bots send; check what was stored and broadcast; return the acknowledged ids."""
    send_log = SendLog()

    async def find_server() -> str:
        return url

    before = stay[0].seq
    bots: list[Bot] = [
        kind(find_server, Random(random.random()), send_log) for kind in (RestBot, SocketBot, PollingBot)
    ]
    async with sending(bots):
        await Visitors(url, random, send_log, stay[0]).run(visits)
    assert not send_log.refused
    acknowledged = {update["id"] for update in send_log.acknowledged}
    stored = {str(row["id"]) for row in database.rows("SELECT id FROM balance_snapshot WHERE seq > %s", before)}
    assert acknowledged <= stored <= send_log.sent.keys()
    for watcher in stay:
        await watcher.until(before + len(stored))
        check_seen(watcher, database)
        watcher.began = watcher.seq  # these snapshots were checked
        watcher.snapshots.clear()
    return acknowledged


async def listed(url: str) -> set[str]:
    """Return the id of every snapshot in the list, page by page."""
    ids: set[str] = set()
    query = "?limit=1000"
    while True:
        body = (await request(url, "GET", SNAPSHOTS + query)).body
        ids |= {snapshot["id"] for snapshot in body["data"]}
        if not body["pagination"]["hasMore"]:
            assert len(ids) == body["pagination"]["total"]
            return ids
        query = f"?limit=1000&cursor={body['pagination']['next']}"


def check_flat(samples: list[Sample]) -> None:
    """Check that the last samples are no larger than earlier ones; the first sample does not count."""
    earlier, last = samples[1 : max(2, len(samples) // 2)], samples[-max(1, len(samples) // 4) :]

    def growth(field: str) -> float:
        return median(getattr(one, field) for one in last) - median(getattr(one, field) for one in earlier)

    table = "\n".join(map(str, samples))
    assert growth("threads") <= 0, table
    assert growth("tasks") <= POLL_TASKS, table
    assert growth("descriptors") <= POLL_DESCRIPTORS, table
    assert growth("objects") <= GROWTH_MAX, table
    assert growth("entries") <= GROWTH_MAX, table
    assert growth("rss_kb") <= 0.05 * earlier[0].rss_kb, table


@pytest.mark.gen_test(timeout=120)
async def test_clients_that_connect_and_disconnect_leave_nothing_behind(
    processes: Processes, database: Database
) -> None:
    await soak(processes, database, seconds=0, rounds_min=3, visits=50)


@pytest.mark.slow
@pytest.mark.gen_test(timeout=900)
async def test_ten_minutes_of_clients_that_connect_and_disconnect(processes: Processes, database: Database) -> None:
    await soak(processes, database, seconds=600, rounds_min=10, visits=200)
