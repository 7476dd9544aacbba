"""One WebSocket, and the only writer to it.

Broadcasts, acknowledgements, heartbeats, the packets that python-engineio sends, and the pongs and close frames of
Tornado all leave by `Connection.write`. One other call sends bytes: the loop of `Engine.broadcast` calls
`SendQueue.direct_send`, which is `send` of the same socket, while nothing waits; what the operating system does not
accept is then passed to `write`. With TLS there is no `direct_send`, and `write` sends all.
"""

from __future__ import annotations

import asyncio

from tornado.iostream import StreamClosedError

from balance.realtime.frames import FrameReader
from balance.realtime.receive_queue import ReceiveQueue
from balance.realtime.send_queue import SendQueue
from balance.web.request_stream import RequestStream


class Connection:
    """One WebSocket, from its upgrade to its end."""

    __slots__ = ("_websocket", "receive_queue", "send_queue", "serving", "stream", "upgrade_frames")

    def __init__(self, websocket: FrameReader, upgrade_frames: tuple[str, ...]) -> None:
        self._websocket = websocket
        self.stream: RequestStream = websocket.stream
        self.receive_queue = ReceiveQueue()
        self.send_queue: SendQueue | None = None
        """The queue of its session, which counts what waits in the stream; None until there is a session."""
        self.upgrade_frames = upgrade_frames
        """The frames that must come next, while the WebSocket is to carry on a session that polls."""
        self.serving: asyncio.Task[None] | None = None
        """The task that serves it; it ends after the WebSocket."""

    @property
    def is_open(self) -> bool:
        """Whether frames may be sent: none may follow a close frame (RFC 6455, section 5.5.1)."""
        return not (self._websocket.server_terminated or self.stream.closed())

    @property
    def is_idle(self) -> bool:
        """Whether frames may be sent and no byte waits in the stream."""
        return self.is_open and not self.stream.writing()

    def write(self, frames: bytes, sent: int = 0) -> asyncio.Future[None] | None:
        """Send frames, of which the first `sent` bytes are sent already.

        What the operating system does not accept at once is counted in `send_queue`, and a future of it is returned.
        Raises StreamClosedError once closed.
        """
        if not self.is_open:
            raise StreamClosedError
        rest = len(frames) - (sent or self.stream.send_now(frames))
        if not rest:
            return None
        written = self.stream.write(memoryview(frames)[-rest:])
        if (queue := self.send_queue) is not None:
            queue.note_unsent(rest, batch=len(frames))
            written.add_done_callback(lambda _: queue.note_written(rest))
        return written

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, unless one was sent; the stream is closed when the client has answered, or after 5 s."""
        self._websocket.close(code, reason)
        if self.send_queue is not None:
            self.send_queue.direct_send = None

    def abort(self) -> None:
        """Close the stream at once, which frees what the client has not read."""
        self.stream.close()
