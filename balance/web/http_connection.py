"""Reads requests from an HTTP/1.1 connection, and answers each that cannot be read with the service's own error.

Tornado's reader answers a malformed request with a bare status line, one with a large head not at all, and closes while
input is unread, for which TCP takes the answer from the client again (RFC 9112, section 9.6). This one stands in its
place; Tornado parses heads and writes answers as before.

Promised: a client that sends anything reads a whole answer, unless it speaks TLS (it could not read one), or keeps
sending for longer than LINGER_S. Nothing is logged for what a client does.

tests/unit/test_library_internals.py lists the private names of Tornado that this relies on.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from asyncio import Future
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httputil import (
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    parse_request_start_line,
)
from tornado.iostream import IOStream, StreamClosedError, UnsatisfiableReadError

import protocol
from balance.web.http_errors import TLS_HANDSHAKE, check_request, explain_head, write_refusal
from balance.web.targets import to_canonical

log = logging.getLogger("balance.web")

HEAD_BYTES_MAX = 16_384
HEADER_LINES_MAX = 100  # of a head or of trailers; parsing one takes longer than reading a kilobyte
HEAD_END = rb"\r?\n\r?\n"
FIRST_BYTES = frozenset(b"!#$%&'*+-.^_`|~\r\n0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
DIGITS = re.compile("[0-9]+")
# RFC 9112, section 7.1: the size, and extensions that nobody has to understand. A line ends in CR LF and in nothing
# else: readers that take a bare LF for the end of an extension see other requests than those that do not.
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})([ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
CHUNK_LINE_BYTES_MAX = 1_024
TURN_BYTES = 262_144  # of a chunked body between two turns of the others; each chunk counts as CHUNK_COST more
CHUNK_COST = 1_024
LINGER_S = 5.0
LINGER_BYTES_MAX = 64 * 1024 * 1024


class RequestStream(IOStream):
    """A stream that hands over what has come when that cannot be, or become, what is waited for.

    Tornado would close it when a line or a head is too long. Then the reader gets more bytes than it asked for.
    """

    def _find_read_pos(self) -> int | None:
        if self._read_regex is not None and self._read_buffer and self._read_buffer[0] not in FIRST_BYTES:
            return self._read_buffer_size  # no method begins like this; the rest of the head may never come
        try:
            return super()._find_read_pos()
        except UnsatisfiableReadError:
            return self._read_buffer_size


class Closer:
    """Closes connections so that their clients can still read the last answer."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def close_after(self, stream: IOStream, answer: bytes) -> None:
        """Send the last bytes of a connection; close it when the client has, or when it sends for too long."""
        self._start(self._close_after(stream, answer))

    def linger(self, connection: socket.socket) -> None:
        """Close a socket whose stream is closed, but not before its client has closed its side."""
        self._start(self._linger(connection))

    def _start(self, closing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(closing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close_after(self, stream: IOStream, answer: bytes) -> None:
        with suppress(StreamClosedError, OSError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                if answer:
                    await stream.write(answer)
                if stream.closed():
                    return
                connection = stream.socket.dup()
                stream.close()  # which ends a read that waits
                await self._linger(connection)
        stream.close()

    async def _linger(self, connection: socket.socket) -> None:
        # Closing a socket with unread input makes TCP reset the connection, and a client that is reset loses what
        # it has not read. So only our half is closed at first, and what still comes is read and thrown away.
        loop = asyncio.get_running_loop()
        with connection, suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                connection.shutdown(socket.SHUT_WR)
                left = LINGER_BYTES_MAX
                while left > 0 and (data := await loop.sock_recv(connection, 65_536)):
                    left -= len(data)
                    await asyncio.sleep(0)

    async def stop(self) -> None:
        """Close at once what is being closed."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class ServerConnection(HTTP1ServerConnection):
    """A connection of a client: one request after the other."""

    def __init__(self, stream: IOStream, params: HTTP1ConnectionParameters, context: object, closer: Closer) -> None:
        super().__init__(stream, params, context)
        self._closer = closer

    async def _server_request_loop(self, delegate: HTTPServerConnectionDelegate) -> None:
        try:
            while True:
                exchange = Exchange(self.stream, self.params, self.context, self._closer)
                if not await exchange.read_response(delegate.start_request(self, exchange)):
                    return
                await asyncio.sleep(0)  # a client that sends many at once leaves the others their turns
        except asyncio.CancelledError:
            return
        finally:
            delegate.on_close(self)


class Exchange(HTTP1Connection):
    """One request and its answer."""

    def __init__(self, stream: IOStream, params: HTTP1ConnectionParameters, context: object, closer: Closer) -> None:
        super().__init__(stream, False, params, context)
        self.closer = closer
        self._is_refused = False

    async def read_response(self, delegate: HTTPMessageDelegate) -> bool:
        """Read a request, hand it to `delegate`, wait for its answer; return whether another request may follow.

        The name is Tornado's, which reads requests and responses by the same method.
        """
        is_open = False  # the delegate waits for the rest of a request
        try:
            head = await self.stream.read_until_regex(HEAD_END, max_bytes=self.params.max_header_size)
            start_line, headers = self._read_head(head)
            size = read_size(start_line, headers, self._max_body_size)
            self._disconnect_on_finish = not self._can_keep_alive(start_line, headers)
            start_line = to_canonical(start_line, headers)
            self._read_finished = size == 0  # an answer may come before the request is handed over as a whole
            check_request(start_line, headers)
            received = delegate.headers_received(start_line, headers)
            is_open = True
            if received is not None:
                await received
            if size != 0:
                await self._read_content(size, start_line, headers, delegate)
            self._read_finished, is_open = True, False
            if not self._write_finished:
                delegate.finish()
            if not self._finish_future.done() and self.stream is not None and not self.stream.closed():
                self.stream.set_close_callback(self._on_connection_close)
                await self._finish_future
        except protocol.ServiceError as error:
            self.refuse(error)
        except StreamClosedError:
            pass
        except Exception as error:
            log.error("a request could not be handled", exc_info=error)
            self.refuse(protocol.InternalError())
        else:
            return self.stream is not None  # else it has become a WebSocket
        finally:
            if is_open:
                delegate.on_connection_close()
            self._clear_callbacks()
        return False

    def refuse(self, error: protocol.ServiceError) -> None:
        """Send an error as the last thing on this connection. If an answer has begun, only close.

        Of two reasons the first is sent: the time may be up while what has come waits for its turn to be read.
        """
        if self._is_refused:
            return
        if self._response_start_line is not None:
            self.close()
            return
        self._is_refused = self._write_finished = True
        method = self._request_start_line.method if self._request_start_line else None
        self.closer.close_after(self.stream, write_refusal(error, method))

    def time_out(self) -> None:
        """End the wait for the rest of a request; where nothing of one has come, there is nothing to answer."""
        if self._request_start_line is not None:
            self.refuse(protocol.RequestTimeout("did not arrive in time", "payload"))
        elif self.stream._read_buffer_size:
            self.refuse(protocol.RequestTimeout("did not arrive in time", "head"))
        else:
            self.close()

    def _read_head(self, head: bytes) -> tuple[RequestStartLine, HTTPHeaders]:
        """Parse a head. Raises ServiceError, and StreamClosedError for a client that speaks TLS."""
        if self._is_refused:
            raise StreamClosedError
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
        self._request_start_line, self._request_headers = start_line, headers
        return start_line, headers

    async def _read_content(
        self, size: int | None, start_line: RequestStartLine, headers: HTTPHeaders, delegate: HTTPMessageDelegate
    ) -> None:
        """Read a body: of `size` bytes, or chunked where that is None."""
        expects = headers["Expect"].lower() if "Expect" in headers and start_line.version != "HTTP/1.0" else ""
        if expects == "100-continue" and not self._write_finished:  # RFC 9110, section 10.1.1
            self.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if size is None:
            await self._read_chunked_body(delegate)
        else:
            await self._read_fixed_body(size, delegate)

    async def _deliver_body(self, delegate: HTTPMessageDelegate, data: bytes) -> None:
        if not self._write_finished and (received := delegate.data_received(data)) is not None:
            await received

    async def _read_chunked_body(self, delegate: HTTPMessageDelegate) -> None:
        """Read a chunked body (RFC 9112, section 7.1). Extensions and trailers are checked and ignored."""
        room, extras_room, work = self._max_body_size, self.params.max_header_size, 0
        while True:
            line = await self.stream.read_until(b"\n", max_bytes=CHUNK_LINE_BYTES_MAX)
            found = CHUNK_LINE.fullmatch(line)
            if found is None:
                raise protocol.InvalidPayload("a chunk must begin with its size in hexadecimal digits", "payload")
            size, extension = int(found[1], 16), found[2] or b""
            extras_room -= len(extension)
            if extras_room < 0:
                raise protocol.HeadersTooLarge("are too long together", "chunk extensions")
            if size == 0:
                await self._read_trailers(extras_room)
                return
            room -= size
            if room < 0:
                raise protocol.PayloadTooLarge(f"is larger than {self._max_body_size} bytes", "payload")
            await self._read_fixed_body(size, delegate)
            if await self.stream.read_until(b"\n", max_bytes=2) != b"\r\n":
                raise protocol.InvalidPayload("a chunk must end in CR LF where its size says", "payload")
            work += size + CHUNK_COST
            if work >= TURN_BYTES:
                work = 0
                await asyncio.sleep(0)

    async def _read_trailers(self, room: int) -> None:
        """Read and ignore the trailer section (RFC 9112, section 7.1.2), which may hold what a head may."""
        trailers = b""
        while (line := await self.stream.read_until(b"\n", max_bytes=room + 2)) != b"\r\n":
            if line.endswith(b"\n") and not line.endswith(b"\r\n"):
                raise protocol.InvalidPayload("must each end in CR LF", "trailers")
            room -= len(line)
            trailers += line
            if room < 0 or trailers.count(b"\n") > HEADER_LINES_MAX:
                raise protocol.HeadersTooLarge("are too long", "trailers")
        try:
            HTTPHeaders.parse(trailers.decode("latin1"))
        except HTTPInputError as error:
            raise explain_head(b"GET / HTTP/1.1\r\n" + trailers) from error

    def _finish_request(self, future: Future[None] | None) -> None:
        """End the exchange when its answer has been sent. An answer before the end of the body ends the connection."""
        if self._read_finished or self.stream.closed():
            super()._finish_request(future)
        else:
            self._clear_callbacks()
            self.closer.close_after(self.stream, b"")


def read_size(start_line: RequestStartLine, headers: HTTPHeaders, bytes_max: int) -> int | None:
    """Return the size of a request's body, None where it is chunked (RFC 9112, section 6.3).

    As strict as Tornado: a message that two readers could take for two different ones is none. Raises InvalidPayload
    and PayloadTooLarge.
    """
    if "Transfer-Encoding" in headers:
        reason = None
        if "Content-Length" in headers:
            reason = "must not stand beside Content-Length"
        elif start_line.version == "HTTP/1.0":
            reason = "must not stand in a request of HTTP/1.0"
        elif headers["Transfer-Encoding"].lower() != "chunked":
            reason = "must be chunked"
        if reason:
            raise protocol.InvalidPayload(reason, "Transfer-Encoding")
        return None
    if "Content-Length" not in headers:
        return 0
    length = headers["Content-Length"]
    if "," in length:  # as proxies join what was sent twice
        lengths = {one.strip(" \t") for one in length.split(",")}
        if len(lengths) > 1:
            raise protocol.InvalidPayload("is given more than once", "Content-Length")
        headers["Content-Length"] = length = lengths.pop()
    if not DIGITS.fullmatch(length):
        raise protocol.InvalidPayload("must be a whole number of bytes", "Content-Length")
    if len(length) > 18 or int(length) > bytes_max:
        raise protocol.PayloadTooLarge(f"must be at most {bytes_max} bytes", "Content-Length")
    return int(length)
