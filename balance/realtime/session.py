"""All state of one client, in one object."""

from __future__ import annotations

import asyncio
import math

from engineio.async_socket import AsyncSocket

from balance.open_connection import OpenConnection
from balance.realtime.connection import Connection
from balance.realtime.send_queue import SendQueue
from balance.request_context import RequestContext


class Session:
    """One client, from its Engine.IO handshake until its session and its WebSocket have both ended.

    The times are those of `time.monotonic`.
    """

    __slots__ = (
        "_polling_methods",
        "_resume_reader",
        "answer_pid",
        "attachments_awaited",
        "awaits_pong",
        "connect_by",
        "connection",
        "context",
        "has_joined",
        "heartbeat_at",
        "id",
        "in_flight",
        "joined_at",
        "leaves",
        "limit_key",
        "live_group",
        "replay",
        "replayed",
        "send_queue",
        "socket",
    )

    def __init__(self, socket: AsyncSocket, context: RequestContext, connect_by: float) -> None:
        self.id: str = socket.sid
        self.context = context
        """That of its handshake; its caller is then the one of the credential in the CONNECT packet."""
        self.socket = socket
        """What python-engineio keeps of it."""
        self.send_queue: SendQueue = socket.queue
        self.connection: Connection | None = None
        """Its WebSocket, or the one that it is about to change to from polling."""
        self.connect_by = connect_by
        """When the session is ended unless a CONNECT packet has come; infinite once one has come."""
        self.heartbeat_at = math.inf
        """When the next ping is due, or the pong to the last one."""
        self.awaits_pong = False
        self.limit_key = ""
        """What its updates are counted by: its credential, or its address without one."""
        self.has_joined = False
        """Whether the client is connected to the namespace, so that events are sent to it."""
        self.joined_at: float | None = None
        """When it connected to the namespace; None before, and once its end is logged."""
        self.leaves = 0
        """How often it has left the namespace: it may connect to it again on the same transport."""
        self.answer_pid: str | None = None
        """The `pid` of the CONNECT packet that answers it, with native recovery."""
        self.replay: asyncio.Task[None] | None = None
        """Sends what the client has missed, until it is live."""
        self.replayed: int | None = None
        """The `seq` up to which it has been sent what it has missed; None before it connects to the namespace."""
        self.live_group: dict[Session, None] | None = None
        """The group of `Watchers` that it is in, once every snapshot is sent to it as it is published."""
        self.in_flight = 0
        """The number of its events that are not answered yet."""
        self.attachments_awaited = 0
        """The number of binary packets still to come of an event that was rejected."""
        self._resume_reader: asyncio.Future[None] | None = None
        self._polling_methods: tuple[str, ...] = ()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is sent to it."""
        return bool(self.send_queue.is_closed or self.socket.closed or self.socket.closing)

    @property
    def is_upgraded(self) -> bool:
        """Whether its packets go through a WebSocket, not through polls."""
        return bool(self.socket.upgraded)

    @property
    def has_sent_connect(self) -> bool:
        """Whether a CONNECT packet has come that was accepted, although the client may not have joined yet."""
        return math.isinf(self.connect_by)

    def describe(self) -> OpenConnection:
        """Describe it for an operator."""
        transport, backlog_bytes = "websocket" if self.is_upgraded else "polling", self.send_queue.unsent_bytes
        is_live = self.live_group is not None
        return OpenConnection(self.context, transport, self.context.started, backlog_bytes, is_live, self.replayed)

    def mark_connected(self) -> None:
        """Note that a CONNECT packet has come in time."""
        self.connect_by = math.inf

    def leave(self) -> None:
        """Send the client no event any more, and no answer to one that it has sent before."""
        self.has_joined = False
        self.leaves += 1
        self.replayed = None
        self.stop_watching()

    def stop_watching(self) -> None:
        """Send the client no snapshot any more."""
        if self.live_group is not None:
            self.live_group.pop(self, None)
            self.live_group = None
        if self.replay is not None:
            self.replay.cancel()
            self.replay = None

    def acquire(self) -> None:
        """Count an event as in flight, until `release`."""
        self.in_flight += 1

    def release(self) -> None:
        """Count an event as answered, and let the reader that waits for it go on."""
        self.in_flight -= 1
        self.resume_reader()

    async def wait_for_release(self) -> None:
        """Wait until an event is answered or the session ends."""
        self._resume_reader = self._resume_reader or asyncio.get_running_loop().create_future()
        await self._resume_reader

    def resume_reader(self) -> None:
        """Let the reader that waits for a release go on."""
        if self._resume_reader is not None and not self._resume_reader.done():
            self._resume_reader.set_result(None)
        self._resume_reader = None

    @property
    def is_polling(self) -> bool:
        """Whether a polling request is under way."""
        return bool(self._polling_methods)

    def begin_polling(self, method: str) -> bool:
        """Note that a polling request is under way; return False if one of this method already is."""
        if method in self._polling_methods:
            return False
        self._polling_methods += (method,)
        return True

    def end_polling(self, method: str) -> None:
        """Note the end of a polling request for which `begin_polling` returned True."""
        self._polling_methods = tuple(one for one in self._polling_methods if one != method)
