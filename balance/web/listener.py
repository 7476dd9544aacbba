"""The HTTP server: takes connections while there are descriptors, and closes those that send nothing or too slowly.

Tornado would time each wait for a request by a timer, and each wait for a body by a task as well, which costs a small
request a fifth of its time. Here one sweep looks at all connections.

tests/unit/test_library_internals.py lists the private names of Tornado that this relies on.
"""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import dataclass
from typing import Any

from tornado.httpserver import HTTPServer, _HTTPRequestContext
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, HTTPServerConnectionDelegate
from tornado.iostream import IOStream

from balance.aio.turns import Turns
from balance.web.http_connection import HEAD_BYTES_MAX, Closer, Exchange, RequestStream, ServerConnection

DESCRIPTORS_KEPT = 64  # for the database, files and the event loop
HEAD_S_MAX = 75.0  # for the head of a request to come, on a connection that is new or has been answered
BODY_S_MAX = 30.0  # for its body, from then on
SWEEP_S = 1.0


@dataclass(slots=True)
class _Arrival:
    """The request that is awaited on a connection."""

    request: Exchange
    since: float
    has_head: bool = False


class Stream(RequestStream):
    """A connection without Nagle's delay (RFC 896): each answer is written whole, and has nothing to wait for.

    Tornado would tell the operating system so, and take it back, for every request.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        super().set_nodelay(True)

    def set_nodelay(self, value: bool) -> None:
        """Leave it as it is."""


class Context(_HTTPRequestContext):
    """The peer of a connection, and the client of its present request, which differ behind a trusted proxy."""

    def _apply_xheaders(self, headers: HTTPHeaders) -> None:
        """Take the client's address from X-Forwarded-For, if a trusted proxy has sent it.

        Tornado would believe every peer, and X-Real-Ip before X-Forwarded-For, which a proxy passes on as it came.
        """
        if self._orig_remote_ip in self.trusted_downstream:
            headers.pop("X-Real-Ip", None)
            super()._apply_xheaders(headers)


class Connection(ServerConnection):
    """A connection that serves its requests one after the other, in turns with other addresses."""

    def __init__(self, turns: Turns, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._turns = turns

    async def _server_request_loop(self, delegate: HTTPServerConnectionDelegate) -> None:
        assert isinstance(self.context, Context)
        await self._turns.run(self.context.remote_ip, super()._server_request_loop(delegate))


class Listener(HTTPServer):
    """An HTTP server that closes a connection at once when few descriptors are left.

    With none left nothing could be accepted, nor the database reached, and each attempt would be logged.
    """

    def initialize(self, *arguments: Any, **options: Any) -> None:
        self._turns: Turns = options.pop("turns")
        super().initialize(*arguments, **options)
        self.conn_params.header_timeout = None
        self.conn_params.max_header_size = HEAD_BYTES_MAX
        self.descriptors_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.head_s_max = HEAD_S_MAX
        self.body_s_max = BODY_S_MAX
        self._arrivals: dict[object, _Arrival] = {}  # by connection
        self._sweeper: asyncio.TimerHandle | None = None
        self._closer = Closer()

    def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:
        if 0 < self.descriptors_max - DESCRIPTORS_KEPT < stream.socket.fileno():
            stream.close()
            return
        stream = Stream(stream.socket, max_buffer_size=stream.max_buffer_size)
        context = Context(stream, address, self.protocol, self.trusted_downstream)
        connection = Connection(self._turns, stream, self.conn_params, context, self._closer)
        self._connections.add(connection)
        connection.start_serving(self)

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        self._arrivals[server_conn] = _Arrival(request_conn, time.monotonic())
        return super().start_request(server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        self._arrivals.pop(server_conn, None)
        super().on_close(server_conn)

    def watch(self) -> None:
        """Begin to close the connections of clients that are gone or never ask."""
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def stop(self) -> None:
        """Accept nothing more."""
        super().stop()
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def close_all_connections(self) -> None:
        """Close every connection, also those whose clients still send."""
        await super().close_all_connections()
        await self._closer.stop()

    def _sweep(self) -> None:
        self.watch()
        now = time.monotonic()
        for arrival in list(self._arrivals.values()):
            request = arrival.request
            if request._read_finished or request.stream is None:
                continue
            if not arrival.has_head and request._request_start_line is not None:
                arrival.has_head, arrival.since = True, now
            if now - arrival.since > (self.body_s_max if arrival.has_head else self.head_s_max):
                request.time_out()
