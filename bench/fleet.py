"""Many Socket.IO clients in one thread: the first ones send updates, and all of them receive every broadcast."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest

from bench.clients import ACK, SNAPSHOT, Loop, WebSocket, make_event


class Fleet:
    """Senders, and watchers that only receive. Every send checks that nothing was lost and nothing came twice."""

    def __init__(
        self, port: int, watchers: int = 0, *, senders: int = 1, auth: dict[str, object] | None = None
    ) -> None:
        """Connect all of them with `auth`, which may have a position after which they resume."""
        self._port = port
        self._auth = auth
        self._loop = Loop()
        self._senders = senders
        self._total: Counter[bytes] = Counter()  # what all of them received
        self._clients: list[WebSocket] = []
        self.grow(watchers)

    def grow(self, watchers: int) -> None:
        """Connect clients until there are `watchers` beside the senders."""
        while len(self._clients) < self._senders + watchers:
            client = WebSocket(self._port, self._total, self._auth)
            self._clients.append(client)
            self._loop.add(client)
            self._loop.read()  # connecting thousands takes a while, and the first ones have heartbeats to answer

    def send(self, frames: Sequence[bytes], in_flight: int) -> None:
        """Send updates, an equal share from each sender with `in_flight` of them unacknowledged at a time.

        Return when each is acknowledged and every client has received it.
        """
        shares = [frames[first :: self._senders] for first in range(self._senders)]
        with self._verifying([len(share) for share in shares]):
            for sender, share in zip(self._clients, shares, strict=False):
                sender.start(share, in_flight)

    def time_acks(self, updates: int) -> list[float]:
        """Send updates, each when the one before is acknowledged; return the seconds to each acknowledgement."""
        return self._time(updates, ACK, 1)

    def time_broadcasts(self, updates: int) -> list[float]:
        """Send updates, each when every client has received the one before; return the seconds that each took."""
        return self._time(updates, SNAPSHOT, len(self._clients))

    def receive_missed(self, count: int) -> None:
        """Read until every client has received as many snapshots as it has missed."""
        self._receive(SNAPSHOT, count * len(self._clients))
        assert all(client.received[SNAPSHOT] == count for client in self._clients), "a snapshot came twice"

    def close(self) -> None:
        """Close every connection."""
        self._loop.close()

    def _time(self, updates: int, kind: bytes, count: int) -> list[float]:
        """Send updates from the first sender, each after `count` frames of a kind for the one before."""
        times = []
        with self._verifying([updates]):
            for frame in [make_event(number) for number in range(updates)]:
                began = time.perf_counter()
                self._clients[0].send(frame)
                self._receive(kind, count * (len(times) + 1))
                times.append(time.perf_counter() - began)
        return times

    @contextmanager
    def _verifying(self, shares: Sequence[int]) -> Iterator[None]:
        """Wait for what the updates sent within must bring; check that each client got its acknowledgements only.

        `shares` is how many updates each sender sends.
        """
        before = [client.received.copy() for client in self._clients]
        self._total.clear()
        yield
        updates = sum(shares)
        self._receive(ACK, updates)
        self._receive(SNAPSHOT, updates * len(self._clients))
        for client, earlier, share in zip_longest(self._clients, before, shares, fillvalue=0):
            assert client.received[SNAPSHOT] - earlier[SNAPSHOT] == updates, "a snapshot was lost, or came twice"
            assert client.received[ACK] - earlier[ACK] == share, "one acknowledgement for each update"

    def _receive(self, kind: bytes, count: int) -> None:
        """Read until `count` frames of a kind have arrived since the sending began."""
        self._loop.read_until(lambda: self._total[kind] >= count)
