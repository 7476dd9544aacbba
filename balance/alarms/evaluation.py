"""The conditions of all rules, which see the same snapshots and the same time.

Pure: the clock and the ids are arguments. `dump` and `load` carry the whole state over a restart, so that what is
received afterwards changes the same alarms as without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from math import inf
from typing import Any
from uuid import uuid4

from balance.alarms.alarm import Alarm, Change, Latest, alarm_from, received_from
from balance.alarms.amounts import DropCondition, ThresholdCondition
from balance.alarms.condition import Condition, NewId
from balance.alarms.rules import Rule, Silence, Threshold
from balance.alarms.silence import SilenceOfEach, SilenceOfOne
from balance.alarms.values import STALE_S

REMOVED = "the rule was removed"


def condition_of(rule: Rule, new_id: NewId) -> Condition:
    """Return the condition of a rule; `new_id` makes the ids of alarms."""
    if isinstance(rule, Silence):
        return SilenceOfEach(rule, new_id) if rule.is_of_each_pid else SilenceOfOne(rule, new_id)
    return ThresholdCondition(rule, new_id) if isinstance(rule, Threshold) else DropCondition(rule, new_id)


def new_alarm_id() -> str:
    """Return a random id."""
    return uuid4().hex


class Evaluation:
    """The state of all rules."""

    def __init__(self, rules: Sequence[Rule], new_id: NewId = new_alarm_id) -> None:
        self._conditions = {rule.text: condition_of(rule, new_id) for rule in rules}
        self._moment = 0.0  # of the snapshot that was received last
        self.recent_s = sorted({rule_s for rule in rules if (rule_s := _recent_s(rule))})
        """The numbers of seconds for which `restart` needs the pids that were received within them."""

    @property
    def alarms(self) -> Iterable[Alarm]:
        """The alarms that fire."""
        return [alarm for condition in self._conditions.values() for alarm in condition.alarms]

    @property
    def due_at(self) -> float:
        """The first moment at which `advance` may change something."""
        return min((condition.due_at for condition in self._conditions.values()), default=inf)

    def receive(self, snapshot: Mapping[str, Any], now: float, *, is_live: bool) -> list[Change]:
        """Note the next snapshot of the feed (schemas/snapshot.json); one that was missed before is not live.

        The `ts` of a sender may be wrong, so that of a missed snapshot counts only as far as it agrees with the order
        of the feed.
        """
        ts = now if is_live else datetime.fromisoformat(snapshot["ts"]).timestamp()
        self._moment = min(now, max(self._moment, ts))
        received = received_from(snapshot, now, self._moment)
        return [change for condition in self._conditions.values() for change in condition.receive(received)]

    def advance(self, now: float) -> list[Change]:
        """Note that nothing but what was received has been saved up to now."""
        return [change for condition in self._conditions.values() for change in condition.advance(now)]

    def begin_again(self, now: float, *, is_jump: bool = False) -> None:
        """Count silence from now on, and after a jump of the clock everything that lasts."""
        for condition in self._conditions.values():
            condition.begin_again(now, is_jump=is_jump)

    def restart(self, latest: Latest, now: float) -> list[Change]:
        """Begin again with the state of the feed, whose changes up to it are not known."""
        self._moment = now
        return [change for condition in self._conditions.values() for change in condition.restart(latest, now)]

    def dump(self) -> dict[str, Any]:
        """Return the state as JSON."""
        conditions = {text: condition.dump() for text, condition in self._conditions.items()}
        alarms = {text: list(condition.alarms) for text, condition in self._conditions.items()}
        return {"moment": self._moment, "conditions": conditions, "alarms": alarms}

    def load(self, data: Mapping[str, Any]) -> bool:
        """Continue with a state of `dump`; return whether it has every rule."""
        self._moment = float(data["moment"])
        stored = data["conditions"]
        for text, condition in self._conditions.items():
            if text in stored:
                condition.load(stored[text])
        return all(text in stored for text in self._conditions)

    def removed(self, data: Mapping[str, Any], now: float) -> list[Change]:
        """Return the end of each alarm of a state of `dump` whose rule is not among these."""
        gone = [one for text, alarms in data["alarms"].items() if text not in self._conditions for one in alarms]
        return [Change(alarm_from(one), False, now, reason=REMOVED) for one in gone]


def _recent_s(rule: Rule) -> int:
    """Return the time within which a pid must have been received for a rule to know it; 0 if it knows no pids."""
    if isinstance(rule, Silence):
        return rule.after_s if rule.is_of_each_pid else 0
    return int(STALE_S) if rule.scope.is_sum else 0
