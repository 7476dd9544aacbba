"""A server of the unmodified libraries, which has the pitfalls of docs/library-pitfalls.md.

The pitfalls are behaviour of python-socketio, python-engineio and Tornado. Each has at least two tests: one shows it
on the stock server, and fails when a library repairs it, and one shows that the service does not have it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import engineio
import engineio.json
import engineio.packet
import engineio.payload
import socketio
import socketio.packet
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from tests.support.raw_clients import PATH

LOGGER = logging.getLogger("stock")  # of the libraries in the stock server; collected like Tornado's and asyncio's


@dataclass
class Stock:
    """A server of the unmodified libraries, on the event loop of the test."""

    url: str
    sio: socketio.AsyncServer
    http: HTTPServer
    handlers: list[Any]  # Tornado's, one for each request, in the order of arrival
    log: list[logging.LogRecord]  # what it, Tornado and asyncio logged

    def one_engine_socket(self) -> Any:
        """Return the only Engine.IO session."""
        (socket,) = self.sio.eio.sockets.values()
        return socket


Events = Callable[[socketio.AsyncServer], None]


@asynccontextmanager
async def stock(
    events: Events | None = None, http: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Stock]:
    """Run a stock server; `options` go to AsyncServer, `http` to HTTPServer, `events` may set more handlers."""
    with _as_shipped(), records_of("asyncio", "tornado", "stock") as log:
        sio = socketio.AsyncServer(async_mode="tornado", **{"logger": LOGGER, "engineio_logger": LOGGER, **options})
        _handle_events(sio)
        if events:
            events(sio)
        (listening,) = bind_sockets(0, "127.0.0.1")
        seen: list[Any] = []

        class Handler(socketio.get_tornado_handler(sio)):  # type: ignore[misc]
            def prepare(self) -> None:
                seen.append(self)

        server = HTTPServer(Application([(PATH + "/", Handler)], log_function=lambda _: None), **(http or {}))
        server.add_socket(listening)
        running = Stock(f"http://127.0.0.1:{listening.getsockname()[1]}", sio, server, seen, log)
        before = asyncio.all_tasks()
        try:
            yield running
        finally:
            await _end(running, before)


async def _end(server: Stock, before: set[asyncio.Task[Any]]) -> None:
    """Stop everything that the stock server leaves running; it cannot do so by itself (T7, T8)."""
    server.http.stop()
    for handler in server.handlers:
        if getattr(handler, "ws_connection", None):
            handler.ws_connection.stream.close()
    await server.http.close_all_connections()
    left = asyncio.all_tasks() - before
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=2)
    server.handlers.clear()


def _handle_events(sio: socketio.AsyncServer) -> None:
    @sio.on("balance:update")
    async def on_update(sid: str, update: Any) -> Any:
        answer = {"success": True, "timestamp": update["ts"]}
        await sio.emit("balance:ack", answer, to=sid)
        await sio.emit("balance:snapshot", update)
        return answer

    @sio.on("ping")
    async def on_ping(sid: str) -> None:
        await sio.emit("pong", {"timestamp": "2025-11-07T00:45:08.603Z"}, to=sid)


@contextmanager
def _as_shipped() -> Iterator[None]:
    """Undo within the block what a service in the same process may have set on the libraries' classes."""
    with (
        patch.object(engineio.packet.Packet, "json", engineio.json),
        patch.object(socketio.packet.Packet, "json", engineio.json),
        patch.object(engineio.payload.Payload, "max_decode_packets", 16),
    ):
        yield


@contextmanager
def records_of(*names: str, level: int = logging.WARNING) -> Iterator[list[logging.LogRecord]]:
    """Collect the records of these loggers and of those below them; no other handler gets them."""
    kept: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = kept.append  # type: ignore[method-assign]
    with ExitStack() as stack:
        for name in names:
            logger = logging.getLogger(name)
            stack.enter_context(patch.multiple(logger, propagate=False, handlers=[handler]))
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(level)
        stack.callback(gc.collect)  # an exception of a task that was not retrieved is logged at collection
        yield kept
