"""Traps of HTTP long polling: T5, T6, T11, T29 and T30. A request is taken whole or refused; a poll waits."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.http_client import HttpClient
from tests.support.payloads import UPDATE
from tests.support.raw_clients import SEPARATOR, Dropped, PollingClient, SocketClient, open_websocket
from tests.support.refusals import check_error
from tests.support.stock_server import stock
from tests.support.waiting import until

PING = '42["ping"]'


def bodies() -> dict[str, bytes]:
    """Bodies of a POST that are not a list of packets."""
    return {
        "unknown-type": f"{PING}{SEPARATOR}x".encode(),
        "empty-packet": f"{PING}{SEPARATOR}".encode(),
        "empty": b"",
        "bad-utf8": b'42["ping\xff"]',
    }


# T5 ------------------------------------------------------------------------------------------------------


async def test_t5_stock_answers_ok_to_seventeen_packets_and_drops_them():
    async with stock() as server:
        client = await PollingClient.connect(server.url, await_connected=False)
        response = await client.post(*[PING] * 17)
        assert (response.status, response.raw) == (200, b"OK")
        await client.expect_silence(0.1)
        await client.close()


@pytest.mark.parametrize("body", bodies().values(), ids=bodies())
async def test_t5_stock_answers_ok_to_a_body_without_packets(body):
    async with stock() as server:
        client = await PollingClient.connect(server.url, await_connected=False)
        response = await client.http.fetch(client.url, "POST", body)
        assert (response.status, response.raw) == (200, b"OK")
        await client.expect_silence(0.1)
        await client.close()


async def test_t5_a_request_of_many_packets_is_handled_whole(make_service):
    service = await make_service()
    client = await PollingClient.connect(service.url)
    assert (await client.post(*[PING] * 200)).status == 200
    for _ in range(200):
        await client.expect("pong")
    await client.close()


@pytest.mark.parametrize("body", bodies().values(), ids=bodies())
async def test_t5_a_body_without_packets_is_rejected(make_service, body):
    service = await make_service()
    client = await PollingClient.connect(service.url)
    response = await client.http.fetch(client.url, "POST", body)
    assert response.status == 400
    check_error(response.raw)
    await client.close()


# T6 ------------------------------------------------------------------------------------------------------


async def post_chunked(client: PollingClient, *chunks: bytes) -> int:
    """Send a body of unannounced length; return the status."""

    async def produce(write):
        for chunk in chunks:
            await write(chunk)

    return (await client.http.fetch(client.url, "POST", body_producer=produce)).status


async def test_t6_stock_ignores_a_chunked_request_and_answers_ok():
    async with stock() as server:
        client = await PollingClient.connect(server.url, await_connected=False)
        assert await post_chunked(client, PING.encode()) == 200
        await client.expect_silence(0.1)
        await client.close()


async def test_t6_a_chunked_request_is_read(make_service):
    service = await make_service()
    client = await PollingClient.connect(service.url)
    assert await post_chunked(client, PING[:5].encode(), PING[5:].encode()) == 200
    await client.expect("pong")
    await client.close()


# T11 -----------------------------------------------------------------------------------------------------


async def break_off_an_upgrade(url: str, client: PollingClient, *frames: str) -> None:
    """Begin an upgrade to WebSocket, send so much of it, and close."""
    sid = client.handshake["sid"]
    probe = await open_websocket(url, query=f"EIO=4&transport=websocket&sid={sid}")
    for frame in frames:
        await probe.write_message(frame)
    if frames:
        assert await probe.read_message() == "3probe"
    probe.close()


@pytest.mark.parametrize("frames", [(), ("2probe", "x")], ids=["before-the-probe", "by-no-packet"])
async def test_t11_stock_answers_every_poll_at_once_after_an_upgrade_that_broke_off(frames):
    async with stock() as server:
        client = await PollingClient.open(server.url, poll=False)
        await break_off_an_upgrade(server.url, client, *frames)
        await until(lambda: server.handlers[-1]._on_close_called)
        polls = [(await client.http.fetch(client.url)).raw for _ in range(20)]
        assert polls == [b"6"] * 20
        await client.close()


@pytest.mark.parametrize(
    "frames",
    [(), ("2probe",), ("2probe", "x"), ("2probe", "")],
    ids=["before-the-probe", "after-the-probe", "by-no-packet", "by-an-empty-frame"],
)
async def test_t11_a_poll_waits_again_after_an_upgrade_that_broke_off(make_service, frames):
    service = await make_service()
    client = await PollingClient.connect(service.url)
    await break_off_an_upgrade(service.url, client, *frames)
    polls = client.polls
    await client.expect_silence(0.2)
    # One that waited already and one for the NOOP of the upgrade may be answered; the next one waits.
    assert client.polls <= polls + 3
    await client.emit("ping")
    await client.expect("pong")
    await client.close()


# T29: `receive` of a CLOSE packet closes the session and leaves the GET that waits on it until
# ping_interval + ping_timeout; a Node process that closed its client lives on for as long. ---------------


async def status_of_poll_after_close(client: PollingClient, seconds: float) -> int:
    """Leave by a CLOSE packet while a poll waits; return the status of the poll. Raises TimeoutError."""
    poll = asyncio.ensure_future(client.http.fetch(client.url))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await asyncio.shield(poll)
    assert (await client.post("1")).status == 200
    try:
        async with asyncio.timeout(seconds):
            return (await asyncio.shield(poll)).status
    finally:
        client.http.close()
        await asyncio.wait([poll])
        poll.exception()


async def test_t29_stock_leaves_a_poll_waiting_after_its_client_has_left():
    async with stock() as server:
        client = await PollingClient.open(server.url, poll=False)
        with pytest.raises(TimeoutError):
            await status_of_poll_after_close(client, 0.3)


async def test_t29_a_poll_is_answered_when_its_client_leaves(make_service):
    service = await make_service()
    client = await PollingClient.open(service.url, poll=False)
    assert await status_of_poll_after_close(client, 1) in (200, 400)


# T30: `poll` takes packets for a request whose client has gone, and they are lost. -----------------------


async def break_off_a_poll(client: PollingClient) -> None:
    """Send a poll whose connection is closed while it waits, as when a network changes."""
    gone = HttpClient()
    with pytest.raises(Exception, match="Timeout"):
        await gone.fetch(client.url, timeout=0.1)
    gone.close()


async def test_t30_stock_loses_what_it_sends_after_a_poll_broke_off():
    async with stock() as server:
        client = await PollingClient.open(server.url, poll=False)
        await client.send_raw("40")
        await client.poll()
        await client.take_connect()
        await break_off_a_poll(client)
        await server.sio.emit("balance:snapshot", UPDATE)
        client.start_polling()
        await client.expect_silence(0.2)
        await client.close()


async def test_t30_a_session_whose_poll_broke_off_ends_so_that_its_client_makes_a_new_one(make_service):
    service = await make_service()
    client = await PollingClient.open(service.url, poll=False)
    await client.send_raw("40")
    await client.poll()
    await client.take_connect()
    await client.expect("connected")
    sender = await SocketClient.connect(service.url)
    await break_off_a_poll(client)
    await sender.call("balance:update", UPDATE)
    client.start_polling()
    with pytest.raises(Dropped):
        await client.expect("balance:snapshot")
    await client.close()
    await sender.close()
