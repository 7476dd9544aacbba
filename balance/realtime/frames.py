"""WebSocket frames as they arrive: many in one read, where Tornado would read each in four steps.

A frame is plain if it holds a whole text and has come whole. Every other frame is read by Tornado's own reader, from
the bytes that were read here, after its head was checked: Tornado accepts an unmasked frame, and drops the connection
without a close frame for most violations of RFC 6455.

Relied on inside Tornado 6.6, pinned by tests/unit/test_frames.py: that `WebSocketProtocol13._receive_frame` reads one
frame by `_read_bytes` and passes it to `_handle_message`, is called until the connection ends, and keeps in
`_fragmented_message_buffer` what it has of a fragmented message; that `_handle_message` returns a future if the next
frame must wait; that `_write_frame` writes every frame that Tornado sends of its own accord.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tornado.util import _websocket_mask
from tornado.websocket import WebSocketProtocol13

READ_BYTES_MAX = 32_768  # at once: a hundred updates or more
# RFC 6455, section 5.2
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
OPCODE_BITS, RESERVED_BITS, FINAL = 0x0F, 0x70, 0x80
FINAL_TEXT = FINAL | TEXT  # the first byte
MASKED = 0x80
CONTROL_BYTES_MAX = 125
TWO_BYTES_OF_LENGTH = 126
HEAD_BYTES, MASK_BYTES = 2, 4
# RFC 6455, section 7.4.1
NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED_DATA = 1000, 1001, 1002, 1003
NOT_UTF8, POLICY, TOO_LARGE = 1007, 1008, 1009
CLOSE_CODES = frozenset([*range(1000, 1004), *range(1007, 1015)])  # of those below 3000 that a frame may have


class FrameReader(WebSocketProtocol13):
    """Tornado's WebSocket, which reads as much as there is."""

    # Beside Tornado's own attributes, whose dict would grow by a kilobyte with these in it.
    __slots__ = ("_arrived", "_is_over", "_linger", "_message_bytes_max", "_on_fault", "_on_write", "_taken")

    def __init__(
        self,
        *arguments: Any,
        is_over: Callable[[], bool],
        on_fault: Callable[[int, str], None],
        on_write: Callable[[], None],
        linger: Callable[[socket.socket], None],
    ) -> None:
        """`is_over()` tells whether others must have their turn; `on_fault(code, reason)` must close the connection;
        `on_write` is called before Tornado writes a frame; `linger(connection)` must close it when its client has."""
        super().__init__(*arguments)
        self._message_bytes_max = self.params.max_message_size
        # Tornado would count a control frame as a part of the fragmented message around it (RFC 6455, section 5.4).
        self.params.max_message_size += CONTROL_BYTES_MAX
        self._is_over = is_over
        self._on_fault = on_fault
        self._on_write = on_write
        self._linger = linger
        self._arrived = b""
        self._taken = 0  # bytes of it

    async def _receive_frame(self) -> None:
        if self._is_over():
            await asyncio.sleep(0)
        if self._taken == len(self._arrived):
            await self._read_more()
        if await self._take_plain():
            return
        fault = await self._next_fault()
        if fault is None:
            await super()._receive_frame()
        else:
            await self._fail(*fault)

    def _write_frame(self, fin: bool, opcode: int, data: bytes, flags: int = 0) -> asyncio.Future[None]:
        self._on_write()
        return super()._write_frame(fin, opcode, data, flags)

    def _handle_message(self, opcode: int, data: bytes) -> asyncio.Future[None] | None:
        if opcode == TEXT:
            try:
                text = data.decode()
            except UnicodeDecodeError:
                return asyncio.ensure_future(self._fail(NOT_UTF8, "a text message must be UTF-8"))
            return self._run_callback(self.handler.on_message, text)
        if opcode == CLOSE:
            return self._handle_close(data)
        return super()._handle_message(opcode, data)

    def _handle_close(self, data: bytes) -> asyncio.Future[None] | None:
        if (fault := close_fault(data)) is not None:
            return asyncio.ensure_future(self._fail(*fault))
        if not self.stream.closed():
            connection = self.stream.socket.dup()
            super()._handle_message(CLOSE, data)  # which answers and closes the stream
            self._linger(connection)  # python-socketio's Client sends three more frames behind its close
        return None

    async def _fail(self, code: int, reason: str) -> None:
        """Fail the connection: close it, and take nothing more from it (RFC 6455, section 7.1.7).

        What still arrives is read and dropped, until the client closes its side or the time ends that Tornado gives a
        close (5 s). To close a socket with unread bytes in it would reset the connection, and lose the close frame.
        """
        self._on_fault(code, reason)
        await self.stream.write(b"")  # done when the close frame is
        if not self.stream.closed():
            with suppress(OSError):  # the client was faster
                self.stream.socket.shutdown(socket.SHUT_WR)
        while True:
            await self.stream.read_bytes(READ_BYTES_MAX, partial=True)  # StreamClosedError ends it

    async def _next_fault(self) -> tuple[int, str] | None:
        """Return the close code and the reason if the next frame breaks the protocol or is too large."""
        await self._wait_for_bytes(HEAD_BYTES)
        first, second = self._arrived[self._taken : self._taken + HEAD_BYTES]
        reason = head_fault(first, second, is_continued=self._fragmented_message_buffer is not None)
        if reason is not None:
            return PROTOCOL_ERROR, reason
        size = second & ~MASKED
        if size >= TWO_BYTES_OF_LENGTH:
            end = HEAD_BYTES + (2 if size == TWO_BYTES_OF_LENGTH else 8)
            await self._wait_for_bytes(end)
            size = int.from_bytes(self._arrived[self._taken + HEAD_BYTES : self._taken + end], "big")
        if first & OPCODE_BITS < CLOSE:  # a control frame is no part of the message that it comes between
            size += len(self._fragmented_message_buffer or b"")
            if size > self._message_bytes_max:
                return TOO_LARGE, f"a message may have {self._message_bytes_max} bytes"
        return None

    async def _wait_for_bytes(self, count: int) -> None:
        """Read until so many bytes have arrived and are not taken."""
        while len(self._arrived) - self._taken < count:
            await self._read_more()

    async def _read_bytes(self, n: int) -> bytes:
        await self._wait_for_bytes(n)
        self._taken += n
        return self._arrived[self._taken - n : self._taken]

    async def _read_more(self) -> None:
        rest = self._arrived[self._taken :]
        self._arrived, self._taken = b"", 0  # held by nobody while nothing comes
        arrived = await self.stream.read_bytes(READ_BYTES_MAX, partial=True)
        self._wire_bytes_in += len(arrived)
        self._arrived = rest + arrived

    async def _take_plain(self) -> bool:
        """Take the plain frames that come next, and say whether there was one."""
        has_taken = False
        while not self.client_terminated and (text := self._next_plain()) is not None:
            handled = self._handle_message(TEXT, text)
            if handled is not None:
                await handled
            has_taken = True
            if self._is_over():
                break
        return has_taken

    def _next_plain(self) -> bytes | None:
        data, at = self._arrived, self._taken
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
        self._taken = end
        return _websocket_mask(data[start : start + MASK_BYTES], data[start + MASK_BYTES : end])


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
