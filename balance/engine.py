"""Socket.IO's server on Tornado, with what the stock one leaves open closed.

python-socketio's Tornado integration accepts before it refuses, queues without a bound and lets some errors
end in silence. The three classes here override just that, and nothing of the protocol:

* `EngineHandler` stands at the door: it refuses by HTTP status, before an upgrade, and reads a client's
  frames no faster than they are answered, so that TCP holds back a sender that floods.
* `Engine` (Engine.IO) delivers: each client has an outbox with a bound in bytes; who does not read is cut off.
* `SocketServer` (Socket.IO) takes each packet apart and hands on whatever is wrong with it to `on_refused`.

Relied on inside python-engineio 4 and python-socketio 5, each pinned by a test in tests/test_traps_*.py:
`AsyncServer.sockets`, `AsyncServer._async`, `AsyncSocket.queue/closed/upgraded/upgrading/last_ping`,
`_handle_eio_connect/message/disconnect`, `_handle_event`, `_handle_event_internal`.

Threads: none, all of it runs on the event loop. Life: `start()`, then `close()`, once each.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any
from urllib.parse import parse_qs

import engineio
import socketio
from engineio.async_drivers import tornado as driver
from engineio.async_socket import AsyncSocket
from engineio.exceptions import EngineIOError
from engineio.packet import Packet as EnginePacket
from engineio.payload import Payload
from socketio import packet as sio_packet
from tornado.iostream import IOStream, StreamClosedError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

import protocol
from balance.web import Answers, Origins

log = logging.getLogger("balance.engine")
# The libraries log payloads, which are balances, at INFO; and each gets a handler of its own unless given a logger.
library_log = logging.getLogger("balance.engine.library")
library_log.setLevel(logging.ERROR)

NAMESPACE = "/"
SWEEP_S = 0.5
INBOX_FRAMES_MAX = 64  # frames read ahead of the one being handled
GOING_AWAY = 1001  # RFC 6455, section 7.4.1
PROTOCOL_ERROR = 1002
FROM_CLIENT = frozenset("123456")  # Engine.IO packet types that a client may send (4 is a message)
SEPARATOR = "\x1e"  # between the packets of one polling request
FROM_POLLING_CLIENT = frozenset("134")
ACK_ID = re.compile(r"[25](?:[0-9]+-)?(?:/[^,]*,)?([0-9]{1,15})")


class Outbox(asyncio.Queue[EnginePacket | None]):
    """What waits to be sent to one client, and how many bytes that is."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self.unsent_bytes = 0

    def _put(self, item: EnginePacket | None) -> None:
        super()._put(item)
        if item is not None:
            self.unsent_bytes += len(item.encode())

    def clear(self) -> None:
        """Forget what waits."""
        while not self.empty():
            self.get_nowait()
        self.unsent_bytes = 0

    def settle(self) -> None:
        """Count anew, after a poll has taken packets along."""
        waiting: Iterable[EnginePacket | None] = self._queue  # type: ignore[attr-defined]  # in typeshed
        self.unsent_bytes = sum([len(item.encode()) for item in waiting if item is not None])


class Transport(driver.WebSocket):
    """One WebSocket under Engine.IO, whose `send` waits until the operating system has taken the bytes."""

    def __init__(self, handler: Any, server: Any) -> None:
        super().__init__(handler, server)
        self._engine: Engine = server
        self._client: AsyncSocket = handler.__self__

    async def __call__(self, environ: dict[str, Any]) -> None:
        handler: EngineHandler = environ["tornado.handler"]
        handler.client = self._client
        self._engine.websockets[self._client.sid] = handler
        await super().__call__(environ)

    async def send(self, message: str) -> None:
        """Send one frame. Raises EngineIOError when the client is gone."""
        try:
            written = self.tornado_handler.write_message(message)
            if self.tornado_handler.iostream.writing():
                await written
        except (WebSocketClosedError, StreamClosedError) as error:
            raise EngineIOError from error
        self._client.queue.unsent_bytes -= len(message)


