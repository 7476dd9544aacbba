"""The value that crosses the layers: a Snapshot, from an update, from a row, and to each shape on the wire.

Pure: the clock and the new id are handed in, nothing is read or written here. `ts` and `timestamp` are the
same moment under two names of SEED.md; only this module knows which shape uses which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

Amount = int | Decimal
Ledger = Mapping[str, Amount]

SMALLEST_EXPONENT = -30  # of the smallest amount that is not 0, 1e-30 (schemas/amount.json)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a bot held at one moment."""

    id: UUID  # names this snapshot for ever; the client's own, or a UUIDv7 of ours
    ts: datetime  # the moment it speaks of: UTC, whole microseconds
    pid: int | None  # the process that reported it, if it said so
    onchain: Ledger  # asset name to amount
    onsite: Ledger
    received_at: datetime  # the moment we received it: UTC
    seq: int = 0  # its place in the feed, from 1; 0 until it is saved

    @classmethod
    def from_update(cls, update: Mapping[str, Any], now: datetime, new_id: UUID) -> Snapshot:
        """Build the snapshot that a checked update (schemas/balance_update.json) asks for.

        `now` stands in for a missing `ts`, `new_id` for a missing `id`.
        """
        ts, pid, id_ = update.get("ts"), update.get("pid"), update.get("id")
        return cls(
            id=new_id if id_ is None else UUID(id_),
            ts=now if ts is None else parse_ts(ts),
            pid=None if pid is None else int(pid),  # 7.0 is an integer in JSON Schema
            onchain=_plain_ledger(update["onchain"]),
            onsite=_plain_ledger(update["onsite"]),
            received_at=now,
        )

    def at(self, seq: int) -> Snapshot:
        """Return this snapshot with its place in the feed."""
        return replace(self, seq=seq)

    def says_the_same(self, other: Snapshot) -> bool:
        """Tell whether both report the same holdings at the same moment: what `id` promises of a resend."""
        return (self.ts, self.pid, self.onchain, self.onsite) == (other.ts, other.pid, other.onchain, other.onsite)

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


@dataclass(frozen=True, slots=True)
class Saved:
    """The outcome of a save: what now stands under the id, and whether it stood there before."""

    snapshot: Snapshot
    duplicate: bool


def parse_ts(text: str) -> datetime:
    """Read an RFC 3339 date and time that its schema has accepted; digits below the microsecond are cut off."""
    return datetime.fromisoformat(text.upper()).astimezone(UTC)


def format_ts(ts: datetime) -> str:
    """Write a moment as UTC with `Z`: three fraction digits, six only where it has them (SEED.md, Notes)."""
    precision = "microseconds" if ts.microsecond % 1000 else "milliseconds"
    return ts.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def _plain_ledger(ledger: Ledger) -> dict[str, Amount]:
    # In the order in which jsonb gives them back, too.
    return {asset: _plain(ledger[asset]) for asset in sorted(ledger, key=lambda asset: (len(asset), asset))}


def _plain(amount: Amount) -> Amount:
    """Write an amount the way PostgreSQL gives it back, so that an event and a later read are the same text.

    PostgreSQL spells `1e5` out as 100000, has no -0, and would spell `0e-9999` out as ten thousand zeros.
    """
    if isinstance(amount, int):
        return amount
    sign, _, exponent = amount.as_tuple()
    assert isinstance(exponent, int), "the schema admits finite amounts only"
    if exponent > 0 or (not amount and exponent < SMALLEST_EXPONENT):
        return int(amount)
    return amount.copy_abs() if sign else amount
