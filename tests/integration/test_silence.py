"""Every frame and packet that a client can send is answered, or closes the connection with a code and a reason."""

from __future__ import annotations

import asyncio
import json

import pytest

from balance.auth import Operation, Role
from protocol import dumps
from tests.support.payloads import UPDATE
from tests.support.raw_clients import SEPARATOR, PollingClient, SocketClient
from tests.support.raw_websocket import (
    ANSWER_S_MAX,
    BINARY,
    CLOSE,
    FINAL,
    PING,
    PONG,
    TEXT,
    RawSocket,
    frame,
    text_frame,
)
from tests.support.refusals import check_error
from tests.support.service import Service
from tests.support.waiting import until

MESSAGE_BYTES_MAX = 1_000_000  # --frame-bytes-max
HELLO = text_frame('42["ping"]')
UPDATE_PACKET = f'420["balance:update",{dumps(UPDATE)}]'

# Frames --------------------------------------------------------------------------------------------------

VIOLATIONS = {
    "RSV1, with no compression agreed on": frame(0xC1, b"x"),
    "RSV2": frame(0xA1, b"x"),
    "RSV3 in a ping": frame(0x99, b""),
    "a reserved data opcode": frame(FINAL | 0x3, b""),
    "a reserved control opcode": frame(FINAL | 0xB, b""),
    "an unmasked text": frame(FINAL | TEXT, b'42["ping"]', None),
    "an unmasked ping": frame(FINAL | PING, b"", None),
    "an unmasked close": frame(FINAL | CLOSE, b"\x03\xe8", None),
    "a ping of 126 bytes": frame(FINAL | PING, b"x" * 126),
    "a close of 126 bytes": frame(FINAL | CLOSE, b"\x03\xe8" + b"x" * 124),
    "a fragmented ping": frame(PING, b""),
    "a continuation of nothing": frame(FINAL, b"x"),
    "a new text amid a message": frame(TEXT, b"4") + frame(FINAL | TEXT, b"x"),
    "a new binary amid a message": frame(TEXT, b"4") + frame(FINAL | BINARY, b"x"),
    "a close of one byte": frame(FINAL | CLOSE, b"\x03"),
    **{f"the close code {code}": frame(FINAL | CLOSE, code.to_bytes(2, "big")) for code in (0, 999, 1004, 1005, 1006)},
    **{f"the close code {code}": frame(FINAL | CLOSE, code.to_bytes(2, "big")) for code in (1015, 1016, 2999, 5000)},
}
NOT_UTF8 = {
    "text": frame(FINAL | TEXT, b"42\xff"),
    "a surrogate": frame(FINAL | TEXT, b"42\xed\xa0\x80"),
    "text that ends within a character": frame(FINAL | TEXT, b"42\xc3"),
    "a message in two frames": frame(TEXT, b"42") + frame(FINAL, b"\xff"),
    "the reason of a close": frame(FINAL | CLOSE, b"\x03\xe8\xff"),
}


async def check_closed(url: str, what: str, sent: bytes, code: int, *, joins: bool = True) -> None:
    """Check that these bytes close a connection with this code and some words, though more follows them."""
    client = await (RawSocket.join(url) if joins else RawSocket.open(url))
    await client.send(sent + HELLO)
    closed, reason = await client.read_close()
    assert (what, closed) == (what, code)
    assert " " in reason, (what, reason)
    await client.close()


async def test_a_frame_that_breaks_rfc_6455_closes_the_connection_with_1002_and_a_reason(service: Service) -> None:
    for what, sent in VIOLATIONS.items():
        await check_closed(service.url, what, sent, 1002)
        await check_closed(service.url, what, sent, 1002, joins=False)
    await until(lambda: not service.app.server.eio.connections)


async def test_text_that_is_not_utf8_closes_the_connection_with_1007_and_a_reason(service: Service) -> None:
    for what, sent in NOT_UTF8.items():
        await check_closed(service.url, what, sent, 1007)


