"""A file that is there only when it is complete and on disk.

Until then it has its name with `.partial` behind it, and nothing is replaced.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file in the block, which only its owner may read; remove it if the block fails.

    Raises OSError, also for what a rename must not replace: a device, a pipe, a folder. Of a link, its target is
    written.
    """
    path = regular_file(path)
    partial = path.with_name(f"{path.name}.partial")
    # Balances are private. A link that another user has put there is not followed.
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(partial, flags, 0o600), "wb") as file:
        _claim(file, partial)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
    partial.rename(path)
    _sync_folder(path.parent)


def regular_file(path: Path) -> Path:
    """Return the path without links of a regular file, or of one that is not there yet. Raises OSError."""
    target = Path(os.path.realpath(path))
    for one in (path, target):  # /dev/stdout leads to a pipe, whose path without links is none
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(one.stat().st_mode):
                raise OSError("is not a regular file")
    return target


def _claim(file: IO[bytes], partial: Path) -> None:
    """Empty a file that was opened by its name. Raises OSError if another process writes it, or has completed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_other = not os.path.samestat(os.fstat(file.fileno()), os.lstat(partial))
    except (BlockingIOError, FileNotFoundError):
        is_other = True
    except OSError:  # a file system without locks
        is_other = False
    if is_other:
        raise OSError(f"another process writes {partial.name}")
    os.fchmod(file.fileno(), 0o600)
    os.ftruncate(file.fileno(), 0)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
