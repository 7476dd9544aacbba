"""Positions in the feed: what a watcher has seen, and the tokens that carry it.

A position is an epoch, which names the feed, and the `seq` of the last snapshot before it. Where it is one opaque text
(`id` of a server-sent event, the offset of native recovery), it ends in a tag of that snapshot's id, so that a position
in a table that was restored by hand is recognised.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import protocol

NO_TAG = "0" * 8  # of seq 0, which no snapshot has
TOKEN = re.compile(protocol.schema("position_token")["pattern"])


class Position(NamedTuple):
    """A position in a feed: `epoch` names the feed, `seq` the last snapshot before the position."""

    epoch: str
    seq: int


class ClaimedPosition(NamedTuple):
    """The position that a client sends: it has seen everything up to `seq`."""

    epoch: str | None
    """None only with seq 0, the beginning of any feed."""
    seq: int
    tag: str | None = None
    """The last eight hex digits of the id of snapshot `seq`; None if the client did not send it."""

    @classmethod
    def of(cls, after: int, epoch: str | None, id_: str | None) -> ClaimedPosition:
        """Return the position of a client that has sent the fields of one; `id_` is that of snapshot `after`."""
        return cls(epoch and epoch.lower(), int(after), id_ and to_tag(id_.lower()))


def to_tag(id_: str | None) -> str:
    """Return the tag of a snapshot's id; None is that of seq 0."""
    return NO_TAG if id_ is None else id_[-8:]


def to_token(epoch: str, seq: int, tag: str) -> str:
    """Write a position as one text: `<epoch>:<seq>:<tag>`."""
    return f"{epoch}:{seq}:{tag}"


def parse_token(text: str) -> ClaimedPosition:
    """Read what `to_token` wrote. Raises ValueError for any text that schemas/position_token.json does not accept."""
    if not TOKEN.fullmatch(text):
        raise ValueError("not a position")
    epoch, seq, tag = text.split(":")
    return ClaimedPosition(epoch, int(seq), tag)
