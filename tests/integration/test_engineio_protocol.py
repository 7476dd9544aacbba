"""Engine.IO 4, exchange by exchange, as its protocol's own test suite (socketio/engine.io-protocol) goes through it.

Rewritten: without the echo of that suite, at this service's path, and with its heartbeat in whole seconds.
docs/clients.md lists where the service deviates, each with its reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from tornado.httpclient import HTTPClientError

from protocol import dumps, loads
from tests.support.http_client import Connection, HttpClient, Reply
from tests.support.payloads import UPDATE
from tests.support.postgres import LOCK_FEED
from tests.support.raw_clients import PATH, SEPARATOR, WAIT_S, PollingClient, SocketClient, open_websocket
from tests.support.raw_websocket import HANDSHAKE, RawSocket, text_frame
from tests.support.refusals import check_error, refusal_of_websocket
from tests.support.service import Database, MakeService, Service
from tests.support.waiting import until

POLLING, WEBSOCKET = "EIO=4&transport=polling", "EIO=4&transport=websocket"
NOT_ACCEPTED = ["", "EIO=4", "EIO=4&transport=", "EIO=4&transport=abc", "EIO=4&sid=x"]
NOT_ACCEPTED += [
    f"{version}transport={{}}" for version in ("", "EIO=abc&", "EIO=3&", "EIO=&", "EIO=5&", "EIO=4&EIO=4&")
]

UPGRADE_STEPS = ["before", "opened", "posted", "probed", "upgraded"]  # at which the updates are saved


class Polling:
    """A session whose polling requests are sent one by one."""

    def __init__(self, service: Service, http: HttpClient, handshake: dict[str, Any]) -> None:
        self.http = http
        self.sid = handshake["sid"]
        self.url = f"{service.url}{PATH}/?{POLLING}&sid={self.sid}"
        self._service = service

    async def get(self) -> tuple[int, bytes]:
        response = await self.http.fetch(self.url)
        return response.status, response.raw

    async def post(self, body: str) -> tuple[int, bytes]:
        response = await self.http.fetch(self.url, "POST", body)
        return response.status, response.raw

    async def start_poll(self) -> asyncio.Future[tuple[int, bytes]]:
        """Send a GET, and return when the server has it wait."""
        poll = asyncio.ensure_future(self.get())
        await until(lambda: self._service.app.server.eio.sockets[self.sid].queue._arrival is not None)
        return poll

    async def check_ended(self) -> None:
        """Check that the session has ended, and that the error has a reason."""
        status, body = await self.get()
        assert status == 400
        check_error(body, "invalid_payload")


def is_polling(service: Service) -> bool:
    """Return whether a polling request of any session is under way."""
    return any(session.is_polling for session in service.app.server.eio.sessions.values())


@asynccontextmanager
async def polling(service: Service) -> AsyncIterator[Polling]:
    http = HttpClient()
    opened = await http.fetch(f"{service.url}{PATH}/?{POLLING}")
    assert opened.status == 200
    yield Polling(service, http, loads(opened.raw[1:]))
    http.close()


# Handshake -----------------------------------------------------------------------------------------------


async def test_a_session_opens_by_polling_and_by_websocket(service: Service) -> None:
    for kind, upgrades in ((PollingClient, ["websocket"]), (SocketClient, [])):
        client = await kind.open(service.url)
        assert isinstance(client.handshake.pop("sid"), str)
        assert client.handshake == {
            "upgrades": upgrades,
            "pingInterval": 25_000,
            "pingTimeout": 20_000,
            "maxPayload": 1_000_000,
        }
        await client.close()


async def test_a_handshake_without_a_known_version_or_transport_is_refused_with_400(service: Service) -> None:
    http = HttpClient()
    for query in NOT_ACCEPTED:
        response = await http.fetch(f"{service.url}{PATH}/?{query.format('polling')}")
        assert (query, response.status) == (query, 400)
        check_error(response.raw, "invalid_payload")
        status, body = await refusal_of_websocket(service.url, query=query.format("websocket"))
        assert (query, status) == (query, 400)
        check_error(body, "invalid_payload")
    http.close()
    assert not service.app.server.eio.sockets


async def test_a_handshake_by_another_method_is_refused(service: Service) -> None:
    http = HttpClient()
    for method, status in (("POST", 400), ("PUT", 405), ("DELETE", 405), ("HEAD", 405)):
        response = await http.fetch(
            f"{service.url}{PATH}/?{POLLING}", method, b"" if method in ("POST", "PUT") else None
        )
        assert (method, response.status) == (method, status)
        if method != "HEAD":
            check_error(response.raw)
    http.close()


async def ask_for_websocket(service: Service, **headers: str) -> Reply:
    """Ask for an upgrade as a client does, but for these headers."""
    usual = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    async with Connection.to(service.port) as connection:
        return await connection.ask("GET", f"{PATH}/?{WEBSOCKET}", **{**usual, **headers})


async def test_another_websocket_version_is_refused_with_400_and_the_one_that_is_spoken(service: Service) -> None:
    for version in ({"Sec_WebSocket_Version": "8"}, {"Sec_WebSocket_Version": "14"}, {}):
        reply = await ask_for_websocket(service, **version)
        assert reply.status == 400
        assert reply.headers["Sec-WebSocket-Version"] == "13"
        check_error(reply.body, "invalid_payload")


async def test_a_websocket_key_that_is_not_16_bytes_is_refused_with_400(service: Service) -> None:
    for key in ("", "x", "AAAAAAAAAAAAAAAAAAAAAA", "A" * 24, "!" * 22 + "=="):
        reply = await ask_for_websocket(service, Sec_WebSocket_Version="13", Sec_WebSocket_Key=key)
        assert (key, reply.status) == (key, 400)
        assert "Sec-WebSocket-Version" not in reply.headers
        check_error(reply.body, "invalid_payload")


async def test_a_websocket_that_tornado_would_refuse_is_refused_with_a_json_error(make_service: MakeService) -> None:
    service = await make_service(allow_anonymous=True, hosts=("*",))
    usual = (
        f"GET {PATH}/?{WEBSOCKET} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    refused = [
        (usual.replace("HTTP/1.1", "HTTP/1.0"), 400, "request line"),
        (usual.replace("HTTP/1.1\r\nHost: x", "HTTP/1.0"), 400, "request line"),
        (usual.replace("Host: x", "Host:"), 400, "Host"),
        (usual + "Sec-Fetch-Site: cross-site\r\n", 403, "Sec-Fetch-Site"),
        (usual + "Sec-Fetch-Site: same-site\r\n", 403, "Sec-Fetch-Site"),
        (usual + "Sec-Fetch-Site: same-origin\r\n", 101, ""),
        (usual + "Sec-Fetch-Site: cross-site\r\nOrigin: http://x\r\n", 101, ""),
    ]
    for head, status, path in refused:
        async with Connection.to(service.port) as connection:
            await connection.send(f"{head}\r\n".encode())
            reply = await connection.read_reply()
            assert (head, reply.status) == (head, status)
            if path:
                assert reply.body["error"].startswith(f"{path}: ")
                check_error(reply.body)


# Polling -------------------------------------------------------------------------------------------------


async def test_a_post_of_one_or_several_packets_is_answered_ok(service: Service) -> None:
    async with polling(service) as session:
        assert await session.post("40") == (200, b"ok")
        status, body = await session.get()
        assert (status, body[:3]) == (200, b"40{")
        assert await session.post(SEPARATOR.join(['42["ping"]', '427["ping"]', "3"])) == (200, b"ok")
        packets = (await session.get())[1].decode().split(SEPARATOR)
        assert [packet[: packet.index("{")] for packet in packets] == ['42["pong",', '42["pong",', "437["]


async def test_two_polls_of_one_session_at_once_end_it(service: Service) -> None:
    async with polling(service) as session:
        first = await session.start_poll()
        status, body = await session.get()
        assert status == 400
        check_error(body, "invalid_payload")
        assert await first == (200, b"1")
        await session.check_ended()


async def test_two_posts_of_one_session_at_once_end_it(service: Service) -> None:
    async with polling(service) as session, Connection.to(service.port) as slow:
        head = f"POST {PATH}/?{POLLING}&sid={session.sid} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n"
        await slow.send(head.encode() + b"4")
        await until(lambda: is_polling(service))
        poll = await session.start_poll()
        status, body = await session.post("40")
        assert status == 400
        check_error(body, "invalid_payload")
        assert await poll == (200, b"1")
        await slow.send(b"0")
        assert (await slow.read_reply()).status == 400
        await session.check_ended()
    await until(lambda: not is_polling(service))


async def test_a_poll_that_breaks_off_ends_its_session_and_is_forgotten(service: Service) -> None:
    async with polling(service) as session:
        poll = await session.start_poll()
    with pytest.raises(HTTPClientError):
        await poll
    await until(lambda: not is_polling(service))
    await until(lambda: not service.app.server.eio.sockets)


async def test_a_post_that_breaks_off_leaves_its_session_to_the_next_one(service: Service) -> None:
    async with polling(service) as session:
        async with Connection.to(service.port) as broken:
            head = f"POST {PATH}/?{POLLING}&sid={session.sid} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n"
            await broken.send(head.encode() + b"4")
            await until(lambda: is_polling(service))
        await until(lambda: not is_polling(service))
        assert await session.post("40") == (200, b"ok")


async def test_a_poll_brings_sixteen_packets_and_the_next_one_the_rest_at_once(service: Service) -> None:
    async with polling(service) as session:
        assert await session.post("40") == (200, b"ok")
        await session.get()
        pings = [f'42{number}["ping"]' for number in range(50)]
        assert await session.post(SEPARATOR.join(pings)) == (200, b"ok")
        polls = []
        while sum(map(len, polls)) < 100:
            polls.append((await session.get())[1].decode().split(SEPARATOR))
        assert max(map(len, polls)) == 16
        assert len(polls) == 7
        acknowledged = [packet for poll in polls for packet in poll if packet.startswith("43")]
        assert [packet[2 : packet.index("[")] for packet in acknowledged] == [str(number) for number in range(50)]


# Heartbeat -----------------------------------------------------------------------------------------------


async def test_the_server_pings_and_ends_a_session_that_does_not_answer(make_service: MakeService) -> None:
    service = await make_service(ping_interval_s=1, ping_timeout_s=1)
    socket, silent_socket = await RawSocket.open(service.url), await RawSocket.join(service.url)
    async with polling(service) as session, polling(service) as silent:
        pinged = asyncio.ensure_future(silent.get())
        for _ in range(2):
            assert await session.get() == (200, b"2")
            assert await session.post("3") == (200, b"ok")
            assert await socket.read_text(WAIT_S) == "2"
            await socket.send(text_frame("3"))
        assert await pinged == (200, b"2")
        await until(lambda: silent.sid not in service.app.server.eio.sockets)
        await silent.check_ended()
        assert await silent_socket.read_text(WAIT_S) == "2"
        assert await silent_socket.read_close(WAIT_S) == (1008, "no answer to the heartbeat came in time")
        assert await session.get() == (200, b"2")
    for client in (socket, silent_socket):
        await client.close()


# Close ---------------------------------------------------------------------------------------------------


async def test_a_close_packet_while_a_poll_waits_ends_the_poll_with_a_noop(service: Service) -> None:
    async with polling(service) as session:
        poll = await session.start_poll()
        assert await session.post("1") == (200, b"ok")
        assert await poll == (200, b"6")
        await session.check_ended()


async def test_a_close_packet_on_a_websocket_closes_it(service: Service) -> None:
    client = await RawSocket.open(service.url)
    await client.send(text_frame("1"))
    assert (await client.read_close())[0] == 1000
    await client.close()


# Upgrade -------------------------------------------------------------------------------------------------


async def upgrade(service: Service, session: Polling) -> RawSocket:
    """Go from polling to a WebSocket."""
    socket = await RawSocket.open(service.url, f"{WEBSOCKET}&sid={session.sid}")
    await socket.send(text_frame("2probe"))
    assert await socket.read_text() == "3probe"
    assert await session.get() == (200, b"6")
    await socket.send(text_frame("5"))
    return socket


async def test_a_session_goes_from_polling_to_a_websocket(service: Service) -> None:
    async with polling(service) as session:
        waiting = await session.start_poll()
        socket = await RawSocket.open(service.url, f"{WEBSOCKET}&sid={session.sid}")
        await socket.send(text_frame("2probe"))
        assert await socket.read_text() == "3probe"
        assert await waiting == (200, b"6")
        await socket.send(text_frame("5") + text_frame("40"))
        assert (await socket.read_text()).startswith("40{")
        assert (await socket.read_text()).startswith('42["connected",')
        await socket.send(text_frame(f'42["balance:update",{dumps(UPDATE)}]'))
        assert (await socket.read_text()).startswith('42["balance:ack",{"success":true')
        await socket.close()


async def test_after_an_upgrade_neither_polls_nor_another_websocket_are_taken(service: Service) -> None:
    async with polling(service) as session:
        socket = await upgrade(service, session)
        await until(lambda: service.app.server.eio.sockets[session.sid].upgraded)
        await session.check_ended()
        assert (await session.post("40"))[0] == 400
        assert (await refusal_of_websocket(service.url, query=f"{WEBSOCKET}&sid={session.sid}"))[0] == 400
        await socket.send(text_frame("40"))
        assert (await socket.read_text()).startswith("40{")
        await socket.close()


async def test_of_two_upgrades_in_one_turn_of_the_event_loop_one_is_rejected(service: Service) -> None:
    async with polling(service) as session:
        target = f"{PATH}/?{WEBSOCKET}&sid={session.sid}"
        head = HANDSHAKE.format(path=target, host=f"127.0.0.1:{service.port}").encode()
        pairs = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(2)]
        for _, writer in pairs:
            writer.write(head)
        answers = [await reader.readuntil(b"\r\n\r\n") for reader, _ in pairs]
        for _, writer in pairs:
            writer.close()
        assert sorted(answer[:12] for answer in answers) == [b"HTTP/1.1 101", b"HTTP/1.1 400"]


async def test_a_session_is_upgraded_by_one_websocket_at_a_time(service: Service) -> None:
    async with polling(service) as session:
        query = f"{WEBSOCKET}&sid={session.sid}"
        socket = await open_websocket(service.url, query=query)
        await until(lambda: service.app.server.eio.sockets[session.sid].upgrading)
        assert (await refusal_of_websocket(service.url, query=query))[0] == 400
        socket.close()


@pytest.mark.parametrize("is_polled", [False, True], ids=["no_poll", "poll"])
@pytest.mark.parametrize("step", UPGRADE_STEPS)
async def test_updates_around_an_upgrade_are_answered_once_whenever_they_are_saved(
    service: Service, database: Database, step: str, is_polled: bool
) -> None:
    async with polling(service) as session:
        assert await session.post("40") == (200, b"ok")
        assert (await session.get())[1].startswith(b"40{")
        with psycopg.connect(database.url) as lock:
            lock.execute(LOCK_FEED)  # so that nothing is answered

            async def reach(reached: str) -> None:
                if reached == step:
                    lock.rollback()
                    await until(lambda: service.app.server.eio.sessions[session.sid].in_flight == 0)

            await session.post(update(0))
            poll = await session.start_poll() if is_polled else None
            await reach("before")
            socket = await RawSocket.open(service.url, f"{WEBSOCKET}&sid={session.sid}")
            await reach("opened")
            await session.post(update(1))
            await reach("posted")
            await socket.send(text_frame("2probe"))
            assert await socket.read_text() == "3probe"
            packets = (await poll)[1].decode().split(SEPARATOR) if poll is not None else []
            await reach("probed")
            assert await session.get() == (200, b"6"), "what is queued is left to the WebSocket"
            await socket.send(text_frame("5") + text_frame(update(2)))
            await reach("upgraded")
            while not packets or not packets[-1].startswith("432["):
                packets.append(await socket.next_message())
        assert [packet[:4] for packet in packets if packet.startswith("43")] == ["430[", "431[", "432["]
        assert [packet[:15] for packet in packets if "ack" in packet[:15]] == ['42["balance:ack'] * 3
        await socket.close()


def update(number: int) -> str:
    """Return the packet of an update with this acknowledgement id."""
    return f'42{number}["balance:update",{dumps(UPDATE)}]'
