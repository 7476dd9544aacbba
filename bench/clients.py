"""Clients that cost less than the servers they load: raw sockets on one epoll, frames counted and not parsed.

A `WebSocket` has done Socket.IO's handshake and counts the frames that come by the first bytes of each; an `Http`
connection has one request in flight at a time. `Loop` runs any number of them in one thread; a `Crowd` is one that
sends, and many that watch.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

HANDSHAKE = (
    "GET /api/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
ACK = b'42["balance:ack'
SNAPSHOT = b'42["balance:sna'
ERROR = b'42["balance:err'
HEAD = len(ACK)


def frame_of(text: bytes) -> bytes:
    """Frame a text as a client does; masked by zeros, which leaves it as it is (RFC 6455, section 5.3)."""
    size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + struct.pack("!H", len(text))
    return b"\x81" + size + bytes(4) + text


def update_of(number: int) -> dict[str, Any]:
    """The update of SEED.md, told apart by its `pid`; without `ts`, as bots send it."""
    return {
        "pid": number,
        "onchain": {"rlb": 100074.99978, "usdt": 7656.36},
        "onsite": {"rlb": 101132.407627, "usd": 7646.96},
    }


def event_of(number: int, id_: str | None = None) -> bytes:
    """The frame of one `balance:update`, by default without an id."""
    update = update_of(number) if id_ is None else {"id": id_, **update_of(number)}
    return frame_of(b"42" + json.dumps(["balance:update", update], separators=(",", ":")).encode())


class Loop:
    """Reads whatever can be read, until something is so."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}

    def add(self, client: Client) -> None:
        self._clients[client.socket.fileno()] = client
        self._epoll.register(client.socket, select.EPOLLIN)

    def remove(self, client: Client) -> None:
        del self._clients[client.socket.fileno()]
        self._epoll.unregister(client.socket)
        client.socket.close()

    def close(self) -> None:
        """Close every connection."""
        for client in list(self._clients.values()):
            self.remove(client)
        self._epoll.close()

    def until(self, true: Callable[[], bool], seconds: float = 120.0) -> None:
        """Read until `true`. Raises TimeoutError, and ConnectionError if a server hangs up."""
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done within {seconds} s")
            self.read(1.0)

    def read(self, wait_s: float = 0.0) -> None:
        """Read what is there, or what comes first within the wait."""
        for descriptor, _ in self._epoll.poll(wait_s):
            self._clients[descriptor].read()


class Client:
    """One connection to a server on the loopback address."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def read(self) -> None:
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError("the server hung up")
        self._buffer += data
        self._take()

    def _take(self) -> None:
        """Take all that is whole out of the buffer."""
        raise NotImplementedError


class WebSocket(Client):
    """A Socket.IO client: connected when it is made."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.heard: Counter[bytes] = Counter()
        self.on_acks: Callable[[int], None] = lambda count: None  # of one read
        self.on_snapshots: Callable[[int], None] = lambda count: None
        self.socket.sendall(HANDSHAKE.encode())
        self._await(b"\r\n\r\n")
        self.socket.sendall(frame_of(b"40"))
        self._await(b'42["connected')
        _, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        self._take()

    def _await(self, part: bytes) -> None:
        while part not in self._buffer:
            data = self.socket.recv(65_536)
            if not data:
                raise ConnectionError(f"refused: {self._buffer!r}")
            self._buffer += data

    def send(self, frames: bytes) -> None:
        """Send frames; blocks where the server does not read."""
        self.socket.sendall(frames)

    def _take(self) -> None:
        buffer, at, end = self._buffer, 0, len(self._buffer)
        acks = snapshots = 0
        while end - at >= 2:
            size, start = buffer[at + 1], at + 2
            if size == 126:
                if end - at < 4:
                    break
                size, start = buffer[at + 2] << 8 | buffer[at + 3], at + 4
            if end - start < size:
                break
            head = buffer[start : start + HEAD] if size > HEAD else buffer[start : start + size]
            at = start + size
            if head == SNAPSHOT:
                snapshots += 1
            elif head == ACK:
                acks += 1
            elif head == b"2":
                self.send(frame_of(b"3"))
            elif head == ERROR:
                raise ConnectionError(f"an update was refused: {buffer[start : start + size]!r}")
        self._buffer = buffer[at:]
        if snapshots:
            self.heard[SNAPSHOT] += snapshots
            self.on_snapshots(snapshots)
        if acks:
            self.heard[ACK] += acks
            self.on_acks(acks)


