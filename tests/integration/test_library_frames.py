"""Pitfalls in what a client sends: T10, T16, T17 and T26. Every event is answered."""

from __future__ import annotations

import pytest

from protocol import dumps
from tests.support.payloads import UPDATE
from tests.support.raw_clients import PollingClient, SocketClient
from tests.support.refusals import check_error
from tests.support.stock_server import stock

KINDS = [SocketClient, PollingClient]


# T10 -----------------------------------------------------------------------------------------------------

NO_PACKETS = ["x", "", "9", "\x00", " 42", "é"]


@pytest.mark.parametrize("frame", NO_PACKETS)
async def test_t10_stock_keeps_a_zombie_after_a_frame_without_a_packet(frame):
    async with stock() as server:
        client = await SocketClient.connect(server.url, await_connected=False)
        await client.send_raw(frame)
        await client.emit("ping")
        if frame == "9":
            await client.expect("pong")  # an unknown type is ignored; only a type that is not a digit ends the reader
        else:
            await client.expect_silence(0.1)
        assert not client.closed.done()
        await client.close()


@pytest.mark.parametrize("frame", NO_PACKETS)
async def test_t10_a_frame_without_a_packet_ends_the_connection_at_once(make_service, frame):
    service = await make_service()
    client = await SocketClient.connect(service.url)
    await client.send_raw(frame)
    await client.await_closed()
    await client.close()


# T16 -----------------------------------------------------------------------------------------------------


def with_amount(amount: str) -> str:
    """Write an update whose first amount is this text."""
    return dumps(UPDATE).replace("100074", amount, 1)


@pytest.mark.parametrize(("amount", "sent"), [("NaN", "NaN"), ("Infinity", "Infinity"), ("1e400", "Infinity")])
async def test_t16_stock_takes_and_sends_what_is_not_json(amount, sent):
    async with stock() as server:
        client = await SocketClient.connect(server.url, await_connected=False)
        await client.send_raw(f'42["balance:update",{with_amount(amount)}]')
        await client.expect("balance:ack")
        assert f'"rlb":{sent}' in await client.next_frame()
        await client.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity", "1e400"])
async def test_t16_what_is_not_json_is_refused_and_never_sent(make_service, kind, amount):
    service = await make_service()
    watcher, sender = await SocketClient.connect(service.url), await kind.connect(service.url)
    id_, acknowledged = sender.new_id()
    await sender.send_raw(f'42{id_}["balance:update",{with_amount(amount)}]')
    code = "invalid_payload" if amount == "1e400" else "malformed_json"  # 1e400 is JSON, and no amount
    check_error(await sender.expect("balance:error"), code)
    check_error((await acknowledged)[0], code)
    (ack,) = await sender.call("balance:update", UPDATE)
    assert (await watcher.expect("balance:snapshot"))["id"] == ack["id"]
    await sender.close()
    await watcher.close()


# T17 -----------------------------------------------------------------------------------------------------

# What follows the packet type and the acknowledgement id.
UNANSWERABLE = {
    "unknown-event": '["balance:delete",{}]',
    "event-of-the-server": '["balance:snapshot",{}]',
    "reserved-event": '["connect",{}]',
    "other-reserved-event": '["disconnect"]',
    "no-payload": '["balance:update"]',
    "two-payloads": f'["balance:update",{dumps(UPDATE)},1]',
    "null-payload": '["balance:update",null]',
    "text-payload": '["balance:update","x"]',
    "empty-array": "[]",
    "object": "{}",
    "text": '"ping"',
    "number-as-name": "[5]",
    "null-as-name": "[null,{}]",
    "array-as-name": "[[]]",
    "truncated": '["balance:update"',
    "nothing": "",
    "trailing": '["ping"]]',
    "deep": "[" * 10_000,
}


@pytest.mark.parametrize("event", UNANSWERABLE.values(), ids=UNANSWERABLE)
async def test_t17_stock_does_not_answer_an_event_that_it_cannot_handle(event):
    async with stock() as server:
        client = await SocketClient.connect(server.url, await_connected=False)
        id_, acknowledged = client.new_id()
        await client.send_raw(f"42{id_}{event}")
        await client.expect_silence(0.1)
        assert not acknowledged.done()
        await client.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event", UNANSWERABLE.values(), ids=UNANSWERABLE)
async def test_t17_an_event_that_cannot_be_handled_is_answered_and_acknowledged(make_service, kind, event):
    service = await make_service()
    client = await kind.connect(service.url)
    id_, acknowledged = client.new_id()
    await client.send_raw(f"42{id_}{event}")
    error = await client.expect("balance:error")
    check_error(error)
    assert await acknowledged == [error]
    await client.send_raw(f"42{event}")
    assert await client.expect("balance:error") == error
    await client.emit("ping")
    await client.expect("pong")
    await client.close()


# T26 -----------------------------------------------------------------------------------------------------

BINARY_EVENT = '451-{}["balance:update",{{"_placeholder":true,"num":0}}]'


async def test_t26_stock_takes_a_text_frame_for_the_attachment_it_awaits():
    async with stock() as server:
        client = await SocketClient.connect(server.url, await_connected=False)
        await client.send_raw(BINARY_EVENT.format(""))
        await client.emit("ping")
        await client.expect_silence(0.1)
        await client.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_t26_a_binary_event_is_refused_and_the_connection_lives(make_service, kind):
    service = await make_service()
    client = await kind.connect(service.url)
    id_, acknowledged = client.new_id()
    await client.send_raw(BINARY_EVENT.format(id_))
    error = await client.expect("balance:error")
    check_error(error)
    assert await acknowledged == [error]
    await client.send_raw(BINARY_EVENT.format(""))
    assert await client.expect("balance:error") == error
    await client.emit("ping")
    await client.expect("pong")
    await client.send_raw(b"the attachment, late")
    await client.emit("ping")
    while (event := await client.next_event())[0] != "pong":  # a lone attachment may be answered or passed over
        assert event[0] == "balance:error"
    await client.close()
