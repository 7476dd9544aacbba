"""Upgrade the data of the embedded PostgreSQL to the major version of its programs.

The server of the old version runs once more and is backed up; a new cluster beside it gets the backup; then the two
change their names. The old data stay beside the new ones, as `postgresql.<version>`. All that time no other process can
use the data directory. Until the last step, whatever happens leaves the old data as they are; an interruption within it
is completed by the next start (`DataDirectory.ensure_pgdata`).

Threads: the function blocks. Raises EmbeddedError, BackupError, DatabaseError and SchemaError.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from balance import program
from balance.storage.backup import back_up
from balance.storage.backup_file import Report
from balance.storage.embedded import account, locks
from balance.storage.embedded.cluster import EmbeddedPostgres, ignore_libpq_variables
from balance.storage.embedded.data_directory import (
    PGDATA,
    PGDATA_UPGRADED,
    DataDirectory,
    check_has_data,
    one_line_errors,
)
from balance.storage.embedded.files import EmbeddedError, opened_folder, read
from balance.storage.embedded.programs import Programs, wheel_programs
from balance.storage.embedded.server_process import START_S_MAX, ServerProcess
from balance.storage.embedded.socket_folder import socket_url
from balance.storage.restore import Restored, check_backup, restore

WORK = "upgrade"  # the folder of the new cluster until it is complete
BACKUP = "upgrade.backup"


class Versions(NamedTuple):
    """The major versions of PostgreSQL: of the data, and of the programs of the wheel."""

    old: str
    new: str


class Reports(NamedTuple):
    """Where the progress of each step is reported."""

    written: Report
    checked: Report
    loaded: Report
    indexed: Report


def versions_of(data_dir: Path) -> Versions:
    """Return the versions of a data directory. Raises EmbeddedError if it has no data."""
    folder = Path(os.path.realpath(data_dir))
    check_has_data(folder)
    with one_line_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with opened_folder(descriptor, PGDATA) as pgdata:
                old = read(pgdata, "PG_VERSION").decode(errors="replace").strip()
        finally:
            os.close(descriptor)
        return Versions(old, Programs(wheel_programs(), None).major_version())


def upgrade(
    data_dir: Path, old_programs: Path, version: str, reports: Reports, before_last_step: Callable[[], object]
) -> Restored:
    """Upgrade a data directory with the programs of its old version; `version` is that of this program.

    `before_last_step` is called when the new data are complete: from then on nothing must interrupt the process.
    """
    ignore_libpq_variables()
    folder, old_programs = Path(os.path.realpath(data_dir)), Path(os.path.realpath(old_programs))
    old, new = versions_of(folder)
    with one_line_errors(folder):
        _check_versions(old, new, old_programs)
        if os.path.lexists(folder / f"{PGDATA}.{old}"):
            raise EmbeddedError(f"{PGDATA}.{old} is there already: move it to another folder")
        data = DataDirectory.open(folder, old_programs)
        try:
            with locks.control(data.descriptor, START_S_MAX), _backed_up(data, version, reports.written) as backup:
                restored = _restore(data, backup, reports)
                before_last_step()
                _exchange(data, old)
        finally:
            data.close()
    return restored


def _check_versions(old: str, new: str, old_programs: Path) -> None:
    if not old.isdigit() or int(old) >= int(new):
        raise EmbeddedError(f"its data are of PostgreSQL {old} and the programs of {new}: there is nothing to upgrade")
    try:
        given = Programs(old_programs, None).major_version()
    except OSError:
        raise EmbeddedError(f"{old_programs} has no programs of PostgreSQL") from None
    if given != old:
        raise EmbeddedError(f"its data are of PostgreSQL {old}, and {old_programs} has the programs of {given}")


@contextmanager
def _backed_up(data: DataDirectory, version: str, report: Report) -> Iterator[Path]:
    """Back up the data with the server of their own version; yield the file, and remove it at the end."""
    _check_unused(data)
    server = ServerProcess(data)
    server.stop()  # one that a killed process has left running
    with locks.opened(data.descriptor, locks.SERVER) as lock:
        if not locks.try_lock(lock):
            raise EmbeddedError("its server does not stop")
        data.check_pgdata()
        server.remove_stale_files()
        server.start(lock, threading.Event())
    path = data.folder / BACKUP
    try:
        try:
            back_up(socket_url(data.pgdata, "balance"), path, version, report)
        finally:
            server.stop()
        yield path
    finally:
        with suppress(FileNotFoundError):
            os.unlink(BACKUP, dir_fd=data.descriptor)


def _check_unused(data: DataDirectory) -> None:
    """Raise EmbeddedError if another process uses the server; inside `control`, none can join."""
    share = locks.acquire_share(data.descriptor)
    try:
        if not locks.try_lock(share):
            raise EmbeddedError("a service uses it: stop it first")
    finally:
        os.close(share)


def _restore(data: DataDirectory, backup: Path, reports: Reports) -> Restored:
    """Restore the backup into a new cluster with the owner of the data, and stop its server."""
    with suppress(FileNotFoundError):
        shutil.rmtree(WORK, dir_fd=data.descriptor)
    os.mkdir(WORK, mode=0o711, dir_fd=data.descriptor)  # fails if the owner of the folder puts a link there meanwhile
    with EmbeddedPostgres.start(data.folder / WORK, owner=data.owner) as postgres:
        return restore(
            postgres.url,
            check_backup(backup, reports.checked),
            replace=False,
            report_load=reports.loaded,
            report_index=reports.indexed,
        )


def _exchange(data: DataDirectory, old: str) -> None:
    """Give the new data the name of the old ones. After the first step, a start completes the others."""
    folder = data.descriptor
    with suppress(FileNotFoundError):
        shutil.rmtree(PGDATA_UPGRADED, dir_fd=folder)
    work = os.open(WORK, account.FOLDER, dir_fd=folder)  # fails if the owner of the folder puts a link there
    try:
        os.rename(PGDATA, PGDATA_UPGRADED, src_dir_fd=work, dst_dir_fd=folder)
    finally:
        os.close(work)
    os.fsync(folder)
    os.rename(PGDATA, f"{PGDATA}.{old}", src_dir_fd=folder, dst_dir_fd=folder)
    os.rename(PGDATA_UPGRADED, PGDATA, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)
    shutil.rmtree(WORK, dir_fd=folder, ignore_errors=True)


def advice(versions: Versions) -> str:
    """Return what to do if the programs of the old version are not given."""
    old, new = versions
    return (
        f"the data are of PostgreSQL {old} and the programs of {new}: give --old-programs with the folder of the "
        f"programs of {old}, such as /usr/lib/postgresql/{old}/bin; or make a backup with the version of this program "
        f"that has {old}, and restore it into another --data-dir with `{program.COMMAND} restore`"
    )