class Engine(engineio.AsyncServer):
    """Engine.IO, with an outbox that has a bound and sessions that end."""

    def __init__(self, *, watcher_unsent_bytes_max: int, connect_ms_max: int, **options: Any) -> None:
        super().__init__(**options)
        self._async: dict[str, Any] = {**self._async, "websocket": Transport}
        Payload.max_decode_packets = self.max_http_buffer_size  # bytes are the bound, not the 16 packets of old
        self._unsent_bytes_max = watcher_unsent_bytes_max
        self._connect_s_max = connect_ms_max / 1000
        self._sweeper: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self.websockets: dict[str, EngineHandler] = {}  # by session
        self.nameless: dict[str, float] = {}  # sessions that have not sent CONNECT, and since when
        self.evictions = 0

    def create_queue(self, *args: Any, **kwargs: Any) -> Outbox:
        """Make the outbox of a new session."""
        return Outbox()

    async def send_packet(self, sid: str, pkt: EnginePacket) -> None:
        """Send as the library does, by the one way out."""
        self.deliver(sid, pkt)

    def deliver(self, sid: str, pkt: EnginePacket) -> None:
        """Queue a packet for a client, and cut the client off if it leaves too much unread. Never waits."""
        client = self.sockets.get(sid)
        if client is None or client.closed or client.closing:
            return
        client.queue.put_nowait(pkt)
        if client.queue.unsent_bytes > self._unsent_bytes_max:
            self.evictions += 1
            log.warning("cut off client %s: %d bytes unread", sid, client.queue.unsent_bytes)
            self.end(client)

    async def disconnect(self, sid: str | None = None) -> None:
        """End a client's session; never waits for it to take what is queued, as the library would."""
        if sid in self.sockets:
            self.end(self.sockets[sid])

    def end(self, client: AsyncSocket, reason: str = "transport close") -> None:
        """End a session at once, whatever its transport is doing."""
        if client.upgraded:
            if client.sid in self.websockets:
                self.websockets[client.sid].abort()
            return
        client.queue.clear()
        task = asyncio.ensure_future(client.close(wait=False, abort=False, reason=reason))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def start(self) -> None:
        """Begin to end the sessions of clients that are gone or never became one."""
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        # In place of the library's own monitor, which wakes up once per client and knows no time to connect.
        self.start()
        now = time.time()
        for sid, client in list(self.sockets.items()):
            if client.closed:
                self.sockets.pop(sid, None)
            elif client.last_ping and now - client.last_ping > self.ping_timeout:
                self.end(client, self.reason.PING_TIMEOUT)
            elif now - self.nameless.get(sid, now) > self._connect_s_max:
                self.end(client)

    async def close(self, seconds_max: float) -> None:
        """Let what is queued go out, then close every transport: a WebSocket with 1001, a poll by its answer."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        deadline = time.monotonic() + seconds_max
        clients = [client for client in self.sockets.values() if not client.closed]
        while any(client.queue.unsent_bytes for client in clients) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for client in clients:
            if client.sid in self.websockets and client.upgraded:
                self.websockets[client.sid].close(GOING_AWAY, "the server is stopping")
            else:
                self.end(client, self.reason.SERVER_DISCONNECT)
        await self._ended(max(0.2, deadline - time.monotonic()))
        for handler in list(self.websockets.values()):  # it does not answer the close frame
            handler.abort()
        await self._ended(1)

    async def _ended(self, seconds_max: float) -> None:
        tasks = [*self._ending, *(one.reader for one in self.websockets.values() if one.reader is not None)]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds_max)


class Manager(socketio.AsyncManager):
    """The library's table of clients, which says when one has joined: after its CONNECT packet went out."""

    def __init__(self, server: SocketServer) -> None:
        super().__init__()
        self._server = server

    async def connect(self, sid: str, namespace: str) -> None:
        await super().connect(sid, namespace)
        eio_sid = self.eio_sid_from_sid(sid, namespace)
        self._server.eio.nameless.pop(eio_sid, None)
        self._server.on_joined(eio_sid, sid)


