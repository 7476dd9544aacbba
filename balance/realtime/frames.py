"""WebSocket frames: read many from what arrives at once, check them, and write them.

Tornado reads each frame in four steps, accepts an unmasked frame, and drops the connection without a close frame for
most violations of RFC 6455. Here a frame is plain if it holds a whole text and has arrived whole. Every other frame is
checked, and then read by Tornado's own reader from the bytes that were read here.

tests/unit/test_library_internals.py lists the private names of Tornado that this relies on.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any, Protocol

from tornado.iostream import StreamClosedError
from tornado.util import _websocket_mask
from tornado.websocket import WebSocketProtocol13

from balance.aio.loop_budget import LoopBudget
from balance.web.request_stream import READ_BYTES_MAX, RequestStream

# RFC 6455, section 5.2
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
OPCODE_BITS, RESERVED_BITS, FINAL = 0x0F, 0x70, 0x80
FINAL_TEXT = FINAL | TEXT  # the first byte
MASKED = 0x80
CONTROL_BYTES_MAX = 125
TWO_BYTES_OF_LENGTH, EIGHT_BYTES_OF_LENGTH = 126, 127
HEAD_BYTES, MASK_BYTES = 2, 4
HEAD_OF_4, HEAD_OF_10 = struct.Struct("!BBH").pack, struct.Struct("!BBQ").pack  # bound once: a replay frames each row
# RFC 6455, section 7.4.1
NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED_DATA = 1000, 1001, 1002, 1003
NOT_UTF8, POLICY, TOO_LARGE = 1007, 1008, 1009
SERVICE_RESTART, TRY_AGAIN_LATER = 1012, 1013  # registered with IANA; a client connects again
CLOSE_CODES = frozenset([*range(1000, 1004), *range(1007, 1015)])  # of those below 3000 that a frame may have


class FrameOwner(Protocol):
    """What a `FrameReader` needs of the handler of its WebSocket."""

    budget: LoopBudget

    def write_frame(self, frame: bytes) -> asyncio.Future[None] | None:
        """Send a frame; return a future unless the operating system has accepted it. Raises StreamClosedError."""

    def fail(self, code: int, reason: str) -> None:
        """Close the WebSocket for a fault of its client."""

    def linger(self, connection: socket.socket) -> None:
        """Close a socket after its client has closed its side."""


class FrameReader(WebSocketProtocol13):
    """Tornado's end of a WebSocket, which handles all frames that one read brings."""

    # Beside Tornado's own attributes: with these in it, their dict would be a kilobyte larger.
    __slots__ = ("_arrived", "_consumed", "_driver", "_handling", "_message_bytes_max", "_owner")

    stream: RequestStream

    def __init__(self, owner: FrameOwner, *arguments: Any) -> None:
        """Read for `owner`, which is also Tornado's handler; `arguments` are the other ones of WebSocketProtocol13."""
        super().__init__(owner, *arguments)  # type: ignore[arg-type]
        self._owner = owner
        self._message_bytes_max = self.params.max_message_size
        # Tornado would count a control frame as a part of the fragmented message around it (RFC 6455, section 5.4).
        self.params.max_message_size += CONTROL_BYTES_MAX
        self._arrived = b""
        self._consumed = 0  # bytes of it
        self._handling: asyncio.Future[None] | None = None  # of the last plain frame; the next one waits for its end

    async def _receive_frame_loop(self) -> None:
        await super()._receive_frame_loop()
        del self.handler, self._owner  # they refer to this: without the cycle a client is freed when it has gone

    async def _receive_frame(self) -> None:
        if self._owner.budget.is_turn_over():
            await asyncio.sleep(0)
        if self._consumed == len(self._arrived):
            self._driver = self._owner.budget.running  # of this coroutine
            self._arrived, self._consumed = b"", 0  # an idle connection holds no buffer
            self._add_arrived(await self.stream.read_or_handle(self._handle_arrived))
        elif not self._handle_plain():
            await self._receive_other()
        if self._handling is not None:
            handling, self._handling = self._handling, None
            await handling

    def _handle_arrived(self, arrived: bytes) -> bool:
        """Handle what arrives without a turn of the coroutine; return False if it must handle the rest."""
        assert self._driver is not None, "frames are read within the budget"
        self._add_arrived(arrived)
        self._owner.budget.run_step(self._driver, self._handle_plain)
        if self._handling is not None or self._consumed < len(self._arrived):
            return False
        self._arrived, self._consumed = b"", 0
        return True

    async def _receive_other(self) -> None:
        """Receive a frame that is not plain."""
        fault = await self._next_fault()
        if fault is None:
            await super()._receive_frame()
        else:
            await self._fail(*fault)

    def _write_frame(self, fin: bool, opcode: int, data: bytes, flags: int = 0) -> asyncio.Future[None]:
        """Send a frame of Tornado's own, a pong or a close, by the writer of all other frames."""
        written = self._owner.write_frame(to_frame(data, opcode))
        if written is None:
            written = asyncio.get_running_loop().create_future()
            written.set_result(None)
        return written

    def _handle_message(self, opcode: int, data: bytes) -> asyncio.Future[None] | None:
        if opcode == CLOSE:
            return self._handle_close(data)
        if self.server_terminated:
            return None  # after our own close frame only the client's counts (RFC 6455, section 1.4)
        if opcode == TEXT:
            try:
                text = data.decode()
            except UnicodeDecodeError:
                return asyncio.ensure_future(self._fail(NOT_UTF8, "a text message must be UTF-8"))
            return self._run_callback(self.handler.on_message, text)
        return super()._handle_message(opcode, data)

    def _handle_close(self, data: bytes) -> asyncio.Future[None] | None:
        if (fault := close_fault(data)) is not None:
            return asyncio.ensure_future(self._fail(*fault))
        if not self.stream.closed():
            connection = self.stream.duplicate()
            super()._handle_message(CLOSE, data)  # which answers and closes the stream
            self._owner.linger(connection)  # python-socketio's Client sends three more frames after its close
        return None

    async def _fail(self, code: int, reason: str) -> None:
        """Fail the connection: close it, and accept nothing more from it (RFC 6455, section 7.1.7).

        What still arrives is read and dropped, until the client closes its side or the time ends that Tornado gives a
        close (5 s). To close a socket with unread bytes in it would reset the connection, and lose the close frame.
        """
        self._owner.fail(code, reason)
        # An exception of the task that runs this would form a reference cycle with the frame that awaits the task.
        with suppress(StreamClosedError):
            await self.stream.write(b"")  # no byte: done when the close frame has left the stream
            if not self.stream.closed():
                self.stream.end_sending()
            while True:
                await self.stream.read_bytes(READ_BYTES_MAX, partial=True)
        self._abort()  # ends the loop of frames

    async def _next_fault(self) -> tuple[int, str] | None:
        """Return the close code and the reason if the next frame breaks the protocol or is too large."""
        await self._wait_for_bytes(HEAD_BYTES)
        first, second = self._arrived[self._consumed : self._consumed + HEAD_BYTES]
        reason = head_fault(first, second, is_continued=self._fragmented_message_buffer is not None)
        if reason is not None:
            return PROTOCOL_ERROR, reason
        size = second & ~MASKED
        if size >= TWO_BYTES_OF_LENGTH:
            end = HEAD_BYTES + (2 if size == TWO_BYTES_OF_LENGTH else 8)
            await self._wait_for_bytes(end)
            size = int.from_bytes(self._arrived[self._consumed + HEAD_BYTES : self._consumed + end], "big")
        if first & OPCODE_BITS < CLOSE:  # a control frame does not belong to the message around it
            size += len(self._fragmented_message_buffer or b"")
            if size > self._message_bytes_max:
                return TOO_LARGE, f"a message may have {self._message_bytes_max} bytes"
        return None

    async def _wait_for_bytes(self, count: int) -> None:
        """Read until this many bytes have arrived and are not consumed."""
        while len(self._arrived) - self._consumed < count:
            await self._read_more()

    async def _read_bytes(self, n: int) -> bytes:
        await self._wait_for_bytes(n)
        self._consumed += n
        return self._arrived[self._consumed - n : self._consumed]

    async def _read_more(self) -> None:
        self._arrived, self._consumed = self._arrived[self._consumed :], 0
        self._add_arrived(await self.stream.read_bytes(READ_BYTES_MAX, partial=True))

    def _add_arrived(self, arrived: bytes) -> None:
        self._wire_bytes_in += len(arrived)
        self._arrived += arrived

    def _handle_plain(self) -> bool:
        """Handle the plain frames that come next, until one must be awaited; return whether there was one."""
        was_plain = False
        while not self.client_terminated and (text := self._next_plain()) is not None:
            was_plain = True
            self._handling = self._handle_message(TEXT, text)
            if self._handling is not None or self._owner.budget.is_turn_over():
                break
        return was_plain

    def _next_plain(self) -> bytes | None:
        """Consume the next frame and return its text if it is plain; otherwise return None."""
        data, at = self._arrived, self._consumed
        if len(data) - at < HEAD_BYTES or data[at] != FINAL_TEXT or self._fragmented_message_buffer is not None:
            return None
        size = data[at + 1] - MASKED
        start = at + HEAD_BYTES
        if size == TWO_BYTES_OF_LENGTH:
            size = int.from_bytes(data[start : start + 2], "big")
            start += 2
        elif not 0 <= size < TWO_BYTES_OF_LENGTH:
            return None
        end = start + MASK_BYTES + size
        if end > len(data) or size > self._message_bytes_max:
            return None
        self._consumed = end
        return _websocket_mask(data[start : start + MASK_BYTES], data[start + MASK_BYTES : end])


