"""Imports: the lines of a body, the snapshot in each, and the counts. The route and the command use the same.

Threads: any; an object belongs to one caller.

Promises: memory is bounded by the longest line that is accepted and the refusals that are kept, whatever is sent.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from typing import Any, NamedTuple

import protocol

ERRORS_MAX = 20  # of the refused lines that are reported; schemas/import_result.json
# What an exported line may have beside the update that was saved: the ids and times that the server has added, and an
# amount such as 1e-30 in digits, thirty for each of the at most 128 assets.
LINE_BYTES_MORE = 8_192


class Line(NamedTuple):
    """One line that is not empty."""

    number: int
    """From 1; empty lines are counted too."""
    text: bytes | None
    """None if the line was too long."""


class Lines:
    """Splits a body into lines as it arrives; of a line that is too long nothing is kept."""

    def __init__(self, update_bytes_max: int) -> None:
        """Accept what an export has of updates of this size."""
        self._bytes_max = update_bytes_max + LINE_BYTES_MORE
        self._begun = b""  # of the line whose end has not arrived
        self._is_too_long = False  # whether that line is
        self._number = 0

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that a part of the body completes."""
        first, *more = chunk.split(b"\n")
        self._continue(first)
        for begun in more:
            if (line := self._end()) is not None:
                yield line
            self._continue(begun)

    def rest(self) -> Iterator[Line]:
        """Yield the last line if it has no line end; it may be a half."""
        if (line := self._end()) is not None:
            yield line

    def _continue(self, part: bytes) -> None:
        if len(self._begun) + len(part) > self._bytes_max:
            self._begun, self._is_too_long = b"", True
        elif not self._is_too_long:
            self._begun = self._begun + part if self._begun else part

    def _end(self) -> Line | None:
        text, is_too_long = self._begun, self._is_too_long
        self._begun, self._is_too_long = b"", False
        self._number += 1
        if is_too_long:
            return Line(self._number, None)
        return Line(self._number, text) if text and not text.isspace() else None

    def decode(self, line: Line) -> Any:
        """Return the update of a line, for `Service.begin_save` or `Snapshot.from_update`. Raises ServiceError."""
        if line.text is None:
            raise protocol.PayloadTooLarge(f"is larger than {self._bytes_max} bytes", "payload")
        return protocol.decode_import_line(line.text)


class ImportResult:
    """The counts of one import, and its first errors."""

    def __init__(self) -> None:
        self.lines = 0
        """The lines that were read."""
        self.saved = 0
        self.duplicates = 0
        self.refused = 0
        self.errors: list[tuple[int, str, str]] = []
        """Of the first refused lines, by number: the number, the code and the text."""

    def count_saved(self, *, duplicate: bool) -> None:
        """Count a line that is stored."""
        if duplicate:
            self.duplicates += 1
        else:
            self.saved += 1

    def refuse(self, number: int, error: protocol.ServiceError) -> None:
        """Count a line that is refused. They come in any order, since some are refused by the database."""
        self.refused += 1
        insort(self.errors, (number, error.code, str(error)))
        del self.errors[ERRORS_MAX:]

    def to_wire(self) -> dict[str, Any]:
        """Return the shape of schemas/import_result.json."""
        return {
            "lines": self.lines,
            "saved": self.saved,
            "duplicates": self.duplicates,
            "refused": self.refused,
            "errors": [{"line": number, "code": code, "error": text} for number, code, text in self.errors],
        }
