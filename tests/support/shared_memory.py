"""The shared memory that a killed PostgreSQL leaves: a segment of System V, and files in /dev/shm.

A server that starts in the same data directory removes both. One whose data directory is deleted leaves them until the
machine stops, which has room for 4,096 segments (SHMMNI of shmget(2)): a day of fault tests.

A server that finds its old segment in use does not start, and reading a segment uses it. So only those are read that no
test will start a server for any more.
"""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Iterator
from pathlib import Path

SEGMENTS = Path("/proc/sysvipc/shm")  # of Linux: proc_sysvipc_shm(5)
FILES = "/dev/shm/PostgreSQL.{}"
# PGShmemHeader of PostgreSQL's storage/pg_shmem.h begins with: magic, creator, size, free offset, control segment.
HEADER, HEADER_SIZE, HEADER_MAGIC = struct.Struct("@iiNNI"), 56, 679834894
# dsm_control_header of its storage/ipc/dsm.c: magic, count, maximum, and the items, each of which begins with a handle.
CONTROL, CONTROL_MAGIC, ITEM = struct.Struct("@III0N"), 0x9A503D32, struct.Struct("@IINP?0N")
SHM_RDONLY, IPC_RMID = 0o10000, 0
AGE_S_MIN = 600  # since a process used it


def remove_orphans() -> None:
    """Remove what servers have left of which no process has been alive for a while."""
    if SEGMENTS.exists():
        for segment in list(orphans(AGE_S_MIN)):
            remove(segment)


def orphans(age_s_min: float) -> Iterator[int]:
    """Yield the ids of the segments of PostgreSQL's size that no process uses and whose creator is gone."""
    names, *rows = [line.split() for line in SEGMENTS.read_text().splitlines()]
    for row in rows:
        found = dict(zip(names, map(int, row), strict=True))
        is_old = time.time() - max(found["ctime"], found["dtime"]) >= age_s_min
        if found["size"] == HEADER_SIZE and is_old and not found["nattch"] and not _is_running(found["cpid"]):
            yield found["shmid"]


def _is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended may wait for its parent, in state Z of proc_pid_stat(5)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def files_of(segment: int) -> list[Path]:
    """Return the files of the server of a segment; none if that is not a segment of PostgreSQL, or may not be read."""
    header = _read(segment)
    magic, *_, control = HEADER.unpack_from(header or bytes(HEADER_SIZE))
    return [Path(FILES.format(handle)) for handle in (*_handles(control), control)] if magic == HEADER_MAGIC else []


def remove(segment: int) -> None:
    """Remove a segment of PostgreSQL and its files; do nothing to any other, and to that of another user."""
    files = files_of(segment)
    if files and ctypes.CDLL(None).shmctl(segment, IPC_RMID, None) == 0:
        for path in files:
            path.unlink(missing_ok=True)


def _read(segment: int) -> bytes | None:
    """Return the content of a segment; None if it is gone or may not be read."""
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(segment, None, SHM_RDONLY)
    if address in (None, ctypes.c_void_p(-1).value):
        return None
    content = ctypes.string_at(address, HEADER_SIZE)
    libc.shmdt(ctypes.c_void_p(address))
    return content


def _handles(control: int) -> list[int]:
    """Return the handles that a control segment lists; none without it: the server may have used another kind."""
    path = Path(FILES.format(control))
    content = path.read_bytes() if path.exists() else b""
    if len(content) < CONTROL.size:
        return []
    magic, count, _maximum = CONTROL.unpack_from(content)
    if magic != CONTROL_MAGIC or CONTROL.size + count * ITEM.size > len(content):
        return []
    return [ITEM.unpack_from(content, CONTROL.size + number * ITEM.size)[0] for number in range(count)]
