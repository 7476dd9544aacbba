"""Parse server-sent events (WHATWG HTML, section 9.2.6) as this service writes them: each line ends in a line feed."""

from __future__ import annotations

from typing import Any, NamedTuple

from protocol import loads

EVENT_BYTES_MAX = 4_194_304  # of one event; an update may have 1 MiB


class Event(NamedTuple):
    """One event."""

    name: str
    data: Any
    id: str
    """The position after it; empty if it has none."""


class EventReader:
    """The part of a stream that is not a whole event yet."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that are complete now. Raises ValueError for a stream that is not of this service."""
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        if len(self._rest) > EVENT_BYTES_MAX:
            raise ValueError("an event is too long")
        return [event for block in blocks if (event := _parse(block.decode())) is not None]


def _parse(block: str) -> Event | None:
    """Return the event of a block of lines; None if it has no data, as a block of comments alone."""
    fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
    if "event" not in fields or "data" not in fields:
        return None
    return Event(fields["event"], loads(fields["data"]), fields.get("id", ""))
