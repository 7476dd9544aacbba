"""Traps of what grows or hangs without a bound: T2, T7, T9, T12, T13, T20, T22, T23 and T28."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from tornado.httputil import HTTPServerRequest

from tests.support.payloads import LARGE_UPDATE, UPDATE
from tests.support.raw_clients import Dropped, PollingClient, SocketClient, open_websocket
from tests.support.refusals import check_error
from tests.support.stock_server import stock
from tests.support.waiting import until

KINDS = [SocketClient, PollingClient]
DISCONNECTED = "disconnected slow client"  # what the service logs of a client that does not read


# T2 ------------------------------------------------------------------------------------------------------


async def test_t2_stock_buffers_without_limit_for_a_client_that_does_not_read():
    async with stock() as server:
        client = await SocketClient.connect(server.url, await_connected=False)
        await client.stop_reading()
        for _ in range(300):
            await server.sio.emit("balance:snapshot", "x" * 100_000)
        await until(server.one_engine_socket().queue.empty)
        stream = server.handlers[0].ws_connection.stream
        assert len(stream._write_buffer) > 15_000_000
        assert not stream.closed()
        client.drop()


@pytest.mark.expects_log(DISCONNECTED)
async def test_t2_a_client_that_does_not_read_is_disconnected(make_service):
    service = await make_service(watcher_unsent_bytes_max=65_536)
    sleeper = await SocketClient.connect(service.url)
    (connection,) = service.app.server.eio.connections
    connection.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)  # else it grows to 4 MB
    sender = await SocketClient.connect(service.url)
    await sleeper.stop_reading()
    for _ in range(200):  # 1.8 MB: over eight times the bound, and more than the kernel's buffers hold as well
        (answer,) = await sender.call("balance:update", LARGE_UPDATE)
        assert answer["success"], answer
    sleeper.resume_reading()
    await sleeper.await_closed()
    assert sleeper.waiting() < 200
    await sleeper.close()
    await sender.close()


async def test_t2_a_client_that_reads_is_not_disconnected_by_one_large_batch(make_service):
    service = await make_service()
    watcher, sender = await SocketClient.connect(service.url), await SocketClient.connect(service.url)
    answers = [await sender.start_call("balance:update", LARGE_UPDATE) for _ in range(300)]
    assert all([(await answer)[0]["success"] for answer in answers])
    for _ in answers:
        await watcher.expect("balance:snapshot")
    await watcher.close()
    await sender.close()


@pytest.mark.expects_log(DISCONNECTED)
async def test_t2_a_client_that_does_not_poll_is_disconnected(make_service):
    service = await make_service(watcher_unsent_bytes_max=65_536)
    sleeper, sender = await PollingClient.open(service.url, poll=False), await SocketClient.connect(service.url)
    await sleeper.send_raw("40")
    await sleeper.poll()
    for _ in range(70):  # over eight times the bound, which is too much at once
        assert (await sender.call("balance:update", LARGE_UPDATE))[0]["success"]
    sleeper.start_polling()
    await sleeper.await_closed()
    await sleeper.close()
    await sender.close()


# T7 ------------------------------------------------------------------------------------------------------


async def test_t7_stock_hangs_when_it_ends_an_idle_polling_client():
    async with stock() as server:
        client = await PollingClient.open(server.url, poll=False)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await server.sio.eio.disconnect(client.handshake["sid"])
        client.http.close()


async def test_t7_stock_hangs_on_a_polling_request_that_is_too_large():
    async with stock(max_http_buffer_size=1000) as server:
        client = await PollingClient.open(server.url, poll=False)
        with pytest.raises(Exception, match="Timeout"):
            await client.post("4" + "x" * 2000, timeout=0.2)
        client.http.close()


async def test_t7_stock_raises_when_there_is_no_client_to_disconnect():
    async with stock() as server:
        with pytest.raises(ValueError, match="empty"):
            await server.sio.eio.disconnect()


async def test_t7_a_polling_request_that_is_too_large_is_refused(make_service):
    service = await make_service(frame_bytes_max=32_768)
    client = await PollingClient.connect(service.url)
    response = await client.post("4" + "x" * 100_000)
    assert response.status == 413
    check_error(response.raw, "payload_too_large")
    await client.close()


@pytest.mark.parametrize("kinds", [[], [PollingClient], KINDS], ids=["nobody", "polling", "both"])
@pytest.mark.parametrize("idle", [True, False], ids=["idle", "polling"])
async def test_t7_a_stop_waits_for_nobody_who_is_idle(make_service, kinds, idle):
    service = await make_service()
    clients = [await kind.connect(service.url) for kind in kinds]
    if idle and PollingClient in kinds:
        clients.append(await PollingClient.open(service.url, poll=False))
    async with asyncio.timeout(5):
        await service.stop()
    for client in clients:
        await client.close()


# T9 ------------------------------------------------------------------------------------------------------

BURST = 2000


@pytest.mark.expects_log("AsyncSocket._send_ping")  # the library leaves it behind, and it may be collected here
async def test_t9_stock_without_async_handlers_loses_a_burst_to_a_ping_timeout():
    saved = []

    def slow_update(sio):
        @sio.on("balance:update")
        async def on_update(sid, update):
            await asyncio.sleep(0.001)
            saved.append(update)

    async with stock(slow_update, async_handlers=False, ping_interval=0.1, ping_timeout=0.1) as server:
        client = await SocketClient.connect(server.url, await_connected=False)
        with suppress(Dropped):  # it may end while the burst is still being sent
            for n in range(BURST):
                await client.emit("balance:update", n)
        await until(lambda: not server.sio.eio.sockets)
        assert len(saved) < BURST
        await client.close()


async def test_t9_stock_with_async_handlers_keeps_neither_order_nor_a_bound():
    all_run, running, order = asyncio.Event(), [], []

    def slow_update(sio):
        @sio.on("balance:update")
        async def on_update(sid, update):
            running.append(update)
            await all_run.wait()
            await asyncio.sleep(0.01 if update == 0 else 0)
            order.append(update)

    async with stock(slow_update) as server:
        client = await SocketClient.connect(server.url, await_connected=False)
        for n in range(BURST):
            await client.emit("balance:update", n)
        await until(lambda: len(running) == BURST)  # all at once
        all_run.set()
        await until(lambda: len(order) == BURST)
        assert order != sorted(order)
        await client.close()


@pytest.mark.parametrize("in_flight", [1, 256])
async def test_t9_a_burst_is_acknowledged_whole_and_in_order_under_a_short_ping_timeout(make_service, in_flight):
    service = await make_service(ping_interval_s=1, ping_timeout_s=1, updates_in_flight_max=in_flight)
    client = await SocketClient.connect(service.url)
    began, finished = time.monotonic(), []
    answers = []
    for n in range(BURST):
        answers.append(await client.start_call("balance:update", {**UPDATE, "pid": n}))
        answers[-1].add_done_callback(lambda _, n=n: finished.append(n))
    async with asyncio.timeout(50):
        acks = [(await answer)[0] for answer in answers]
    assert all(ack["success"] for ack in acks)
    await asyncio.sleep(0)  # for the callback of the last one
    assert finished == list(range(BURST))
    payloads = {"balance:ack": [], "balance:snapshot": []}
    for _ in range(2 * BURST):
        event, payload = await client.next_event()
        payloads[event].append(payload)
    assert [ack["id"] for ack in payloads["balance:ack"]] == [ack["id"] for ack in acks]
    assert [snapshot["pid"] for snapshot in payloads["balance:snapshot"]] == list(range(BURST))
    seqs = [snapshot["seq"] for snapshot in payloads["balance:snapshot"]]
    assert seqs == list(range(seqs[0], seqs[0] + BURST))
    # Two heartbeats more, so that a pong that was lost in the burst would have ended the connection.
    await client.expect_silence(max(0.1, 2.5 - (time.monotonic() - began)))
    await client.close()


# T12 -----------------------------------------------------------------------------------------------------

WATCHERS = 40


@contextmanager
def tasks_made() -> Iterator[list[str]]:
    """Collect the names of the coroutines that become tasks meanwhile."""
    loop, names = asyncio.get_running_loop(), []

    def make(loop, coroutine, **options):
        names.append(getattr(coroutine, "__qualname__", str(coroutine)))
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(make)
    yield names
    loop.set_task_factory(None)


async def test_t12_stock_makes_tasks_for_each_client_and_packet():
    async with stock() as server:
        clients = [await SocketClient.connect(server.url, await_connected=False) for _ in range(WATCHERS)]
        with tasks_made() as names:
            await server.sio.emit("balance:snapshot", UPDATE)
            for client in clients:
                await client.expect("balance:snapshot")
        assert len(names) >= 2 * WATCHERS
        for client in clients:
            await client.close()


async def test_t12_a_broadcast_makes_no_task_per_client(make_service):
    service = await make_service()
    watchers = [await SocketClient.connect(service.url) for _ in range(WATCHERS)]
    sender = await SocketClient.connect(service.url)
    with tasks_made() as names:
        await sender.emit("balance:update", UPDATE)
        for watcher in watchers:
            await watcher.expect("balance:snapshot")
    assert len(names) < WATCHERS, names
    for client in [*watchers, sender]:
        await client.close()


# T13 -----------------------------------------------------------------------------------------------------


async def offered_and_taken(url: str) -> str | None:
    """Offer deflate as browsers and Node do; return the extensions that the server takes."""
    connection = await open_websocket(url, compression_options={})
    connection.close()
    return connection.headers.get("Sec-WebSocket-Extensions")


async def test_t13_stock_compresses_for_every_client_that_offers_it():
    async with stock() as server:
        assert "permessage-deflate" in await offered_and_taken(server.url)


async def test_t13_nothing_is_compressed(make_service):
    service = await make_service()
    assert await offered_and_taken(service.url) is None


# T20 -----------------------------------------------------------------------------------------------------


async def test_t20_stock_keeps_a_session_that_never_connects():
    async with stock(ping_interval=0.05, ping_timeout=1) as server:
        client = await SocketClient.open(server.url)
        await client.expect_silence(0.5)  # ten heartbeats, answered
        await client.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_t20_a_session_that_never_connects_is_ended(make_service, kind):
    service = await make_service(connect_ms_max=300)
    connected = await kind.connect(service.url)
    unconnected = await kind.open(service.url)
    await unconnected.await_closed()
    await connected.emit("ping")
    await connected.expect("pong")
    await unconnected.close()
    await connected.close()


# T22 -----------------------------------------------------------------------------------------------------


async def test_t22_stock_announces_half_a_second_as_none():
    async with stock(ping_interval=0.5) as server:
        client = await SocketClient.open(server.url)
        assert client.handshake["pingInterval"] == 0
        await client.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_t22_the_heartbeat_is_announced_as_it_is(make_service, kind):
    # The settings are whole seconds, so a part of one cannot be set.
    service = await make_service(ping_interval_s=3, ping_timeout_s=2)
    client = await kind.open(service.url)
    assert (client.handshake["pingInterval"], client.handshake["pingTimeout"]) == (3000, 2000)
    await client.close()


async def test_t22_the_heartbeat_is_25_seconds_as_seed_has_it(make_service):
    service = await make_service()
    client = await SocketClient.connect(service.url)
    assert client.handshake["pingInterval"] == 25_000
    await client.close()


# T23 -----------------------------------------------------------------------------------------------------


async def test_t23_stock_counts_characters_and_reads_a_frame_of_any_size_first():
    async with stock(max_http_buffer_size=1000) as server:
        client = await SocketClient.connect(server.url, await_connected=False)
        wide = {**UPDATE, "note": "€" * 700}  # 2100 bytes
        assert (await client.call("balance:update", wide))[0]["success"]
        read = []
        server.handlers[0].receive_queue.put = _kept(server.handlers[0].receive_queue.put, read)
        await client.send_raw("4" + "x" * 5_000_000)
        await client.await_closed()
        assert read == [5_000_001]


def _kept(put, sizes):
    async def keep(message):
        sizes.append(len(message))
        await put(message)

    return keep


@pytest.mark.parametrize("kind", KINDS)
async def test_t23_the_limit_of_an_update_counts_bytes(make_service, kind):
    service = await make_service()
    client = await kind.connect(service.url)
    # Fewer characters than the limit, more bytes.
    (error,) = await client.call("balance:update", {**UPDATE, "ts": "€" * 8_000})
    check_error(error, "payload_too_large")
    assert await client.expect("balance:error") == error
    (error,) = await client.call("balance:update", {**UPDATE, "ts": "x" * 8_000})
    check_error(error, "invalid_payload")
    await client.close()


async def test_t23_a_frame_that_is_too_large_ends_the_connection_before_it_is_read(make_service):
    service = await make_service(frame_bytes_max=32_768)
    client = await SocketClient.connect(service.url)
    assert client.handshake["maxPayload"] == 32_768
    with pytest.raises(Dropped):
        await client.send_raw("4" + "x" * 20_000_000)  # more than the kernel would buffer
    assert await client.await_closed() in (1009, None)  # a reset may overtake the close frame
    await client.close()


# T28 -----------------------------------------------------------------------------------------------------


async def requests_kept(url: str, clients: int) -> int:
    """Connect clients by polling and count the HTTP requests that live on once all are answered."""
    gc.collect()
    before = sum(isinstance(thing, HTTPServerRequest) for thing in gc.get_objects())
    idle = [await PollingClient.open(url, poll=False) for _ in range(clients)]
    for client in idle:
        await client.send_raw("40")
        await client.poll()
    gc.collect()
    kept = sum(isinstance(thing, HTTPServerRequest) for thing in gc.get_objects()) - before
    for client in idle:
        await client.close()
    return kept


async def test_t28_stock_keeps_the_first_request_of_every_client():
    async with stock() as server:
        assert await requests_kept(server.url, 20) >= 20


async def test_t28_no_request_is_kept(make_service):
    service = await make_service()
    assert await requests_kept(service.url, 20) <= 2
