"""What a client has sent and the library has not taken yet: bounded, so that TCP holds back a sender that floods.

There is one for each WebSocket, and nearly all are empty: an asyncio.Queue would be three kilobytes.
"""

from __future__ import annotations

import asyncio
import time

FRAMES_MAX = 64  # read ahead of the one being handled
LENGTH_MAX = 1_048_576  # characters or bytes in them


class Inbox:
    """The frames of one client, in order."""

    __slots__ = ("_ended", "_frames", "_getter", "_length", "_room", "_waiting_since")

    def __init__(self) -> None:
        self._frames: list[str | bytes] = []
        self._length = 0
        self._ended = False
        self._getter: asyncio.Future[str | bytes] | None = None
        self._waiting_since = 0.0
        self._room: asyncio.Future[None] | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether the library waits for the next frame, having handled all before it."""
        return self._getter is not None and not self._getter.done()

    @property
    def awaited_s(self) -> float:
        """For how long it has waited."""
        return time.monotonic() - self._waiting_since

    def put(self, frame: str | bytes) -> asyncio.Future[None] | None:
        """Add a frame; when there are too many, give a future that is done when there is room for the next."""
        if self._getter is not None and not self._getter.done():
            self._getter.set_result(frame)
            return None
        self._frames.append(frame)
        self._length += len(frame)
        if len(self._frames) < FRAMES_MAX and self._length < LENGTH_MAX:
            return None
        self._room = asyncio.get_running_loop().create_future()
        return self._room

    def get(self) -> asyncio.Future[str | bytes]:
        """Give the next frame when there is one, or OSError when there will be none."""
        getter: asyncio.Future[str | bytes] = asyncio.get_running_loop().create_future()
        if self._frames:
            frame = self._frames.pop(0)
            self._length -= len(frame)
            getter.set_result(frame)
            if len(self._frames) <= FRAMES_MAX // 2 and self._length <= LENGTH_MAX // 2:
                self._make_room()
        elif self._ended:
            getter.set_exception(OSError())
        else:
            self._getter = getter
            self._waiting_since = time.monotonic()
        return getter

    def end(self) -> None:
        """Let there be no more after what has come, and nobody wait for room."""
        self._ended = True
        if self._getter is not None and not self._getter.done():
            self._getter.set_exception(OSError())
        self._make_room()

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None
