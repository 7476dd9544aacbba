"""A client that does not read, or writes without end, costs the service its limit and other clients nothing.

A watcher that reads nothing is disconnected by closing its transport, so that a JavaScript client connects again by
itself; it is counted, and logged once. A sender that floods is held back by TCP: of what it writes, the service reads
no more than it may have in flight, and a little ahead.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections import Counter
from itertools import islice
from random import Random
from statistics import quantiles

import psycopg
import pytest

import protocol
from balance.realtime import EngineHandler
from balance.realtime.connection import Connection
from balance.realtime.receive_queue import FRAMES_HIGH_WATER
from balance.realtime.send_queue import EncodedPackets
from tests.support.node import FOLDER, run_node
from tests.support.payloads import LARGE_UPDATE, UPDATE, updates
from tests.support.raw_clients import PollingClient, SocketClient
from tests.support.raw_websocket import RawSocket, text_frame
from tests.support.service import Database, MakeService, Service
from tests.support.waiting import until
from tests.support.workload import Watcher, check_answers, check_order, check_seen

DISCONNECTED = "disconnected slow client"
LIMIT = 65_536
SNAPSHOT_BYTES = len(protocol.dumps(LARGE_UPDATE))  # of one snapshot, and a little less than its frame
FLOOD = 2_000


def server_end(service: Service, sid: str) -> socket.socket:
    """Return the service's end of a client's WebSocket."""
    end: socket.socket = connection_of(service, sid).stream.socket
    return end


def connection_of(service: Service, sid: str) -> Connection:
    """Return the WebSocket of a session."""
    connection = service.app.server.eio.sessions[sid].connection
    assert connection is not None
    return connection


async def non_reading_client(service: Service) -> SocketClient:
    """Connect a client that then reads nothing, and for which the operating system holds little."""
    client = await SocketClient.connect(service.url)
    keep_small(server_end(service, client.handshake["sid"]))
    await client.stop_reading()
    return client


def keep_small(end: socket.socket) -> None:
    """Let the operating system hold little of what is sent; else it accepts megabytes before a sender has to wait."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)


