"""Where the server's Unix socket is: PGDATA, or a private folder of /tmp if PGDATA cannot be its address."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from balance.storage.embedded.files import EmbeddedError, shown
from balance.storage.embedded.settings import SOCKET_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET_PATH_BYTES_MAX = 103  # what fits in sockaddr_un on every system: 107 on Linux, 103 on macOS


def socket_folder(pgdata: Path) -> Path:
    """Return the folder, which is the same for every process that uses this PGDATA, whatever its environment.

    A comma separates addresses for PostgreSQL and for libpq, and psycopg takes only UTF-8.
    """
    path = os.fsencode(pgdata / SOCKET_NAME)
    if len(path) <= SOCKET_PATH_BYTES_MAX and b"," not in path and _is_utf8(path):
        return pgdata
    public = "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else tempfile.gettempdir()
    return Path(public) / f"balance-{hashlib.sha256(os.fsencode(pgdata)).hexdigest()[:16]}"


@contextmanager
def private_folder(folder: Path, owner: int) -> Iterator[int]:
    """Lend the folder for the block; make it if it is missing, as the owner's.

    In a public directory a link or a folder may be anybody's. Raises EmbeddedError when it is not private.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise _not_private(folder) from None
    try:
        found = os.fstat(descriptor)
        if found.st_uid not in (owner, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o077:
            raise _not_private(folder)
        if found.st_uid != owner:
            os.fchown(descriptor, owner, -1)
        yield descriptor
    finally:
        os.close(descriptor)


def _not_private(folder: Path) -> EmbeddedError:
    return EmbeddedError(f"{shown(folder)}, where its socket would be, is not private to the data's owner")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
