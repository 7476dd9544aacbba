"""One connection to the stream of events: the parts of its body that wait, and how far it is."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from balance.alarms.event_reader import EventReader

TICK_S = 0.5
CHUNKS_MAX = 64  # that were received and not handled yet


class Stream:
    """The state of one connection to the stream."""

    def __init__(self, now: float, *, continues: bool) -> None:
        self.reader = EventReader()
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue(CHUNKS_MAX)
        self.received_at = now
        self.head: int | None = None  # of the feed when the stream began; None before `connected`
        self.continues = continues  # the stream before it, so that silence is counted on
        self.is_caught_up = False
        self.end = ""  # the reason for its end, once it is over

    async def put(self, chunk: bytes) -> None:
        """Queue a part of the body; return when there is room for the next."""
        await self._chunks.put(chunk)

    async def get(self) -> bytes:
        """Return the next part of the body; nothing if none comes within TICK_S."""
        with suppress(TimeoutError):
            async with asyncio.timeout(TICK_S):
                return await self._chunks.get()
        return b""

    def discard(self) -> None:
        """Discard what waits, and so let a `put` return."""
        while not self._chunks.empty():
            self._chunks.get_nowait()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return self._chunks.empty()
