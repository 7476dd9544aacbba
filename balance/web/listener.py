"""The HTTP server: accept connections while there are descriptors, and close those that send too slowly or nothing.

Tornado times each wait for a request by a timer, and each wait for a body by a task as well, which costs a small
request a fifth of its time. Here one sweep checks all connections.

tests/unit/test_library_internals.py lists the private names of Tornado that this relies on.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPMessageDelegate, HTTPServerConnectionDelegate

import protocol
from balance.aio.addresses import to_address
from balance.aio.loop_budget import LoopBudget
from balance.rate_limit import RateLimit
from balance.refusals import HTTP, Refusals
from balance.request_log import RequestLog
from balance.web.connection_context import ConnectionContext
from balance.web.connection_limit import ConnectionLimit
from balance.web.descriptors import Descriptors
from balance.web.http_connection import HEAD_BYTES_MAX, Exchange, ServerConnection
from balance.web.lingering_close import Closer
from balance.web.logged_period import LoggedPeriod
from balance.web.request_head import KnownHeads
from balance.web.request_stream import RequestStream, TlsStream
from balance.web.tls import Certificate

HEAD_S_MAX = 75.0  # for the head of a request, on a connection that is new or whose last request was answered
REFUSED_HEAD_S_MAX = 5.0  # on a connection that is one too many of its address
BODY_S_MAX = 30.0  # for its body, from its head on
SWEEP_S = 1.0
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # of the process or of the machine
ACCEPT_RETRY_S = 1.0  # after one of these: without a pause each turn of the event loop would fail again
ACCEPTED_MAX = 2  # connections in one turn of the event loop: many that come back at once must not delay a save
# Connections in one turn that are closed at once: others wait behind them, and closing one costs little.
CLOSED_MAX = 64
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: the socket does not remain in TIME_WAIT


@dataclass(slots=True)
class _AwaitedRequest:
    """The request that a connection waits for."""

    exchange: Exchange
    since: float
    has_head: bool = False


class BudgetedConnection(ServerConnection):
    """A connection whose requests are served within the budget of their address."""

    def __init__(self, budget: LoopBudget, *arguments: Any, **parts: Any) -> None:
        super().__init__(*arguments, **parts)
        self._budget = budget

    async def _server_request_loop(self, delegate: HTTPServerConnectionDelegate) -> None:
        await self._budget.run(self.context.remote_ip, super()._server_request_loop(delegate))


class HttpListener(HTTPServer):
    """An HTTP server that closes a new connection at once when few descriptors are left.

    With none left, no connection could be accepted or opened to the database, and each attempt would be logged.
    """

    def initialize(self, *arguments: Any, **options: Any) -> None:
        self._budget: LoopBudget = options.pop("budget")
        self._certificate: Certificate | None = options.pop("certificate")
        self._request_log: RequestLog = options.pop("request_log")
        self._refusals: Refusals = options.pop("refusals")
        self._connection_limit: ConnectionLimit = options.pop("connection_limit")
        self._descriptors: Descriptors = options.pop("descriptors")
        self._accept_limit: RateLimit = options.pop("accept_limit")
        self._over_limit = LoggedPeriod("no new connection is over --accepts-per-s-max any more")
        super().initialize(*arguments, **options)
        self.conn_params.header_timeout = None
        self.conn_params.max_header_size = HEAD_BYTES_MAX
        self.head_s_max = HEAD_S_MAX
        self.body_s_max = BODY_S_MAX
        self._awaited: dict[object, _AwaitedRequest] = {}  # by connection
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._closer = Closer()
        self._known_heads = KnownHeads()

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on these sockets from now on.

        Tornado accepts up to 128 in a turn, and their requests arrive together in the next.
        """
        loop = asyncio.get_running_loop()
        for listening in sockets:
            self._sockets[listening.fileno()] = listening
            loop.add_reader(listening, self._accept, listening)
            self._handlers[listening.fileno()] = cast("Callable[[], None]", partial(loop.remove_reader, listening))

    def _accept(self, listening: socket.socket) -> None:
        """Accept some connections; the event loop calls again in its next turn if there are more."""
        served = 0
        for _ in range(CLOSED_MAX):
            try:
                connection, address = listening.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:  # closed while it waited (accept(2), FreeBSD)
                continue
            except OSError as error:
                if error.errno not in NO_DESCRIPTORS:
                    raise
                self._descriptors.note_failure(error)
                self._pause(listening)
                return
            if self._is_too_often(address[0]):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                connection.close()
                continue
            self._handle_connection(connection, address)
            served += 1
            if served == ACCEPTED_MAX:
                return

    def _is_too_often(self, ip: str) -> bool:
        """Count a new connection of an address, but for those of a trusted proxy; return whether it is over the limit.

        It gets no answer: with TLS, the handshake that must come before would cost most of what the limit saves.
        """
        if not self._accept_limit.is_on or ip in (self.trusted_downstream or ()):
            return False
        try:
            self._accept_limit.acquire(to_address(ip))
        except protocol.RateLimited as error:
            self._refusals.count(HTTP, error)
            self._over_limit.note(f"new connections of {ip} are closed: {error.reason} (--accepts-per-s-max)", 1)
            return True
        return False

    def _pause(self, listening: socket.socket) -> None:
        """Accept nothing for a while; connections wait in the backlog of the socket."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)

        def go_on() -> None:
            if listening.fileno() >= 0:  # it was not closed meanwhile
                loop.add_reader(listening, self._accept, listening)

        loop.call_later(ACCEPT_RETRY_S, go_on)

    def _handle_connection(self, connection: socket.socket, address: Any) -> None:
        """Serve a connection. Tornado's method makes a stream of its own kind."""
        if not self._descriptors.has_room_for(connection.fileno()):
            connection.close()
            return
        try:
            stream = self._open_stream(connection)
        except OSError:  # the client has reset the connection
            connection.close()
            return
        context = ConnectionContext(stream, address, self.protocol, self.trusted_downstream, self._connection_limit)
        if not context.begin_connection():
            self._refusals.count(HTTP, self._connection_limit.refusal())
            stream.close()
            return
        context.request_log = self._request_log
        context.refusals = self._refusals
        served = BudgetedConnection(self._budget, stream, self.conn_params, context, self._closer, self._known_heads)
        self._connections.add(served)
        served.start_serving(self)

    def _open_stream(self, connection: socket.socket) -> RequestStream:
        if self._certificate is None:
            return RequestStream(connection, max_buffer_size=self.max_buffer_size)
        context = self._certificate.context
        with_tls = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return TlsStream(with_tls, max_buffer_size=self.max_buffer_size, ssl_options=context)

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        self._awaited[server_conn] = _AwaitedRequest(request_conn, time.monotonic())
        return super().start_request(server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        self._awaited.pop(server_conn, None)
        super().on_close(server_conn)

    def start_sweep(self) -> None:
        """Close, from now on, the connections of clients that do not send a whole request in time."""
        self._schedule_sweep()
        if self._certificate is not None:
            self._certificate.start()

    def _schedule_sweep(self) -> None:
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def stop(self) -> None:
        """Accept no more connections."""
        super().stop()
        if self._certificate is not None:
            self._certificate.stop()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()

    async def close_all_connections(self) -> None:
        """Close every connection, also those whose clients still send."""
        await super().close_all_connections()
        await self._closer.stop()

    def _sweep(self) -> None:
        self._schedule_sweep()
        self._descriptors.check()
        self._over_limit.check()
        now = time.monotonic()
        for awaited in list(self._awaited.values()):
            exchange = awaited.exchange
            if exchange._read_finished or exchange.stream is None:
                continue
            if not awaited.has_head and exchange._request_start_line is not None:
                awaited.has_head, awaited.since = True, now
            head_s_max = REFUSED_HEAD_S_MAX if exchange.context.is_refused else self.head_s_max
            since = max(awaited.since, exchange.continued_at)
            if now - since > (self.body_s_max if awaited.has_head else head_s_max):
                exchange.time_out()
