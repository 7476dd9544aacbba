"""What many clients that poll cost a save: one snapshot ends the waits of all of them."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from bench.clients import HttpClient, Loop, make_request
from bench.report import OURS, Figure
from bench.saver import start_pairs
from bench.targets import running

PAIRS = 25
SNAPSHOT = b'42["balance:snapshot"'
PING = b"2"


class FeedPoll(HttpClient):
    """A client of `GET /api/balance/feed`, which waits there."""

    def __init__(self, port: int, address: str) -> None:
        super().__init__(port, b"200", address)
        self.received = 0
        self.is_ready = False
        self._ask("now")

    def _ask(self, after: str) -> None:
        self.socket.sendall(make_request(f"/api/balance/feed?after={after}&wait={55 if self.is_ready else 0}"))

    def _handle_response(self, body: bytes) -> None:
        self.received += body.count(b'"seq":')
        self.is_ready = True
        part = body[body.rindex(b'"feed":') :]
        epoch, last = (_value(part, name) for name in (b"epoch", b"last"))
        self._ask(f"{last}&epoch={epoch}")


class SocketPoll(HttpClient):
    """A client of Socket.IO on the polling transport."""

    def __init__(self, port: int, address: str) -> None:
        super().__init__(port, b"200", address)
        self.received = 0
        self.is_ready = False
        self._path = "/api/socket.io/?EIO=4&transport=polling"
        self._connects = True
        self._poll()

    def _poll(self) -> None:
        self.socket.sendall(make_request(self._path))

    def _post(self, packet: bytes) -> None:
        head = f"POST {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(packet)}\r\n\r\n"
        self.socket.sendall(head.encode() + packet)

    def _handle_response(self, body: bytes) -> None:
        if self._connects:
            self._connects = False
            self._path += f"&sid={_value(body, b'sid')}"
            self._post(b"40")
            return
        packets = body.split(b"\x1e")
        self.received += sum([packet.startswith(SNAPSHOT) for packet in packets])
        self.is_ready = self.is_ready or any(packet.startswith(b'42["connected"') for packet in packets)
        if PING in packets:
            self._post(b"3")
        else:
            self._poll()


def beside_polls(database: str, clients: int) -> list[Figure]:
    """Save pairs of updates while clients poll: the second of each pair comes while the polls are answered."""
    return [
        Figure(f"{clients} polls of {name}: a save behind another", "ms", _second_save(database, clients, kind) * 1e3)
        for name, kind in (("the feed", FeedPoll), ("Socket.IO", SocketPoll))
    ]


def _second_save(database: str, clients: int, kind: Callable[[int, str], FeedPoll | SocketPoll]) -> float:
    with running(OURS, database) as target:
        loop = Loop()
        polls = [kind(target.port, f"127.0.{1 + n // 250}.{1 + n % 250}") for n in range(clients)]
        for poll in polls:
            loop.add(poll)
        loop.read_until(lambda: all(poll.is_ready for poll in polls))
        saved = start_pairs(target.port, PAIRS)
        loop.read_until(lambda: all(poll.received == 2 * PAIRS for poll in polls) and saved.poll())
        loop.close()
    return median(saved.recv())


def _value(body: bytes, name: bytes) -> str:
    """Return the value of a field of a JSON text, without its quotes."""
    return body.partition(b'"' + name + b'":')[2].split(b",", 1)[0].strip(b'"}').decode()
