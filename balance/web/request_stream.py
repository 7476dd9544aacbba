"""The stream of one connection: `RequestStream` without TLS, `TlsStream` with it.

Most bytes are sent by `send` of the socket, without the stream, while nothing waits in the stream. After a record that
the operating system has not accepted, OpenSSL must get the same bytes again (SSL_write(3)). So a caller may use
`stream.socket.send` only if it writes the rest by the stream at once, or aborts the stream; any other caller uses
`direct_send`, which does not exist with TLS.

tests/unit/test_library_internals.py lists the private names of Tornado that this relies on.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, SSLIOStream, UnsatisfiableReadError

import protocol
from balance.request_context import RequestContext
from balance.web.connection_limit import Slot
from balance.web.http_errors import error_response

FIRST_BYTES = frozenset(b"!#$%&'*+-.^_`|~\r\n0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
READ_BYTES_MAX = 32_768  # in one read of a WebSocket: a hundred updates or more, and more than a record of TLS has


class RequestStream(IOStream):
    """A stream that returns what has arrived if that cannot become what the reader waits for.

    Tornado closes a stream when a line or a head is too long. Here the reader gets more bytes than it asked for.
    """

    # Beside Tornado's own attributes, whose dict is shared by all streams.
    __slots__ = ("_handle", "_slot")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._handle: Callable[[bytes], bool] | None = None
        self._slot: Slot | None = None  # by which the connection counts for its address
        super().set_nodelay(True)  # each response is sent at once (Nagle's algorithm, RFC 896)

    def count(self, slot: Slot | None) -> None:
        """Count the connection by another slot, or not at all, until it is closed."""
        if self._slot is not None:
            self._slot.release()
        self._slot = slot

    def set_nodelay(self, value: bool) -> None:
        """Change nothing: Tornado would switch Nagle's delay off and on again for every request."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that were written and that the operating system has not accepted yet."""
        return len(self._write_buffer) if self._write_buffer else 0

    @property
    def direct_send(self) -> Callable[[bytes], int] | None:
        """`send` of the socket, for a caller that may send other bytes after those that were not accepted."""
        send: Callable[[bytes], int] = self.socket.send
        return send

    def end_sending(self) -> None:
        """Send the end of what this side sends; what the client still sends can be read."""
        with suppress(OSError):  # the client was faster
            self.socket.shutdown(socket.SHUT_WR)

    def duplicate(self) -> socket.socket:
        """Return another socket of the connection, which stays open when the stream is closed."""
        connection = socket.socket(fileno=os.dup(self.socket.fileno()))
        connection.setblocking(False)
        return connection

    def send_now(self, data: bytes) -> int:
        """Send what the operating system accepts at once; return how many bytes that are, 0 if some wait in the stream.

        The stream must be open. The caller writes the rest, for which an IOStream makes a future.
        """
        if self._write_buffer:
            return 0
        try:
            return self.socket.send(data)
        except OSError:  # full or gone: the stream finds out which
            return 0

    def read_arrived(self, size: int) -> bytes | None:
        """Return the next `size` bytes if they have arrived; `read_bytes` would make a future for them."""
        return self._consume(size) if size <= self._read_buffer_size else None

    def reading(self) -> bool:
        """Return whether the event loop watches for bytes, also while nothing reads them.

        Tornado would stop that at the end of each read and start it again at the next, by two system calls.
        """
        return super().reading() or bool(self._state and self._state & IOLoop.READ)

    async def read_or_handle(self, handle: Callable[[bytes], bool]) -> bytes:
        """Return what has arrived; if that is nothing, call `handle` with all that arrives until it returns False.

        Each read would cost a future and a turn of the event loop otherwise. `handle` keeps what it does not handle.
        """
        self._handle = handle
        try:
            return await self.read_bytes(READ_BYTES_MAX, partial=True)
        finally:
            self._handle = None

    def _handle_read(self) -> None:
        if self._handle is None:
            if self._read_future is None and self._read_buffer_size:
                self._stop_watching()
            else:
                super()._handle_read()
            return
        try:
            arrived = self.socket.recv(READ_BYTES_MAX)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError as error:
            self.close(exc_info=error)
            return
        if not arrived:
            self.close()
        elif not self._handle(arrived):
            self._handle = None
            self._read_from_buffer(0)  # ends the wait

    def _stop_watching(self) -> None:
        """Leave what arrives to the operating system until the next read: what came before is not read yet."""
        self._state = state = (self._state or IOLoop.ERROR) & ~IOLoop.READ
        self.io_loop.update_handler(self.fileno(), state)

    def close(self, exc_info: Any = False) -> None:
        """Close the stream, and keep the error that closes it without its traceback, which refers to the stream."""
        super().close(exc_info)
        self.count(None)
        if self.error is not None:
            self.error.__traceback__ = None

    def _find_read_pos(self) -> int | None:
        if self._read_regex is not None and self._read_buffer and self._read_buffer[0] not in FIRST_BYTES:
            return self._read_buffer_size  # no method begins like this; the rest of the head may never come
        try:
            return super()._find_read_pos()
        except UnsatisfiableReadError:
            return self._read_buffer_size


class TlsStream(RequestStream, SSLIOStream):
    """A stream with TLS; the handshake is made as its bytes arrive, and never blocks the event loop."""

    @property
    def direct_send(self) -> None:
        """None."""

    def _do_ssl_handshake(self) -> None:
        """Continue the handshake. Tornado's method logs each fault of a client."""
        self._handshake_reading = self._handshake_writing = False
        try:
            self.socket.do_handshake()
        except ssl.SSLWantReadError:
            self._handshake_reading = True
        except ssl.SSLWantWriteError:
            self._handshake_writing = True
        except (OSError, AttributeError) as error:  # AttributeError: the client has reset the connection before
            if getattr(error, "reason", None) == "HTTP_REQUEST":
                self._answer_plain_http()
            self.close(exc_info=error)
        else:
            self._ssl_accepting = False

    def _is_connreset(self, e: BaseException) -> bool:
        """Return whether an error ends the stream without a log line: each fault of TLS is one of the client."""
        return isinstance(e, ssl.SSLError) or super()._is_connreset(e)

    def _answer_plain_http(self) -> None:
        """Send an error without TLS, which this client does not speak."""
        error = protocol.InvalidPayload("this port speaks TLS: use https://", "request")
        with suppress(OSError), self.duplicate() as connection:
            connection.recv(READ_BYTES_MAX)  # with bytes left unread, the connection would be reset
            connection.send(error_response(error, None, RequestContext({}, ""), "http"))

    def end_sending(self) -> None:
        """Send the alert that ends what this side sends (RFC 8446, section 6.1), and then the end of the connection."""
        self._send_close_notify()
        with suppress(OSError), self.duplicate() as connection:  # `shutdown` of an SSLSocket ends its reading too
            connection.shutdown(socket.SHUT_WR)

    def close(self, exc_info: Any = False) -> None:
        """Close the stream; a client that was sent all of it gets the alert, by which it knows that nothing is lost."""
        if not (self.closed() or exc_info or self._ssl_accepting or self.writing()):
            self._send_close_notify()
        super().close(exc_info)

    def _send_close_notify(self) -> None:
        with suppress(OSError, ValueError):  # it does not wait for the client's alert; ValueError: TLS has ended before
            self.socket.unwrap()
