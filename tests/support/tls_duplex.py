"""Read a TLS socket in one thread while another thread writes to it, and print how many connections were lost.

    python -m tests.support.tls_duplex CERTIFICATE stock|duplex

It is a process of its own since the fault of the stock class may crash it. It ends at the first loss.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from contextlib import suppress

from tests.support.socketio_client_script import DuplexSocket

CONNECTIONS = {"stock": 300, "duplex": 20}  # the stock class loses one connection of four
MESSAGES, MESSAGE = 2_000, b"0123456789"
SILENCE_S_MAX = 5.0


def echo(listener: socket.socket, certificate: str) -> None:
    """Send back what one client sends, until it ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as connection:
        while arrived := connection.recv(1000):
            connection.sendall(arrived)


def exchange(client: ssl.SSLSocket) -> bool:
    """Send all messages while another thread reads them back; return whether all came back."""
    missing = MESSAGES * len(MESSAGE)

    def read() -> None:
        nonlocal missing
        with suppress(OSError):
            while missing and (arrived := client.recv(len(MESSAGE))):
                missing -= len(arrived)

    reader = threading.Thread(target=read)
    reader.start()
    with suppress(OSError):
        for _ in range(MESSAGES):
            client.send(MESSAGE)
    reader.join()
    return not missing


def is_lost(certificate: str, kind: type[ssl.SSLSocket]) -> bool:
    """Return whether a connection with a socket of this class is lost."""
    context = ssl.create_default_context(cafile=certificate)
    context.sslsocket_class = kind
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=echo, args=(listener, certificate))
        server.start()
        plain = socket.create_connection(listener.getsockname(), SILENCE_S_MAX)
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            lost = not exchange(client)
        server.join()
    return lost


if __name__ == "__main__":
    certificate, name = sys.argv[1:]
    kind = {"stock": ssl.SSLSocket, "duplex": DuplexSocket}[name]
    print("lost" if any(is_lost(certificate, kind) for _ in range(CONNECTIONS[name])) else "none lost")
