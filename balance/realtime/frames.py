"""WebSocket frames as they arrive: many in one read, where Tornado would read each in four steps.

A frame is plain if it holds a whole text and has come whole. Whatever else there is, Tornado's own reader takes, from
what was read here.

Relied on inside Tornado 6, pinned by tests/test_frames.py: that `WebSocketProtocol13._receive_frame` reads one frame by
`_read_bytes` and hands it to `_handle_message`, is called until the connection ends, and keeps in
`_fragmented_message_buffer` what it has of a fragmented message; that `_write_frame` writes whatever Tornado sends of
its own accord.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tornado.util import _websocket_mask
from tornado.websocket import WebSocketProtocol13

READ_BYTES_MAX = 32_768  # at once: a hundred updates or more
TURN_FRAMES_MAX = 64  # then the others have their turn
TEXT = 0x1
FINAL_TEXT = 0x81  # the first byte (RFC 6455, section 5.2)
MASKED = 0x80
TWO_BYTES_OF_LENGTH = 126
HEAD_BYTES, MASK_BYTES = 2, 4


class FrameReader(WebSocketProtocol13):
    """Tornado's WebSocket, which reads as much as there is."""

    __slots__ = (
        "_arrived",
        "_on_write",
        "_taken",
    )  # beside Tornado's attributes, whose dict would else grow by a kilobyte

    def __init__(self, *arguments: Any, on_write: Callable[[], None]) -> None:
        super().__init__(*arguments)
        self._on_write = on_write  # is called before Tornado writes a frame of its own: a pong, a close
        self._arrived = b""
        self._taken = 0  # bytes of it

    async def _receive_frame(self) -> None:
        if self._taken == len(self._arrived):
            await self._read_more()
        if not await self._take_plain():
            await super()._receive_frame()

    def _write_frame(self, fin: bool, opcode: int, data: bytes, flags: int = 0) -> asyncio.Future[None]:
        self._on_write()
        return super()._write_frame(fin, opcode, data, flags)

    async def _read_bytes(self, n: int) -> bytes:
        while len(self._arrived) - self._taken < n:
            await self._read_more()
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
        count = 0
        while not self.client_terminated and (text := self._next_plain()) is not None:
            handled = self._handle_message(TEXT, text)
            if handled is not None:
                await handled
            count += 1
            if count == TURN_FRAMES_MAX:
                await asyncio.sleep(0)
                break
        return count > 0

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
        if end > len(data) or size > self.params.max_message_size:
            return None
        self._taken = end
        return _websocket_mask(data[start : start + MASK_BYTES], data[start + MASK_BYTES : end])
