"""The values that cross the layers: Snapshot, which is built from an update or a row, and Saved, the result of a save.

EncodedSnapshot is a saved one as the JSON that watchers receive.

The ledgers are JSON, encoded once, in the digits that PostgreSQL returns. Therefore they are the same text in a reply,
in an event and in a later read, and none of these encodes them again.

Pure: the clock and the new id are arguments, nothing is read or written. `ts` and `timestamp` are the same moment under
two names of docs/spec.md; this module knows which shape on the wire uses which. PostgreSQL too writes the shape in a
list (`store.PAGE`), as the same text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

import protocol

Amount = int | Decimal

# Where `to_wire` has the tag of the id and the pid; no value before that of the pid holds a quoted name.
TAG_IN_JSON = slice(len('{"id":"') + 28, len('{"id":"') + 36)
PID_IN_JSON = re.compile(rb'"pid":([0-9]+)')
SMALLEST_EXPONENT = -30  # of the smallest amount that is not 0, 1e-30 (schemas/amount.json)


class Snapshot(msgspec.Struct, frozen=True):
    """What a bot held at one moment."""

    id: str  # a UUID in lower case; the client's own, or a UUIDv7 of the server
    ts: datetime  # the moment that it reports: UTC, whole microseconds
    pid: int | None  # the process that reported it, if the update names it
    onchain: protocol.Encoded  # an object: asset name to amount
    onsite: protocol.Encoded
    received_at: datetime  # the moment of its arrival: UTC
    seq: int = 0  # its position in the feed, from 1; 0 until it is saved

    @classmethod
    def from_update(cls, update: Mapping[str, Any], now: datetime, new_id: str) -> Snapshot:
        """Build the snapshot of a checked update (schemas/balance_update.json).

        `now` is its `received_at`, and its `ts` if the update has none; `new_id` is its id if the update has none.
        """
        ts, pid, id_ = update.get("ts"), update.get("pid"), update.get("id")
        return cls(
            id=new_id if id_ is None else id_.lower(),
            ts=now if ts is None else parse_ts(ts),
            pid=None if pid is None else int(pid),  # 7.0 is an integer in JSON Schema
            onchain=_encode_ledger(update["onchain"]),
            onsite=_encode_ledger(update["onsite"]),
            received_at=now,
        )

    def with_seq(self, seq: int) -> Snapshot:
        """Return this snapshot with its position in the feed."""
        return Snapshot(self.id, self.ts, self.pid, self.onchain, self.onsite, self.received_at, seq)

    def has_same_content(self, sent: Snapshot) -> bool:
        """Return whether a snapshot that was sent under this id again is the same, so that it is a duplicate.

        If it was sent without `ts`, its moment is not compared: it is only the time of its arrival.
        """
        # Compared by identity: the `ts` of a client may equal the time of arrival.
        has_ts = sent.ts is not sent.received_at
        return (
            self.pid == sent.pid
            and (self.ts == sent.ts or not has_ts)
            and all(
                protocol.loads(bytes(ours)) == protocol.loads(bytes(theirs))  # 1.5 and 1.50 are the same amount
                for ours, theirs in ((self.onchain, sent.onchain), (self.onsite, sent.onsite))
            )
        )

    def to_wire(self) -> dict[str, Any]:
        """Return the shape in a list and in the event `balance:snapshot` (docs/spec.md, Events)."""
        return {
            "id": self.id,
            "seq": self.seq,
            "ts": format_ts(self.ts),
            "pid": self.pid,
            "onchain": self.onchain,
            "onsite": self.onsite,
        }

    def encode(self) -> EncodedSnapshot:
        """Return the JSON of `to_wire` and the seq."""
        return EncodedSnapshot(self.seq, protocol.encode(self.to_wire()))

    def to_save_reply(self) -> dict[str, Any]:
        """Return the `data` of the reply to POST (docs/spec.md, POST /api/balance/snapshot)."""
        return {"id": self.id, "timestamp": format_ts(self.ts), "onchain": self.onchain, "onsite": self.onsite}

    def to_ack(self) -> dict[str, Any]:
        """Return the payload of `balance:ack` (docs/spec.md, Events)."""
        return {"success": True, "id": self.id, "timestamp": format_ts(self.ts)}


class EncodedSnapshot(NamedTuple):
    """A saved snapshot as the JSON of a list, of an event and of a stream; PostgreSQL writes the same bytes.

    A replay makes one for each row, and nearly all are only sent: what else is needed is read from the JSON.
    """

    seq: int
    json: bytes

    @property
    def tag(self) -> bytes:
        """The last eight hex digits of its id."""
        return self.json[TAG_IN_JSON]

    @property
    def pid(self) -> int | None:
        """The process that reported it, if it names one."""
        return int(found[1]) if (found := PID_IN_JSON.search(self.json)) else None


class Saved(msgspec.Struct, frozen=True):
    """The result of a save: what is stored under the id, and whether it was stored before."""

    snapshot: Snapshot
    duplicate: bool

    def check(self, sent: Snapshot) -> None:
        """Check that what is stored is the snapshot that was sent. Raises Conflict."""
        if self.duplicate and not self.snapshot.has_same_content(sent):
            raise protocol.Conflict("another snapshot has this id", "id")


def parse_ts(text: str) -> datetime:
    """Parse an RFC 3339 date and time that its schema has accepted; digits below the microsecond are dropped."""
    return datetime.fromisoformat(text.upper()).astimezone(UTC)


@lru_cache(1024)  # one moment is written in the reply, in the event and in the row
def format_ts(ts: datetime) -> str:
    """Format a moment as UTC with `Z`: three fraction digits, six only where it has them (docs/spec.md, Notes)."""
    if ts.tzinfo is not UTC:
        ts = ts.astimezone(UTC)
    return ts.isoformat("T", "microseconds" if ts.microsecond % 1000 else "milliseconds")[: -len("+00:00")] + "Z"


def _encode_ledger(ledger: Mapping[str, Amount] | protocol.Encoded) -> protocol.Encoded:
    if isinstance(ledger, protocol.Encoded):
        return ledger  # of a protocol.ValidatedUpdate
    # In the order in which jsonb returns the assets, the shorter name first. No name has a character that JSON escapes.
    assets = sorted(sorted(ledger), key=len)
    return protocol.Encoded("{" + ",".join([f'"{asset}":{_format_amount(ledger[asset])}' for asset in assets]) + "}")


def _format_amount(amount: Amount) -> str:
    """Format an amount as PostgreSQL returns it, so that an event and a later read are the same text.

    PostgreSQL writes `1e5` as 100000, has no -0, and would write `0e-9999` as ten thousand zeros.
    """
    text = str(amount)
    if "E" not in text and text[0] != "-":
        return text
    if not amount and Decimal(amount).adjusted() < SMALLEST_EXPONENT:  # of a zero, this is its exponent
        return "0"
    return format(Decimal(amount).copy_abs(), "f")  # `abs` would round
