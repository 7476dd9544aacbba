"""What to read of the balances over time, and what is returned."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from balance.position import Position


class Line(Enum):
    """What an answer has a line of."""

    ACCOUNT = "account"
    """The snapshot in force, whatever its pid."""
    PIDS = "pids"
    """The snapshot in force, of some pids."""
    EACH = "each"
    """One line for each pid."""
    SUM = "sum"
    """The sum over the pids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesQuery:
    """What to read."""

    instants: tuple[datetime, ...]
    """In ascending order, at least two."""
    line: Line
    pids: tuple[int, ...] = ()
    """Of EACH and SUM: empty for all that reported in the range or `stale_s` before it."""
    assets: tuple[str, ...] = ()
    """As `onchain.usdt`; empty for all."""
    stale_s: int
    """A snapshot that is older than this at an instant is in a gap, and not in a sum."""


class TooLarge(Exception):
    """The answer would be too large, or takes too long; the message has the reason and what to change."""


class SeriesRead(NamedTuple):
    """The answer to a query."""

    position: Position
    """Of which state of the feed it is."""
    data: bytes
    """The JSON of schemas/series.json."""
