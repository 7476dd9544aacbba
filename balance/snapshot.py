"""The value that crosses the layers: a Snapshot, from an update, from a row, and to each shape on the wire.

Its ledgers are numbers no longer but JSON, encoded once, in the very digits that PostgreSQL gives back: so they are the
same text in an answer, in an event and in a later read, and none of these has to encode them.

Pure: the clock and the new id are handed in, nothing is read or written here. `ts` and `timestamp` are the
same moment under two names of SEED.md; this module knows which shape uses which. The shape in a list is written by
PostgreSQL too (`store.PAGE`), to the same text.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

import protocol

Amount = int | Decimal

SMALLEST_EXPONENT = -30  # of the smallest amount that is not 0, 1e-30 (schemas/amount.json)


class Snapshot(msgspec.Struct, frozen=True):
    """What a bot held at one moment."""

    id: str  # a UUID in lower case that names it for ever; the client's own, or a UUIDv7 of ours
    ts: datetime  # the moment it speaks of: UTC, whole microseconds
    pid: int | None  # the process that reported it, if it said so
    onchain: protocol.Encoded  # an object: asset name to amount
    onsite: protocol.Encoded
    received_at: datetime  # the moment we received it: UTC
    seq: int = 0  # its place in the feed, from 1; 0 until it is saved

    @classmethod
    def from_update(cls, update: Mapping[str, Any], now: datetime, new_id: str) -> Snapshot:
        """Build the snapshot that a checked update (schemas/balance_update.json) asks for.

        `now` stands in for a missing `ts`, `new_id` for a missing `id`.
        """
        ts, pid, id_ = update.get("ts"), update.get("pid"), update.get("id")
        return cls(
            id=new_id if id_ is None else id_.lower(),
            ts=now if ts is None else parse_ts(ts),
            pid=None if pid is None else int(pid),  # 7.0 is an integer in JSON Schema
            onchain=_to_ledger(update["onchain"]),
            onsite=_to_ledger(update["onsite"]),
            received_at=now,
        )

    def at(self, seq: int) -> Snapshot:
        """Return this snapshot with its place in the feed."""
        return Snapshot(self.id, self.ts, self.pid, self.onchain, self.onsite, self.received_at, seq)

    def says_the_same(self, other: Snapshot) -> bool:
        """Tell whether both report the same holdings at the same moment: what `id` promises of a resend."""
        return (self.ts, self.pid) == (other.ts, other.pid) and all(
            protocol.loads(bytes(ours)) == protocol.loads(bytes(theirs))  # 1.5 and 1.50 are the same holding
            for ours, theirs in ((self.onchain, other.onchain), (self.onsite, other.onsite))
        )

    def to_wire(self) -> dict[str, Any]:
        """The shape in a list, in the event `balance:snapshot` and in the feed (SEED.md, Events)."""
        return {
            "id": self.id,
            "seq": self.seq,
            "ts": format_ts(self.ts),
            "pid": self.pid,
            "onchain": self.onchain,
            "onsite": self.onsite,
        }

    def to_saved(self) -> dict[str, Any]:
        """The `data` of the answer to POST (SEED.md, POST /api/balance/snapshot)."""
        return {"id": self.id, "timestamp": format_ts(self.ts), "onchain": self.onchain, "onsite": self.onsite}

    def to_ack(self) -> dict[str, Any]:
        """The payload of `balance:ack` (SEED.md, Events)."""
        return {"success": True, "id": self.id, "timestamp": format_ts(self.ts)}


class Saved(msgspec.Struct, frozen=True):
    """The outcome of a save: what now stands under the id, and whether it stood there before."""

    snapshot: Snapshot
    duplicate: bool


def parse_ts(text: str) -> datetime:
    """Read an RFC 3339 date and time that its schema has accepted; digits below the microsecond are cut off."""
    return datetime.fromisoformat(text.upper()).astimezone(UTC)


@lru_cache(1024)  # one moment stands in the answer, in the event and in the row
def format_ts(ts: datetime) -> str:
    """Write a moment as UTC with `Z`: three fraction digits, six only where it has them (SEED.md, Notes)."""
    if ts.tzinfo is not UTC:
        ts = ts.astimezone(UTC)
    return ts.isoformat("T", "microseconds" if ts.microsecond % 1000 else "milliseconds")[: -len("+00:00")] + "Z"


def _to_ledger(ledger: Mapping[str, Amount] | protocol.Encoded) -> protocol.Encoded:
    if isinstance(ledger, protocol.Encoded):
        return ledger  # of a protocol.ValidatedUpdate
    # In the order in which jsonb gives the assets back, the shorter name first; no name has a sign to be escaped.
    assets = sorted(sorted(ledger), key=len)
    return protocol.Encoded("{" + ",".join([f'"{asset}":{_spell(ledger[asset])}' for asset in assets]) + "}")


def _spell(amount: Amount) -> str:
    """Write an amount the way PostgreSQL gives it back, so that an event and a later read are the same text.

    PostgreSQL spells `1e5` out as 100000, has no -0, and would spell `0e-9999` out as ten thousand zeros.
    """
    text = str(amount)
    if "E" not in text and text[0] != "-":
        return text
    exponent = Decimal(amount).as_tuple().exponent
    assert isinstance(exponent, int), "the schema admits finite amounts only"
    if exponent > 0 or (not amount and exponent < SMALLEST_EXPONENT):
        return str(int(amount))
    return format(Decimal(amount).copy_abs(), "f")  # `abs` would round