class SocketServer(socketio.AsyncServer):
    """Socket.IO, with a bound on unanswered events and a word for whatever is wrong with a packet.

    Of the events only those in `events` are handed on. `on_joined(engine_sid, sid)` is called when a client is
    connected and has been told so; `on_refused(engine_sid, ack_id, error)` for a packet that is no such event.
    """

    eio: Engine

    def __init__(
        self, *, events: Collection[str], body_bytes_max: int, updates_in_flight_max: int, **options: Any
    ) -> None:
        super().__init__(client_manager=Manager(self), **options)
        self._events = frozenset(events)
        self._body_bytes_max = body_bytes_max
        self._in_flight_max = updates_in_flight_max
        self._in_flight: dict[str, int] = {}
        self._room: dict[str, asyncio.Future[None]] = {}
        self.on_joined: Callable[[str, str], None] = lambda eio_sid, sid: None
        self.on_refused: Callable[[str, int | None, protocol.ServiceError], None] = lambda eio_sid, ack_id, error: None

    def _engineio_server_class(self) -> type[Engine]:
        return Engine

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        self.eio.nameless[eio_sid] = time.time()
        # Of the request only this is kept: the rest of it would live as long as the connection.
        await super()._handle_eio_connect(eio_sid, {"REMOTE_ADDR": environ["tornado.handler"].request.remote_ip})

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        await super()._handle_eio_disconnect(eio_sid, reason)
        self.eio.nameless.pop(eio_sid, None)
        self._in_flight.pop(eio_sid, None)
        self._make_room(eio_sid)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        """Take one Socket.IO packet; every road that does not lead to an event leads to `on_refused`."""
        try:
            if not isinstance(data, str):
                raise protocol.MalformedJson("is not a Socket.IO packet", "payload")
            packet_type = data[:1]
            if packet_type in ("5", "6"):
                raise protocol.InvalidPayload("must not hold binary data", "payload")
            if packet_type == "2":
                self._check_size(data)
            if packet_type not in ("0", "1", "2", "3"):
                raise protocol.MalformedJson("is not a Socket.IO packet", "payload")
            packet = self.packet_class(encoded_packet=data)
        except protocol.ServiceError as error:
            self.on_refused(eio_sid, _ack_id(data), error)
        except ValueError as error:  # of the library: an acknowledgement id of over 100 digits and the like
            self.on_refused(eio_sid, None, protocol.MalformedJson(str(error), "payload"))
        else:
            if packet.packet_type == sio_packet.CONNECT:
                await self._handle_connect(eio_sid, packet.namespace, packet.data)
            elif packet.packet_type == sio_packet.DISCONNECT:
                await self._handle_disconnect(eio_sid, packet.namespace, self.reason.CLIENT_DISCONNECT)
                self.eio.nameless[eio_sid] = time.time()
            elif packet.packet_type == sio_packet.EVENT:
                await self._handle_event(eio_sid, packet.namespace, packet.id, packet.data)

    def _check_size(self, data: str) -> None:
        """Refuse an event whose payload has more bytes than a REST body may have."""
        if len(data) * 4 <= self._body_bytes_max:  # UTF-8 takes at most four bytes a character
            return
        head = data.find(",", data.find("["))
        if len(data[head + 1 : -1].encode("utf-8", "surrogatepass")) > self._body_bytes_max:
            raise protocol.PayloadTooLarge(f"is larger than {self._body_bytes_max} bytes", "payload")

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        if not (isinstance(data, list) and data and isinstance(data[0], str)):
            error = protocol.InvalidPayload("must be an array that begins with the event's name", "payload")
            self.on_refused(eio_sid, id, error)
            return
        while self._in_flight.get(eio_sid, 0) >= self._in_flight_max:
            await self._room.setdefault(eio_sid, asyncio.get_running_loop().create_future())
        sid = self.manager.sid_from_eio_sid(eio_sid, namespace or NAMESPACE)
        if not self.manager.is_connected(sid, namespace or NAMESPACE):
            await self._send_packet(
                eio_sid,
                self.packet_class(sio_packet.CONNECT_ERROR, {"message": "not connected"}, namespace=namespace),
            )
            return
        if data[0] not in self._events:  # nor may it pass for `connect`, which is the library's own
            self.on_refused(eio_sid, id, protocol.InvalidPayload("is not an event that this server takes", "event"))
            return
        self._in_flight[eio_sid] = self._in_flight.get(eio_sid, 0) + 1
        await super()._handle_event(eio_sid, namespace, id, data)

    async def _handle_event_internal(self, server: Any, sid: str, eio_sid: str, *rest: Any) -> None:
        try:
            await super()._handle_event_internal(server, sid, eio_sid, *rest)
        finally:
            if eio_sid in self._in_flight:
                self._in_flight[eio_sid] -= 1
            self._make_room(eio_sid)

    def _make_room(self, eio_sid: str) -> None:
        room = self._room.pop(eio_sid, None)
        if room is not None and not room.done():
            room.set_result(None)


