"""Open files and folders where another user may have put links.

When root runs the service, PostgreSQL runs as another user, which owns its files; the data directory itself may belong
to a third one. A link in such a folder must not lead root to a file of another user. So every function here works
relative to the descriptor of a folder, follows no link in the last part of a name, and checks the file that it opened,
not the name.

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
    """The embedded PostgreSQL does not start or stop; the text is one line with the directory and the reason."""


def open_file(folder: int, name: str, flags: int) -> int:
    """Open a regular file that has no other name; links, pipes and devices are refused.

    O_NONBLOCK: the open of a pipe would wait for its other end. A file that root creates is given to the owner of the
    folder.
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
            give_to(descriptor, os.fstat(folder).st_uid)
            return descriptor
    descriptor = os.open(name, flags, dir_fd=folder)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise EmbeddedError(f"{name} is not a regular file with one name")
    return descriptor


def open_folder(folder: int, name: str) -> int:
    """Open a folder in a folder; follow a link only if the user of this process owns it."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError:  # with O_DIRECTORY, Linux reports this of a link as well
        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid != os.geteuid():
            raise
        return os.open(name, flags, dir_fd=folder)


@contextmanager
def opened_folder(folder: int, name: str) -> Iterator[int]:
    """Open a folder in a folder for the block."""
    descriptor = open_folder(folder, name)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read(folder: int, name: str) -> bytes:
    """Return the content of a small file. Raises FileNotFoundError."""
    with open(open_file(folder, name, os.O_RDONLY), "rb") as file:
        return file.read(READ_BYTES_MAX)


def replace(folder: int, name: str, content: bytes) -> None:
    """Replace a file by a new one; nothing is written to the old file, nor to the target of a link."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    with open(open_file(folder, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(content)


def give_to(descriptor: int, uid: int) -> None:
    """Give a file that root created to the user; other processes create files as their own user already."""
    if os.geteuid() == 0 != uid:
        os.fchown(descriptor, uid, -1)


def printable(path: Path) -> str:
    """Return a path as one line of printable characters; bytes that are not valid text are escaped."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
