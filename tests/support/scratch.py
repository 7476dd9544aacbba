"""The folder of the files of one run of the tests: in memory where that has room for them.

Hundreds of tests create a database or a data directory, and PostgreSQL waits for the disk at each step. What a test
shows is the same in memory: no test ends the operating system, which alone could lose what a process wrote.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")  # of Linux
FREE_MIN = 4 * 2**30  # bytes; several times what a run needs at once


def make_folder() -> str:
    """Create the folder of a run and return its path, which is short: a socket's path has at most 107 bytes.

    `TMPDIR` decides where it is, if that is set.
    """
    return tempfile.mkdtemp(prefix="balance-", dir=parent())


def parent() -> str:
    """Return the folder for the folders of a run."""
    return str(MEMORY) if "TMPDIR" not in os.environ and has_room(MEMORY) else tempfile.gettempdir()


def has_room(folder: Path) -> bool:
    """Return whether files of the tests can be written to a folder and run from there."""
    if not os.access(folder, os.W_OK):
        return False
    system = os.statvfs(folder)
    return not system.f_flag & os.ST_NOEXEC and system.f_bavail * system.f_frsize >= FREE_MIN
