"""A file system of a few megabytes that a test can fill; only root may mount one."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from tests.support.waiting import repeating, wait_until


class SmallDisk:
    """A file system in memory, mounted at a folder; without the permission to mount it is an ordinary folder."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir()
        self.folder = folder
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)]
        try:
            self.is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            self.is_mounted = False

    @contextmanager
    def full(self) -> Iterator[None]:
        """Leave no byte free within the block, also of what is freed meanwhile."""
        filler = self.folder / "filler"
        with filler.open("wb", buffering=0) as file:
            self._fill(file)
            try:
                with repeating(lambda: self._fill(file), 0.02):
                    yield
            finally:
                filler.unlink()

    def _fill(self, file: FileIO) -> None:
        try:
            while True:
                file.write(bytes(2**20))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise

    def unmount(self) -> None:
        """Release it; nothing may use it any more."""
        if self.is_mounted:
            wait_until(lambda: subprocess.run(["umount", str(self.folder)], check=False).returncode == 0, 5)