def disconnected(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the sessions that were logged as disconnected."""
    logged = [record.getMessage() for record in caplog.records if DISCONNECTED in record.getMessage()]
    return [line.removeprefix(DISCONNECTED).split(":")[0].strip() for line in logged]


# Clients that do not read ------------------------------------------------------------------------------------------


@pytest.mark.expects_log(DISCONNECTED)
async def test_the_backlog_of_a_watcher_is_at_most_the_limit_and_two_snapshots(
    make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = await make_service(watcher_unsent_bytes_max=LIMIT)
    engine = service.app.server.eio
    slow, sender = await non_reading_client(service), await SocketClient.connect(service.url)
    session = engine.sessions[slow.handshake["sid"]]
    waited = [0]
    while not engine.sender.slow_disconnects:
        assert (await sender.call("balance:update", LARGE_UPDATE))[0]["success"]
        waited.append(session.send_queue.unsent_bytes)
    assert LIMIT < max(waited) < LIMIT + 2.1 * SNAPSHOT_BYTES
    await until(lambda: slow.handshake["sid"] not in engine.sessions)
    assert session.send_queue.unsent_bytes == 0, "what waited is freed"
    for _ in range(3):
        assert (await sender.call("balance:update", LARGE_UPDATE))[0]["success"]
    assert (engine.sender.slow_disconnects, disconnected(caplog)) == (1, [slow.handshake["sid"]])
    await slow.close()
    await sender.close()


@pytest.mark.expects_log(DISCONNECTED)
async def test_each_watcher_that_reads_nothing_is_disconnected_once_and_others_get_all(
    make_service: MakeService, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    service = await make_service(watcher_unsent_bytes_max=LIMIT)
    watcher, slow = await Watcher.connect(service.url), [await non_reading_client(service) for _ in range(5)]
    while service.app.server.eio.sender.slow_disconnects < len(slow):
        assert (await service.post(LARGE_UPDATE)).status == 201
        await watcher.until(database.count())
    assert sorted(disconnected(caplog)) == sorted(client.handshake["sid"] for client in slow)
    for client in slow:
        client.resume_reading()
        assert await client.await_closed() is None, "without a close frame, for which there was no room"
        await client.close()
    await watcher.close()
    check_seen(watcher, database)


async def test_a_reader_is_not_disconnected_by_a_snapshot_over_the_limit(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.app.server.eio.sender, "_unsent_bytes_max", SNAPSHOT_BYTES // 8)
    watcher = await Watcher.connect(service.url)
    keep_small(server_end(service, watcher.client.handshake["sid"]))
    for _ in range(50):
        assert (await service.post(LARGE_UPDATE)).status == 201
    await watcher.until(database.count())
    await watcher.close()
    check_seen(watcher, database)
    assert service.app.server.eio.sender.slow_disconnects == 0


async def test_a_ping_that_waits_in_part_is_not_torn_by_a_snapshot(service: Service) -> None:
    watcher, sender = await Watcher.connect(service.url), await SocketClient.connect(service.url)
    connection = connection_of(service, watcher.client.handshake["sid"])
    queue = connection.send_queue
    assert queue is not None

    async def show() -> None:
        assert (await sender.call("balance:update", UPDATE))[0]["success"]
        await watcher.until(watcher.seq + 1)

    await show()
    await show()
    assert queue.direct_send is not None
    assert queue.unsent_bytes == 0, "nothing is before the next one"
    keep_small(connection.stream.socket)
    await watcher.client.stop_reading()
    while not connection.stream.writing():
        connection._websocket.write_ping(b"x" * 125)
    assert queue.unsent_bytes > 0, "a part of the last ping waits"
    assert (await sender.call("balance:update", UPDATE))[0]["success"]
    watcher.client.resume_reading()
    await watcher.until(watcher.seq + 1)
    await until(lambda: not queue.unsent_bytes)
    await show()


@pytest.mark.expects_log("a packet of a type that this server does not send")
async def test_nothing_follows_a_part_of_a_snapshot_if_the_writer_is_ending(service: Service) -> None:
    client = await RawSocket.join(service.url)
    (session,) = service.app.server.eio.sessions.values()
    sender = service.app.server.eio.sender
    sender.broadcast(EncodedPackets(b"4"), [session])  # from here on broadcasts are sent directly
    assert await client.read_text() == "4"
    keep_small(connection_of(service, session.id).stream.socket)
    session.send_queue.put_nowait(None)  # as the library does when its reader has been idle for too long
    sender.broadcast(EncodedPackets(b"4" + b"x" * 20_000_000), [session])
    sent = await client.read_end()
    assert set(sent[11:]) == set(b"x"), "after the head of 10 bytes there is nothing but a part of the payload"
    await client.close()


async def test_nothing_follows_a_close_frame(service: Service) -> None:
    client, sender = await RawSocket.join(service.url), await SocketClient.connect(service.url)
    engine = service.app.server.eio
    (session,) = [one for one in engine.sessions.values() if one.id != sender.handshake["sid"]]
    for seq in (1, 2):
        assert (await sender.call("balance:update", UPDATE))[0]["success"]
        assert f'"seq":{seq},' in await client.read_text()
    assert session.send_queue.direct_send is not None
    assert session.connection is not None
    session.connection.close(1000, "enough")
    assert session.has_joined, "until its client answers"
    assert (await sender.call("balance:update", UPDATE))[0]["success"]
    await sender.close()
    assert await client.read_close() == (1000, "enough")
    await client.close()
    await until(lambda: not engine.sessions)


@pytest.mark.expects_log(DISCONNECTED)
async def test_the_official_client_connects_again_after_it_was_disconnected(
    make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = await make_service(watcher_unsent_bytes_max=LIMIT)
    engine = service.app.server.eio
    async with run_node(FOLDER / "non-reading.js", service.url) as process:
        assert process.stdout is not None
        lines = (json.loads(line) async for line in process.stdout)
        assert await anext(lines) == ["not reading"]
        _, first = await anext(lines)
        (sid,) = engine.sockets
        keep_small(server_end(service, sid))
        sent = 0
        while not engine.sender.slow_disconnects:
            assert (await service.post(LARGE_UPDATE)).status == 201
            sent += 1
        process.send_signal(signal.SIGUSR2)
        received = [await anext(lines)]
        while received[-1][0] != "connected":
            received.append(await anext(lines))
        *snapshots, left, (_, again) = received
        assert snapshots == [["snapshot", seq] for seq in range(1, len(snapshots) + 1)], "what was under way, in order"
        assert len(snapshots) < sent
        assert left == ["disconnect", "transport close"]
        assert again != first
        assert (await service.post(UPDATE)).status == 201
        assert await anext(lines) == ["snapshot", sent + 1]
    assert (engine.sender.slow_disconnects, disconnected(caplog)) == (1, [sid])


async def test_a_client_that_polls_rarely_gets_its_backlog_in_order_and_once(make_service: MakeService) -> None:
    service = await make_service(watcher_unsent_bytes_max=LIMIT)
    watcher, sender = await PollingClient.open(service.url, poll=False), await SocketClient.connect(service.url)
    session = service.app.server.eio.sessions[watcher.handshake["sid"]]
    await watcher.send_raw("40")
    await watcher.poll()
    seqs: list[int] = []
    for _ in range(5):
        for _ in range(6):  # little less than the limit
            assert (await sender.call("balance:update", LARGE_UPDATE))[0]["success"]
        await until(lambda: session.send_queue.unsent_bytes > 5 * SNAPSHOT_BYTES)
        await watcher.poll()
        while watcher.waiting():
            frame = str(await watcher.next_frame())
            if frame.startswith('42["balance:snapshot"'):
                seqs.append(protocol.loads(frame[2:])[1]["seq"])
    assert seqs == list(range(1, 31))
    assert not service.app.server.eio.sender.slow_disconnects
    await watcher.close()
    await sender.close()


async def test_clients_that_do_not_read_do_not_delay_others(service: Service) -> None:
    watcher, sender = await Watcher.connect(service.url), await SocketClient.connect(service.url)
    without = await _slow_delivery_s(sender, watcher)
    slow = [await non_reading_client(service) for _ in range(20)]
    connections = [connection_of(service, client.handshake["sid"]) for client in slow]
    while not all(connection.stream.writing() for connection in connections):
        assert (await sender.call("balance:update", LARGE_UPDATE))[0]["success"]
    assert await _slow_delivery_s(sender, watcher) < 3 * without + 0.1
    for client in slow:
        client.drop()
        await client.close()
    await watcher.close()
    await sender.close()


async def _slow_delivery_s(sender: SocketClient, watcher: Watcher) -> float:
    """Return the 95th percentile of the time from an update to its delivery at another client."""
    clock, took = asyncio.get_running_loop().time, []
    await watcher.until(watcher.seq)
    for _ in range(100):
        began = clock()
        (answer,) = await sender.call("balance:update", UPDATE)
        while not watcher.snapshots or watcher.snapshots[-1]["id"] != answer["id"]:
            await watcher.until(watcher.seq + 1)
        took.append(clock() - began)
    return quantiles(took, n=20)[-1]


# Clients that write without end -------------------------------------------------------------------------------------


async def test_of_a_flood_only_what_may_be_in_flight_is_read_and_tcp_holds_the_rest(
    make_service: MakeService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await make_service(updates_in_flight_max=32, statement_ms_max=30_000, save_ms_max=60_000)
    other, flooder = await SocketClient.connect(service.url), await RawSocket.join(service.url, read_ahead=4096)
    (sid,) = set(service.app.server.eio.sockets) - {other.handshake["sid"]}
    keep_small(flooder._writer.get_extra_info("socket"))
    server_end(service, sid).setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # which would grow as it is read
    read = count_frames(monkeypatch)
    sent = list(islice(updates(Random(FLOOD)), FLOOD))
    frames = [text_frame(f"42{n}{protocol.dumps(['balance:update', update])}") for n, update in enumerate(sent)]
    with psycopg.connect(database.url) as lock:
        lock.execute("SELECT last_seq FROM balance_feed FOR UPDATE")  # so that nothing is answered
        writing = asyncio.create_task(flooder.send(b"".join(frames)))
        before = -1
        while read[sid] != before:
            before = read[sid]
            for _ in range(20):  # another client is served meanwhile
                await other.call("ping")
                await other.expect("pong")
        assert 32 < read[sid] <= 32 + FRAMES_HIGH_WATER + 1
        assert not writing.done(), "the sender is held"
    received, acknowledged = [""], 0
    while acknowledged < FLOOD or f'"seq":{FLOOD},' not in received[-1]:
        received.append(await flooder.next_message())
        acknowledged += received[-1].startswith("43")
    await writing
    check_answers(received, sent)
    check_order(database, sent)
    await flooder.close()
    await other.close()


def count_frames(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the frames that the service reads from now on, by session."""
    counted: Counter[str] = Counter()
    on_message_before = EngineHandler.on_message

    def on_message(handler: EngineHandler, message: str | bytes) -> asyncio.Future[None] | None:
        assert handler.session is not None
        counted[handler.session.id] += 1
        return on_message_before(handler, message)

    monkeypatch.setattr(EngineHandler, "on_message", on_message)
    return counted


async def test_during_a_flood_updates_of_others_wait_for_a_few_of_its_updates_only(
    make_service: MakeService, database: Database
) -> None:
    service = await make_service(updates_in_flight_max=32)
    other, flooder = await SocketClient.connect(service.url), await RawSocket.join(service.url, read_ahead=4096)
    frames = b"".join(text_frame(f"42{n}{protocol.dumps(['balance:update', UPDATE])}") for n in range(FLOOD))
    acknowledged = 0

    async def read() -> None:
        nonlocal acknowledged
        while acknowledged < FLOOD:
            acknowledged += (await flooder.next_message()).startswith("43")

    flooding = asyncio.gather(flooder.send(frames), read())
    behind: dict[str, int] = {}
    while not flooding.done():
        position = service.app.feed.head
        assert position is not None
        (answer,) = await other.call("balance:update", UPDATE)
        behind[answer["id"]] = position.seq
    await flooding
    assert len(behind) > 2
    seqs = {str(row["id"]): row["seq"] for row in database.rows()}
    assert max(seqs[id_] - seq for id_, seq in behind.items()) < 10 * 32
    assert len(seqs) == FLOOD + len(behind)
    await flooder.close()
    await other.close()
