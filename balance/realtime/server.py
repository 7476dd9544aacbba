"""Socket.IO: takes each packet apart, and has a word for whatever is wrong with it.

Of python-socketio's `AsyncServer` this overrides what lets a packet end in silence; the protocol stays the
library's. Unanswered events of one client are bounded: over the bound its connection is not read.

Relied on inside python-socketio 5.18, each pinned by a test in tests/integration/test_library_*.py:
`_engineio_server_class`, `_handle_eio_connect`, `_handle_eio_disconnect`, `_handle_eio_message`, `_handle_connect`,
`_handle_event`, `_handle_event_internal`, and that `AsyncManager.connect` is called when the CONNECT packet has been
sent and enters the room None and one of the client's own by `basic_enter_room`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection
from typing import Any

import socketio
from socketio import packet as sio_packet

import protocol
from balance.realtime.engine import Engine
from balance.realtime.frames import PROTOCOL_ERROR, UNSUPPORTED_DATA

HEAD_LENGTH_MAX = 160  # of an event, up to its payload: an acknowledgement id has up to 100 digits
PLAIN_TYPES, BINARY_TYPES = frozenset("0123"), frozenset("56")  # of Socket.IO 5 packets from a client
ATTACHMENTS = re.compile("[56]([0-9]{1,9})-")
ATTACHMENTS_MAX = 10  # of one event, as in socket.io's own parser
NAMESPACE = re.compile("/[^,?]{0,100}")
ACK_ID = re.compile(r"(?:2|5[0-9]+-)(?:/[^,]*,)?([0-9]{1,15})(?![0-9])")


class Manager(socketio.AsyncManager):
    """The library's table of clients, which says when one has joined: after its CONNECT packet went out."""

    def __init__(self, server: SocketServer) -> None:
        super().__init__()
        self._server = server

    async def connect(self, sid: str, namespace: str) -> None:
        await super().connect(sid, namespace)
        eio_sid = self.eio_sid_from_sid(sid, namespace)
        self._server.eio.note_named(eio_sid)
        self._server.on_joined(eio_sid, sid)

    def basic_enter_room(self, sid: str, namespace: str, room: str | None, eio_sid: str | None = None) -> None:
        """Keep the room of all, and none for each client: whoever leaves is looked for in every room there is."""
        if room != sid:
            super().basic_enter_room(sid, namespace, room, eio_sid)


