"""What a stream of server-sent events costs, and a client that does not read it or is gone."""

from __future__ import annotations

import gc
import socket
from collections.abc import Awaitable, Callable

import pytest

from balance.web.event_stream import EventStream
from balance.web.feed import FeedHandler
from balance.web.http_connection import Exchange
from balance.web.stream import StreamHandler
from protocol.operations import FEED, STREAM
from tests.support.http_client import Connection, request_bytes
from tests.support.payloads import LARGE_UPDATE, UPDATE
from tests.support.service import Database, MakeService, Processes, Service, memory_kb
from tests.support.sse import StreamClient, read_events
from tests.support.waiting import until

KIB_MAX = 12
LIMIT = 65_536


def open_stream(port: int) -> socket.socket:
    """Open a stream and read its first event."""
    client = socket.create_connection(("127.0.0.1", port), 15)
    client.sendall(request_bytes("GET", STREAM))
    received = b""
    while not received.endswith(b"\n\n"):
        received += client.recv(65_536)
    assert b"event: connected\n" in received
    return client


def test_an_idle_stream_costs_no_more_than_it_may(processes: Processes, database: Database) -> None:
    server = processes("--port=0", DATABASE_URL=database.url, script="server.py")
    port = int(server.url().rpartition(":")[2])
    clients = [open_stream(port) for _ in range(100)]  # what is made once, for the first of them
    before = memory_kb(server.pid, "VmRSS")
    clients += [open_stream(port) for _ in range(400)]
    used = (memory_kb(server.pid, "VmRSS") - before) / 400
    for client in clients:
        client.close()
    assert server.terminate() == 0
    assert used < KIB_MAX


@pytest.mark.expects_log("disconnected slow client")
async def test_a_client_that_does_not_read_is_disconnected_and_resumes(
    make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = await make_service(watcher_unsent_bytes_max=LIMIT)
    hub = service.app.streams
    slow = await StreamClient.open(service.port)
    await slow.expect("connected")
    (stream,) = hub._streams
    stream._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    slow.stop_reading()
    async with StreamClient.to(service.port) as other:
        await other.expect("connected")
        sent = most = 0
        while not hub.slow_disconnects:
            assert (await service.post(LARGE_UPDATE)).status == 201
            sent += 1
            most = max(most, stream.unsent_bytes)
        assert await other.snapshots(sent) == list(range(1, sent + 1))
    assert most < 2 * LIMIT
    assert [record.getMessage() for record in caplog.records if "slow client" in record.getMessage()] == [
        f"disconnected slow client 127.0.0.1 of a stream: {most} bytes unread"
    ]
    slow.resume_reading()
    whole, _, torn = (await slow.read_body()).rpartition(b"\n\n")
    received = read_events(whole + b"\n\n")
    assert [event.data["seq"] for event in received] == list(range(1, len(received) + 1))
    assert len(received) < sent, torn
    await slow.close()
    async with StreamClient.to(service.port, Last_Event_ID=str(received[-1].id)) as again:
        await again.expect("connected")
        assert await again.snapshots(sent - len(received)) == list(range(len(received) + 1, sent + 1))


async def drop(service: Service) -> None:
    client = await StreamClient.open(service.port)
    await client.expect("connected")
    await client.close()


async def drop_a_filtered_one(service: Service) -> None:
    client = await StreamClient.open(service.port, "?after=0&pid=7")
    await client.expect("connected")
    assert (await service.post(UPDATE)).status == 201
    await client.close()


async def drop_at_once(service: Service) -> None:
    http = await Connection.open(service.port)
    await http.send(request_bytes("GET", f"{STREAM}?after=0"))
    await http.close()


async def be_ended(service: Service) -> None:
    client = await StreamClient.open(service.port)
    await client.expect("connected")
    service.app.streams.end_all()
    assert [event.name for event in await client.read_to_end()] == ["bye"]
    await client.close()


async def be_refused(service: Service) -> None:
    client = await StreamClient.open(service.port, "?after=x")
    assert client.status == 400
    await client.close()


async def only_ask(service: Service) -> None:
    client = await StreamClient.open(service.port, method="HEAD")
    assert await client.read_body() == b""
    await client.close()


async def drop_a_poll(service: Service) -> None:
    http = await Connection.open(service.port)
    await http.send(request_bytes("GET", f"{FEED}?after=now&wait=55"))
    await until(lambda: len(service.app._poll_limiter) == 1)
    await http.close()


def count_objects() -> int:
    """Count what exists for each client."""
    kinds = (EventStream, StreamHandler, FeedHandler, Exchange)
    return sum(isinstance(one, kinds) for one in gc.get_objects())


LEAVE = [drop, drop_a_filtered_one, drop_at_once, be_ended, be_refused, only_ask, drop_a_poll]


@pytest.mark.parametrize("leave", LEAVE)
async def test_a_client_that_has_gone_is_freed_without_a_garbage_collection(
    service: Service, leave: Callable[[Service], Awaitable[None]]
) -> None:
    """A full collection is rare (`tune_gc` of `serve`): what waits for it grows with each client that has gone."""
    await leave(service)
    await until(lambda: not len(service.app.streams))
    gc.collect()
    gc.disable()
    before = count_objects()  # an earlier test may have left some in the traceback of a log record
    try:
        for _ in range(3):
            await leave(service)
        await until(lambda: count_objects() <= before)
        assert not len(service.app.streams)
    finally:
        gc.enable()
