"""Read requests from an HTTP/1.1 connection; answer each malformed one with the service's JSON error.

Tornado's reader answers a malformed request with a bare status line, and one with a large head not at all; and it
closes while input is unread. This one replaces it; Tornado still parses heads and writes responses.

Promised: a client that sends anything gets a whole response, unless it speaks TLS (it could not read one), or sends for
longer than `lingering_close.LINGER_S`. Nothing is logged for a fault of a client.

tests/unit/test_library_internals.py lists the private names of Tornado that this relies on.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from http.client import responses
from typing import Any

from tornado.concurrent import future_add_done_callback
from tornado.http1connection import HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httputil import (
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
    parse_request_start_line,
)
from tornado.iostream import StreamClosedError

import protocol
from balance.refusals import HTTP
from balance.request_context import RequestContext
from balance.web.chunked_reader import HEADER_LINES_MAX, ChunkedReader
from balance.web.connection_context import ConnectionContext
from balance.web.headers import encode_head
from balance.web.http_errors import TLS_HANDSHAKE, error_response, explain_head
from balance.web.lingering_close import Closer
from balance.web.request_head import KnownHeads, RequestHead, body_size, check_host_and_query, expects_continue
from balance.web.request_stream import RequestStream
from balance.web.request_target import normalise_target

log = logging.getLogger("balance.web")

UNREADABLE = "unreadable request"  # in the log: its method and target may be anything
HEAD_BYTES_MAX = 16_384
HEAD_END = rb"\r?\n\r?\n"


class ServerConnection(HTTP1ServerConnection):
    """A connection of a client: one request after the other."""

    stream: RequestStream
    context: ConnectionContext

    def __init__(
        self,
        stream: RequestStream,
        params: HTTP1ConnectionParameters,
        context: ConnectionContext,
        closer: Closer,
        known_heads: KnownHeads,
    ) -> None:
        super().__init__(stream, params, context)
        self.closer = closer
        self.known_heads = known_heads

    async def _server_request_loop(self, delegate: HTTPServerConnectionDelegate) -> None:
        try:
            while True:
                exchange = Exchange(self)
                if not await exchange.read_response(delegate.start_request(self, exchange)):
                    return
                self.context.end_request()
        except asyncio.CancelledError:
            return
        finally:
            delegate.on_close(self)


class Exchange(ChunkedReader):
    """One request and its response."""

    stream: RequestStream
    context: ConnectionContext
    head: RequestHead
    """Of the request, from `headers_received` on."""

    def __init__(self, connection: ServerConnection) -> None:
        super().__init__(connection.stream, False, connection.params, connection.context)
        self.closer = connection.closer
        self._known_heads = connection.known_heads
        self._is_ending = False  # the last response of the connection is sent
        self.continued_at = 0.0
        """When a body of any length was last worked on, by `time.monotonic`; its time begins again then."""

    async def read_response(self, delegate: HTTPMessageDelegate) -> bool:
        """Read a request, pass it to `delegate`, wait for its response; return whether another request may follow.

        The name is Tornado's, which reads requests and responses by the same method.
        """
        is_open = False  # the delegate waits for the rest of a request
        try:
            data = await self.stream.read_until_regex(HEAD_END, max_bytes=self.params.max_header_size)
            self.head = self._read_head(data)
            start_line, headers, size, keeps_alive, expects = self.head
            self._disconnect_on_finish = self.context.is_refused or not keeps_alive
            self._read_finished = size == 0  # the response may come before the whole request is passed on
            received = delegate.headers_received(start_line, headers)
            is_open = True
            if received is not None:
                await received
            if size is not None and size > self._max_body_size and not self._write_finished:
                raise protocol.PayloadTooLarge(f"must be at most {self._max_body_size} bytes", "Content-Length")
            if size != 0:
                await self._read_content(size, expects, delegate)
            self._read_finished, is_open = True, False
            if not self._write_finished:
                delegate.finish()
            if not self._finish_future.done() and self.stream is not None and not self.stream.closed():
                self.stream.set_close_callback(self._on_connection_close)
                await self._finish_future
            else:
                await asyncio.sleep(0)  # a client that sends many requests at once must not delay the others
        except protocol.ServiceError as error:
            self.reject(error)
        except StreamClosedError:
            pass
        except Exception as error:
            log.error("a request could not be handled", exc_info=error)
            self.reject(protocol.InternalError())
        else:
            # Without a stream it has become a WebSocket. Behind the last response no request is handled that has come
            # already (RFC 9112, section 9.6).
            return self.stream is not None and not self.stream.closed()
        finally:
            if is_open:
                delegate.on_connection_close()
            self._clear_callbacks()
        return False

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> Future[None]:
        """Write the head of a response.

        The connection ends after a response that begins before the end of the request, and after one to HTTP/1.0 that
        has no length (RFC 9112, section 6.3).
        """
        request: Any = self._request_start_line
        if not self._read_finished:
            self._disconnect_on_finish = True
        if request.version == "HTTP/1.0":
            assert isinstance(start_line, ResponseStartLine)
            has_no_body = request.method == "HEAD" or start_line.code < 200 or start_line.code in (204, 304)
            if not has_no_body and "Content-Length" not in headers:
                self._disconnect_on_finish = True
            if self._disconnect_on_finish:
                headers["Connection"] = "close"
                self._request_headers = HTTPHeaders()  # by which Tornado would promise to keep the connection
        return super().write_headers(start_line, headers, chunk)

    def respond(self, status: int, headers: HTTPHeaders, body: bytes) -> None:
        """Write a whole response to a request with a body; it costs a third of Tornado's two calls for that."""
        request: Any = self._request_start_line
        if self._disconnect_on_finish or not self._read_finished:
            self._disconnect_on_finish = True
            headers["Connection"] = "close"
        elif request.version == "HTTP/1.0":  # the client has asked for that
            headers["Connection"] = "Keep-Alive"
        headers["Content-Length"] = str(len(body))
        response = encode_head(status, headers) + body
        self._response_start_line = ResponseStartLine("", status, responses[status])
        self._write_finished = True
        if (sent := self.stream.send_now(response)) == len(response):
            self._finish_request(None)
        else:
            written = self.stream.write(memoryview(response)[sent:])
            future_add_done_callback(written, self._finish_request)

    def reject(self, error: protocol.ServiceError) -> None:
        """Send an error as the last response, unless that has been sent; if a response has begun, only close.

        Only the first error is sent: the time may run out while what has arrived waits to be read.
        """
        if self._is_ending:
            return
        if self._response_start_line is not None:
            self.close()
            return
        self._is_ending = self._write_finished = True
        method = self._request_start_line.method if self._request_start_line else None
        connection: Any = self.context
        context = RequestContext(self._request_headers or {}, connection.remote_ip)
        connection.refusals.count(HTTP, error)
        connection.request_log.write(context, UNREADABLE, error.code, context.started, error.status)
        self.closer.close_after(self.stream, error_response(error, method, context, connection.protocol))

    def time_out(self) -> None:
        """End the wait for the rest of a request; if nothing of one has arrived, close without a response."""
        if self._request_start_line is not None:
            self.reject(protocol.RequestTimeout("did not arrive in time", "payload"))
        elif self.stream._read_buffer_size:
            self.reject(protocol.RequestTimeout("did not arrive in time", "head"))
        else:
            self.close()

    def _read_head(self, data: bytes) -> RequestHead:
        """Parse and check a head, unless it is known. Raises ServiceError, and StreamClosedError for a TLS client."""
        if self._is_ending:
            raise StreamClosedError
        if (known := self._known_heads.get(data)) is not None:
            self._request_start_line, self._request_headers = known.start_line, known.headers
            return known
        start_line, headers = self._parse_head(data)
        size = body_size(start_line, headers)
        keeps_alive = self._can_keep_alive(start_line, headers)
        start_line = normalise_target(start_line, headers, self.context.port_scheme)
        check_host_and_query(start_line, headers)
        head = RequestHead(start_line, headers, size, keeps_alive, size != 0 and expects_continue(start_line, headers))
        self._known_heads.keep(data, head)
        return head

    def _parse_head(self, head: bytes) -> tuple[RequestStartLine, HTTPHeaders]:
        """Parse a head. Raises ServiceError, and StreamClosedError for a client that speaks TLS."""
        if len(head) > self.params.max_header_size:
            raise protocol.HeadersTooLarge(f"must be at most {self.params.max_header_size} bytes", "head")
        if head.count(b"\n") > HEADER_LINES_MAX + 2:
            raise protocol.HeadersTooLarge(f"must have at most {HEADER_LINES_MAX} header lines", "head")
        try:
            line, headers = self._parse_headers(head)
            start_line = parse_request_start_line(line)
        except HTTPInputError as error:
            if head[0] == TLS_HANDSHAKE:
                self.close()
                raise StreamClosedError from error
            raise explain_head(head) from error
        if start_line.version > "HTTP/1.1":  # any other version that begins with HTTP/1 (RFC 9110, section 2.5)
            start_line = start_line._replace(version="HTTP/1.1")
        self._request_start_line, self._request_headers = start_line, headers
        return start_line, headers

    async def _read_content(self, size: int | None, expects_continue: bool, delegate: HTTPMessageDelegate) -> None:
        """Read a body: of `size` bytes, or chunked if that is None; ask for one that its client holds back."""
        if expects_continue and not self._write_finished:  # a handler has answered what it rejects for its head
            self.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if size is None:
            await self._read_chunked_body(delegate)
        elif (body := self.stream.read_arrived(size)) is not None:
            await self._deliver_body(delegate, body)
        else:
            await self._read_fixed_body(size, delegate)

    async def _deliver_body(self, delegate: HTTPMessageDelegate, data: bytes) -> None:
        if not self._write_finished and (received := delegate.data_received(data)) is not None:
            await received

    def _finish_request(self, future: Future[None] | None) -> None:
        """End the exchange after its response. A response before the end of the body ends the connection."""
        if self._read_finished or self.stream.closed():
            super()._finish_request(future)
        else:
            self._is_ending = True
            self._clear_callbacks()
            self.closer.close_after(self.stream, b"")
