"""When the event loop watches a connection for bytes: always, but for input that is not read yet."""

from __future__ import annotations

import pytest
from tornado.ioloop import IOLoop
from tornado.platform.asyncio import BaseAsyncIOLoop

from balance.web.request_stream import RequestStream
from tests.support.http_client import Connection, Reply, request_bytes
from tests.support.malformed import UPDATE
from tests.support.service import SNAPSHOTS, Database, Service
from tests.support.waiting import until

HELD = request_bytes("GET", "/api/balance/feed?after=now&wait=30")  # until something is saved
NEXT = request_bytes("GET", "/livez")
SAVE = request_bytes("POST", SNAPSHOTS, UPDATE)


def only_stream(service: Service) -> RequestStream:
    """Return the stream of the only connection."""
    (connection,) = service.app._http._connections
    stream: RequestStream = connection.stream  # type: ignore[attr-defined]
    return stream


def is_watched(stream: RequestStream) -> bool:
    return bool((stream._state or 0) & IOLoop.READ)


async def hold(service: Service, client: Connection, data: bytes = HELD) -> RequestStream:
    """Send a request that the next save answers; return the stream of its connection when it waits."""
    await client.send(data)
    await until(lambda: len(service.app._poll_limiter) == 1)
    return only_stream(service)


async def check_replies(client: Connection, count: int) -> None:
    """Check the reply to the request that was held, and those to the requests behind it."""
    replies: list[Reply] = [await client.read_reply() for _ in range(1 + count)]
    assert [one.status for one in replies] == [200] * (1 + count)
    assert [one["seq"] for one in replies[0].body["data"]] == [1]


async def test_one_request_after_the_other_needs_no_change_of_what_is_watched(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[int] = []
    update_handler = BaseAsyncIOLoop.update_handler

    def counted(loop: BaseAsyncIOLoop, fd: object, events: int) -> None:
        changes.append(events)
        update_handler(loop, fd, events)  # type: ignore[arg-type]

    monkeypatch.setattr(BaseAsyncIOLoop, "update_handler", counted)
    async with Connection.to(service.port) as client:
        for request in (SAVE, NEXT) * 5:
            await client.send(request)
            await client.read_reply()
        assert is_watched(only_stream(service))
    assert not changes


async def test_requests_behind_one_that_waits_are_read_after_its_reply(service: Service) -> None:
    async with Connection.to(service.port) as client:
        stream = await hold(service, client)
        assert is_watched(stream), "otherwise the end of the connection is not noticed"
        await client.send(NEXT)
        await until(lambda: stream._read_buffer_size == len(NEXT))
        assert is_watched(stream)
        await client.send(NEXT)
        await until(lambda: not is_watched(stream))
        assert stream._read_buffer_size == len(NEXT), "the rest waits in the operating system"
        await service.post(UPDATE)
        await check_replies(client, 2)
        assert is_watched(stream)


async def test_a_client_that_ends_its_side_gets_the_replies_to_all_it_has_sent(service: Service) -> None:
    async with Connection.to(service.port) as client:
        stream = await hold(service, client, HELD + NEXT)
        client.end_sending()
        await until(lambda: not is_watched(stream))
        await service.post(UPDATE)
        await check_replies(client, 1)
        assert await client.read_rest() == b""


async def test_nothing_behind_a_request_that_closes_the_connection_is_handled(
    service: Service, database: Database
) -> None:
    last = request_bytes("POST", SNAPSHOTS, UPDATE, Connection="close")
    async with Connection.to(service.port) as client:
        await client.send(last + SAVE * 3)
        assert (await client.read_reply()).status == 201
        assert await client.read_rest() == b""
    async with Connection.to(service.port) as client:
        await client.send(request_bytes("GET", "/livez", Connection="close") + SAVE)
        assert (await client.read_reply()).status == 200
    assert (await service.post(UPDATE)).status == 201
    assert database.count() == 2