class SocketServer(socketio.AsyncServer):
    """Socket.IO, with a bound on unanswered events and a word for whatever is wrong with a packet.

    Of the events only those in `events` are handed on. `check_auth(auth)` raises if a client may not connect;
    `on_joined(engine_sid, sid)` is called when one is connected and has been told so,
    `on_update(engine_sid, ack_id, payloads, done)` for a `balance:update`, and `on_refused(engine_sid, ack_id, error)`
    for a packet that is no event in `events`.
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
        self._attachments: dict[str, int] = {}  # binary packets still to come, of events that were refused
        self.check_auth: Callable[[object], None] = lambda auth: None
        self.on_joined: Callable[[str, str], None] = lambda eio_sid, sid: None
        self.on_update: Callable[[str, int | None, list[Any], Callable[[], None]], None] = (
            lambda eio_sid, ack_id, payloads, done: done()
        )
        self.on_refused: Callable[[str, int | None, protocol.ServiceError], None] = lambda eio_sid, ack_id, error: None

    def _engineio_server_class(self) -> type[Engine]:
        return Engine

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        self.eio.await_name(eio_sid)
        environ["tornado.handler"].client = self.eio.sockets[eio_sid]
        # Of the request only this is kept: the rest of it would live as long as the connection.
        await super()._handle_eio_connect(eio_sid, {"REMOTE_ADDR": environ["tornado.handler"].request.remote_ip})

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        await super()._handle_eio_disconnect(eio_sid, reason)
        self.eio.forget(eio_sid)
        self._in_flight.pop(eio_sid, None)
        self._attachments.pop(eio_sid, None)
        self._make_room(eio_sid)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        """Take a packet that came over a WebSocket."""
        try:
            await self.receive(eio_sid, data)
        except protocol.InvalidPayload as error:
            code = UNSUPPORTED_DATA if isinstance(data, bytes) else PROTOCOL_ERROR
            self.eio.end(self.eio.sockets[eio_sid], close=(code, str(error)))

    async def receive(self, eio_sid: str, data: Any) -> None:
        """Handle one Socket.IO packet; whatever is wrong with it is answered.

        Raises InvalidPayload if the session must end: its client has sent something else before CONNECT.
        """
        if eio_sid not in self.environ:
            return  # its session ended while this waited to be read
        is_connect = isinstance(data, str) and data[:1] == "0"
        if not is_connect and self.manager.sid_from_eio_sid(eio_sid, protocol.NAMESPACE) is None:
            raise protocol.InvalidPayload("the first packet must be CONNECT, as text", "payload")
        try:
            packet = self._read(eio_sid, data)
        except protocol.ServiceError as error:
            await self._refuse(eio_sid, data, error)
        except ValueError as error:  # of the library: an acknowledgement id of over 100 digits and the like
            await self._refuse(eio_sid, data, protocol.MalformedJson(str(error), "payload"))
        else:
            if packet is not None:
                await self._handle_packet(eio_sid, packet)

    def _read(self, eio_sid: str, data: Any) -> sio_packet.Packet | None:
        """Read a packet; None is an attachment of an event that was rejected. Raises ServiceError and ValueError."""
        if isinstance(data, bytes):
            if self._attachments.get(eio_sid):
                self._attachments[eio_sid] -= 1
                return None
            raise protocol.InvalidPayload("must be text, not binary", "payload")
        packet_type = data[:1] if isinstance(data, str) else ""
        if packet_type in BINARY_TYPES:
            if found := ATTACHMENTS.match(data):
                self._attachments[eio_sid] = min(int(found[1]), ATTACHMENTS_MAX)
            raise protocol.InvalidPayload("must not hold binary data", "payload")
        if packet_type not in PLAIN_TYPES:
            raise protocol.MalformedJson("is not a Socket.IO packet", "payload")
        self._check_size(data)
        return self.packet_class(encoded_packet=data)

    async def _handle_packet(self, eio_sid: str, packet: sio_packet.Packet) -> None:
        if packet.packet_type == sio_packet.CONNECT:
            await self._handle_connect(eio_sid, packet.namespace, packet.data)
        elif (packet.namespace or protocol.NAMESPACE) != protocol.NAMESPACE:
            error = protocol.InvalidPayload("is not one that this client is connected to", "namespace")
            await self._refuse_connect(eio_sid, packet.namespace, error)
        elif packet.packet_type == sio_packet.DISCONNECT:
            await self._handle_disconnect(eio_sid, packet.namespace, self.reason.CLIENT_DISCONNECT)
            self.eio.await_name(eio_sid)
        elif packet.packet_type == sio_packet.EVENT:
            await self._handle_event(eio_sid, packet.namespace, packet.id, packet.data)
        else:
            error = protocol.InvalidPayload("none was asked for", "acknowledgement")
            self.on_refused(eio_sid, None, error)

    async def _refuse(self, eio_sid: str, data: Any, error: protocol.ServiceError) -> None:
        """Answer a packet that can not be read: a CONNECT by CONNECT_ERROR, anything else by way of `on_refused`."""
        if isinstance(data, str) and data[:1] == "0":
            await self._refuse_connect(eio_sid, _namespace(data), error)
        else:
            self.on_refused(eio_sid, _ack_id(data), error)

    async def _refuse_connect(self, eio_sid: str, namespace: str | None, error: protocol.ServiceError) -> None:
        refusal = {"message": str(error), "data": error.body()}
        await self._send_packet(eio_sid, self.packet_class(sio_packet.CONNECT_ERROR, refusal, namespace=namespace))

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        try:
            # The library would refuse by a bare string, of which a JavaScript client makes an error without a message.
            if (namespace or protocol.NAMESPACE) != protocol.NAMESPACE:
                raise protocol.InvalidPayload(f"there is none but {protocol.NAMESPACE}", "namespace")
            if self.manager.sid_from_eio_sid(eio_sid, protocol.NAMESPACE) is not None:
                raise protocol.InvalidPayload("this client is connected to it already", "namespace")
            self.check_auth(data)  # here and not in a connect handler, which is not told of `false`, `0` and `[]`
        except protocol.ServiceError as error:
            await self._refuse_connect(eio_sid, namespace, error)
        else:
            await super()._handle_connect(eio_sid, namespace, data)

    def _check_size(self, data: str) -> None:
        """Refuse a packet whose payload has more bytes than a REST body may have."""
        if len(data) * 4 <= self._body_bytes_max:  # UTF-8 takes at most four bytes a character
            return
        head = data.find(",", data.find("["), HEAD_LENGTH_MAX) if data[0] == "2" else -1
        payload = data[head + 1 : -1] if head >= 0 else data
        if len(payload.encode("utf-8", "surrogatepass")) > self._body_bytes_max:
            raise protocol.PayloadTooLarge(f"is larger than {self._body_bytes_max} bytes", "payload")

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        if not (isinstance(data, list) and data and isinstance(data[0], str)):
            error = protocol.InvalidPayload("must be an array that begins with the event's name", "payload")
            self.on_refused(eio_sid, id, error)
            return
        while self._in_flight.get(eio_sid, 0) >= self._in_flight_max:
            await self._room.setdefault(eio_sid, asyncio.get_running_loop().create_future())
        sid = self.manager.sid_from_eio_sid(eio_sid, namespace or protocol.NAMESPACE)
        if sid is None:
            return  # it left while it waited
        if data[0] not in self._events:  # nor may it pass for `connect`, which is the library's own
            self.on_refused(
                eio_sid, id, protocol.InvalidPayload(f"{data[0][:40]!r} is not one that this server takes", "event")
            )
            return
        self.begin(eio_sid)
        if data[0] == protocol.BALANCE_UPDATE:
            # Without a task of its own, so that it is answered in its place among those that went the short way.
            self.on_update(eio_sid, id, data[1:], lambda: self.end_one(eio_sid))
        else:
            await super()._handle_event(eio_sid, namespace, id, data)

    async def _handle_event_internal(self, server: Any, sid: str, eio_sid: str, *rest: Any) -> None:
        try:
            await super()._handle_event_internal(server, sid, eio_sid, *rest)
        finally:
            self.end_one(eio_sid)

    def has_room(self, eio_sid: str) -> bool:
        """Tell whether a client may have one more event in flight."""
        return self._in_flight.get(eio_sid, 0) < self._in_flight_max

    def begin(self, eio_sid: str) -> None:
        """Count an event of a client as in flight, until `end_one`."""
        self._in_flight[eio_sid] = self._in_flight.get(eio_sid, 0) + 1

    def end_one(self, eio_sid: str) -> None:
        """Count an event of a client as answered."""
        if eio_sid in self._in_flight:
            self._in_flight[eio_sid] -= 1
        self._make_room(eio_sid)

    def _make_room(self, eio_sid: str) -> None:
        room = self._room.pop(eio_sid, None)
        if room is not None and not room.done():
            room.set_result(None)


def _namespace(data: str) -> str | None:
    """Find the namespace of a packet that could not be read."""
    found = NAMESPACE.match(data, 1)
    return found[0] if found else None


def _ack_id(data: Any) -> int | None:
    """Find the acknowledgement id of an event that could not be read."""
    found = ACK_ID.match(data) if isinstance(data, str) else None
    return int(found[1]) if found else None
