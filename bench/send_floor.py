"""A server that does nothing but send: one `send` for each watcher, which no server can do without.

It answers a handshake with fixed bytes. Whatever comes after that it answers with one acknowledgement, and with one
fixed snapshot to every client, in one `send` each. It reads no frame and stores nothing, so updates must arrive whole
and one at a time.
"""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Callable

from balance.realtime.frames import to_frame
from bench.clients import make_update

STORED = {"id": "019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51", "seq": 1, "ts": "2025-11-07T00:45:08.603Z"}


def event_frame(*event: object) -> bytes:
    """Frame an event as a server does."""
    return to_frame(b"42" + json.dumps(event, separators=(",", ":")).encode())


CONNECTED = event_frame("connected", {})
ACK = event_frame("balance:ack", {"success": True})
SNAPSHOT = event_frame("balance:snapshot", STORED | make_update(1_132_978))


def serve(listener: socket.socket) -> None:
    """Serve until the process is ended."""
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    handshakes: dict[int, list[bytes]] = {}  # what each client has not been sent yet, the next one last
    sends: dict[int, Callable[[bytes], int]] = {}
    while True:
        for descriptor, _ in epoll.poll():
            if descriptor == listener.fileno():
                client, _ = listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()], sends[client.fileno()] = client, client.send
                handshakes[client.fileno()] = [CONNECTED, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"]
                epoll.register(client, select.EPOLLIN)
            elif not clients[descriptor].recv(65_536):
                del sends[descriptor], handshakes[descriptor]
                clients.pop(descriptor).close()
            elif handshakes[descriptor]:
                sends[descriptor](handshakes[descriptor].pop())
            else:
                sends[descriptor](ACK)
                for send in sends.values():
                    send(SNAPSHOT)


if __name__ == "__main__":
    bound = socket.create_server(("127.0.0.1", 0))
    print(f"listening on http://127.0.0.1:{bound.getsockname()[1]}", flush=True)
    serve(bound)
