"""The Socket.IO path: refuses by HTTP status, before an upgrade, what the library would accept and leave hanging;
and reads a client's frames no faster than they are answered, so that TCP holds back a sender that floods.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from engineio import packet as eio_packet
from engineio.async_socket import AsyncSocket
from engineio.packet import Packet
from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, WebSocketProtocol13

import protocol
from balance.aio.loop_budget import LoopBudget
from balance.realtime.frames import NORMAL, POLICY, PROTOCOL_ERROR, FrameReader
from balance.realtime.receive_queue import Inbox
from balance.realtime.server import SocketServer
from balance.web.base import JsonHandler
from balance.web.cors import OriginPolicy
from balance.web.http_connection import Exchange

NO_HEADERS = HTTPHeaders()
PACKETS_MAX = 16_384  # in one polling request: all of them are taken apart at once
POLL_PACKETS_MAX = 16  # in one answer: the clients of python-socketio drop the connection over more
SEPARATOR = "\x1e"  # between the packets of one polling request
# Engine.IO 4: a client sends CLOSE, PONG, MESSAGE and, by polling, BINARY; NOOP is sent to it.
CLOSE, PONG, MESSAGE, NOOP, BINARY = "1", "3", "4", "6", "b"
UPGRADE = ("2probe", "5")  # what it sends before, on a WebSocket that takes a session over from its polls
KEY = re.compile("[A-Za-z0-9+/]{22}==")  # 16 bytes (RFC 6455, section 4.2.1)
ENDED = "this session is unknown or has ended"


class EngineHandler(JsonHandler, WebSocketHandler):
    """The Socket.IO path: refuses by HTTP status, hands on the rest, reads no faster than is answered."""

    # Beside Tornado's own attributes: with more than 30 in one dict it would be a kilobyte larger for each client.
    __slots__ = (
        "_inbox",
        "_polling",
        "_upgrade",
        "budget",
        "client",
        "iostream",
        "is_ready",
        "reader",
        "server",
        "take_update",
        "watchers_max",
    )

    operation = None  # the CONNECT packet and each event ask
    methods = ("GET", "POST", "OPTIONS")

    def initialize(
        self,
        *,
        server: SocketServer,
        origins: OriginPolicy,
        budget: LoopBudget,
        is_ready: Callable[[], bool],
        watchers_max: int,
        body_bytes_max: int,
        take_update: Callable[[str, str], bool],
    ) -> None:
        self.take_update = take_update
        self.body_bytes_max = body_bytes_max
        self.server = server
        self.budget = budget
        self.origins = origins
        self.is_ready = is_ready
        self.watchers_max = watchers_max
        self.client: AsyncSocket | None = None  # the session that this WebSocket carries
        self.iostream: IOStream | None = None  # once upgraded
        self.reader: asyncio.Task[None] | None = None
        self._inbox = Inbox()
        self._upgrade: tuple[str, ...] = ()  # frames that an upgrade still needs
        self._polling: tuple[str, str] | None = None  # the session and the method of a polling request

    def prepare(self) -> Awaitable[None] | None:
        """Note a polling request of a session from its head on: its body may take long, and it must be the only one."""
        sid = parse_qs(self.request.query).get("sid", [""])[0]
        method = self.request.method or ""
        if sid in self.server.eio.sockets and not self._upgrades() and self.server.eio.acquire_polling(sid, method):
            self._polling = sid, method
        return super().prepare()

    def on_finish(self) -> None:
        self._release_polling()

    def _release_polling(self) -> None:
        if self._polling is not None:
            self.server.eio.release_polling(*self._polling)
            self._polling = None

    def _upgrades(self) -> bool:
        return self.request.headers.get("Upgrade", "").lower() == "websocket"

    def _check_query(self) -> None:
        """Refuse what Engine.IO would accept first and leave hanging afterwards."""
        query = parse_qs(self.request.query)  # as the library reads it
        transport = query.get("transport", [""])[0]
        if transport not in ("polling", "websocket"):
            raise protocol.InvalidPayload("must be polling or websocket", "transport")
        if (transport == "websocket") != self._upgrades():
            raise protocol.InvalidPayload("does not fit the request's Upgrade header", "transport")
        if "j" in query:
            raise protocol.InvalidPayload("JSONP is not served", "j")
        if "sid" not in query:
            self._check_handshake(query.get("EIO"))
            return
        client = self.server.eio.sockets.get(query["sid"][0])
        if client is None or client.closed or client.closing or not client.connected:
            raise protocol.InvalidPayload(ENDED, "sid")
        if client.upgraded or (transport == "websocket" and client.upgrading):
            raise protocol.InvalidPayload("this session has a WebSocket already", "sid")
        self.client = client

    def _check_handshake(self, version: list[str] | None) -> None:
        if self.request.method != "GET":
            raise protocol.InvalidPayload("is required", "sid")
        if version != ["4"]:
            raise protocol.InvalidPayload("must be 4, as socket.io-client 3 and 4 send it; 2 is too old", "EIO")
        if not self.is_ready():
            raise protocol.Unavailable("the server has no database yet, or is stopping")
        if len(self.server.eio.sockets) >= self.watchers_max:
            raise protocol.Busy(f"{self.watchers_max} clients are connected already")

    def _check_upgrade(self) -> None:
        """Refuse all that Tornado would refuse in words of its own (RFC 6455, section 4.2.1)."""
        headers = self.request.headers
        if self.request.version == "HTTP/1.0":
            raise protocol.InvalidPayload("must end in HTTP/1.1 for a WebSocket", "request line")
        if not headers.get("Host"):
            raise protocol.InvalidPayload("must not be empty for a WebSocket", "Host")
        # Browsers send Origin with each WebSocket, but some proxies are set up to drop it (Fetch Metadata, 2.3).
        if "Origin" not in headers and headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise protocol.Forbidden("a page of another site may not call without its Origin", "Sec-Fetch-Site")
        if "upgrade" not in [part.strip().lower() for part in headers.get("Connection", "").split(",")]:
            raise protocol.InvalidPayload("must be Upgrade", "Connection")
        if headers.get("Sec-WebSocket-Version") != "13":
            raise protocol.InvalidPayload("must be 13 (RFC 6455)", "Sec-WebSocket-Version")
        if not KEY.fullmatch(headers.get("Sec-WebSocket-Key", "")):
            raise protocol.InvalidPayload("must be 16 bytes in base64 (RFC 6455)", "Sec-WebSocket-Key")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        if self._upgrades() and self.request.headers.get("Sec-WebSocket-Version") != "13":
            self.set_header("Sec-WebSocket-Version", "13")  # RFC 6455, section 4.4
        super().write_error(status_code, **kwargs)

    async def on_get(self, *_path: str) -> None:
        self._check_query()
        if self._upgrades():
            self._check_upgrade()
            # None is accepted, and Tornado would parse the list of them in a time that grows with its square.
            self.request.headers.pop("Sec-WebSocket-Extensions", None)
            await WebSocketHandler.get(self)
        elif self.client is not None:
            await self._poll(self.client)
        else:
            await self.server.handle_request(self)
            if self.client is not None:
                self.client.queue.settle()

    async def _poll(self, client: AsyncSocket) -> None:
        """Answer a poll when there is something to send."""
        self._check_alone(client)
        if client.upgrading:  # the poll that waited was answered when the upgrade began
            packets = [Packet(eio_packet.NOOP)]
        else:
            try:
                packets = await client.queue.take(POLL_PACKETS_MAX)
            except TimeoutError:
                raise protocol.InvalidPayload(ENDED, "sid") from None
        self._answer_text(SEPARATOR.join([packet.encode() for packet in packets]))

    async def on_post(self) -> None:
        self._check_query()
        assert self.client is not None, "a handshake by POST was refused"
        self._check_alone(self.client)
        try:
            packets = read_packets(self.read_body())
            await self._take(self.client, packets)
        except (protocol.InvalidPayload, protocol.MalformedJson):
            self._end_by_close_packet(self.client)
            raise
        self._answer_text("ok")

    def _check_alone(self, client: AsyncSocket) -> None:
        """End a session that has two requests of one method under way, as Engine.IO demands. Raises InvalidPayload."""
        if self._polling is None:
            self._end_by_close_packet(client)
            raise protocol.InvalidPayload(f"two {self.request.method} requests of one session at once", "sid")

    def _end_by_close_packet(self, client: AsyncSocket) -> None:
        """End a session for a fault of its client; a poll that waits is answered by a CLOSE packet."""
        client.queue.put_nowait(Packet(eio_packet.CLOSE))
        self.server.eio.end(client)

    async def _take(self, client: AsyncSocket, packets: list[Packet]) -> None:
        """Take the packets of a request in order, no faster than polls bring the answers to them.

        Raises InvalidPayload if the session ends meanwhile.
        """
        is_polling = True
        for packet in packets:
            if self.budget.is_turn_over():
                await asyncio.sleep(0)
            self.server.eio.note_alive(client.sid)
            is_polling = is_polling and await self.server.eio.wait_for_polls(client)
            if packet.packet_type == eio_packet.MESSAGE:
                await self.server.receive(client.sid, packet.data)
                if client.closed:
                    raise protocol.InvalidPayload(ENDED, "sid")
            elif packet.packet_type == eio_packet.CLOSE:
                client.queue.put_nowait(Packet(eio_packet.NOOP))  # for the poll that waits: it is not to fail
                await client.receive(packet)
                return
            else:
                await client.receive(packet)

    def _answer_text(self, text: str) -> None:
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(text)

    def open(self, *args: str, **kwargs: str) -> None:
        assert self.ws_connection is not None
        self.iostream = self.ws_connection.stream
        if self.client is not None:
            self._upgrade = UPGRADE
        self.reader = asyncio.ensure_future(self._serve_within_budget(str(self.request.remote_ip)))

    def forget_request(self) -> None:
        """Drop what was only for the upgrade: it would live as long as the connection, and be ten kilobytes."""
        self.request.headers = self._headers = NO_HEADERS
        self.request.arguments = self.request.query_arguments = self.request.body_arguments = {}
        self.request.connection = self.request.server_connection = None
        self.ui = None  # type: ignore[assignment]

    async def _serve_within_budget(self, ip: str) -> None:
        await self.budget.run(ip, self._serve())

    async def _serve(self) -> None:
        """Carry a session until it ends; a WebSocket that Engine.IO does not take is closed, not left open."""
        try:
            await self.server.handle_request(self)
        finally:
            if self.client is not None:
                self.client.upgrading = False  # a probe that broke off must not stop the polling
                if self.server.eio.websockets.get(self.client.sid) is self:
                    del self.server.eio.websockets[self.client.sid]
            self.close(POLICY, ENDED)

    def fail(self, code: int, reason: str) -> None:
        """Close the WebSocket for a fault of its client; the session ends too, unless it is still polling."""
        if self.client is not None and self.client.upgraded:
            self.server.eio.end(self.client, close=(code, reason))
        else:
            self.close(code, reason)

    def on_message(self, message: str | bytes) -> asyncio.Future[None] | None:
        if not isinstance(message, str) or message[:1] != MESSAGE or self._upgrade or self.ws_connection is None:
            return self._on_other(message)
        if self.client is not None:
            self.server.eio.note_alive(self.client.sid)
        if self._inbox.is_awaited and self.client is not None and self.take_update(self.client.sid, message):
            if self._inbox.awaited_s <= self.server.eio.ping_interval:
                return None
            message = NOOP  # the library takes a longer wait for a lost client, and does not see what is taken here
        elif not message[1:2].isnumeric():
            message = MESSAGE  # the library would read the rest as JSON, and a text in it as a packet of its own
        return self._inbox.put(message)  # Tornado reads no further frame until this is done

    def _on_other(self, message: str | bytes) -> asyncio.Future[None] | None:
        """Take what is no text message of Engine.IO, or has come during an upgrade, or after the close."""
        if self.ws_connection is None:
            return None
        if self._upgrade:
            expected, *more = self._upgrade
            self._upgrade = tuple(more)
            if message == expected:
                return self._inbox.put(message)
            self.fail(PROTOCOL_ERROR, f"an upgrade takes {' and then '.join(UPGRADE)}")
        elif isinstance(message, bytes):
            return self._inbox.put(message)  # it is rejected in its place among the others
        elif message[:1] == PONG:
            if self.client is not None:
                self.server.eio.note_alive(self.client.sid)
            return self._inbox.put(PONG)
        elif message == CLOSE:
            self.close(NORMAL, "the client has ended its session")
        else:
            self.fail(PROTOCOL_ERROR, "a client sends Engine.IO packets of the types 1, 3 and 4 only")
        return None

    def get_next_message(self) -> asyncio.Future[str | bytes]:
        """Give the next frame, or OSError when there will be none."""
        return self._inbox.get()

    def abort(self) -> None:
        """Close the connection under the WebSocket at once; the reader and the writer then end by themselves."""
        if self.iostream is not None:
            self.iostream.close()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        RequestHandler.on_connection_close(self)  # which Tornado's WebSocketHandler does not call: it ends a body
        if self.client is None:  # its body did not come to the end; once it is served, `on_finish` is called
            self._release_polling()
        if self.client is not None and self.iostream is None and self.request.method == "GET":
            self.server.eio.end(self.client)  # its poll broke off; what the poll took with it is lost

    def on_close(self) -> None:
        self._inbox.end()

    def get_websocket_protocol(self) -> FrameReader:
        made = super().get_websocket_protocol()
        connection = self.request.connection
        assert isinstance(connection, Exchange)
        assert isinstance(made, WebSocketProtocol13), "any other version was refused before"
        return FrameReader(
            self,
            made.mask_outgoing,
            made.params,
            is_over=self.budget.is_turn_over,
            on_fault=self.fail,
            on_write=self._forget_way,
            linger=connection.closer.linger,
        )

    def _forget_way(self) -> None:
        """Let nothing into the midst of a frame that Tornado writes, and nothing after the one that closes."""
        if self.client is not None:
            self.client.queue.way = None

    def check_origin(self, origin: str) -> bool:
        """Whether the origin may call was decided in `check_page_origin`, as for every other request."""
        return True

    def get_compression_options(self) -> None:
        """No deflate: it costs 160 kB a client, and a compression for each client and message."""


def read_packets(body: bytes) -> list[Packet]:
    """Take the body of a polling request apart; the library would drop a bad one whole and answer 200.

    Raises PayloadTooLarge if it holds too many packets, MalformedJson if it is no list of packets.
    """
    if body.count(SEPARATOR.encode()) >= PACKETS_MAX:
        raise protocol.PayloadTooLarge(f"holds more than {PACKETS_MAX} packets", "payload")
    try:
        return [read_packet(text) for text in body.decode().split(SEPARATOR)]
    except UnicodeDecodeError as error:
        raise protocol.MalformedJson("is not valid UTF-8", "payload") from error


def read_packet(text: str) -> Packet:
    """Make a packet of its text, and leave what a message holds to Socket.IO. Raises MalformedJson."""
    if text[:1] == BINARY:
        try:
            return Packet(eio_packet.MESSAGE, b64decode(text[1:], validate=True))
        except ValueError as error:
            raise protocol.MalformedJson("is not base64 after the b of a binary packet", "payload") from error
    if text != CLOSE and text[:1] not in (PONG, MESSAGE):
        raise protocol.MalformedJson("is not a list of Engine.IO packets of the types 1, 3 and 4", "payload")
    return Packet(int(text[0]), text[1:])
