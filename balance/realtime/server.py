"""Socket.IO packets: parse each, pass its event on, and answer it with an error if anything is wrong with it.

python-socketio's `AsyncServer` implements the protocol; this overrides what would leave a packet without an answer. The
number of events of one client that are not answered yet is limited: at the limit its connection is not read.

tests/unit/test_library_internals.py lists the private names of python-socketio that this relies on.
"""

from __future__ import annotations

import re
from time import monotonic
from typing import Any

import socketio
from engineio.packet import Packet
from socketio import packet as sio_packet

import protocol
from balance.access.authenticator import Authenticator
from balance.aio.addresses import to_address
from balance.auth import Caller, Operation, authorize
from balance.realtime.connect_auth import ConnectAuth
from balance.realtime.engine import Engine
from balance.realtime.events import EventHandlers
from balance.realtime.fast_update import UpdateFastPath
from balance.realtime.frames import PROTOCOL_ERROR, TRY_AGAIN_LATER, UNSUPPORTED_DATA
from balance.realtime.polling import MESSAGE
from balance.realtime.session import Session

HEAD_LENGTH_MAX = 160  # of an event, up to its payload: an acknowledgement id has up to 100 digits
PLAIN_TYPES, BINARY_TYPES = frozenset("0123"), frozenset("56")  # of Socket.IO 5 packets from a client
ATTACHMENTS = re.compile("[56]([0-9]{1,9})-")
ATTACHMENTS_MAX = 10  # of one event, as in socket.io's own parser
NAMESPACE = re.compile("/[^,?]{0,100}")
ACK_ID = re.compile(r"(?:2|5[0-9]+-)(?:/[^,]*,)?([0-9]{1,15})(?![0-9])")
NO_ENVIRON: dict[str, Any] = {}  # one for all sessions: nothing of the request is kept for as long as a client stays


class ClientManager(socketio.AsyncManager):
    """The library's table of clients, with one room for all of them and none for each.

    A client that leaves would be looked for in every room.
    """

    def basic_enter_room(self, sid: str, namespace: str, room: str | None, eio_sid: str | None = None) -> None:
        if room != sid:
            super().basic_enter_room(sid, namespace, room, eio_sid)


