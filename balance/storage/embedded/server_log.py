"""The server's log: postgresql.log, and the part before it: postgresql.log.1.

PostgreSQL inherits a descriptor and appends to it. `trim` copies the log to postgresql.log.1 and empties it, so that
both files together stay below twice LOG_BYTES_MAX, plus the lines between two calls of `trim`. The rotation by size of
PostgreSQL itself has no such limit: it continues in a file of the same name, or creates more and more files.

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
# Not the FATAL with which a session ends while the server starts or stops.
CAUSE = re.compile(r"(?:FATAL|PANIC): +(?! |the database system |terminating )(.+)")


class ServerLog:
    """The log in one data directory; each method opens the file again."""

    def __init__(self, folder: int) -> None:
        self._folder = folder

    @contextmanager
    def opened(self, *, create: bool = True) -> Iterator[int]:
        """Open the log for the block, for reads and appends. Raises FileNotFoundError."""
        descriptor = open_file(self._folder, NAME, os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0))
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def append(self, text: bytes) -> None:
        """Append the output of a program. A full disk must not hide why that program failed."""
        with suppress(OSError), self.opened() as descriptor:
            os.write(descriptor, text)

    def size(self) -> int:
        """Return the size in bytes."""
        with self.opened() as descriptor:
            return os.fstat(descriptor).st_size

    def since(self, size: int) -> bytes:
        """Return the text that was appended since the log had that size."""
        with self.opened() as descriptor:
            return os.pread(descriptor, READ_BYTES_MAX, size)

    def cause(self) -> str:
        """Return the last error that may have ended the server, after a colon; empty if there is none."""
        with suppress(OSError, EmbeddedError):
            found = CAUSE.findall(self.since(max(0, self.size() - READ_BYTES_MAX)).decode(errors="replace"))
            return f": {found[-1]}" if found else ""
        return ""

    def trim(self) -> None:
        """Move a long log to postgresql.log.1. Only one process does; lines that are appended meanwhile may be lost."""
        with suppress(FileNotFoundError), self.opened(create=False) as descriptor:
            if os.fstat(descriptor).st_size <= LOG_BYTES_MAX:
                return
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(OSError):  # a full disk has no room for the copy
                    self._copy_end(descriptor)
                os.truncate(descriptor, 0)

    def _copy_end(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        replace(self._folder, f"{NAME}.1", os.pread(descriptor, LOG_BYTES_MAX, max(0, size - LOG_BYTES_MAX)))


def reason(text: bytes) -> str:
    """Return the first error in the output of PostgreSQL or of one of its programs."""
    lines = text.decode(errors="replace")
    found = re.search(r"(?:FATAL|PANIC|error): *(.+)", lines) or re.search(r"(?:\w+: )?(.+)", lines)
    return found[1] if found else "failed"
