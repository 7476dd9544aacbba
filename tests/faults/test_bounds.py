"""What a client leaves undone, or sends too much of, costs the service and the others no more than its bound."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import pytest

from balance.realtime.polling import PACKETS_MAX
from tests.support.payloads import LARGE_ROWS, UPDATE
from tests.support.raw_clients import PollingClient, Refused, SocketClient, open_websocket
from tests.support.refusals import check_error
from tests.support.service import SNAPSHOTS, Database, MakeService, Service
from tests.support.waiting import until


async def test_a_probe_that_never_ends_is_closed_with_its_session(make_service: MakeService) -> None:
    service = await make_service(connect_ms_max=300)
    client = await PollingClient.open(service.url, poll=False)
    probe = await open_websocket(service.url, query=f"EIO=4&transport=websocket&sid={client.handshake['sid']}")
    async with asyncio.timeout(15):
        assert await probe.read_message() is None
    probe.close()
    await until(lambda: not service.app.server.eio.connections)
    await client.close()


async def test_a_probe_that_breaks_off_while_it_is_answered_leaves_its_session_polling(service: Service) -> None:
    client = await PollingClient.connect(service.url)
    for _ in range(5):
        probe = await open_websocket(service.url, query=f"EIO=4&transport=websocket&sid={client.handshake['sid']}")
        probe.write_message("2probe")
        probe.close()
        while await probe.read_message() is not None:
            pass
        await until(lambda: not service.app.server.eio.connections)
    (answer,) = await client.call("balance:update", UPDATE)
    assert answer["success"]
    await client.close()


async def test_time_in_which_the_service_was_held_up_counts_for_no_client(make_service: MakeService) -> None:
    service = await make_service(connect_ms_max=1000, ping_interval_s=2, ping_timeout_s=1)
    joined = await SocketClient.connect(service.url)
    session = service.app.server.eio.sockets[joined.handshake["sid"]]
    await until(lambda: session.last_ping)  # a heartbeat is to be answered
    coming = await SocketClient.open(service.url)
    time.sleep(1.6)  # noqa: ASYNC251  # what ten thousand clients that leave at once would do
    await coming.send_raw("40")
    await coming.take_connect()
    await coming.expect("connected")
    (answer,) = await joined.call("balance:update", UPDATE)
    assert answer["success"]
    for client in (coming, joined):
        await client.close()


@pytest.mark.expects_log("the clock of this machine was set")
@pytest.mark.parametrize("seconds", [-60, 60])
async def test_a_clock_that_is_set_keeps_no_heartbeat_back_and_ends_no_client(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    service = await make_service(ping_interval_s=1, ping_timeout_s=1)
    client, clock, beats = await SocketClient.connect(service.url), time.time, []
    send = client.send_raw

    async def answer(frame: str | bytes) -> None:
        beats.append(frame)
        await send(frame)

    monkeypatch.setattr(client, "send_raw", answer)
    coming = await SocketClient.open(service.url)
    monkeypatch.setattr(time, "time", lambda: clock() + seconds)
    come = await SocketClient.open(service.url)
    await until(lambda: len(beats) == 3)
    for joining in (coming, come):
        await joining.send_raw("40")
        await joining.take_connect()
        await joining.close()
    assert not client.closed.done()
    await client.close()


async def test_thousands_of_packets_in_one_request_leave_others_their_turn(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, turn, taken = await PollingClient.connect(service.url), 0, Counter[int]()
    handlers = service.app.server.event_handlers
    reject = handlers.on_rejected

    def count(*arguments: Any) -> None:
        taken[turn] += 1
        reject(*arguments)

    async def others() -> None:
        nonlocal turn
        while True:
            await asyncio.sleep(0)
            turn += 1

    monkeypatch.setattr(handlers, "on_rejected", count)
    other = asyncio.ensure_future(others())
    assert (await client.post(*["4no packet"] * 3000)).status == 200
    other.cancel()
    assert taken.total() == 3000
    assert len(taken) > 3, "a turn of 5 ms is enough for some hundred of them"
    await client.close()


async def test_a_request_of_more_packets_than_may_be_read_at_once_is_refused(service: Service) -> None:
    client = await PollingClient.connect(service.url)
    answer = await client.post(*["3"] * (PACKETS_MAX + 1))
    assert answer.status == 413
    check_error(answer.body, "payload_too_large")
    assert (await client.post(*["3"] * PACKETS_MAX)).status == 200
    await client.close()


LARGE = {
    "nested": "[" * 8_500 + "]" * 8_500,
    "with a list at its end": '{"pad":"' + "x" * 17_000 + '","list":[1,2]}',
    "with a long name": '["' + "x" * 17_000 + '",1]',
}


@pytest.mark.parametrize("large", LARGE.values(), ids=LARGE)
async def test_a_packet_that_is_too_large_is_refused_before_it_is_read_whatever_its_type(
    service: Service, large: str
) -> None:
    client = await SocketClient.open(service.url)
    await client.send_raw("40" + large)
    with pytest.raises(Refused) as refused:
        await client.take_connect()
    check_error(refused.value.payload["data"], "payload_too_large")
    await client.send_raw("40/other," + large)
    refusal = str(await client.next_frame())
    assert refusal.startswith("44/other,{"), "of / a client would take it for the end of its connection"
    check_error(json.loads(refusal.removeprefix("44/other,"))["data"], "payload_too_large")
    await client.send_raw("40")
    await client.take_connect()
    await client.expect("connected")
    for packet_type in "123":
        await client.send_raw(f"4{packet_type}{large}")
        check_error(await client.expect("balance:error"), "payload_too_large")
    await client.close()


async def test_leaving_a_namespace_that_it_never_joined_is_answered_and_ends_nothing(make_service: MakeService) -> None:
    service = await make_service(connect_ms_max=100)
    client = await SocketClient.connect(service.url)
    await client.send_raw("41/other,")
    assert str(await client.next_frame()).startswith("44/other,{")
    await client.expect_silence(1)  # two sweeps
    (answer,) = await client.call("balance:update", UPDATE)
    assert answer["success"]
    await client.close()


async def test_a_page_that_is_not_read_holds_its_slot_no_longer_than_a_read_may_take(
    make_service: MakeService, database: Database
) -> None:
    database.rows(LARGE_ROWS)
    service = await make_service(read_ms_max=2000, reads_in_flight_max=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1024)
    writer.write(f"GET {SNAPSHOTS}?limit=1000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await reader.readline()
    refused = await service.get("?limit=1")
    assert (refused.status, refused.body["code"]) == (503, "busy")
    async with asyncio.timeout(30):
        while (await service.get("?limit=1")).status != 200:
            await asyncio.sleep(0.02)
    writer.close()
