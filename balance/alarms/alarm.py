"""The values of alarms: Alarm, Change and what the conditions are given, Received and Latest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

Amount = int | Decimal


class Received(NamedTuple):
    """A snapshot, as the conditions need it. Times are seconds since 1970."""

    pid: int | None
    ledgers: Mapping[str, Mapping[str, Amount]]
    """`onchain` and `onsite`, each with its assets."""
    at: float
    """When it was received."""
    moment: float
    """When the service had it, as far as is known: `at`, but for a snapshot that was missed and comes later."""

    def amount(self, ledger: str, asset: str) -> Amount | None:
        """Return one amount; None if the snapshot does not name it."""
        return self.ledgers[ledger].get(asset)


class Latest(NamedTuple):
    """The state of the feed at a position."""

    newest: Received | None
    pids: Mapping[int, Received]
    """The last snapshot of each pid."""
    recent: Mapping[int, frozenset[int]]
    """The pids that were received within a number of seconds, by that number."""


@dataclass(frozen=True)
class Alarm:
    """An alarm from its begin to its end."""

    id: str
    rule: str
    pid: int | None
    """The pid that it is about, for a rule that is about each."""
    started_at: float
    """When it was noticed."""
    value: Amount | None = None
    """The amount at that moment, if the rule is about one."""


@dataclass(frozen=True)
class Change:
    """The begin or the end of an alarm."""

    alarm: Alarm
    is_firing: bool
    at: float
    value: Amount | None = None
    """The amount at that moment."""
    reason: str = ""
    """Why it ended, if its condition did not."""


def alarm_from(data: Mapping[str, Any]) -> Alarm:
    """Return the alarm that was stored as JSON."""
    return Alarm(**{**data, "started_at": float(data["started_at"])})


def change_from(data: Mapping[str, Any]) -> Change:
    """Return the change that was stored as JSON."""
    return Change(**{**data, "alarm": alarm_from(data["alarm"]), "at": float(data["at"])})


def received_from(snapshot: Mapping[str, Any], at: float, moment: float) -> Received:
    """Return what the conditions need of a snapshot (schemas/snapshot.json)."""
    return Received(snapshot["pid"], {name: snapshot[name] for name in ("onchain", "onsite")}, at, moment)
