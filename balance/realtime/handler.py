"""The Socket.IO path: refuses by HTTP status, before an upgrade, what the library would accept and leave hanging;
and reads a client's frames no faster than they are answered, so that TCP holds back a sender that floods.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from urllib.parse import parse_qs

from engineio.async_socket import AsyncSocket
from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream
from tornado.websocket import WebSocketHandler, WebSocketProtocol13

import protocol
from balance.cors import Origins
from balance.realtime.frames import FrameReader
from balance.realtime.inbox import Inbox
from balance.realtime.server import SocketServer
from balance.web import Answers

log = logging.getLogger("balance.realtime")

NO_HEADERS = HTTPHeaders()
PROTOCOL_ERROR = 1002  # RFC 6455, section 7.4.1
PACKETS_MAX = 16_384  # in one polling request: the library takes all of them apart at once
SEPARATOR = "\x1e"  # between the packets of one polling request
CLOSE = "1"
NOOP = "6"
FROM_CLIENT = frozenset("123456")  # Engine.IO packet types that a client may send on a WebSocket; 4 is a message
FROM_POLLING_CLIENT = frozenset("134")


class EngineHandler(Answers, WebSocketHandler):
    """The Socket.IO path: refuses by HTTP status, hands on the rest, reads no faster than is answered."""

    # Beside Tornado's own attributes: with more than 30 in one dict it would be a kilobyte larger for each client.
    __slots__ = ("_inbox", "client", "iostream", "is_ready", "reader", "server", "take_update", "watchers_max")

    methods = ("GET", "POST", "OPTIONS")

    def initialize(
        self,
        *,
        server: SocketServer,
        origins: Origins,
        is_ready: Callable[[], bool],
        watchers_max: int,
        body_bytes_max: int,
        take_update: Callable[[str, str], bool],
    ) -> None:
        self.take_update = take_update
        self.body_bytes_max = body_bytes_max
        self.server = server
        self.origins = origins
        self.is_ready = is_ready
        self.watchers_max = watchers_max
        self.client: AsyncSocket | None = None  # the session that this WebSocket carries
        self.iostream: IOStream | None = None  # once upgraded
        self.reader: asyncio.Task[None] | None = None
        self._inbox = Inbox()

    def _upgrades(self) -> bool:
        return self.request.headers.get("Upgrade", "").lower() == "websocket"

    def _check_query(self) -> None:
        """Refuse what Engine.IO would accept first and leave hanging afterwards."""
        query = parse_qs(self.request.query)  # as the library reads it
        transport = query.get("transport", ["polling"])[0]
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
            raise protocol.InvalidPayload("this session is unknown or has ended", "sid")
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
        headers = self.request.headers
        if "upgrade" not in [part.strip().lower() for part in headers.get("Connection", "").split(",")]:
            raise protocol.InvalidPayload("must be Upgrade", "Connection")
        if headers.get("Sec-WebSocket-Version") != "13" or "Sec-WebSocket-Key" not in headers:
            raise protocol.InvalidPayload("version 13 and a key are required (RFC 6455)", "Sec-WebSocket-Key")

    def _check_packets(self) -> None:
        """Refuse a polling request that holds too many packets, or what is none: the library would drop all of it and
        answer 200."""
        body = self.read_body()
        if body.count(SEPARATOR.encode()) >= PACKETS_MAX:
            raise protocol.PayloadTooLarge(f"holds more than {PACKETS_MAX} packets", "payload")
        try:
            packets = body.decode().split(SEPARATOR)
        except UnicodeDecodeError as error:
            raise protocol.MalformedJson("is not valid UTF-8", "payload") from error
        # A binary packet follows the event it belongs to, which is refused already.
        packets = [packet for packet in packets if not packet.startswith("b")]
        if not all(packet[:1] in FROM_POLLING_CLIENT for packet in packets):
            raise protocol.MalformedJson("is not a list of Engine.IO packets", "payload")
        self.request.body = SEPARATOR.join(packets).encode()
        # The library reads as many bytes as this says, and a chunked request does not say it.
        self.request.headers["Content-Length"] = str(len(self.request.body))

    async def on_get(self, *_path: str) -> None:
        self._check_query()
        if self._upgrades():
            self._check_upgrade()
            await WebSocketHandler.get(self)
        else:
            await self.server.handle_request(self)
            if self.client is not None:
                self.client.queue.settle()

    async def on_post(self) -> None:
        self._check_query()
        self._check_packets()
        await self.server.handle_request(self)

    def open(self, *args: str, **kwargs: str) -> None:
        assert self.ws_connection is not None
        self.iostream = self.ws_connection.stream
        self.reader = asyncio.ensure_future(self._serve())

    def forget_request(self) -> None:
        """Drop what was only for the upgrade: it would live as long as the connection, and be ten kilobytes."""
        self.request.headers = self._headers = NO_HEADERS
        self.request.arguments = self.request.query_arguments = self.request.body_arguments = {}
        self.request.connection = self.request.server_connection = None
        self.ui = None  # type: ignore[assignment]

    async def _serve(self) -> None:
        """Carry a session until it ends; a WebSocket that Engine.IO does not take is closed, not left open."""
        try:
            await self.server.handle_request(self)
        except ValueError as error:  # of the library: a probe that is no packet
            log.debug("a WebSocket was given up: %s", error)
        finally:
            if self.client is not None:
                self.client.upgrading = False  # a probe that broke off must not stop the polling
                if self.server.eio.websockets.get(self.client.sid) is self:
                    del self.server.eio.websockets[self.client.sid]
            self.close()

    def on_message(self, message: str | bytes) -> asyncio.Future[None] | None:
        if isinstance(message, bytes):
            return None  # part of a binary event, which is refused already
        kind = message[:1]
        if kind not in FROM_CLIENT:
            self.close(PROTOCOL_ERROR, "not an Engine.IO packet")
            return None
        if kind == CLOSE:
            self.close()  # of the library's own close the WebSocket would hear nothing
            return None
        if self.client is not None:
            self.server.eio.note_alive(self.client.sid)
        if self._inbox.is_awaited and self.client is not None and self.take_update(self.client.sid, message):
            if self._inbox.awaited_s <= self.server.eio.ping_interval:
                return None
            message = NOOP  # the library takes a longer wait for a lost client, and does not see what is taken here
        return self._inbox.put(message)  # Tornado reads no further frame until this is done

    def get_next_message(self) -> asyncio.Future[str]:
        """Give the next frame, or OSError when there will be none."""
        return self._inbox.get()

    def abort(self) -> None:
        """Close the connection under the WebSocket at once; the reader and the writer then end by themselves."""
        if self.iostream is not None:
            self.iostream.close()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self.client is not None and self.iostream is None and self.request.method == "GET":
            self.server.eio.end(self.client)  # its poll broke off; what the poll took with it is lost

    def on_close(self) -> None:
        self._inbox.end()

    def get_websocket_protocol(self) -> FrameReader:
        made = super().get_websocket_protocol()
        assert isinstance(made, WebSocketProtocol13), "any other version was refused before"
        return FrameReader(self, made.mask_outgoing, made.params, on_write=self._forget_way)

    def _forget_way(self) -> None:
        """Let nothing into the midst of a frame that Tornado writes, and nothing after the one that closes."""
        if self.client is not None:
            self.client.queue.way = None

    def check_origin(self, origin: str) -> bool:
        """Whether the origin may call was decided in `check_caller`, as for every other request."""
        return True

    def get_compression_options(self) -> None:
        """No deflate: it costs 160 kB a client, and a compression for each client and message."""
