"""What an idle watcher costs, and that nothing is left of one that has gone."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from engineio.async_socket import AsyncSocket
from tornado.web import RequestHandler

import protocol
from balance.ids import uuid7
from balance.realtime.connection import Connection
from balance.realtime.frames import FrameReader
from balance.realtime.send_queue import EncodedPackets
from balance.realtime.session import Session
from balance.storage.errors import StoreUnavailable
from balance.web.http_connection import Exchange
from balance.web.request_stream import RequestStream
from balance.web.save import SaveRequest
from bench.clients import WebSocket
from tests.support.http_client import Connection as HttpConnection
from tests.support.http_client import request_bytes
from tests.support.payloads import UPDATE
from tests.support.raw_clients import PATH, SEPARATOR, SocketClient
from tests.support.raw_websocket import CLOSE, FINAL, TEXT, RawSocket, frame, text_frame
from tests.support.service import SNAPSHOTS, Database, MakeService, Process, Service, memory_kb
from tests.support.waiting import until

POLLING, UPGRADE = f"{PATH}/?EIO=4&transport=polling", "EIO=4&transport=websocket"
KIB_MAX = 23  # `python -m bench` measures it with ten thousand


def test_an_idle_watcher_costs_no_more_than_it_may(processes: Callable[..., Process], database: Database) -> None:
    server = processes("--port=0", DATABASE_URL=database.url, script="server.py")
    port = int(server.url().rpartition(":")[2])

    def connect(count: int) -> list[WebSocket]:
        return [WebSocket(port) for _ in range(count)]

    watchers = connect(100)  # what is made once, for the first of them
    before = memory_kb(server.pid, "VmRSS")
    watchers += connect(400)
    used = (memory_kb(server.pid, "VmRSS") - before) / 400
    for watcher in watchers:
        watcher.socket.close()
    assert server.terminate() == 0
    assert used < KIB_MAX


async def test_a_client_that_leaves_is_searched_for_in_one_room(service: Service) -> None:
    watchers = [await SocketClient.connect(service.url) for _ in range(3)]
    rooms = service.app.server.manager.rooms["/"]
    assert list(rooms) == [None]
    assert len(rooms[None]) == 3
    await watchers[0].close()
    await until(lambda: len(rooms[None]) == 2)
    for watcher in watchers[1:]:
        await watcher.close()


# Of the objects of one client, those that refer to the others.
CLIENT_TYPES = (
    AsyncSocket, Connection, Exchange, FrameReader, RequestHandler, RequestStream, SaveRequest, Session,
)  # fmt: skip
PINGS = EncodedPackets(*[b"2"] * 10_000)


def clients() -> list[object]:
    """Return the objects of clients that are not freed."""
    return [one for one in gc.get_objects() if isinstance(one, CLIENT_TYPES)]


async def drop(service: Service) -> None:
    client = await RawSocket.join(service.url)
    await client.close()


async def close(service: Service) -> None:
    client = await RawSocket.join(service.url)
    await client.send(frame(FINAL | CLOSE, b"\x03\xe8"))
    await client.read_close()
    await client.close()


async def never_connect(service: Service) -> None:
    client = await RawSocket.open(service.url)
    assert (await client.read_close(5))[0] == 1008
    await client.send(frame(FINAL | CLOSE, b"\x03\xf0"))
    await client.close()


async def fail(service: Service) -> None:
    client = await RawSocket.join(service.url)
    await client.send(frame(FINAL | CLOSE, b"1"))
    assert (await client.read_close())[0] == 1002
    await client.close()


async def send_no_text(service: Service) -> None:
    client = await RawSocket.join(service.url)
    await client.send(frame(FINAL | TEXT, b"4\xff"))
    assert (await client.read_close())[0] == 1007
    await client.close()


async def reset(service: Service) -> None:
    client = await RawSocket.join(service.url)
    client.reset()


async def read_nothing(service: Service) -> None:
    client = await RawSocket.join(service.url, read_ahead=1_000)
    *_, session = service.app.server.eio.sessions.values()
    while not session.has_ended:
        service.app.server.eio.sender.send(session, PINGS)
        await asyncio.sleep(0)
    await client.close()


async def save_in_an_outage(service: Service) -> None:
    lose_database(service)
    client = await RawSocket.join(service.url)
    await client.send(text_frame(f'42["balance:update",{protocol.dumps(UPDATE)}]'))
    assert '"unavailable"' in await client.read_text()
    await client.close()


async def post_in_an_outage(service: Service) -> None:
    await ask_in_an_outage(service, "POST", SNAPSHOTS, protocol.dumps(UPDATE).encode())


async def list_in_an_outage(service: Service) -> None:
    await ask_in_an_outage(service, "GET", SNAPSHOTS)


async def find_in_an_outage(service: Service) -> None:
    await ask_in_an_outage(service, "GET", f"{SNAPSHOTS}/{uuid7()}")


async def ask_in_an_outage(service: Service, *request: Any) -> None:
    lose_database(service)
    async with HttpConnection.to(service.port) as http:
        assert (await http.ask(*request)).status == 503


def lose_database(service: Service) -> None:
    """Let every later call of the store fail."""

    def fail(*_arguments: object, **_named: object) -> None:
        try:
            raise psycopg.OperationalError("the connection is lost")
        except psycopg.Error as error:
            raise StoreUnavailable("the database cannot be reached") from error

    store = service.app.database.store
    store.append = store.find = store.page = fail


async def leave_a_body(service: Service) -> None:
    async with HttpConnection.to(service.port) as http:
        await http.send(request_bytes("GET", SNAPSHOTS, b"{}")[:-1])


async def leave_a_packet(service: Service) -> None:
    async with HttpConnection.to(service.port) as http:
        sid = await open_by_polling(http)
        await http.send(request_bytes("POST", f"{POLLING}&sid={sid}", b"40")[:-1])


async def leave_a_poll(service: Service) -> None:
    async with HttpConnection.to(service.port) as http:
        sid = await open_by_polling(http)
        await http.send(f"GET {POLLING}&sid={sid} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        await until(lambda: service.app.server.eio.sockets[sid].queue._arrival is not None)


async def stop_polling(service: Service) -> None:
    async with HttpConnection.to(service.port) as http:
        await open_by_polling(http)


async def break_off_an_upgrade(service: Service) -> None:
    async with HttpConnection.to(service.port) as http:
        sid = await open_by_polling(http)
        client = await RawSocket.open(service.url, f"{UPGRADE}&sid={sid}")
        await client.send(text_frame("2probe"))
        assert await client.read_text() == "3probe"
        await client.close()


async def open_by_polling(http: HttpConnection) -> str:
    """Open a session by polling and return its id."""
    opened = await http.ask("GET", POLLING)
    text: str = opened.raw.decode().split(SEPARATOR)[0]
    return text.split('"sid":"')[1].split('"', maxsplit=1)[0]


LEAVES = [
    *(drop, close, never_connect, fail, send_no_text, reset),
    pytest.param(read_nothing, marks=pytest.mark.expects_log("disconnected slow client")),
    *(save_in_an_outage, post_in_an_outage, list_in_an_outage, find_in_an_outage, leave_a_body),
    *(leave_a_packet, leave_a_poll, stop_polling, break_off_an_upgrade),
]


@pytest.mark.parametrize("leave", LEAVES)
async def test_a_client_that_has_gone_is_freed_without_a_garbage_collection(
    make_service: MakeService, leave: Callable[[Service], Awaitable[None]]
) -> None:
    """A full collection is rare (`tune_gc` of `serve`): what waits for it grows with each client that has gone."""
    service = await make_service(connect_ms_max=500, ping_interval_s=1, ping_timeout_s=1)
    await leave(service)
    gc.collect()
    earlier = {id(one) for one in clients()}  # of tests before this one, which something still refers to
    gc.disable()
    try:
        for _ in range(3):
            await leave(service)
        await until(lambda: not service.app.server.eio.sessions)
        await until(lambda: {id(one) for one in clients()} <= earlier, 7)
    finally:
        gc.enable()