async def test_a_message_that_is_too_large_is_closed_with_1009_while_it_is_still_sent(service: Service) -> None:
    half = b"x" * (MESSAGE_BYTES_MAX // 2)
    heads = {
        "one frame": frame(FINAL | TEXT, half + half + b"x", b"\0\0\0\0"),
        "the largest length in a head": bytes([FINAL | TEXT, 0xFF]) + b"\xff" * 8 + b"\0" * 1000,
        "two frames": frame(TEXT, half, b"\0\0\0\0") + frame(0, half + b"x", b"\0\0\0\0"),
        "binary": frame(FINAL | BINARY, half + half + b"x", b"\0\0\0\0"),
    }
    for what, sent in heads.items():
        await check_closed(service.url, what, sent, 1009)


async def test_a_ping_within_a_message_of_the_largest_size_is_answered(service: Service) -> None:
    client = await RawSocket.join(service.url)
    for last in (b"", b"x"):
        first = b"4" + b"x" * (MESSAGE_BYTES_MAX - 1 - len(last))
        await client.send(frame(TEXT, first, b"\0\0\0\0") + frame(FINAL | PING, b"p" * 125))
        assert await client.read() == (PONG, b"p" * 125)
        await client.send(frame(FINAL, last))
        assert "is not a Socket.IO packet" in await client.read_text()
    await client.send(frame(TEXT, first + b"xx", b"\0\0\0\0"))
    assert (await client.read_close())[0] == 1009
    await client.close()


async def test_after_a_violation_the_server_closes_its_side(service: Service) -> None:
    client = await RawSocket.join(service.url)
    await client.send(frame(0xC1, b"x") + b"\0" * 100_000)  # what lies unread at a close may cost the close frame
    assert (await client.read_close())[0] == 1002
    assert await client.read_end() == b""
    assert not service.app.watchers, "nothing is sent to it any more"
    await client.close()
    await until(lambda: not service.app.server.eio.connections)


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1012, 1014, 3000, 4999])
async def test_a_clients_close_is_answered_by_its_own_code(service: Service, code: int) -> None:
    client = await RawSocket.join(service.url)
    await client.send(frame(FINAL | CLOSE, code.to_bytes(2, "big") + "adieu, é".encode()))
    assert await client.read_close() == (code, "")
    assert await client.read_end() == b""
    await client.close()


async def test_a_client_that_sends_on_behind_its_close_is_not_reset(service: Service) -> None:
    client = await RawSocket.join(service.url)
    close = frame(FINAL | CLOSE, b"\x03\xe8")
    # python-socketio's Client sends its close first and then packets; here more than is read at once.
    await client.send(close + (text_frame("41") + text_frame("1")) * 20_000 + close)
    assert await client.read_close() == (1000, "")
    await until(lambda: not service.app.server.eio.sockets)
    assert await client.read_end() == b"", "and not ConnectionResetError"
    await client.close()
    await until(lambda: not service.app._http._closer._tasks)


# Engine.IO packets ---------------------------------------------------------------------------------------

NOT_FOR_A_SESSION = ["", "0", "0{}", "2", "2probe", "5", "6", "7", "9", "b", "bAQID", "x", " 4", "\x00", "é", "²"]


async def test_an_engine_io_packet_that_only_a_server_sends_closes_with_1002_and_a_reason(service: Service) -> None:
    for packet in NOT_FOR_A_SESSION:
        await check_closed(service.url, packet, text_frame(packet), 1002)
        await check_closed(service.url, packet, text_frame(packet), 1002, joins=False)


async def test_a_pong_that_nobody_asked_for_changes_nothing(service: Service) -> None:
    client = await RawSocket.join(service.url)
    await client.send(
        text_frame("3") + text_frame("3probe") + text_frame("3[" * 1000) + frame(FINAL | 0xA, b"") + HELLO
    )
    assert (await client.read_text()).startswith('42["pong",')
    await client.close()


async def test_a_close_packet_closes_with_1000_and_a_reason(service: Service) -> None:
    client = await RawSocket.join(service.url)
    await client.send(text_frame("1") + HELLO)
    assert await client.read_close() == (1000, "the client has ended its session")
    await client.close()


async def test_an_upgrade_that_does_not_go_by_the_rules_is_closed_and_its_session_polls_on(service: Service) -> None:
    client = await PollingClient.connect(service.url)
    query = f"EIO=4&transport=websocket&sid={client.handshake['sid']}"
    for packet in [*NOT_FOR_A_SESSION, "1", "3", "40", '42["ping"]', "2probex"]:
        if packet != "2probe":
            probe = await RawSocket.open(service.url, query)
            await probe.send(text_frame(packet))
            assert (packet, *await probe.read_close()) == (packet, 1002, "an upgrade takes 2probe and then 5")
            await probe.close()
        if packet != "5":
            probe = await RawSocket.open(service.url, query)
            await probe.send(text_frame("2probe") + text_frame(packet))
            assert await probe.read_close_after("3probe") == 1002, packet
            await probe.close()
        await until(lambda: not service.app.server.eio.connections)
    assert (await client.call("balance:update", UPDATE))[0]["success"]
    await client.close()


