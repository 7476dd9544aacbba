"""Clients of `/api/balance/stream` that cost less than the server: raw sockets on one epoll, events counted."""

from __future__ import annotations

import time
from collections import Counter

from bench.clients import Client, Loop, make_post, send_requests

CONNECTED, SNAPSHOT = b"\nevent: connected\n", b"\nevent: balance:snapshot\n"


class Stream(Client):
    """One stream of server-sent events."""

    def __init__(
        self, port: int, query: str = "", total: Counter[bytes] | None = None, address: str = "127.0.0.1"
    ) -> None:
        """Connect and ask for the stream, which a `Loop` reads; `total` counts for all streams that share it."""
        super().__init__(port, address)
        self._total = Counter() if total is None else total
        self.is_open = False
        self.received = 0
        """The snapshots that have come."""
        self.last_at = 0.0
        """When the last of them came, by `time.perf_counter`."""
        self.socket.sendall(f"GET /api/balance/stream{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    def _handle(self) -> None:
        if not self.is_open and CONNECTED in self._buffer:
            self.is_open = True
            self._total[CONNECTED] += 1
        found = self._buffer.count(SNAPSHOT)
        if found:
            self.received += found
            self._total[SNAPSHOT] += found
            self.last_at = time.perf_counter()
        self._buffer = self._buffer[-len(SNAPSHOT) + 1 :]  # a line may be in two reads


class StreamFleet:
    """Many streams in one thread."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.loop = Loop()
        self.streams: list[Stream] = []
        self._total: Counter[bytes] = Counter()

    def grow(self, count: int) -> None:
        """Open streams until there are `count`."""
        while len(self.streams) < count:
            stream = Stream(self._port, total=self._total)
            self.streams.append(stream)
            self.loop.add(stream)
            self.loop.read_until(lambda stream=stream: stream.is_open)

    def time_broadcasts(self, updates: int) -> list[float]:
        """Save updates, each when every stream has received the one before; return the seconds that each took."""
        times = []
        before = [stream.received for stream in self.streams]
        self._total.clear()
        for number in range(updates):
            began = time.perf_counter()
            send_requests(self._port, [[make_post(number)]], b"201")
            self.loop.read_until(lambda number=number: self._total[SNAPSHOT] >= (number + 1) * len(self.streams))
            times.append(time.perf_counter() - began)
        for stream, earlier in zip(self.streams, before, strict=True):
            assert stream.received - earlier == updates, "a snapshot was lost, or came twice"
        return times

    def close(self) -> None:
        """Close every stream."""
        self.loop.close()