def _ack_id(data: Any) -> int | None:
    """Find the acknowledgement id of an event that could not be read."""
    found = ACK_ID.match(data) if isinstance(data, str) else None
    return int(found[1]) if found else None


class EngineHandler(Answers, WebSocketHandler):
    """The Socket.IO path: refuses by HTTP status, hands on the rest, reads no faster than is answered."""

    methods = ("GET", "POST", "OPTIONS")

    def initialize(
        self, *, server: SocketServer, origins: Origins, is_ready: Callable[[], bool], watchers_max: int
    ) -> None:
        self.server = server
        self.origins = origins
        self.is_ready = is_ready
        self.watchers_max = watchers_max
        self.client: AsyncSocket | None = None  # the session that this WebSocket carries
        self.iostream: IOStream | None = None  # once upgraded
        self.reader: asyncio.Task[None] | None = None
        self._inbox: asyncio.Queue[str | None] = asyncio.Queue()
        self._room: asyncio.Future[None] | None = None

    def prepare(self) -> None:
        self.check_caller()
        if self.request.method == "OPTIONS":
            return
        if self.request.method not in self.methods:
            raise protocol.MethodNotAllowed
        self._check_query()
        if self.request.method == "POST":
            self._check_packets()
        elif self._upgrades():
            self._check_upgrade()

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
        if headers.get("Sec-WebSocket-Version") not in ("13", "8", "7") or "Sec-WebSocket-Key" not in headers:
            raise protocol.InvalidPayload("version 13 and a key are required (RFC 6455)", "Sec-WebSocket-Key")

    def _check_packets(self) -> None:
        """Refuse a polling request that holds no packets; the library would drop all of it and answer 200."""
        try:
            packets = self.request.body.decode().split(SEPARATOR)
        except UnicodeDecodeError as error:
            raise protocol.MalformedJson("is not valid UTF-8", "payload") from error
        # A binary packet follows the event it belongs to, which is refused already.
        packets = [packet for packet in packets if not packet.startswith("b")]
        if not all(packet[:1] in FROM_POLLING_CLIENT and packet for packet in packets):
            raise protocol.MalformedJson("is not a list of Engine.IO packets", "payload")
        self.request.body = SEPARATOR.join(packets).encode()
        # The library reads as many bytes as this says, and a chunked request does not say it.
        self.request.headers["Content-Length"] = str(len(self.request.body))

    async def get(self, *args: str, **kwargs: str) -> None:
        if self._upgrades():
            await super().get(*args, **kwargs)
        else:
            await self.server.handle_request(self)
            if self.client is not None:
                self.client.queue.settle()

    async def post(self) -> None:
        await self.server.handle_request(self)

    async def options(self) -> None:
        self.answer_preflight()

    def open(self, *args: str, **kwargs: str) -> None:
        assert self.ws_connection is not None
        self.iostream = self.ws_connection.stream
        self.set_nodelay(True)
        self.reader = asyncio.ensure_future(self._serve())

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
        if message[:1] not in FROM_CLIENT or not message:
            self.close(PROTOCOL_ERROR, "not an Engine.IO packet")
            return None
        if self.client is not None and self.client.last_ping:
            self.client.last_ping = time.time()  # who sends is alive; its pong may wait behind what it sent
        self._inbox.put_nowait(message)
        if self._inbox.qsize() < INBOX_FRAMES_MAX:
            return None
        self._room = asyncio.get_running_loop().create_future()
        return self._room  # Tornado reads no further frame until this is done

    async def get_next_message(self) -> str | None:
        message = await self._inbox.get()
        if self._room is not None and self._inbox.qsize() <= INBOX_FRAMES_MAX // 2:
            self._make_room()
        return message

    def abort(self) -> None:
        """Close the connection under the WebSocket at once; the reader and the writer then end by themselves."""
        if self.iostream is not None:
            self.iostream.close()

    def on_close(self) -> None:
        self._inbox.put_nowait(None)
        self._make_room()

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def check_origin(self, origin: str) -> bool:
        """Whether the origin may call was decided in `prepare`, as for every other request."""
        return True

    def get_compression_options(self) -> None:
        """No deflate: it costs 160 kB a client, and a compression for each client and message."""
