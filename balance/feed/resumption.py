"""Whether the position of a client is good, and how often it was.

Threads: event loop only.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, NamedTuple, get_args

from balance.position import ClaimedPosition, Position, to_tag
from balance.storage.feed_store import PositionFacts

Reason = Literal["other_feed", "diverged", "ahead", "pruned"]
NEW, RECOVERED, NOT_RECOVERED = "new", "recovered", "not_recovered"
OUTCOMES = [(NEW, ""), (RECOVERED, ""), *((NOT_RECOVERED, reason) for reason in get_args(Reason))]
"""How a client may begin to watch: each outcome, and each reason why it was not recovered."""


class Resumption(NamedTuple):
    """Whether the position of a client is good, and where sending begins."""

    recovered: bool
    """Whether everything after the position follows; otherwise the live tail begins at the head."""
    position: Position
    """Where sending begins: the client's `seq` in the current epoch if it is recovered, otherwise the head."""
    tag: str
    """The tag of the snapshot at `position`, for a token of it."""
    head: Position
    """The end of the feed; a client that is recovered is caught up when it has received this."""
    reason: Reason | None = None
    """Why a position is not good (schemas/position_reason.json)."""
    good_until: int | None = None
    """The last `seq` up to which what the client has seen is part of this feed, where known."""
    first: int | None = None
    """The first `seq` that is still there, if the position is pruned."""

    def to_wire(self) -> dict[str, Any]:
        """Return the part of the event `connected` that each transport has (schemas/stream_connected.json)."""
        connected = {"seq": self.head.seq, "epoch": self.head.epoch, "recovered": self.recovered}
        why = {"reason": self.reason, "goodUntil": self.good_until}
        return connected | {name: value for name, value in why.items() if value is not None}


class Resumptions:
    """The clients that began to watch, since the start of the process."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """By outcome and reason, as in OUTCOMES."""

    def count(self, claimed: ClaimedPosition | None, resumption: Resumption) -> None:
        """Count a client that begins; without a position it is new."""
        outcome = NEW if claimed is None else RECOVERED if resumption.recovered else NOT_RECOVERED
        self.counts[outcome, resumption.reason or ""] += 1


def reason_of(claimed: ClaimedPosition, facts: PositionFacts) -> Reason | None:
    """Return why a position is not good; None if it is."""
    if claimed.epoch is not None and not facts.epoch_is_known:
        return "other_feed"
    if facts.good_until is not None and claimed.seq > facts.good_until:
        return "diverged"
    if claimed.seq > facts.head.seq:
        return "ahead"
    if claimed.seq + 1 < facts.first:
        return "pruned"
    is_checked = claimed.tag is not None and (facts.id is not None or claimed.seq == 0)
    return "diverged" if is_checked and to_tag(facts.id) != claimed.tag else None
