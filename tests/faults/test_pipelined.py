"""Ten thousand updates at once from one client: all acknowledged, in order, stored in that order, memory bounded.

The client writes every update before it reads any answer. The server reads no faster than it answers, so what it has
not read waits in TCP, not in the server's memory; heartbeat and `ping` of others go on meanwhile. A client that never
reads is disconnected at watcher_unsent_bytes_max, is logged once, and does not slow down other clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import islice
from random import Random
from typing import Any

import pytest

import protocol
from tests.support.payloads import updates
from tests.support.postgres import LOCK_TABLES, is_waited_for, locked
from tests.support.raw_clients import Dropped, PollingClient, SocketClient
from tests.support.raw_websocket import RawSocket, text_frame
from tests.support.service import Database, MakeService, Processes, memory_kb
from tests.support.waiting import until
from tests.support.workload import Watcher, check_answers, check_order, check_seen

SEED = 10_000
MANY = 10_000
MANY_BY_POLLING = 2_000
GROWTH_KB_MAX = 20_000  # of the server's memory: what one client may leave unread, and little more
PONG_S_MAX = 2.0  # on a machine that does other things too; behind the burst it would be many seconds
SAVE_S_MAX = 2.0  # likewise; behind a client that never reads it would be for ever


def enlarged(update: dict[str, Any], size: int) -> dict[str, Any]:
    """Add assets of 250 digits to an update until it has about `size` bytes."""
    amount = protocol.loads("0." + "1" * 248)
    more = {f"asset{n}": amount for n in range(size // 260)}
    return {**update, "onchain": {**update["onchain"], **more}}


@asynccontextmanager
async def beating(url: str) -> AsyncIterator[None]:
    """Check within the block that another client's pings are answered at once, and that it stays connected."""
    client = await SocketClient.connect(url)
    clock = asyncio.get_running_loop().time

    async def beat() -> None:
        while True:
            asked = clock()
            await client.call("ping", timeout=10)
            assert clock() - asked < PONG_S_MAX, "the event loop was blocked"
            await asyncio.sleep(0.02)

    task = asyncio.create_task(beat())
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])
        await client.close()


@pytest.mark.gen_test(timeout=120)
async def test_ten_thousand_updates_at_once_are_saved_in_order_in_bounded_memory(
    processes: Processes, database: Database
) -> None:
    # A client that reads nothing until it has written all must have room for the answers.
    process = processes(
        "--port=0", "--watcher-unsent-bytes-max=16777216", "--ping-interval-s=1", DATABASE_URL=database.url
    )
    url = await asyncio.to_thread(process.url)
    client = await RawSocket.join(url, read_ahead=4096)
    sent = list(islice(updates(Random(SEED)), MANY))
    frames = [text_frame(f"42{n}{protocol.dumps(['balance:update', update])}") for n, update in enumerate(sent)]
    before = memory_kb(process.pid, "VmRSS")
    received: list[str] = []
    acknowledged = 0
    async with beating(url):
        await client.send(b"".join(frames))
        while acknowledged < MANY or '"seq":10000,' not in received[-1]:
            received.append(await client.next_message())
            acknowledged += received[-1].startswith("43")
    assert memory_kb(process.pid, "VmHWM") - before < GROWTH_KB_MAX
    check_answers(received, sent)
    check_order(database, sent)
    await client.close()
    assert await asyncio.to_thread(process.terminate) == 0
    assert not process.stderr


async def test_two_thousand_updates_in_one_polling_request_are_saved_in_order(
    processes: Processes, database: Database
) -> None:
    process = processes("--port=0", "--ping-interval-s=1", DATABASE_URL=database.url)
    url = await asyncio.to_thread(process.url)
    client = await PollingClient.connect(url)
    sent = list(islice(updates(Random(SEED)), MANY_BY_POLLING))
    frames, answers = [], []
    for update in sent:
        id_, answer = client.new_id()
        frames.append(f"42{id_}{protocol.dumps(['balance:update', update])}")
        answers.append(answer)
    async with beating(url):
        response = await client.post(*frames, timeout=30)
        assert response.status == 200
        async with asyncio.timeout(30):
            acknowledged = [payload for (payload,) in await asyncio.gather(*answers)]
    assert [payload["id"] for payload in acknowledged] == [update["id"] for update in sent]
    seen: dict[str, list[str]] = {"balance:ack": [], "balance:snapshot": []}
    for _ in range(2 * MANY_BY_POLLING):
        event, payload = await client.next_event()
        seen[event].append(payload["id"])
    assert seen["balance:ack"] == seen["balance:snapshot"] == [update["id"] for update in sent]
    check_order(database, sent)
    await client.close()
    assert await asyncio.to_thread(process.terminate) == 0
    assert not process.stderr


@pytest.mark.expects_log("disconnected slow client")
async def test_a_client_that_never_reads_is_disconnected_at_its_limit_and_slows_no_other(
    make_service: MakeService, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    # Few in flight, so that what the others wait for is the one commit before theirs.
    service = await make_service(updates_in_flight_max=32)
    silent, other = await SocketClient.connect(service.url), await SocketClient.connect(service.url)
    await silent.stop_reading()
    clock, slowest, source = asyncio.get_running_loop().time, 0.0, updates(Random(SEED))
    async with asyncio.timeout(40), beating(service.url):
        while not service.app.server.eio.sender.slow_disconnects:
            for _ in range(20):
                with suppress(Dropped):
                    await silent.emit("balance:update", enlarged(next(source), 6_000))
            asked = clock()
            await other.call("balance:update", next(source))
            slowest = max(slowest, clock() - asked)
    assert slowest < SAVE_S_MAX
    silent.resume_reading()
    assert await silent.await_closed() is None  # aborted: there was no room for a close frame
    logged = [record.getMessage().split(":")[0] for record in caplog.records]
    assert [line for line in logged if "disconnected" in line] == [
        f"disconnected slow client {silent.handshake['sid']}"
    ]
    (answer,) = await other.call("balance:update", next(source))
    assert answer["success"]
    await until(lambda: len(service.app.server.eio.sockets) == 1)  # what it had sent is saved first
    for client in (silent, other):
        await client.close()


async def test_a_client_that_reads_is_not_disconnected_by_a_batch_over_its_limit(
    make_service: MakeService, database: Database
) -> None:
    """At the defaults one transaction may hold 256 updates of 16 kB, four times watcher_unsent_bytes_max.

    Here the first batch is one update, the next 60, and the rest follows at once: at most 93 are before the last batch,
    which the limit and the largest batch allow also to a client that had no time to read.
    """
    service = await make_service(watcher_unsent_bytes_max=600_000)
    watchers = [await Watcher.connect(service.url, kind) for kind in (SocketClient, PollingClient)]
    sent = [enlarged(update, 15_000) for update in islice(updates(Random(SEED)), 121)]
    with locked(database, LOCK_TABLES):
        posts = [asyncio.ensure_future(service.post(sent[0]))]
        await until(lambda: is_waited_for(database))
        posts += [asyncio.ensure_future(service.post(update)) for update in sent[1:]]
        await until(lambda: len(service.app.writer._pending) == len(sent))
    assert {answer.status for answer in await asyncio.gather(*posts)} == {201}
    for watcher in watchers:
        await watcher.until(len(sent))
        await watcher.close()
        check_seen(watcher, database)
