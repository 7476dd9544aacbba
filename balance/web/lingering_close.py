"""Close connections so that their clients can still read the last response.

If a socket is closed while input is unread, TCP resets the connection, and the client loses what it has not read yet
(RFC 9112, section 9.6). Therefore only the sending side is closed at first; what the client still sends is read and
discarded, for a limited time and up to a limited size.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from tornado.iostream import StreamClosedError

from balance.web.request_stream import RequestStream

LINGER_S = 5.0
LINGER_BYTES_MAX = 64 * 1024 * 1024


class Closer:
    """The connections that are being closed."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def close_after(self, stream: RequestStream, response: bytes) -> None:
        """Send the last bytes of a connection; close it when the client has, or has sent for too long."""
        self._start(self._close_after(stream, response))

    def linger(self, connection: socket.socket) -> None:
        """Close a socket whose stream is closed, but not before its client has closed its side."""
        self._start(self._linger(connection))

    def _start(self, closing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(closing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close_after(self, stream: RequestStream, response: bytes) -> None:
        with suppress(StreamClosedError, OSError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                if response:
                    await stream.write(response)
                if stream.closed():
                    return
                connection = stream.duplicate()
                stream.close()  # ends a read that waits
                await self._linger(connection)
        stream.close()

    async def _linger(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection, suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                connection.shutdown(socket.SHUT_WR)
                left = LINGER_BYTES_MAX
                while left > 0 and (data := await loop.sock_recv(connection, 65_536)):
                    left -= len(data)
                    await asyncio.sleep(0)

    async def stop(self) -> None:
        """Close at once all connections that are being closed."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