class Crowd:
    """A client that sends, and others that watch, which may become more; it watches too."""

    def __init__(self, port: int, watchers: int = 0) -> None:
        self._port = port
        self._loop = Loop()
        self._heard = self._wanted = 0  # snapshots, by all of them together
        self._clients: list[WebSocket] = []
        self.grow(watchers)

    def grow(self, watchers: int) -> None:
        """Connect until so many watch beside the sender."""
        while len(self._clients) < watchers + 1:
            client = WebSocket(self._port)
            client.on_snapshots = self._on_snapshots
            self._clients.append(client)
            self._loop.add(client)
            self._loop.read()  # thousands take a while, and the first ones have heartbeats to answer

    def send(self, frames: Sequence[bytes], in_flight: int) -> None:
        """Send updates, so many unanswered at a time, until each is acknowledged and has reached everyone once."""
        sender, rest = self._clients[0], iter(frames)
        sender.on_acks = lambda count: sender.send(b"".join(islice(rest, count)))
        with self._verifying(len(frames)):
            sender.send(b"".join(islice(rest, in_flight)))
            self._await(len(frames))
        sender.on_acks = lambda count: None

    def show(self, updates: int) -> list[float]:
        """Send updates, each when the one before has reached everyone; return the seconds that each took."""
        took = []
        with self._verifying(updates):
            for frame in [event_of(number) for number in range(updates)]:
                began = time.perf_counter()
                self._clients[0].send(frame)
                self._await(1)
                took.append(time.perf_counter() - began)
        return took

    def close(self) -> None:
        """End every connection."""
        self._loop.close()

    def _await(self, updates: int) -> None:
        """Wait until so many more have reached everyone."""
        self._wanted += updates * len(self._clients)
        self._loop.until(lambda: self._heard == self._wanted)

    @contextmanager
    def _verifying(self, updates: int) -> Iterator[None]:
        """Wait for the answers too, then check that each update was answered once, and seen once by everyone."""
        sender, before = self._clients[0], [client.heard.copy() for client in self._clients]
        yield
        self._loop.until(lambda: sender.heard[ACK] - before[0][ACK] == updates)
        for client, heard in zip(self._clients, before, strict=True):
            assert client.heard[SNAPSHOT] - heard[SNAPSHOT] == updates, "lost, or shown twice"
            assert client.heard[ACK] - heard[ACK] == (updates if client is sender else 0), "one answer to each"

    def _on_snapshots(self, count: int) -> None:
        self._heard += count


class Http(Client):
    """An HTTP connection that is kept: asks, and asks again when it is answered, `rounds` times."""

    def __init__(self, port: int, requests: Iterable[bytes], status: bytes) -> None:
        super().__init__(port)
        self._requests = iter(requests)
        self._status = status
        self.answered = 0
        self.done = False

    def ask(self) -> None:
        """Send the next request, if there is one."""
        request = next(self._requests, None)
        if request is None:
            self.done = True
        else:
            self.socket.sendall(request)

    def _take(self) -> None:
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(self._status, 9):
            raise ConnectionError(f"answered by {head[:60]!r} {body[:200]!r}")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= size:
            self._buffer = body[size:]
            self.answered += 1
            self.ask()


def post_of(number: int) -> bytes:
    """A POST of one update."""
    body = json.dumps(update_of(number), separators=(",", ":")).encode()
    head = (
        "POST /api/balance/snapshot HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


GET = b"GET /api/balance/snapshot?limit=100 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
