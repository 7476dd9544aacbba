"""Who does not read, or writes without end, costs the service his bound and nobody else anything.

A watcher that reads nothing is cut off by its transport, so that a JavaScript client connects again by itself; it is
counted, and logged once. A sender that floods is held back by TCP: of what it writes, the service takes in no more
than it may have in flight, and a little that is read ahead.
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
from tests.conftest import MakeService
from tests.faults.test_pipelined import RawClient, check_answers, check_order, frame_of
from tests.support.node import FOLDER, run_node
from tests.support.raw import RawSocket
from tests.support.raw_clients import PollingClient, SocketClient
from tests.support.service import Database, Service
from tests.support.stock_server import LARGE_UPDATE, UPDATE, until
from tests.support.workload import Watcher, check_seen, updates

asynchronous = pytest.mark.gen_test
CUT_OFF = "disconnected slow client"
LIMIT = 65_536
PARCEL = len(protocol.dumps(LARGE_UPDATE))  # of one snapshot, and a little less than its frame
FLOOD = 2_000


def server_end(service: Service, sid: str) -> socket.socket:
    """The service's end of a client's WebSocket."""
    end: socket.socket = connection_of(service, sid).stream.socket
    return end


def connection_of(service: Service, sid: str) -> Connection:
    """The WebSocket of a session."""
    connection = service.app.server.eio.sessions[sid].connection
    assert connection is not None
    return connection


async def deaf_client(service: Service) -> SocketClient:
    """Connect a client that then reads nothing, and for which the operating system holds little."""
    client = await SocketClient.connect(service.url)
    keep_small(server_end(service, client.handshake["sid"]))
    await client.stop_reading()
    return client


def keep_small(end: socket.socket) -> None:
    """Let the operating system hold little of what is sent; else it takes megabytes before anybody has to wait."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)


