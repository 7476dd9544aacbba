"""One stream of server-sent events after the head of its response: what is sent, what waits, and its end.

It is small, since an idle client costs nothing else: the request, its handler and its HTTP connection are freed when
the head has been sent.

Threads: event loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from tornado.iostream import StreamClosedError

from balance.aio.backlog import Backlog
from balance.auth import Caller
from balance.open_connection import OpenConnection
from balance.request_context import RequestContext
from balance.web.http_connection import RequestStream
from balance.web.lingering_close import Closer

READ_BYTES = 1_024
INPUT_BYTES_MAX = 4_096  # that a client may send after its request; a stream is for sending to the client only


class EventStream(Backlog):
    """The connection of one client."""

    __slots__ = (
        "_bytes_left",
        "_closer",
        "_on_close",
        "_stream",
        "caller",
        "context",
        "direct_send",
        "expires_at",
        "pids",
        "replayed",
        "replaying",
        "sent_at",
    )

    def __init__(
        self,
        stream: RequestStream,
        closer: Closer,
        context: RequestContext,
        caller: Caller,
        pids: tuple[int, ...] | None,
    ) -> None:
        """Send by `stream`, from the head of the response on; `context` is that of the request."""
        super().__init__()
        self._stream = stream
        self._closer = closer
        self.context = context
        self.caller = caller
        self.pids = pids
        """The process ids of the snapshots that it gets, sorted; None for all snapshots."""
        self.direct_send: Callable[[bytes], int] | None = None
        """`send` of the client's socket; None while something waits in the stream, and once closed."""
        self.sent_at = 0.0
        """When something was last sent to this stream alone, by the clock of the event loop."""
        self.expires_at = 0.0
        self.replaying: asyncio.Task[None] | None = None
        """The task that sends what the client has missed; None once the stream is live."""
        self.replayed = 0
        """The seq up to which everything was sent before the stream was live."""
        self._bytes_left = INPUT_BYTES_MAX
        self._on_close: Callable[[EventStream], object] | None = None
        self._send_directly()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be sent."""
        return self._stream.closed()

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the operating system has not accepted yet."""
        return self._stream.unsent_bytes

    def describe(self) -> OpenConnection:
        """Describe it for an operator."""
        is_live = self.replaying is None
        return OpenConnection(self.context, "sse", self.context.started, self.unsent_bytes, is_live, self.replayed)

    def send(self, data: bytes) -> asyncio.Future[None] | None:
        """Send whole events; return a future if the operating system does not accept all of them at once.

        Raises StreamClosedError.
        """
        sent = 0
        if self.direct_send is not None:
            with suppress(OSError):  # full or gone: the stream finds out which
                sent = self.direct_send(data)
        return None if sent == len(data) else self.send_rest(data, sent)

    def send_rest(self, data: bytes, sent: int) -> asyncio.Future[None]:
        """Send events of which the operating system has accepted the first `sent` bytes. Raises StreamClosedError."""
        self.direct_send = None
        written = self._stream.write(memoryview(data)[sent:])
        written.add_done_callback(lambda _: self._send_directly())
        return written

    def _send_directly(self) -> None:
        """Bypass the stream from now on, if nothing waits in it."""
        if not (self._stream.closed() or self._stream.writing()):
            self.direct_send = self._stream.socket.send

    def call_on_close(self, on_close: Callable[[EventStream], object]) -> None:
        """Read what the client sends and ignore it; call `on_close` when the stream is closed, by either side."""
        self._on_close = on_close
        self._read()

    def _read(self) -> None:
        try:
            read = asyncio.ensure_future(self._stream.read_bytes(READ_BYTES, partial=True))
        except StreamClosedError:
            self._note_closed()
        else:
            read.add_done_callback(self._note_read)

    def _note_read(self, read: asyncio.Future[bytes]) -> None:
        if read.exception() is not None:
            self._note_closed()
            return
        self._bytes_left -= len(read.result())
        if self._bytes_left < 0:
            self._stream.close()
        self._read()

    def _note_closed(self) -> None:
        self.direct_send = None
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close(self)

    def end(self, last: bytes) -> None:
        """Send the last events and close. A client with a backlog gets a limited time to read it."""
        if self.direct_send is not None:
            with suppress(OSError):
                last = last[self.direct_send(last) :]
        self.direct_send = None
        if last and not self._stream.closed():
            self._closer.close_after(self._stream, last)
        else:
            self._stream.close()

    def abort(self) -> None:
        """Close at once, which frees what the client has not read."""
        self._stream.close()
