"""Open connections as fast as possible: `python -m tests.support.connection_flood <port> <number> [tls]`.

All of them come from 127.0.0.1, one after the other, and each is closed at once. With `tls`, each sends the first
message of a handshake and waits for the answer, which costs the server its signature and the client nothing. Prints
`begun` after the first connections, and the number of those that the server has answered or kept at the end.
"""

from __future__ import annotations

import socket
import ssl
import struct
import sys
from contextlib import suppress

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: ports are free again at once
FIRST = 100


def client_hello() -> bytes:
    """Return the first message of a TLS handshake."""
    sent, context = ssl.MemoryBIO(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent).do_handshake()
    return sent.read()


def open_one(port: int, first: bytes) -> bool:
    """Open a connection and close it; return whether the server has answered, or kept it if nothing was sent."""
    with socket.socket() as one, suppress(OSError):
        one.settimeout(5)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        one.connect(("127.0.0.1", port))
        if first:
            one.sendall(first)
            return bool(one.recv(65_536))
        return True
    return False


def main(port: int, number: int, *more: str) -> None:
    """Open this number of connections."""
    first = client_hello() if "tls" in more else b""
    answered = 0
    for done in range(number):
        if done == min(FIRST, number - 1):
            print("begun", flush=True)
        answered += open_one(port, first)
    print(answered, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
