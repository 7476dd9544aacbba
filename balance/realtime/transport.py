"""A WebSocket as python-engineio uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from engineio.async_socket import AsyncSocket
from engineio.exceptions import EngineIOError
from engineio.packet import NOOP, Packet
from tornado.iostream import StreamClosedError

from balance.realtime.connection import Connection
from balance.realtime.frames import POLICY, to_frame
from balance.realtime.session import Session

NOOP_TEXT = Packet(NOOP).encode()
NO_PONG = (POLICY, "no answer to the heartbeat came in time")


class SessionOwner(Protocol):
    """What a transport needs of the engine."""

    sessions: Mapping[str, Session]


class UpgradedHandler(Protocol):
    """What a transport needs of the HTTP handler that has accepted a WebSocket."""

    connection: Connection
    session: Session | None

    def release_request(self) -> None:
        """Release what was only needed for the upgrade."""


class Transport:
    """Joins a connection to its session, and lets the library read and write: by `wait`, `send` and `close`."""

    __slots__ = ("_connection", "_engine", "_serve", "_session")

    def __init__(self, serve: Callable[[Transport], Awaitable[None]], engine: SessionOwner) -> None:
        self._serve = serve
        self._engine = engine

    async def __call__(self, environ: dict[str, Any]) -> None:
        handler: UpgradedHandler = environ["tornado.handler"]
        handler.release_request()
        environ.clear()  # the library's copy of the request
        environ["tornado.handler"] = handler
        socket: AsyncSocket = self._serve.__self__  # type: ignore[attr-defined]
        self._session = handler.session = self._engine.sessions[socket.sid]
        self._connection = self._session.connection = handler.connection
        self._connection.send_queue = self._session.send_queue
        await self._serve(self)

    def wait(self) -> asyncio.Future[str | bytes | None]:
        """Return a future for the next frame, None after the last one."""
        return self._connection.receive_queue.get()

    async def send(self, text: str) -> None:
        """Send a packet; return when the operating system has accepted it. Raises EngineIOError when it cannot."""
        was_queued = self._session.is_upgraded  # the answer to a probe was not
        if was_queued:
            self._session.send_queue.note_written(len(text))  # from here on `write` counts it
            if text == NOOP_TEXT:
                return  # it has ended the wait of the library's writer, which is all that it is for
        written = None
        try:
            written = self._connection.write(to_frame(text.encode()))
            if written is not None:
                await written
        except StreamClosedError as error:
            if was_queued:
                raise EngineIOError from error
            # Else the probe broke off, and its session goes on polling.
        finally:
            written = None  # its exception refers to this frame: without the cycle a client is freed when it has gone

    async def close(self) -> None:
        """Close a WebSocket whose reader or writer has been idle for a heartbeat and its timeout."""
        self._connection.close(*NO_PONG)
