"""A part of the feed as JSON, for a client that asks for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import protocol
from balance.position import Position
from balance.snapshot import EncodedSnapshot


class FeedSlice(NamedTuple):
    """A part of the feed as JSON."""

    epoch: str
    after: int
    last: int
    """The `seq` of the last of its snapshots; `after` if there is none."""
    head: int
    data: protocol.Encoded
    """An array of schemas/snapshot.json, oldest first."""

    @classmethod
    def nothing_after(cls, head: Position) -> FeedSlice:
        """Return the part after the last snapshot that was published."""
        return cls(head.epoch, head.seq, head.seq, head.seq, protocol.Encoded(b"[]"))


def encode_list(snapshots: Sequence[EncodedSnapshot], _epoch: str) -> bytes:
    """Encode snapshots as a JSON array."""
    return b"[" + b",".join([one.json for one in snapshots]) + b"]"
