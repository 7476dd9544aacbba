"""The server's log: postgresql.log, and postgresql.log.1, which is what stood in it before.

PostgreSQL appends to a descriptor that it has from us. `trim` moves what is there to postgresql.log.1 and empties the
file, so that both together stay below twice LOG_BYTES_MAX, beside what one call of `trim` comes too late for. That is
not PostgreSQL's own rotation: by size it goes on in a file of the same name, or makes ever new ones.

Private, since a message can quote data: mode 0600.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from balance.storage.embedded.files import EmbeddedError, open_file, replace

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "postgresql.log"
LOG_BYTES_MAX = 10_000_000
READ_BYTES_MAX = 65_536
# Sessions end with FATAL as well, while the server starts or stops.
CAUSE = re.compile(r"(?:FATAL|PANIC): +(?! |the database system |terminating )(.+)")


class ServerLog:
    """The log in one data directory; each method stands by itself."""

    def __init__(self, folder: int) -> None:
        self._folder = folder

    @contextmanager
    def opened(self, *, create: bool = True) -> Iterator[int]:
        """Lend a descriptor that appends. Raises FileNotFoundError."""
        descriptor = open_file(self._folder, NAME, os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0))
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def append(self, text: bytes) -> None:
        """Add what a program wrote; a full disk must not hide why that program failed."""
        with suppress(OSError), self.opened() as descriptor:
            os.write(descriptor, text)

    def size(self) -> int:
        """Return its size in bytes."""
        with self.opened() as descriptor:
            return os.fstat(descriptor).st_size

    def since(self, size: int) -> bytes:
        """Return what was added since it had that size."""
        with self.opened() as descriptor:
            return os.pread(descriptor, READ_BYTES_MAX, size)

    def cause(self) -> str:
        """Return the last error for which the server itself may have ended, to be put after a text; empty if none."""
        with suppress(OSError, EmbeddedError):
            found = CAUSE.findall(self.since(max(0, self.size() - READ_BYTES_MAX)).decode(errors="replace"))
            return f": {found[-1]}" if found else ""
        return ""

    def trim(self) -> None:
        """Put a log that has become long aside. Only one process does; what is added meanwhile may be lost."""
        with suppress(FileNotFoundError), self.opened(create=False) as descriptor:
            if os.fstat(descriptor).st_size <= LOG_BYTES_MAX:
                return
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(OSError):  # a full disk has no room for it
                    self._put_aside(descriptor)
                os.truncate(descriptor, 0)

    def _put_aside(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        replace(self._folder, f"{NAME}.1", os.pread(descriptor, LOG_BYTES_MAX, max(0, size - LOG_BYTES_MAX)))


def reason(text: bytes) -> str:
    """Return the first error in what PostgreSQL or one of its programs wrote."""
    lines = text.decode(errors="replace")
    found = re.search(r"(?:FATAL|PANIC|error): *(.+)", lines) or re.search(r"(?:\w+: )?(.+)", lines)
    return found[1] if found else "failed"