async def test_what_follows_an_upgrade_at_once_is_held_to_the_same_rules(service: Service) -> None:
    client = await PollingClient.connect(service.url)
    probe = await RawSocket.open(service.url, f"EIO=4&transport=websocket&sid={client.handshake['sid']}")
    await probe.send(text_frame("2probe") + text_frame("5") + text_frame("2"))
    assert await probe.read_close_after("3probe") == 1002
    await probe.close()
    await client.close()


# Socket.IO packets ---------------------------------------------------------------------------------------

BEFORE_CONNECT = [
    *("4abc", "4", "4{}", '4"0"', "41", '42["ping"]', UPDATE_PACKET, '42/other,["ping"]', "43[]", "44{}", "49"),
    *('451-["balance:update",{"_placeholder":true,"num":0}]', "461-0[]"),
]


async def test_anything_but_connect_before_connect_is_closed_at_once_with_1002(service: Service) -> None:
    for packet in BEFORE_CONNECT:
        await check_closed(service.url, packet, text_frame(packet) + text_frame("40"), 1002, joins=False)
    await check_closed(service.url, "binary", frame(FINAL | BINARY, UPDATE_PACKET[1:].encode()), 1003, joins=False)
    await check_closed(service.url, "an empty binary", frame(FINAL | BINARY, b""), 1003, joins=False)
    await until(lambda: not service.app.server.eio.connections)


@pytest.mark.expects_log("has the code 'forbidden'")  # the contract does not list it where no caller can get it yet
@pytest.mark.parametrize("connect", ["40", '40{"surprise":1}', "40/other,"])
async def test_a_connect_is_not_checked_before_its_sender_may_watch(
    service: Service, monkeypatch: pytest.MonkeyPatch, connect: str
) -> None:
    client = await RawSocket.open(service.url)
    monkeypatch.setattr("balance.auth.PERMISSIONS", {Role.ANYONE: frozenset({Operation.SAVE, Operation.PING})})
    await client.send(text_frame(connect))
    error = json.loads((await client.read_text()).removeprefix("44").removeprefix("/other,"))
    assert error["data"] == {"success": False, "error": "this role may not watch snapshots", "code": "forbidden"}
    await client.close()


async def test_anything_but_connect_after_leaving_is_closed_at_once(service: Service) -> None:
    for packet in ("41", '42["ping"]', "43[]"):
        client = await RawSocket.join(service.url)
        await client.send(text_frame("41") + text_frame(packet))
        assert (await client.read_close())[0] == 1002
        await client.close()
    client = await RawSocket.join(service.url)
    await client.send(text_frame("41") + text_frame("40"))
    assert (await client.read_text()).startswith("40{")
    await client.close()


async def test_anything_but_connect_before_connect_ends_a_polling_session_by_400(service: Service) -> None:
    for packet in [*BEFORE_CONNECT, UPDATE_PACKET.encode()]:
        client = await PollingClient.open(service.url, poll=False)
        response = await client.post(packet)
        assert (packet, response.status) == (packet, 400)
        check_error(response.raw, "invalid_payload")
        assert b"CONNECT" in response.raw
        assert (await client.http.fetch(client.url)).status == 400
        await client.close()


ANSWERED = {
    "not-a-packet": "4abc",
    "nothing": "4",
    "json": "4{}",
    "json-text": '4"2[]"',
    "an-event-as-json-text": '4"2[\\"ping\\"]"',
    "connect-error-of-a-client": '44{"message":"x"}',
    "unknown-type": "49",
    "connect-twice": "40",
    "connect-elsewhere": "40/other,",
    "leaving-elsewhere": "41/other,",
    "event-elsewhere": '42/other,["ping"]',
    "acknowledgement-elsewhere": "43/other,7[]",
    "acknowledgement-of-nothing": "437[]",
    "acknowledgement-without-id": "43[]",
    "acknowledgement-that-is-no-array": "437{}",
    "binary-event": '451-["balance:update",{"_placeholder":true,"num":0}]',
    "binary-event-without-count": '45["ping"]',
    "binary-event-elsewhere": '451-/other,["ping"]',
    "binary-acknowledgement": '461-7[{"_placeholder":true,"num":0}]',
}


