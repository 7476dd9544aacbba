"""A server that answers each start of a session with the same message, as PostgreSQL would (Message Formats, in its
manual).

Few machines have PostgreSQL's translations, so the answer in another language is made here.
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress

PROTOCOL = 196_608  # version 3.0 at the start of a session; other codes request TLS or GSSAPI
CLIENT_S_MAX = 10.0

PASSWORD_REQUEST = b"R" + struct.pack("!II", 8, 3)
WELCOME = b"R" + struct.pack("!II", 8, 0) + b"Z" + struct.pack("!I", 5) + b"I"


def rejection(sqlstate: str, text: str, encoding: str = "UTF-8") -> bytes:
    """Return the ErrorResponse with these two fields."""
    fields = {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": text, "F": "auth.c", "L": "335", "R": "auth_failed"}
    body = b"".join(name.encode() + value.encode(encoding) + b"\0" for name, value in fields.items()) + b"\0"
    return b"E" + struct.pack("!I", len(body) + 4) + body


class StartServer:
    """Sends one answer to each client that starts a session; with an empty answer, the client waits."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> str:
        """Return its URL, with a password."""
        self._thread.start()
        return f"postgresql://bot:hunter2@{self.address}/balance"

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(CLIENT_S_MAX)
                with connection, suppress(OSError):
                    while (code := self._read(connection)) != PROTOCOL:
                        if code is None:
                            break
                        connection.sendall(b"N")
                    else:
                        connection.sendall(self._answer)
                        while connection.recv(1024):
                            pass

    def _read(self, connection: socket.socket) -> int | None:
        head = connection.recv(8, socket.MSG_WAITALL)
        if len(head) < 8:
            return None
        size, code = struct.unpack("!II", head)
        connection.recv(size - 8, socket.MSG_WAITALL)
        return PROTOCOL if code >> 16 == 3 else code
