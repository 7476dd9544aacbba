"""The HTTP server closes the connections of clients that send nothing, or too slowly, and no others."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from contextlib import AbstractContextManager, ExitStack, closing
from itertools import pairwise
from random import Random

import psycopg
import pytest

import protocol
from balance.web.listener import ACCEPTED_MAX
from tests.support.http_client import request_bytes
from tests.support.payloads import UPDATE, updates
from tests.support.raw_clients import SocketClient
from tests.support.service import SNAPSHOTS, Database, MakeService, Service
from tests.support.waiting import until

SEED = 7
GET = f"GET {SNAPSHOTS} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
BODY = protocol.dumps(UPDATE).encode()
POST = (
    f"POST {SNAPSHOTS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(BODY)}\r\n\r\n".encode()
    + BODY
)


@pytest.mark.parametrize(
    ("begun", "answer"),
    [(b"", b""), (b"GET", b"HTTP/1.1 408"), (POST[:-1], b"HTTP/1.1 408"), (GET, b"HTTP/1.1 200")],
    ids=["nothing", "a line", "a body", "one request"],
)
async def test_an_incomplete_request_is_answered_and_closed_in_time(
    make_service: MakeService, begun: bytes, answer: bytes
) -> None:
    service = await make_service()
    http = service.app._http
    if begun.startswith(b"POST"):
        http.body_s_max = 0.2
    else:
        http.head_s_max = 0.2
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(begun)
    async with asyncio.timeout(15):
        assert (await reader.read())[:12] == answer
    writer.close()
    await until(lambda: not http._awaited)  # no state is left
    await until(lambda: not http._closer._tasks)


async def test_a_body_has_a_time_limit_of_its_own_after_a_slow_head(service: Service) -> None:
    http = service.app._http
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    await until(lambda: bool(http._awaited))
    writer.write(POST[:-1])
    (awaited,) = http._awaited.values()
    await until(lambda: awaited.has_head)
    http.head_s_max = 0.0
    swept = awaited.since + 2.5  # two sweeps
    await until(lambda: time.monotonic() > swept)
    writer.write(POST[-1:])
    async with asyncio.timeout(15):
        assert (await reader.read(12)) == b"HTTP/1.1 201"
    writer.close()


async def test_a_client_that_waits_for_its_response_is_not_closed(
    make_service: MakeService, database: Database
) -> None:
    service = await make_service()
    watcher = await SocketClient.connect(service.url)
    service.app._http.head_s_max = service.app._http.body_s_max = 0.2
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    with psycopg.connect(database.url) as session:
        session.execute("SELECT FROM balance_feed FOR UPDATE")
        writer.write(POST)
        await watcher.expect_silence(2.5)  # two sweeps
    async with asyncio.timeout(15):
        assert (await reader.read(12)) == b"HTTP/1.1 201"
    assert (await watcher.expect("balance:snapshot"))["seq"] == 1
    writer.close()
    await watcher.close()


@pytest.mark.expects_log("new connections are closed")
async def test_with_few_descriptors_left_only_old_connections_are_served(make_service: MakeService) -> None:
    service = await make_service()
    old = await SocketClient.connect(service.url)
    with closing(socket.socket()) as probe:
        service.app._descriptors.limit = probe.fileno() + 70  # 64 are reserved
    crowd = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(20)]
    async with asyncio.timeout(15):
        assert await crowd[-1][0].read() == b"", "closed at once"
    (answer,) = await old.call("balance:update", next(updates(Random(SEED))))
    assert answer["success"]
    for _, writer in crowd:
        writer.close()
    await old.close()
    service.app._descriptors.limit = 1_000_000
    assert (await service.get()).status == 200


@pytest.mark.expects_log("no connection can be accepted", "new connections are accepted again")
async def test_a_machine_without_descriptors_costs_one_log_line_and_no_processor_time(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("balance.web.listener.ACCEPT_RETRY_S", 0.1)
    monkeypatch.setattr("balance.web.logged_period.OVER_S", 0.5)
    service = await make_service()
    old, attempts = await SocketClient.connect(service.url), 0
    (listening,) = service.app._http._sockets.values()

    class Full:
        """The listening socket while the machine has no descriptor left."""

        fileno = listening.fileno

        def accept(self) -> tuple[socket.socket, object]:
            nonlocal attempts
            attempts += 1
            if attempts <= 3:
                raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
            return listening.accept()

    loop = asyncio.get_running_loop()
    loop.add_reader(listening, service.app._http._accept, Full())
    coming = asyncio.ensure_future(service.get())
    (answer,) = await old.call("balance:update", next(updates(Random(SEED))))
    assert answer["success"]
    assert (await coming).status == 200, "it waited until a connection could be accepted"
    assert attempts <= 5
    assert b"\nbalance_accept_failures_total 3.0\n" in await service.app.metrics.scrape()
    logged = [record.getMessage() for record in caplog.records if record.name == "balance.connections"]
    assert logged == ["no connection can be accepted: Too many open files in system"]
    await until(lambda: any("are accepted again" in record.getMessage() for record in caplog.records))
    await old.close()


async def remote_address(service: Service, peer: str, **headers: str) -> str:
    """Send a request from a loopback address; return the address that it gets a slot for."""
    limiter, addresses = service.app.service.read_limiter, list[str]()
    slot = limiter.slot

    def recorded(ip: str) -> AbstractContextManager[None]:
        addresses.append(ip)
        return slot(ip)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limiter, "slot", recorded)
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port, local_addr=(peer, 0))
        writer.write(request_bytes("GET", SNAPSHOTS, **headers))
        async with asyncio.timeout(15):
            assert await reader.read(12) == b"HTTP/1.1 200"
        writer.close()
    (address,) = addresses
    return address


async def test_the_client_address_is_read_from_trusted_proxies_only(make_service: MakeService) -> None:
    service = await make_service(allow_anonymous=True, trusted_proxies=("127.0.0.1", "0:0::1"))
    forwarded, real = {"X_Forwarded_For": "192.0.2.9, 192.0.2.1"}, {"X_Real_Ip": "192.0.2.2"}
    assert await remote_address(service, "127.0.0.1", **forwarded) == "192.0.2.1"
    assert await remote_address(service, "127.0.0.1", **forwarded, **real) == "192.0.2.1"
    assert await remote_address(service, "127.0.0.1", **real) == "127.0.0.1"
    assert await remote_address(service, "127.0.0.2", **forwarded, **real) == "127.0.0.2"
    assert await remote_address(service, "127.0.0.1", X_Forwarded_For="192.0.2.1, ::1, 127.0.0.1") == "192.0.2.1"


async def test_connections_that_arrive_at_once_are_accepted_a_few_per_turn(service: Service) -> None:
    http = service.app._http
    before, accepted = len(http._connections), []
    with ExitStack() as opened:
        for _ in range(5 * ACCEPTED_MAX):
            opened.enter_context(socket.create_connection(("127.0.0.1", service.port)))
        while not accepted or accepted[-1] < 5 * ACCEPTED_MAX:
            await asyncio.sleep(0)
            accepted.append(len(http._connections) - before)
    assert max(now - then for then, now in pairwise([0, *accepted])) == ACCEPTED_MAX
    await until(lambda: len(http._connections) == before)
