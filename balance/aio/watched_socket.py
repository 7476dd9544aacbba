"""The socket of a connection of another library, as the event loop watches it.

Threads: event loop only. The connection itself may be closed by any thread: what is watched is a duplicate of its
descriptor, since the number of a closed one may soon be that of another connection.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol


class Connection(Protocol):
    """What has a descriptor, as `select` uses it."""

    def fileno(self) -> int: ...


class WatchedSocket:
    """The socket of one connection at a time."""

    def __init__(self, on_readable: Callable[[], object], flush: Callable[[], bool]) -> None:
        """Call `on_readable` when it can be read, and `flush` when it can be written, until that returns True."""
        self._on_readable = on_readable
        self._flush = flush
        self._connection: Connection | None = None
        self._duplicate = -1
        self._loop: asyncio.AbstractEventLoop

    def watch(self, connection: Connection) -> None:
        """Watch this connection from now on, and no other. Raises OSError if there is no descriptor left."""
        if connection is not self._connection:
            self.close()
            self._duplicate = os.dup(connection.fileno())
            self._connection = connection
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._duplicate, self._on_readable)

    def flush(self) -> None:
        """Have it flushed now, and again when it can be written."""
        if not self._flush():
            self._loop.add_writer(self._duplicate, self._flush_more)

    def close(self) -> None:
        """Watch no connection."""
        if self._connection is not None:
            self._loop.remove_reader(self._duplicate)
            self._loop.remove_writer(self._duplicate)
            os.close(self._duplicate)
            self._connection = None

    def _flush_more(self) -> None:
        if self._flush():
            self._loop.remove_writer(self._duplicate)
