"""Traps in how connections end and in what is logged: T8, T14, T25, T27 and T31."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.payloads import LARGE_UPDATE, UPDATE
from tests.support.proxies import make_certificate
from tests.support.raw_clients import PollingClient, SocketClient
from tests.support.repository import ROOT
from tests.support.stock_server import records_of, stock
from tests.support.waiting import until

# T8 ------------------------------------------------------------------------------------------------------


async def test_t8_stock_closes_no_websocket_when_it_stops():
    async with stock() as server:
        client = await SocketClient.connect(server.url, await_connected=False)
        server.http.stop()
        await server.http.close_all_connections()
        await server.sio.shutdown()
        await client.expect_silence(0.1)
        await server.sio.disconnect(client.sid)
        assert await client.next_frame() == "41"  # a word of farewell, and yet no end
        await client.expect_silence(0.1)
        await client.close()


async def test_t8_a_stop_closes_each_websocket_with_1001_and_ends_each_poll(make_service):
    service = await make_service()
    sockets = [await SocketClient.connect(service.url) for _ in range(5)]
    polling = await PollingClient.connect(service.url)
    unconnected = await SocketClient.open(service.url)
    began = time.monotonic()
    await service.stop()
    assert time.monotonic() - began < 2
    for client in [*sockets, unconnected]:
        assert await client.await_closed() == 1001
    await polling.await_closed()
    for client in [*sockets, unconnected, polling]:
        await client.close()


# T14 -----------------------------------------------------------------------------------------------------


async def test_t14_stock_holds_up_a_broadcast_for_the_disconnect_handler_of_a_dead_client():
    may_end = asyncio.Event()

    def slow_disconnect(sio):
        @sio.on("disconnect")
        async def on_disconnect(sid, reason):
            await may_end.wait()

    # Without its own monitor: which of the two meets the dead client first is chance.
    async with stock(slow_disconnect, ping_interval=0.05, ping_timeout=0.05, monitor_clients=False) as server:
        dead = await SocketClient.connect(server.url, await_connected=False, answer_pings=False)
        engine = server.one_engine_socket()
        await until(lambda: engine.last_ping)
        await dead.emit("ping")  # any frame: without one the reader gives up at the same moment as the broadcast
        await until(lambda: time.time() - engine.last_ping > 0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await server.sio.emit("balance:snapshot", UPDATE)
        may_end.set()
        await dead.close()


async def test_t14_a_dead_client_is_ended_and_holds_up_nobody(make_service):
    service = await make_service(ping_interval_s=1, ping_timeout_s=1)
    dead = await SocketClient.connect(service.url, answer_pings=False)
    sender = await SocketClient.connect(service.url)
    slowest = 0.0
    while not dead.closed.done():
        began = time.monotonic()
        await sender.call("balance:update", UPDATE)
        slowest = max(slowest, time.monotonic() - began)
        await asyncio.wait([dead.closed], timeout=0.05)
    assert slowest < 0.5
    await dead.close()
    await sender.close()


# T25 -----------------------------------------------------------------------------------------------------

MARK = "73315501"  # an amount that nothing else logs


async def test_t25_stock_logs_payloads_and_adds_a_handler_to_the_root_of_its_loggers():
    with (
        records_of("engineio.server", level=logging.NOTSET) as records,
        records_of("socketio.server", level=logging.NOTSET),
    ):
        async with stock(logger=True, engineio_logger=True) as server:
            handlers = [type(handler) for handler in logging.getLogger("engineio.server").handlers]
            assert logging.StreamHandler in handlers
            client = await SocketClient.connect(server.url, await_connected=False)
            await client.call("balance:update", {**UPDATE, "pid": int(MARK)})
            await client.close()
        assert any(MARK in record.getMessage() for record in records)


@pytest.mark.parametrize("kind", [SocketClient, PollingClient])
async def test_t25_no_payload_is_logged_at_any_level(make_service, caplog, kind):
    caplog.set_level(logging.DEBUG)
    service = await make_service()
    client = await kind.connect(service.url)
    await client.call("balance:update", {**UPDATE, "pid": int(MARK)})
    await client.call("balance:update", {**UPDATE, "pid": MARK})
    await client.send_raw(f'42["{MARK}",{MARK}')
    await client.send_raw(f'451-["{MARK}",{MARK}]')
    await client.emit("ping", MARK)
    await client.close()
    await service.stop()
    assert not [record for record in caplog.records if MARK in record.getMessage()]


async def test_t25_no_handler_is_added_to_the_loggers_of_the_libraries(make_service):
    await make_service()
    for name in ("engineio", "engineio.server", "socketio", "socketio.server"):
        assert logging.getLogger(name).handlers == []


# T27 -----------------------------------------------------------------------------------------------------


async def test_t27_stock_logs_a_trace_for_a_client_that_is_lost_while_it_is_sent_to():
    async with stock() as server:
        client = await SocketClient.connect(server.url, await_connected=False)
        await client.stop_reading()
        for _ in range(100):
            await server.sio.emit("balance:snapshot", "x" * 100_000)
        await until(server.one_engine_socket().queue.empty)
        client.drop()
        await until(lambda: not server.sio.eio.sockets)
    assert any("Task exception was never retrieved" in record.getMessage() for record in server.log)


async def test_t27_a_client_that_is_lost_while_it_is_sent_to_leaves_no_trace(make_service):
    service = await make_service(watcher_unsent_bytes_max=64_000_000)
    with records_of("asyncio", "tornado", "balance") as log:
        lost, sender = await SocketClient.connect(service.url), await SocketClient.connect(service.url)
        await lost.stop_reading()
        for _ in range(10):
            answers = [await sender.start_call("balance:update", LARGE_UPDATE) for _ in range(50)]
            assert all([(await answer)[0]["success"] for answer in answers])
        lost.drop()
        for _ in range(10):
            await sender.call("balance:update", UPDATE)
        await sender.close()
        await service.stop()
    assert not [record.getMessage() for record in log]


# T31 -----------------------------------------------------------------------------------------------------


async def read_while_another_thread_writes(folder: Path, kind: str) -> tuple[int | None, bytes]:
    """Run `tls_duplex` with a class of sockets; return its status and what it printed."""
    certificate = make_certificate(folder)
    command = (sys.executable, "-m", "tests.support.tls_duplex", certificate, kind)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    return process.returncode, out


async def test_t31_stock_loses_a_tls_socket_that_is_read_while_another_thread_writes(tmp_path: Path) -> None:
    status, out = await read_while_another_thread_writes(tmp_path, "stock")
    assert out == b"lost\n" or (status or 0) < 0  # a crash is another form of the same fault


async def test_t31_the_python_client_of_the_tests_loses_none(tmp_path: Path) -> None:
    assert await read_while_another_thread_writes(tmp_path, "duplex") == (0, b"none lost\n")
