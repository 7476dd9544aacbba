"""The folder of the server's Unix socket: PGDATA, or a private folder of /tmp if PGDATA cannot be its address."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from balance.storage.embedded.files import EmbeddedError, printable
from balance.storage.embedded.settings import SETTINGS, SOCKET_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET_PATH_BYTES_MAX = 103  # fits in sockaddr_un on each system: 107 on Linux, 103 on macOS


def socket_folder(pgdata: Path) -> Path:
    """Return the folder: the same for every process that uses this PGDATA, whatever its environment.

    Not PGDATA if it has a comma, which separates addresses in PostgreSQL and in libpq, or if it is not UTF-8, which
    psycopg requires.
    """
    path = os.fsencode(pgdata / SOCKET_NAME)
    if len(path) <= SOCKET_PATH_BYTES_MAX and b"," not in path and _is_utf8(path):
        return pgdata
    public = "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else tempfile.gettempdir()
    return Path(public) / f"balance-{hashlib.sha256(os.fsencode(pgdata)).hexdigest()[:16]}"


def socket_url(pgdata: Path, database: str) -> str:
    """Return the URL of a database of the server.

    It is not read from postmaster.pid: the account of PostgreSQL could write an address there that leads libpq to files
    of root. With a password, which the server does not ask for, libpq does not search for one in ~/.pgpass.
    """
    host = quote(os.fsencode(socket_folder(pgdata)), safe="")
    return f"postgresql://postgres:unused@/{database}?host={host}&port={SETTINGS['port']}"


@contextmanager
def private_folder(folder: Path, owner: int) -> Iterator[int]:
    """Open the folder for the block; create it as the owner's if it is missing.

    In a public directory a link or a folder may belong to any user. Raises EmbeddedError when it is not private.
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
    return EmbeddedError(f"{printable(folder)}, the folder of its socket, is not private to the owner of the data")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
