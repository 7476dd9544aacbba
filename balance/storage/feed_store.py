"""The values that the feed reads from the tables."""

from __future__ import annotations

from typing import NamedTuple

from balance.position import Position
from balance.snapshot import EncodedSnapshot


class Head(NamedTuple):
    """The end of the feed, and what a commit promises: `local` or `replicated`."""

    position: Position
    durability: str


class FeedPage(NamedTuple):
    """A part of the feed."""

    epoch: str
    head: int
    first: int | None
    last: int
    snapshots: list[EncodedSnapshot]


class PositionFacts(NamedTuple):
    """What the database has about a position that a client sent."""

    head: Position
    first: int
    epoch_is_known: bool
    good_until: int | None
    id: str | None


class Latest(NamedTuple):
    """The newest snapshot, and the last one of each pid, at a position of the feed."""

    position: Position
    newest: bytes | None
    of_pids: list[bytes]


class FeedStore:
    """Reads the feed; every method blocks."""

    def __init__(self, pool: Pool) -> None: ...

    def head(self) -> Head: ...

    def rows(self, after: int, up_to: int, limit: int) -> list[EncodedSnapshot]: ...

    def renew(self, known_end: int) -> Position: ...

    def page(self, after: int, limit: int, pids: Sequence[int] | None) -> FeedPage: ...

    def look_up(self, claimed: ClaimedPosition) -> PositionFacts: ...

    def latest(self, limit: int, heard_s: int | None) -> Latest: ...
