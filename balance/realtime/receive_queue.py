"""Frames of a WebSocket that have arrived and that python-engineio has not read yet.

There is one queue for each WebSocket, and nearly all are empty: an asyncio.Queue would use three kilobytes.
"""

from __future__ import annotations

import asyncio
import time

FRAMES_HIGH_WATER = 64  # read ahead of the frame that is handled; reading resumes at half of it
LENGTH_HIGH_WATER = 1_048_576  # characters or bytes in these frames; reading resumes at half of it


class ReceiveQueue:
    """The frames of one client, in order.

    At the high-water mark `put` makes Tornado wait before it reads the next frame, so that TCP holds back a client
    that floods.
    """

    __slots__ = ("_frames", "_getter", "_is_closed", "_length", "_resume_reading", "_waiting_since")

    def __init__(self) -> None:
        self._frames: list[str | bytes] | tuple[()] = ()
        self._length = 0
        self._is_closed = False
        self._getter: asyncio.Future[str | bytes | None] | None = None
        self._waiting_since = 0.0
        self._resume_reading: asyncio.Future[None] | None = None

    @property
    def reader_is_idle(self) -> bool:
        """Whether python-engineio waits for the next frame; it has then handled every frame before it."""
        return self._getter is not None and not self._getter.done()

    @property
    def idle_s(self) -> float:
        """The seconds for which the reader has waited."""
        return time.monotonic() - self._waiting_since

    def put(self, frame: str | bytes) -> asyncio.Future[None] | None:
        """Add a frame; at the high-water mark, return a future that is done when the next frame may be read."""
        if self._getter is not None and not self._getter.done():
            self._getter.set_result(frame)
            return None
        self._frames = self._frames or []
        self._frames.append(frame)
        self._length += len(frame)
        if len(self._frames) < FRAMES_HIGH_WATER and self._length < LENGTH_HIGH_WATER:
            return None
        self._resume_reading = asyncio.get_running_loop().create_future()
        return self._resume_reading

    def get(self) -> asyncio.Future[str | bytes | None]:
        """Return a future for the next frame, None after the last one, which ends the library's reader.

        An OSError would end it too, and its traceback would keep the whole client in a reference cycle.
        """
        getter: asyncio.Future[str | bytes | None] = asyncio.get_running_loop().create_future()
        if self._frames:
            frame = self._frames.pop(0)
            self._frames = self._frames or ()
            self._length -= len(frame)
            getter.set_result(frame)
            if len(self._frames) <= FRAMES_HIGH_WATER // 2 and self._length <= LENGTH_HIGH_WATER // 2:
                self._resume()
        elif self._is_closed:
            getter.set_result(None)
        else:
            self._getter = getter
            self._waiting_since = time.monotonic()
        return getter

    def close(self) -> None:
        """Let the reader end after the frames that have arrived."""
        self._is_closed = True
        if self._getter is not None and not self._getter.done():
            self._getter.set_result(None)
        self._resume()

    def _resume(self) -> None:
        if self._resume_reading is not None and not self._resume_reading.done():
            self._resume_reading.set_result(None)
        self._resume_reading = None
