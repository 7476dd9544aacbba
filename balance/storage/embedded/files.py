"""Open files and folders where another user may have put links.

When root runs the service, PostgreSQL runs as another user, who owns its files; the data directory itself may be
owned by a third one. A link in such a folder must not lead root to a file of somebody else. So everything here is
relative to the descriptor of a folder, follows no link in the last part of a name, and looks at what was opened, not
at what a name stands for.

Raises OSError and EmbeddedError.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_BYTES_MAX = 8_192  # postmaster.pid and PG_VERSION are smaller


class EmbeddedError(Exception):
    """The embedded PostgreSQL does not start or stop; one line with the directory and the reason."""


def open_file(folder: int, name: str, flags: int) -> int:
    """Open a plain file that has this one name; a link, a pipe and a device are refused.

    O_NONBLOCK: the open of a pipe would wait for its other end. A file that root makes is the folder's owner's.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if flags & os.O_CREAT:
        try:
            descriptor = os.open(name, flags | os.O_EXCL, 0o600, dir_fd=folder)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            flags &= ~os.O_CREAT
        else:
            give(descriptor, os.fstat(folder).st_uid)
            return descriptor
    descriptor = os.open(name, flags, dir_fd=folder)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise EmbeddedError(f"{name} is not a plain file with one name")
    return descriptor


def open_folder(folder: int, name: str) -> int:
    """Open a folder in a folder; through a link only if this user made the link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError:  # Linux says so of a link as well, since O_DIRECTORY is asked for
        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid != os.geteuid():
            raise
        return os.open(name, flags, dir_fd=folder)


@contextmanager
def opened_folder(folder: int, name: str) -> Iterator[int]:
    """Lend a folder in a folder for the block."""
    descriptor = open_folder(folder, name)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read(folder: int, name: str) -> bytes:
    """Return what stands in a small file. Raises FileNotFoundError."""
    with open(open_file(folder, name, os.O_RDONLY), "rb") as file:
        return file.read(READ_BYTES_MAX)


def replace(folder: int, name: str, content: bytes) -> None:
    """Put a new file in the place of one; the old one, and what it may be linked to, is not written to."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    with open(open_file(folder, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(content)


def give(descriptor: int, uid: int) -> None:
    """Make root's the user's; any other process is the owner of what it makes."""
    if os.geteuid() == 0 != uid:
        os.fchown(descriptor, uid, -1)


def shown(path: Path) -> str:
    """Return a path as one line that any terminal can show, also where a byte of it is no character."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
