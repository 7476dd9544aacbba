"""The file in which a watch keeps its state: JSON, replaced as a whole, and locked while a watch runs.

Without a file the state is in memory only.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from protocol import MalformedJson, encode, loads

VERSION = 1


class StateError(Exception):
    """The file cannot be used; the text is one line."""


class StateFile:
    """The sections of the state. A holder of a part of the state puts its section; `write` stores all of them."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock: IO[bytes] | None = None
        self._sections: dict[str, Any] = {"version": VERSION}

    def open(self) -> None:
        """Lock the file and read it, if there is one. Raises StateError."""
        if self._path is None:
            return
        try:
            self._lock = self._path.with_name(self._path.name + ".lock").open("ab")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            text = self._path.read_bytes() if self._path.exists() else b""
        except BlockingIOError as error:
            raise StateError(f"{self._path}: another watch uses it") from error
        except OSError as error:
            raise StateError(f"{self._path}: {error.strerror}") from error
        if text:
            self._sections = self._parse(text)

    def _parse(self, text: bytes) -> dict[str, Any]:
        with suppress(MalformedJson):
            sections = loads(text)
            if isinstance(sections, dict) and sections.get("version") == VERSION:
                return sections
        raise StateError(f"{self._path}: is not the state of a watch")

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()

    def get(self, name: str) -> Any:
        """Return a section as it was put last; None if it never was."""
        return self._sections.get(name)

    def put(self, name: str, section: Any) -> None:
        """Replace a section; `write` stores it."""
        self._sections[name] = section

    def write(self) -> None:
        """Store all sections; a crash leaves the state before or this one. Raises StateError."""
        if self._path is None:
            return
        try:
            self._replace(self._path, encode(self._sections))
        except OSError as error:
            raise StateError(f"{self._path}: {error.strerror}") from error

    def _replace(self, path: Path, text: bytes) -> None:
        new = path.with_name(path.name + ".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