class SocketServer(socketio.AsyncServer):
    """Socket.IO, with a limit on events in flight and an answer to every packet."""

    eio: Engine

    def __init__(
        self,
        engine: Engine,
        handlers: EventHandlers,
        authenticator: Authenticator,
        *,
        body_bytes_max: int,
        updates_in_flight_max: int,
        **options: Any,
    ) -> None:
        self._engine = engine
        self.event_handlers = handlers
        self._authenticator = authenticator
        self._body_bytes_max = body_bytes_max
        self._in_flight_max = updates_in_flight_max
        self.fast_path = UpdateFastPath(
            handlers, body_bytes_max=body_bytes_max, updates_in_flight_max=updates_in_flight_max
        )
        super().__init__(client_manager=ClientManager(), **options)

    def _engineio_server_class(self) -> Any:
        """Return what the library calls with its options to make the engine, which exists already."""
        return lambda **_options: self._engine

    async def _handle_eio_connect(self, session_id: str, environ: dict[str, Any]) -> None:
        handler = environ["tornado.handler"]
        handler.session = self.eio.open_session(session_id, handler.context)
        await super()._handle_eio_connect(session_id, NO_ENVIRON)

    async def _handle_eio_disconnect(self, session_id: str, reason: str) -> None:
        self.event_handlers.on_left(self.eio.sessions[session_id], reason)
        await super()._handle_eio_disconnect(session_id, reason)
        self.eio.end_session(self.eio.sessions[session_id])

    async def _handle_eio_message(self, session_id: str, data: Any) -> None:
        """Handle a packet that came over a WebSocket."""
        session = self.eio.sessions[session_id]
        try:
            await self.receive(session, data)
        except protocol.InvalidPayload as error:
            code = UNSUPPORTED_DATA if isinstance(data, bytes) else PROTOCOL_ERROR
            self.eio.abort_session(session, close=(code, str(error)))

    async def receive(self, session: Session, data: Any) -> None:
        """Handle one Socket.IO packet, or answer it with an error.

        Raises InvalidPayload if the session must end: its client has sent something else before CONNECT.
        """
        if session.id not in self.environ:
            return  # the session ended while the packet waited to be read
        is_connect = isinstance(data, str) and data[:1] == "0"
        if not is_connect and not session.has_joined:
            raise protocol.InvalidPayload("the first packet must be CONNECT, as text", "payload")
        try:
            packet = self._read(session, data)
        except protocol.ServiceError as error:
            await self._reject(session, data, error)
        except ValueError as error:  # of the library: an acknowledgement id of over 100 digits and the like
            await self._reject(session, data, protocol.MalformedJson(str(error), "payload"))
        else:
            if packet is not None:
                await self._handle_packet(session, packet)

    def _read(self, session: Session, data: Any) -> sio_packet.Packet | None:
        """Return the packet, or None for an attachment of an event that was rejected.

        Raises ServiceError and ValueError.
        """
        if isinstance(data, bytes):
            if session.attachments_awaited:
                session.attachments_awaited -= 1
                return None
            raise protocol.InvalidPayload("must be text, not binary", "payload")
        packet_type = data[:1] if isinstance(data, str) else ""
        if packet_type in BINARY_TYPES:
            if found := ATTACHMENTS.match(data):
                session.attachments_awaited = min(int(found[1]), ATTACHMENTS_MAX)
            raise protocol.InvalidPayload("must not hold binary data", "payload")
        if packet_type not in PLAIN_TYPES:
            raise protocol.MalformedJson("is not a Socket.IO packet", "payload")
        self._check_size(data)
        return self.packet_class(encoded_packet=data)

    def _check_size(self, data: str) -> None:
        """Raise PayloadTooLarge for a packet whose payload has more bytes than a REST body may have."""
        if len(data) * 4 <= self._body_bytes_max:  # UTF-8 has at most four bytes for each character
            return
        head = data.find(",", data.find("["), HEAD_LENGTH_MAX) if data[0] == "2" else -1
        payload = data[head + 1 : -1] if head >= 0 else data
        if len(payload.encode("utf-8", "surrogatepass")) > self._body_bytes_max:
            raise protocol.PayloadTooLarge(f"is larger than {self._body_bytes_max} bytes", "payload")

    async def _handle_packet(self, session: Session, packet: sio_packet.Packet) -> None:
        if packet.packet_type == sio_packet.CONNECT:
            await self._connect(session, packet.namespace, packet.data)
        elif (packet.namespace or protocol.NAMESPACE) != protocol.NAMESPACE:
            error = protocol.InvalidPayload("is not one that this client is connected to", "namespace")
            await self._reject_connect(session, packet.namespace, error)
        elif packet.packet_type == sio_packet.DISCONNECT:
            session.leave()
            self.event_handlers.on_left(session, self.reason.CLIENT_DISCONNECT)
            session.send_queue.discard(_is_of_namespace)  # it would come after the next CONNECT of the client
            await self._handle_disconnect(session.id, packet.namespace, self.reason.CLIENT_DISCONNECT)
            self.eio.await_connect(session)
        elif packet.packet_type == sio_packet.EVENT:
            await self._handle_client_event(session, packet.id, packet.data)
        else:
            error = protocol.InvalidPayload("none was asked for", "acknowledgement")
            self.event_handlers.on_rejected(session, None, error)

    async def _connect(self, session: Session, namespace: str | None, auth: Any) -> None:
        """Connect a client to the namespace, or answer why not.

        The library would reject by a bare string, of which a JavaScript client makes an error without a message.
        """
        started = monotonic()
        try:
            caller = self._find_caller(session, auth)
            if (namespace or protocol.NAMESPACE) != protocol.NAMESPACE:
                raise protocol.InvalidPayload(f"there is none but {protocol.NAMESPACE}", "namespace")
            if session.has_sent_connect:  # perhaps on the other transport, and its position is still looked up
                raise protocol.InvalidPayload("this client is connected to it already", "namespace")
            protocol.check("connect_auth", auth)  # the library passes no `false`, 0 or [] to a connect handler
            connect_auth = ConnectAuth.read(auth or {})
            session.context.caller = caller
            session.limit_key = caller.credential_id or to_address(session.context.client)
            session.mark_connected()
            resumption = await self.event_handlers.resume(session, connect_auth)
        except protocol.Unavailable as error:
            self.event_handlers.count_refusal(error)
            # Not CONNECT_ERROR, after which socket.io-client does not connect again.
            self.eio.abort_session(session, close=(TRY_AGAIN_LATER, str(error)))
            return
        except protocol.ServiceError as error:
            await self._reject_connect(session, namespace, error)
            return
        if session.has_ended:
            return
        await self._handle_connect(session.id, namespace, None)  # the library needs no `auth`, which has the token
        sid = self.manager.sid_from_eio_sid(session.id, protocol.NAMESPACE)
        self.event_handlers.on_joined(session, sid, resumption, started)

    def _find_caller(self, session: Session, auth: Any) -> Caller:
        """Return the caller that the token of a CONNECT packet names, or that of the handshake.

        Raises Unauthorized, Forbidden and Unavailable if it may not watch.
        """
        token = auth.get("token") if isinstance(auth, dict) else None
        if token is None and session.context.caller.has_credential:
            if (fault := self._authenticator.fault(session.context.caller)) is not None:
                raise fault
            authorize(session.context.caller.role, Operation.WATCH)
            return session.context.caller
        # One that is not a text is rejected by its schema, and until then counts as none.
        credential = token if isinstance(token, str) else None
        return self._authenticator.admit(credential, Operation.WATCH, session.context.client)

    async def _send_packet(self, eio_sid: str, pkt: sio_packet.Packet) -> None:
        """Send a packet of the library's; CONNECT gets the `pid` of native recovery."""
        pid = self.eio.sessions[eio_sid].answer_pid if pkt.packet_type == sio_packet.CONNECT else None
        if pid is not None:
            pkt.data = {**pkt.data, "pid": pid}
        await super()._send_packet(eio_sid, pkt)

    async def _handle_client_event(self, session: Session, ack_id: int | None, data: Any) -> None:
        """Pass an event on once the client has capacity for one more in flight."""
        if not (isinstance(data, list) and data and isinstance(data[0], str)):
            error = protocol.InvalidPayload("must be an array that begins with the event's name", "payload")
            self.event_handlers.on_rejected(session, ack_id, error)
            return
        while session.in_flight >= self._in_flight_max:
            await session.wait_for_release()
        if session.has_joined:  # else it left while it waited
            self.event_handlers.on_event(session, data[0], ack_id, data[1:])

    async def _reject(self, session: Session, data: Any, error: protocol.ServiceError) -> None:
        """Answer a packet that cannot be read: a CONNECT by CONNECT_ERROR, anything else by `on_rejected`."""
        if isinstance(data, str) and data[:1] == "0":
            await self._reject_connect(session, _namespace(data), error)
        else:
            self.event_handlers.on_rejected(session, _ack_id(data), error)

    async def _reject_connect(self, session: Session, namespace: str | None, error: protocol.ServiceError) -> None:
        self.event_handlers.on_connect_rejected(session, error)
        self.event_handlers.count_refusal(error)
        rejection = {"message": str(error), "data": error.body_with_wait()}
        await self._send_packet(session.id, self.packet_class(sio_packet.CONNECT_ERROR, rejection, namespace=namespace))


def _is_of_namespace(packet: Packet) -> bool:
    """Return whether a packet that is queued belongs to the connection to the namespace: any but a rejection."""
    text: str = packet.encode()
    return text[:1] == MESSAGE and text[1:2] != str(sio_packet.CONNECT_ERROR)


def _namespace(data: str) -> str | None:
    """Return the namespace of a packet that could not be read."""
    found = NAMESPACE.match(data, 1)
    return found[0] if found else None


def _ack_id(data: Any) -> int | None:
    """Return the acknowledgement id of an event that could not be read."""
    found = ACK_ID.match(data) if isinstance(data, str) else None
    return int(found[1]) if found else None