def cut_off(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The sessions that were logged as cut off."""
    told = [record.getMessage() for record in caplog.records if CUT_OFF in record.getMessage()]
    return [line.removeprefix(CUT_OFF).split(":")[0].strip() for line in told]


# Who does not read ------------------------------------------------------------------------------------------


@pytest.mark.expects_log(CUT_OFF)
@asynchronous
async def test_what_waits_for_a_watcher_is_at_most_its_bound_and_two_snapshots(
    make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = await make_service(watcher_unsent_bytes_max=LIMIT)
    engine = service.app.server.eio
    deaf, sender = await deaf_client(service), await SocketClient.connect(service.url)
    session = engine.sessions[deaf.handshake["sid"]]
    waited = [0]
    while not engine.slow_disconnects:
        assert (await sender.call("balance:update", LARGE_UPDATE))[0]["success"]
        waited.append(session.send_queue.unsent_bytes)
    assert LIMIT < max(waited) < LIMIT + 2.1 * PARCEL
    await until(lambda: deaf.handshake["sid"] not in engine.sessions)
    assert session.send_queue.unsent_bytes == 0, "what waited is given back"
    for _ in range(3):
        assert (await sender.call("balance:update", LARGE_UPDATE))[0]["success"]
    assert (engine.slow_disconnects, cut_off(caplog)) == (1, [deaf.handshake["sid"]])
    await deaf.close()
    await sender.close()


@pytest.mark.expects_log(CUT_OFF)
@asynchronous
async def test_each_watcher_that_reads_nothing_is_cut_off_once_and_who_reads_sees_all(
    make_service: MakeService, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    service = await make_service(watcher_unsent_bytes_max=LIMIT)
    watcher, deaf = await Watcher.connect(service.url), [await deaf_client(service) for _ in range(5)]
    while service.app.server.eio.slow_disconnects < len(deaf):
        assert (await service.post(LARGE_UPDATE)).status == 201
        await watcher.until(database.count())
    assert sorted(cut_off(caplog)) == sorted(client.handshake["sid"] for client in deaf)
    for client in deaf:
        client.resume_reading()
        assert await client.await_closed() is None, "cut off without a word, for which there was no room"
        await client.close()
    await watcher.close()
    check_seen(watcher, database)


@asynchronous
async def test_who_reads_is_not_cut_off_because_one_snapshot_is_larger_than_the_bound(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.app.server.eio, "_unsent_bytes_max", PARCEL // 8)
    watcher = await Watcher.connect(service.url)
    keep_small(server_end(service, watcher.client.handshake["sid"]))
    for _ in range(50):
        assert (await service.post(LARGE_UPDATE)).status == 201
    await watcher.until(database.count())
    await watcher.close()
    check_seen(watcher, database)
    assert service.app.server.eio.slow_disconnects == 0


@asynchronous
async def test_a_frame_of_tornados_own_is_not_torn_by_a_snapshot_that_bypasses_the_queue(service: Service) -> None:
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


@asynchronous
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


@pytest.mark.expects_log(CUT_OFF)
@asynchronous
async def test_the_official_client_that_was_cut_off_connects_again_by_itself(
    make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = await make_service(watcher_unsent_bytes_max=LIMIT)
    engine = service.app.server.eio
    async with run_node(FOLDER / "deaf.js", service.url) as process:
        assert process.stdout is not None
        heard = (json.loads(line) async for line in process.stdout)
        assert await anext(heard) == ["deaf"]
        _, first = await anext(heard)
        (sid,) = engine.sockets
        keep_small(server_end(service, sid))
        sent = 0
        while not engine.slow_disconnects:
            assert (await service.post(LARGE_UPDATE)).status == 201
            sent += 1
        process.send_signal(signal.SIGUSR2)
        said = [await anext(heard)]
        while said[-1][0] != "connected":
            said.append(await anext(heard))
        *snapshots, left, (_, again) = said
        assert snapshots == [["snapshot", seq] for seq in range(1, len(snapshots) + 1)], "what was under way, in order"
        assert len(snapshots) < sent
        assert left == ["disconnect", "transport close"]
        assert again != first
        assert (await service.post(UPDATE)).status == 201
        assert await anext(heard) == ["snapshot", sent + 1]
    assert (engine.slow_disconnects, cut_off(caplog)) == (1, [sid])


@asynchronous
async def test_who_polls_seldom_gets_all_that_waited_in_order_and_once(make_service: MakeService) -> None:
    service = await make_service(watcher_unsent_bytes_max=LIMIT)
    seldom, sender = await PollingClient.open(service.url, poll=False), await SocketClient.connect(service.url)
    session = service.app.server.eio.sessions[seldom.handshake["sid"]]
    await seldom.send_raw("40")
    await seldom.poll()
    seqs: list[int] = []
    for _ in range(5):
        for _ in range(6):  # little less than the limit
            assert (await sender.call("balance:update", LARGE_UPDATE))[0]["success"]
        await until(lambda: session.send_queue.unsent_bytes > 5 * PARCEL)
        await seldom.poll()
        while seldom.waiting():
            frame = str(await seldom.next_frame())
            if frame.startswith('42["balance:snapshot"'):
                seqs.append(protocol.loads(frame[2:])[1]["seq"])
    assert seqs == list(range(1, 31))
    assert not service.app.server.eio.slow_disconnects
    await seldom.close()
    await sender.close()


@asynchronous
async def test_who_does_not_read_does_not_make_others_wait(service: Service) -> None:
    watcher, sender = await Watcher.connect(service.url), await SocketClient.connect(service.url)
    without = await _slow_delivery_s(sender, watcher)
    deaf = [await deaf_client(service) for _ in range(20)]
    connections = [connection_of(service, client.handshake["sid"]) for client in deaf]
    while not all(connection.stream.writing() for connection in connections):
        assert (await sender.call("balance:update", LARGE_UPDATE))[0]["success"]
    assert await _slow_delivery_s(sender, watcher) < 3 * without + 0.1
    for client in deaf:
        client.drop()
        await client.close()
    await watcher.close()
    await sender.close()


async def _slow_delivery_s(sender: SocketClient, watcher: Watcher) -> float:
    """How long an update takes to another's watcher: nineteen of twenty take less."""
    clock, took = asyncio.get_running_loop().time, []
    await watcher.until(watcher.seq)
    for _ in range(100):
        began = clock()
        (answer,) = await sender.call("balance:update", UPDATE)
        while not watcher.snapshots or watcher.snapshots[-1]["id"] != answer["id"]:
            await watcher.until(watcher.seq + 1)
        took.append(clock() - began)
    return quantiles(took, n=20)[-1]


# Who writes without end -------------------------------------------------------------------------------------


@asynchronous
async def test_of_a_flood_no_more_is_taken_in_than_may_be_in_flight_and_tcp_holds_the_rest(
    make_service: MakeService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await make_service(updates_in_flight_max=32, statement_ms_max=30_000, save_ms_max=60_000)
    other, flooder = await SocketClient.connect(service.url), await RawClient.connect(service.port)
    (sid,) = set(service.app.server.eio.sockets) - {other.handshake["sid"]}
    keep_small(flooder._writer.get_extra_info("socket"))
    server_end(service, sid).setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # which would grow as it is read
    taken = count_frames(monkeypatch)
    sent = list(islice(updates(Random(FLOOD)), FLOOD))
    frames = [frame_of(f"42{n}{protocol.dumps(['balance:update', update])}") for n, update in enumerate(sent)]
    with psycopg.connect(database.url) as lock:
        lock.execute("SELECT last_seq FROM balance_feed FOR UPDATE")  # so that nothing is answered
        writing = asyncio.create_task(flooder.write(b"".join(frames)))
        before = -1
        while taken[sid] != before:
            before = taken[sid]
            for _ in range(20):  # another client is heard meanwhile
                await other.call("ping")
                await other.expect("pong")
        assert 32 < taken[sid] <= 32 + FRAMES_HIGH_WATER + 1
        assert not writing.done(), "the sender is held"
    said, acknowledged = [""], 0
    while acknowledged < FLOOD or f'"seq":{FLOOD},' not in said[-1]:
        said.append(await flooder.read())
        acknowledged += said[-1].startswith("43")
    await writing
    check_answers(said, sent)
    check_order(database, sent)
    await flooder.close()
    await other.close()


def count_frames(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the frames that the service takes in from now on, by session."""
    counted: Counter[str] = Counter()
    take = EngineHandler.on_message

    def on_message(handler: EngineHandler, message: str | bytes) -> asyncio.Future[None] | None:
        assert handler.session is not None
        counted[handler.session.id] += 1
        return take(handler, message)

    monkeypatch.setattr(EngineHandler, "on_message", on_message)
    return counted


@asynchronous
async def test_during_a_flood_others_are_saved_behind_no_more_than_a_few_of_its_updates(
    make_service: MakeService, database: Database
) -> None:
    service = await make_service(updates_in_flight_max=32)
    other, flooder = await SocketClient.connect(service.url), await RawClient.connect(service.port)
    frames = b"".join(frame_of(f"42{n}{protocol.dumps(['balance:update', UPDATE])}") for n in range(FLOOD))
    acknowledged = 0

    async def read() -> None:
        nonlocal acknowledged
        while acknowledged < FLOOD:
            acknowledged += (await flooder.read()).startswith("43")

    flooding = asyncio.gather(flooder.write(frames), read())
    behind: dict[str, int] = {}
    while not flooding.done():
        position = service.app.service.position
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