@pytest.mark.parametrize("kind", [SocketClient, PollingClient])
async def test_every_socket_io_packet_is_answered(service: Service, kind: type[SocketClient | PollingClient]) -> None:
    client = await kind.connect(service.url)
    for name, packet in ANSWERED.items():
        await client.send_raw(packet)
        answer = str(await client.next_frame(ANSWER_S_MAX))
        assert answer.startswith(('42["balance:error",{', '44{"', '44/other,{"')), (name, answer)
        await client.emit("ping")
        await client.expect("pong")
    await client.close()


@pytest.mark.parametrize("kind", [SocketClient, PollingClient])
async def test_an_update_sent_as_bytes_is_answered(service: Service, kind: type[SocketClient | PollingClient]) -> None:
    client = await kind.connect(service.url)
    for data in (UPDATE_PACKET.encode(), UPDATE_PACKET[1:].encode(), b"", b"\x83\xa4type\x02"):
        await client.send_raw(data)
        error = await client.expect("balance:error", ANSWER_S_MAX)
        check_error(error, "invalid_payload")
        assert error["error"] == "payload: must be text, not binary"
    await client.close()


@pytest.mark.parametrize("kind", [SocketClient, PollingClient])
async def test_a_binary_event_and_its_attachments_get_one_answer(
    service: Service, kind: type[SocketClient | PollingClient]
) -> None:
    client = await kind.connect(service.url)
    for count in (1, 2, 10):
        await client.send_raw(f'45{count}-["balance:update",{{"_placeholder":true,"num":0}}]')
        for _ in range(count):
            await client.send_raw(b"\x01\x02")
        await client.emit("ping")
        await client.expect("balance:error")
        await client.expect("pong")
    await client.send_raw(b"one too many")
    await client.expect("balance:error")
    await client.send_raw('45999999999-["balance:update"]')
    for _ in range(12):
        await client.send_raw(b"")
    assert [(await client.next_event())[0] for _ in range(3)] == ["balance:error"] * 3
    await client.close()


async def test_a_client_that_never_connects_gets_a_close_frame_with_the_reason(make_service) -> None:
    service = await make_service(connect_ms_max=200)
    client = await RawSocket.open(service.url)
    assert await client.read_close() == (1008, "no CONNECT came within 0.2 s")
    await client.close()


# Polling -------------------------------------------------------------------------------------------------

NO_LIST_OF_PACKETS = {
    "text": b"abc",
    "nothing": b"",
    "an-empty-packet": b'42["ping"]\x1e',
    "bad-utf8": b'42["ping\xff"]',
    "open": b"0",
    "ping": b"2",
    "probe": b"2probe",
    "upgrade": b"5",
    "noop": b"6",
    "unknown": b"7",
    "bad-base64": b"b!!!!",
    "truncated-base64": b"bAQI",
    "jsonp": b"d=40",
    "length-prefixed": b'12:42["ping"]',
    "good-and-bad": b'42["ping"]\x1ex',
}


@pytest.mark.parametrize("body", NO_LIST_OF_PACKETS.values(), ids=NO_LIST_OF_PACKETS)
async def test_a_post_without_a_list_of_packets_gets_400_and_ends_its_session(service: Service, body: bytes) -> None:
    client = await PollingClient.open(service.url, poll=False)
    await client.send_raw("40")
    await client.poll()
    await client.take_connect()
    poll = asyncio.ensure_future(client.http.fetch(client.url))
    await until(lambda: service.app.server.eio.sockets[client.handshake["sid"]].queue._arrival is not None)
    response = await client.http.fetch(client.url, "POST", body)
    assert response.status == 400
    check_error(response.raw)
    assert (await poll).status == 200
    assert (await poll).raw == b"1"
    again = await client.http.fetch(client.url)
    assert again.status == 400
    check_error(again.body, "invalid_payload")
    assert not service.app.watchers
    await client.close()


async def test_packets_before_a_close_packet_are_taken_and_those_after_it_are_not(service: Service) -> None:
    client = await PollingClient.connect(service.url)
    update = f'42["balance:update",{dumps(UPDATE)}]'
    response = await client.http.fetch(client.url, "POST", SEPARATOR.join([update, "1", update]))
    assert (response.status, response.raw) == (200, b"ok")
    await client.await_closed()
    await until(lambda: service.app.feed.head.seq == 1)
    listed = json.loads((await client.http.fetch(f"{service.url}/api/balance/snapshot")).raw)
    assert listed["pagination"]["total"] == 1
    await client.close()
