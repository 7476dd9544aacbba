"""The Socket.IO path: HTTP requests of Engine.IO, and the frames of its WebSockets.

Requests that the library would accept and leave without an answer are rejected by an HTTP status, before an upgrade.
The frames of a client are read no faster than they are answered, so that TCP holds back a client that floods.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from engineio import packet as eio_packet
from engineio.packet import Packet
from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler, WebSocketProtocol13

import protocol
from balance.realtime.connection import Connection
from balance.realtime.engine import Engine
from balance.realtime.frames import NORMAL, POLICY, PROTOCOL_ERROR, FrameReader
from balance.realtime.handshake import check_handshake, check_transport, check_upgrade, is_upgrade
from balance.realtime.polling import CLOSE, MESSAGE, NOOP, POLL_PACKETS_MAX, PONG, read_packets, write_packets
from balance.realtime.server import SocketServer
from balance.realtime.session import Session
from balance.refusals import SOCKET_IO
from balance.web.base import JsonHandler, check_size
from balance.web.http_connection import Exchange
from balance.web.watcher_limit import WatcherLimit

NO_HEADERS = HTTPHeaders()
UPGRADE = ("2probe", "5")  # the first frames on a WebSocket that carries on a session from its polls
ENDED = "this session is unknown or has ended"


class EngineHandler(JsonHandler, WebSocketHandler):
    """One request at the Socket.IO path, or one WebSocket."""

    # Beside Tornado's own attributes: a dict of over 30 is not shared, and a kilobyte larger for each client.
    __slots__ = (
        "_closer",
        "_polling",
        "authenticator",
        "budget",
        "connection",
        "context",
        "engine",
        "is_ready",
        "server",
        "session",
        "watcher_limit",
    )

    operation = None  # the CONNECT packet and each event ask
    methods = ("GET", "POST", "OPTIONS")
    logs_success = False  # its connection and its events have lines of their own
    transport = SOCKET_IO

    def initialize(  # type: ignore[override]  # Tornado passes the arguments of the route
        self, *, server: SocketServer, is_ready: Callable[[], bool], watcher_limit: WatcherLimit, **common: Any
    ) -> None:
        super().initialize(**common)
        self.server = server
        self.engine: Engine = server.eio
        self.is_ready = is_ready
        self.watcher_limit = watcher_limit
        self.session: Session | None = None  # the session of a polling request, or the one that this WebSocket carries
        self.connection: Connection | None = None  # once upgraded
        self._polling: Session | None = None  # whose polling request this is, from its head to its end

    def prepare(self) -> None:
        """Note a polling request of a session from its head on: its body may be slow, and it must be the only one."""
        session = self.engine.sessions.get(parse_qs(self.request.query).get("sid", [""])[0])
        if session is not None and not is_upgrade(self.request) and session.begin_polling(str(self.request.method)):
            self._polling = session
        super().prepare()
        if self.request_head.expects_continue and self.request.method == "POST":
            check_size(self.request_head.body_bytes, self.body_bytes_max)

    def on_finish(self) -> None:
        self._end_polling()

    def _end_polling(self) -> None:
        if self._polling is not None:
            self._polling.end_polling(str(self.request.method))
            self._polling = None

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        if is_upgrade(self.request) and self.request.headers.get("Sec-WebSocket-Version") != "13":
            self.set_header("Sec-WebSocket-Version", "13")  # RFC 6455, section 4.4
        super().write_error(status_code, **kwargs)

    def _check_query(self) -> None:
        """Find the session of a request. Raises ServiceError for what Engine.IO would accept and leave hanging."""
        query = parse_qs(self.request.query)  # as the library reads it
        transport = check_transport(self.request, query)
        if "sid" not in query:
            check_handshake(self.request, query)
            if not self.is_ready():
                raise protocol.Unavailable("the server has no database yet, or is stopping")
            self.watcher_limit.count_handshake(self.context.client)
            self.watcher_limit.check()
            return
        session = self.engine.sessions.get(query["sid"][0])
        if session is None or session.has_ended or not session.socket.connected:
            raise protocol.InvalidPayload(ENDED, "sid")
        if session.is_upgraded or (transport == "websocket" and session.connection is not None):
            raise protocol.InvalidPayload("this session has a WebSocket already", "sid")
        self.session = session

    async def on_get(self, *_path: str) -> None:
        self._check_query()
        if is_upgrade(self.request):
            check_upgrade(self.request, is_exempt=self.is_exempt)
            # No extension is accepted, and Tornado would parse the list of them in a time that grows with its square.
            self.request.headers.pop("Sec-WebSocket-Extensions", None)
            await WebSocketHandler.get(self)
        elif self.session is not None:
            await self._poll(self.session)
        else:
            await self.engine.handle_request(self)
            if self.session is not None:
                self.session.send_queue.recount()

    async def _poll(self, session: Session) -> None:
        """Answer a poll when there is something to send."""
        self._check_alone(session)
        if session.socket.upgrading:  # the poll that waited was answered when the upgrade began
            packets = [Packet(eio_packet.NOOP)]
        else:
            turns = self.engine.poll_turns
            packets = await session.send_queue.get_batch(POLL_PACKETS_MAX, turns, self.context.client)
            if not packets:
                raise protocol.InvalidPayload(ENDED, "sid")
        self._write_text(write_packets(packets))

    async def on_post(self) -> None:
        self._check_query()
        assert self.session is not None, "a handshake by POST was rejected"
        self._check_alone(self.session)
        try:
            await self._receive_packets(self.session, read_packets(self.read_body()))
        except (protocol.InvalidPayload, protocol.MalformedJson):
            self._end_by_close_packet(self.session)
            raise
        self._write_text("ok")

    def _check_alone(self, session: Session) -> None:
        """End a session that has two requests of one method under way, as Engine.IO demands. Raises InvalidPayload."""
        if self._polling is None:
            self._end_by_close_packet(session)
            raise protocol.InvalidPayload(f"two {self.request.method} requests of one session at once", "sid")

    def _end_by_close_packet(self, session: Session) -> None:
        """End a session for a fault of its client; a poll that waits is answered by a CLOSE packet."""
        session.send_queue.close(Packet(eio_packet.CLOSE))
        self.engine.abort_session(session)

    async def _receive_packets(self, session: Session, packets: list[Packet]) -> None:
        """Handle the packets of a request in order, no faster than polls fetch the answers to them.

        Raises InvalidPayload if the session ends meanwhile.
        """
        is_polling = True
        for packet in packets:
            if self.budget.is_turn_over():
                await asyncio.sleep(0)
            self.engine.touch(session)
            is_polling = is_polling and await self.engine.sender.wait_for_polls(session)
            if packet.packet_type == eio_packet.MESSAGE:
                await self.server.receive(session, packet.data)
                if session.socket.closed:
                    raise protocol.InvalidPayload(ENDED, "sid")
            elif packet.packet_type == eio_packet.CLOSE:
                session.send_queue.close(Packet(eio_packet.NOOP))  # for the poll that waits: it must not fail
                await session.socket.receive(packet)
                return
            else:
                await session.socket.receive(packet)

    def _write_text(self, text: str) -> None:
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(text)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        RequestHandler.on_connection_close(self)  # which Tornado's WebSocketHandler does not call: it ends a body
        if self.session is None:  # the body has not ended; once a request is served, `on_finish` is called
            self._end_polling()
        elif self.connection is None and self.request.method == "GET":
            self.engine.abort_session(self.session)  # its poll broke off; what was sent with it is lost

    def get_websocket_protocol(self) -> FrameReader:
        made = super().get_websocket_protocol()
        http = self.request.connection
        assert isinstance(made, WebSocketProtocol13), "any other version was rejected before"
        assert isinstance(http, Exchange)
        self._closer = http.closer
        return FrameReader(self, made.mask_outgoing, made.params)

    def _detach_stream(self) -> IOStream:
        """Return the stream. Tornado would set seven more attributes: their dict would be a kilobyte larger."""
        return self.detach()

    def open(self, *args: str, **kwargs: str) -> None:
        assert isinstance(self.ws_connection, FrameReader)
        self.connection = Connection(self.ws_connection, UPGRADE if self.session is not None else ())
        if self.session is not None:  # noted before the task runs: a second upgrade may come in the same turn
            self.session.connection = self.connection
        self.connection.serving = asyncio.ensure_future(self.budget.run(self.context.client, self._serve()))

    def release_request(self) -> None:
        """Release what was only needed for the upgrade: ten kilobytes, which would live as long as the connection."""
        self.request.headers.clear()  # Tornado's coroutine refers to them too
        self.request.headers = self._headers = NO_HEADERS
        self.request.arguments = self.request.query_arguments = self.request.body_arguments = {}
        self.request.connection = self.request.server_connection = None
        self.ui = None  # type: ignore[assignment]

    async def _serve(self) -> None:
        """Serve a session until it ends; a WebSocket that Engine.IO does not accept is closed, not left open."""
        assert self.connection is not None
        try:
            await self.engine.handle_request(self)
        finally:
            if self.session is not None:
                self.engine.end_connection(self.session, self.connection)
            self.connection.close(POLICY, ENDED)

    def on_message(self, message: str | bytes) -> asyncio.Future[None] | None:
        """Handle a frame; return a future for which Tornado must wait before it reads the next one."""
        connection, session = self.connection, self.session
        assert connection is not None
        if connection.upgrade_frames or not isinstance(message, str) or message[:1] != MESSAGE:
            return self._on_other_frame(connection, message)
        received = connection.receive_queue
        if session is not None:
            self.engine.touch(session)
        if session is not None and received.reader_is_idle and self.server.fast_path.try_handle(session, message):
            if received.idle_s <= self.engine.ping_interval:
                return None
            message = NOOP  # the library drops a client after a longer wait, and does not see the fast path
        elif not message[1:2].isnumeric():
            message = MESSAGE  # the library would decode the rest as JSON, and a text in it as a packet of its own
        return received.put(message)

    def _on_other_frame(self, connection: Connection, message: str | bytes) -> asyncio.Future[None] | None:
        """Handle a frame that is not a text message of Engine.IO, or that comes during an upgrade."""
        if connection.upgrade_frames:
            expected, *more = connection.upgrade_frames
            connection.upgrade_frames = tuple(more)
            if message == expected:
                return connection.receive_queue.put(message)
            self.fail(PROTOCOL_ERROR, f"an upgrade takes {' and then '.join(UPGRADE)}")
        elif isinstance(message, bytes):
            return connection.receive_queue.put(message)  # it is rejected in order among the others
        elif message[:1] == PONG:
            if self.session is not None:
                self.engine.touch(self.session)
            return connection.receive_queue.put(PONG)
        elif message == CLOSE:
            connection.close(NORMAL, "the client has ended its session")
        else:
            self.fail(PROTOCOL_ERROR, "a client sends Engine.IO packets of the types 1, 3 and 4 only")
        return None

    def on_close(self) -> None:
        if self.connection is not None:
            self.connection.receive_queue.close()

    def write_frame(self, frame: bytes) -> asyncio.Future[None] | None:
        assert self.connection is not None
        return self.connection.write(frame)

    def fail(self, code: int, reason: str) -> None:
        """Close the WebSocket for a fault of its client; the session ends too, unless it is still polling."""
        assert self.connection is not None
        if self.session is not None and self.session.is_upgraded:
            self.engine.abort_session(self.session, close=(code, reason))
        else:
            self.connection.close(code, reason)

    def linger(self, connection: socket.socket) -> None:
        self._closer.linger(connection)

    def check_origin(self, origin: str) -> bool:
        """Return True: `check_page_origin` has decided whether the origin may call, as for every other request."""
        return True

    def get_compression_options(self) -> None:
        """Return None, for no deflate: it costs 160 kB a client, and a compression for each client and message."""
