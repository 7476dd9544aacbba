"""The file of a backup: text, compressed with gzip, that is read from its beginning to its end.

    {"format": "balance-backup", "version": 1, "schema": [[1, "0001_….sql", "<sha-256>"], …], …}
    COPY balance_snapshot (seq, id, …) FROM stdin;
    …                                              rows in the text format of COPY
    \\.
    … the other tables
    {"rows": 1234567, "sha256": "…"}               of all the bytes before this line

It does not depend on the version of PostgreSQL. A file is complete if its last line is there and right; until it is
written, it has the name of the backup with `.partial` behind it, and is locked: of two backups to one name at once, the
second is refused.

Raises BackupError.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from balance.storage.whole_file import whole_file

FORMAT, VERSION = "balance-backup", 1
COPY = re.compile(rb"COPY ([a-z_]+) \(([a-z0-9_, ]+)\) FROM stdin;\n")
END_OF_ROWS = b"\\.\n"
BLOCK_BYTES = 256 * 1024
LEVEL = 3  # a third larger than at the default level, in a third of the time

Report = Callable[[int, int], object]
"""Called with what is done and the total, in bytes or rows."""


class BackupError(Exception):
    """A backup cannot be written or restored; the text is one line."""


class Header(NamedTuple):
    """The first line: what the backup is of."""

    schema: list[tuple[int, str, str]]
    """The applied migrations: version, name and checksum."""
    epoch: str
    last_seq: int
    rows: int
    """The number of snapshots."""
    made_at: str
    program: str
    postgresql: str


class BackupWriter:
    """Writes one file; use `written`."""

    def __init__(self, file: IO[bytes], header: Header) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._rows = 0
        self._write(_to_line({"format": FORMAT, "version": VERSION, **header._asdict()}))

    def write_table(self, name: str, columns: list[str], rows: Iterator[bytes], report: Report) -> None:
        """Write the rows of a table, each in the text format of COPY with its line end."""
        self._write(f"COPY {name} ({', '.join(columns)}) FROM stdin;\n".encode())
        block, size, count = [], 0, 0
        for row in rows:
            block.append(bytes(row))
            size += len(row)
            count += 1
            if size >= BLOCK_BYTES:
                self._write(b"".join(block))
                block, size = [], 0
                report(count, 0)
        self._write(b"".join([*block, END_OF_ROWS]))
        self._rows += count
        report(count, count)

    def finish(self) -> None:
        """Write the last line."""
        self._file.write(_to_line({"rows": self._rows, "sha256": self._digest.hexdigest()}))

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)


@contextmanager
def written(path: Path, header: Header) -> Iterator[BackupWriter]:
    """Write a backup in the block, as a `whole_file`."""
    try:
        with whole_file(path) as raw, gzip.GzipFile("", "wb", LEVEL, raw) as file:
            writer = BackupWriter(file, header)  # type: ignore[arg-type]
            yield writer
            writer.finish()
    except OSError as error:
        raise BackupError(f"{path}: cannot be written: {error.strerror or error}") from error


class BackupReader:
    """Reads one file; use `opened`."""

    def __init__(self, path: Path, raw: IO[bytes], report: Report) -> None:
        """Read the header."""
        self._path = path
        self._raw = raw
        self._size = os.fstat(raw.fileno()).st_size
        self._file = gzip.GzipFile("", "rb", fileobj=raw)
        self._digest = hashlib.sha256()
        self._rows = 0
        self._report = report
        self.header = self._read_header()

    def tables(self) -> Iterator[tuple[str, list[str], Iterator[bytes]]]:
        """Yield each table: its name, its columns and blocks of its rows, which the caller reads to their end.

        Raises BackupError at the end too, if the file is not complete or not what was written.
        """
        while (line := self._read_line()).startswith(b"COPY "):
            found = COPY.fullmatch(line)
            if found is None:
                raise self._damaged()
            self._digest.update(line)
            yield found[1].decode(), found[2].decode().split(", "), self._blocks()
        if _from_line(line) != {"rows": self._rows, "sha256": self._digest.hexdigest()} or not self._is_at_end():
            raise self._damaged()

    def _blocks(self) -> Iterator[bytes]:
        block: list[bytes] = []
        size = 0
        while (line := self._read_line()) != END_OF_ROWS:
            block.append(line)
            size += len(line)
            self._rows += 1
            if size >= BLOCK_BYTES:
                yield self._take(block)
                block, size = [], 0
        yield self._take(block)
        self._digest.update(END_OF_ROWS)

    def _take(self, block: list[bytes]) -> bytes:
        data = b"".join(block)
        self._digest.update(data)
        self._report(self._raw.tell(), self._size)
        return data

    def _read_header(self) -> Header:
        try:
            line = self._read_line()
        except BackupError:
            raise BackupError(f"{self._path}: is not a backup of this program") from None
        found = _from_line(line)
        if found is None or found.pop("format", None) != FORMAT:
            raise BackupError(f"{self._path}: is not a backup of this program")
        if found.pop("version", None) != VERSION:
            raise BackupError(f"{self._path}: was made by a newer version of this program: update the program")
        self._digest.update(line)
        try:
            header = Header(**found)
            return header._replace(schema=[(one[0], one[1], one[2]) for one in header.schema])
        except (TypeError, LookupError):  # the checksum is at the end of the file
            raise self._damaged() from None

    def _read_line(self) -> bytes:
        try:
            line = self._file.readline()
        except EOFError:
            line = b""
        except (zlib.error, gzip.BadGzipFile):
            raise self._damaged() from None
        if not line.endswith(b"\n"):
            raise self._truncated()
        return line

    def _is_at_end(self) -> bool:
        """Return whether nothing follows; this also checks what gzip has at the end."""
        try:
            return not self._file.read(1)
        except EOFError:
            raise self._truncated() from None
        except (zlib.error, gzip.BadGzipFile):
            return False

    def _truncated(self) -> BackupError:
        return BackupError(f"{self._path}: the backup is truncated, and nothing was changed")

    def _damaged(self) -> BackupError:
        return BackupError(f"{self._path}: the backup is damaged, and nothing was changed")


@contextmanager
def opened(path: Path, report: Report = lambda _done, _total: None) -> Iterator[BackupReader]:
    """Open a backup for the block. `report` gets the bytes that were read, and all."""
    try:
        with path.open("rb") as raw:
            yield BackupReader(path, raw, report)
    except OSError as error:
        raise BackupError(f"{path}: cannot be read: {error.strerror or error}") from error


def check(path: Path, report: Report) -> Header:
    """Read a backup to its end; return its header."""
    with opened(path, report) as backup:
        for _name, _columns, blocks in backup.tables():
            for _ in blocks:
                pass
        return backup.header


def _to_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _from_line(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        value = json.loads(line)
        if isinstance(value, dict):
            return value
    return None