def to_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return a frame as a server sends it: final, unmasked, not compressed (RFC 6455, section 5.2)."""
    size = len(payload)
    first = FINAL | opcode
    if size < TWO_BYTES_OF_LENGTH:
        return b"%c%c%b" % (first, size, payload)
    if size < 65_536:
        return HEAD_OF_4(first, TWO_BYTES_OF_LENGTH, size) + payload
    return HEAD_OF_10(first, EIGHT_BYTES_OF_LENGTH, size) + payload


def head_fault(first: int, second: int, *, is_continued: bool) -> str | None:
    """Return what is wrong with the first two bytes of a client's frame (RFC 6455, sections 5.1, 5.2, 5.4 and 5.5).

    `is_continued`: the message before it has not ended.
    """
    opcode = first & OPCODE_BITS
    is_control, is_continuation = opcode >= CLOSE, opcode == CONTINUATION
    rules = (
        (first & RESERVED_BITS, "a reserved bit is set, and no extension was agreed on"),
        (opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG), f"opcode {opcode} is reserved"),
        (not second & MASKED, "a frame from a client must be masked"),
        (is_control and not first & FINAL, "a control frame must not be fragmented"),
        (is_control and second & ~MASKED > CONTROL_BYTES_MAX, f"a control frame may have {CONTROL_BYTES_MAX} bytes"),
        (is_continuation and not is_continued, "there is no message to continue"),
        (not is_control and not is_continuation and is_continued, "the message before this one has not ended"),
    )
    return next((reason for is_broken, reason in rules if is_broken), None)


def close_fault(payload: bytes) -> tuple[int, str] | None:
    """Return the close code and the reason if this cannot be the payload of a close frame (RFC 6455, section 7.4)."""
    if not payload:
        return None
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in CLOSE_CODES or 3000 <= code < 5000):
        return PROTOCOL_ERROR, "the close frame has no valid code"
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        return NOT_UTF8, "the reason of a close must be UTF-8"
    return None
