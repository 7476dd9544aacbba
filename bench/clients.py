"""Clients that cost less than the servers that they load: raw sockets on one epoll, frames counted and not parsed.

`WebSocket` is a Socket.IO client that counts frames by their first bytes. `Http` is a connection with one request in
flight. Both send on what they were given as soon as an answer arrives. `Loop` runs any number of them in one thread.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
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


def to_frame(text: bytes) -> bytes:
    """Frame a text as a client does; masked by zeros, which leaves the text as it is (RFC 6455, section 5.3)."""
    size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + struct.pack("!H", len(text))
    return b"\x81" + size + bytes(4) + text


def make_update(number: int) -> dict[str, Any]:
    """Make the update of docs/spec.md with this `pid`; without `ts`, as bots send it."""
    return {
        "pid": number,
        "onchain": {"rlb": 100074.99978, "usdt": 7656.36},
        "onsite": {"rlb": 101132.407627, "usd": 7646.96},
    }


def make_event(number: int, id_: str | None = None) -> bytes:
    """Make the frame of one `balance:update`, by default without an id."""
    update = make_update(number) if id_ is None else {"id": id_, **make_update(number)}
    return to_frame(b"42" + json.dumps(["balance:update", update], separators=(",", ":")).encode())


def make_post(number: int) -> bytes:
    """Make a POST of one update."""
    body = json.dumps(make_update(number), separators=(",", ":")).encode()
    head = (
        "POST /api/balance/snapshot HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def make_get(path: str) -> bytes:
    """Make a GET of what is at `path` below the address of the snapshots."""
    return make_request(f"/api/balance/snapshot{path}")


def make_request(target: str) -> bytes:
    """Make a GET."""
    return f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


class Loop:
    """Reads from every client whatever has arrived, until a condition is true."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}

    def add(self, client: Client) -> None:
        self._clients[client.socket.fileno()] = client
        self._epoll.register(client.socket, select.EPOLLIN)

    def close(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            client.socket.close()
        self._clients.clear()
        self._epoll.close()

    def read_until(self, is_done: Callable[[], bool], seconds: float = 120.0) -> None:
        """Read until `is_done()`. Raises TimeoutError, and ConnectionError if a server closes a connection."""
        deadline = time.monotonic() + seconds
        while not is_done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done within {seconds} s")
            self.read(1.0)

    def read_for(self, seconds: float) -> None:
        """Read for a time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.read(left)

    def read(self, wait_s: float = 0.0) -> None:
        """Read what has arrived, or what arrives first within the wait."""
        for descriptor, _ in self._epoll.poll(wait_s):
            self._clients[descriptor].read()


class Client:
    """One connection to a server on the loopback address."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        """Connect from an address of the loopback network."""
        self.socket = socket.create_connection(("127.0.0.1", port), source_address=(address, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def read(self) -> None:
        """Read once, and handle what is complete."""
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data
        self._handle()

    def _handle(self) -> None:
        """Remove what is complete from the buffer, and act on it."""
        raise NotImplementedError


class WebSocket(Client):
    """A Socket.IO client, connected once the constructor returns."""

    def __init__(self, port: int, total: Counter[bytes] | None = None, auth: dict[str, object] | None = None) -> None:
        """Connect; `total` counts what all clients that share it have received together."""
        super().__init__(port)
        self.received: Counter[bytes] = Counter()
        self._total = Counter() if total is None else total
        self._unsent: Iterator[bytes] = iter(())
        self.socket.sendall(HANDSHAKE.encode())
        self._read_up_to(b"\r\n\r\n")
        self.socket.sendall(to_frame(b"40" + (b"" if auth is None else json.dumps(auth).encode())))
        self._read_up_to(b'42["connected')
        _, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        self._handle()

    def start(self, frames: Iterable[bytes], in_flight: int) -> None:
        """Send updates, at most `in_flight` of them unacknowledged at a time; return when the first ones are sent.

        The acknowledgements of one read are followed by one write of as many updates.
        """
        self._unsent = iter(frames)
        self._send_next(in_flight)

    def send(self, frames: bytes) -> None:
        """Send frames; blocks while the server does not read."""
        self.socket.sendall(frames)

    def _send_next(self, count: int) -> None:
        if frames := b"".join(islice(self._unsent, count)):
            self.send(frames)

    def _read_up_to(self, part: bytes) -> None:
        while part not in self._buffer:
            data = self.socket.recv(65_536)
            if not data:
                raise ConnectionError(f"rejected: {self._buffer!r}")
            self._buffer += data

    def _handle(self) -> None:
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
                self.send(to_frame(b"3"))
            elif head == ERROR:
                raise ConnectionError(f"an update was rejected: {buffer[start : start + size]!r}")
        self._buffer = buffer[at:]
        for kind, count in ((SNAPSHOT, snapshots), (ACK, acks)):
            if count:
                self.received[kind] += count
                self._total[kind] += count
        if acks:
            self._send_next(acks)


class HttpClient(Client):
    """A kept-alive HTTP connection with one request in flight."""

    def __init__(self, port: int, status: bytes, address: str = "127.0.0.1") -> None:
        """Connect; each response must have `status`."""
        super().__init__(port, address)
        self._status = status

    def _handle(self) -> None:
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(self._status, 9):
            raise ConnectionError(f"answered by {head[:60]!r} {body[:200]!r}")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= size:
            self._buffer = body[size:]
            self._handle_response(body[:size])

    def _handle_response(self, body: bytes) -> None:
        """Act on the body of a response."""
        raise NotImplementedError


class Http(HttpClient):
    """A connection that sends one request after the other."""

    def __init__(self, port: int, requests: Iterable[bytes], status: bytes) -> None:
        """Connect; each response must have `status`."""
        super().__init__(port, status)
        self._requests = iter(requests)
        self.sent: list[float] = []
        """When each request was sent, by `time.perf_counter`."""
        self.latencies: list[float] = []
        """Of each request that was answered, the seconds from it to the end of its response."""
        self.is_done = False

    def send_next(self) -> None:
        """Send the next request, if there is one."""
        request = next(self._requests, None)
        if request is None:
            self.is_done = True
        else:
            self.sent.append(time.perf_counter())
            self.socket.sendall(request)

    def _handle_response(self, body: bytes) -> None:
        self.latencies.append(time.perf_counter() - self.sent[-1])
        self.send_next()


def send_requests(port: int, shares: Sequence[Sequence[bytes]], status: bytes) -> list[float]:
    """Send each share on a connection of its own, one request at a time; return the latencies in seconds.

    Raises ConnectionError if a response has another status than `status`.
    """
    loop = Loop()
    clients = [Http(port, share, status) for share in shares]
    for client in clients:
        loop.add(client)
        client.send_next()
    loop.read_until(lambda: all(client.is_done for client in clients))
    loop.close()
    assert [len(client.latencies) for client in clients] == [len(share) for share in shares]
    return [latency for client in clients for latency in client.latencies]
