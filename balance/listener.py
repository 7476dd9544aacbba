"""The HTTP server: takes connections while there are descriptors, and closes those that send nothing or too slowly.

Tornado would time each wait for a request by a timer, and each wait for a body by a task as well, which costs a small
request a tenth of its time. Here one sweep looks at all connections.

Relied on inside Tornado 6, pinned by tests/test_life.py: `HTTPServer.conn_params`, `HTTP1Connection._read_finished`.
"""

from __future__ import annotations

import asyncio
import resource
import time
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPMessageDelegate
from tornado.iostream import IOStream

DESCRIPTORS_KEPT = 64  # for the database, files and the event loop
REQUEST_S_MAX = 75.0  # for a request to come, and to come whole; after the one before, on the same connection
SWEEP_S = 1.0


class Listener(HTTPServer):
    """An HTTP server that closes a connection at once when few descriptors are left.

    With none left nothing could be accepted, nor the database reached, and each attempt would be logged.
    """

    def initialize(self, *arguments: Any, **options: Any) -> None:
        super().initialize(*arguments, **options)
        self.conn_params.header_timeout = None
        self.descriptors_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.request_s_max = REQUEST_S_MAX
        self._requests: dict[object, tuple[HTTP1Connection, float]] = {}  # by connection: the last, and since when
        self._sweeper: asyncio.TimerHandle | None = None

    def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:
        if 0 < self.descriptors_max - DESCRIPTORS_KEPT < stream.socket.fileno():
            stream.close()
        else:
            super().handle_stream(stream, address)

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        self._requests[server_conn] = request_conn, time.monotonic()
        return super().start_request(server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        self._requests.pop(server_conn, None)
        super().on_close(server_conn)

    def watch(self) -> None:
        """Begin to close the connections of clients that are gone or never ask."""
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def stop(self) -> None:
        """Accept nothing more."""
        super().stop()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _sweep(self) -> None:
        self.watch()
        began_before = time.monotonic() - self.request_s_max
        for request, began in list(self._requests.values()):
            if began < began_before and not request._read_finished and request.stream is not None:
                request.stream.close()
