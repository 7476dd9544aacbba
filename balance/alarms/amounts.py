"""Conditions on an amount: a limit, and a drop."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from math import inf
from typing import Any

from balance.alarms.alarm import Alarm, Amount, Change, Latest, Received, alarm_from
from balance.alarms.condition import NewId
from balance.alarms.rules import Drop, Threshold
from balance.alarms.values import EXACT, LastValue, SumValue

COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
WINDOW_PARTS = 360  # of the time of a drop, in each of which one peak is kept


class AmountCondition(ABC):
    """What the conditions on an amount have in common."""

    def __init__(self, rule: Threshold | Drop, hold_s: int, new_id: NewId) -> None:
        """Fire when the condition was met for `hold_s` seconds."""
        self._rule = rule
        self._hold_s = hold_s
        self._new_id = new_id
        scope = rule.scope
        self._amount: LastValue | SumValue = (
            SumValue(rule.ledger, rule.asset) if scope.is_sum else LastValue(rule.ledger, rule.asset, scope.pid)
        )
        self._since: float | None = None  # when the condition began to be met
        self._alarm: Alarm | None = None
        self._is_unconfirmed = False  # the amount is older than the alarm that fires, and does not end it

    @property
    def alarms(self) -> Iterable[Alarm]:
        return [] if self._alarm is None else [self._alarm]

    @property
    def due_at(self) -> float:
        is_pending = self._alarm is None and self._since is not None and self._hold_s > 0
        return min(
            self._amount.expires_at, self._since + self._hold_s if is_pending and self._since is not None else inf
        )

    def receive(self, received: Received) -> list[Change]:
        before = self._amount.value
        if not self._amount.receive(received):
            return []
        self._is_unconfirmed = False
        self._note(before, received.moment)
        return self._judge(received.at, received.moment, time_passes=False)

    def advance(self, now: float) -> list[Change]:
        before = self._amount.value
        self._amount.expire(now)
        if self._amount.value != before:
            self._note(before, now)
        return self._judge(now, now, time_passes=True)

    def begin_again(self, now: float, *, is_jump: bool = False) -> None:
        self._amount.begin_again(now)
        if is_jump and self._since is not None:
            self._since = now

    def restart(self, latest: Latest, now: float) -> list[Change]:
        self._amount.restart(latest)
        self._since = None
        self._is_unconfirmed = self._alarm is not None
        return self._judge(now, now, time_passes=False)

    def dump(self) -> dict[str, Any]:
        return {
            "amount": self._amount.dump(),
            "since": self._since,
            "alarm": self._alarm,
            "unconfirmed": self._is_unconfirmed,
        }

    def load(self, data: Mapping[str, Any]) -> None:
        self._amount.load(data["amount"])
        self._since = None if data["since"] is None else float(data["since"])
        self._alarm = None if data["alarm"] is None else alarm_from(data["alarm"])
        self._is_unconfirmed = data["unconfirmed"]

    @abstractmethod
    def _is_met(self, value: Amount, moment: float) -> bool:
        """Return whether an amount meets the condition at a moment."""

    @abstractmethod
    def _note(self, before: Amount | None, moment: float) -> None:
        """Note that the amount was `before` up to a moment."""

    def _judge(self, at: float, moment: float, *, time_passes: bool) -> list[Change]:
        value = self._amount.value
        if value is None or self._is_unconfirmed:
            return []
        if not self._is_met(value, moment):
            self._since = None
            ended, self._alarm = self._alarm, None
            return [] if ended is None else [Change(ended, False, at, value)]
        if self._since is None:
            self._since = at
        is_over = not self._hold_s or (time_passes and at >= self._since + self._hold_s)
        if self._alarm is not None or not is_over:
            return []
        self._alarm = Alarm(self._new_id(), self._rule.text, None, at, value)
        return [Change(self._alarm, True, at, value)]


class ThresholdCondition(AmountCondition):
    """An amount is less or more than a limit."""

    def __init__(self, rule: Threshold, new_id: NewId) -> None:
        super().__init__(rule, rule.hold_s, new_id)
        self._limit = rule.limit
        self._compare = COMPARISONS[rule.comparison]

    def _is_met(self, value: Amount, moment: float) -> bool:
        return self._compare(value, self._limit)

    def _note(self, before: Amount | None, moment: float) -> None:
        """Need no earlier amounts."""


class DropCondition(AmountCondition):
    """An amount is far below the largest that was in force within a time."""

    def __init__(self, rule: Drop, new_id: NewId) -> None:
        super().__init__(rule, 0, new_id)
        self._percent = rule.percent
        self._within_s = rule.within_s
        # Earlier amounts, each with the moment up to which it was in force. They fall, since one that was followed by a
        # larger one is never the peak.
        self._peaks: deque[tuple[Amount, float]] = deque()

    @property
    def due_at(self) -> float:
        is_ending = self._alarm is not None and not self._is_unconfirmed and bool(self._peaks)
        return min(super().due_at, self._peaks[0][1] + self._within_s if is_ending else inf)

    def _is_met(self, value: Amount, moment: float) -> bool:
        while self._peaks and self._peaks[0][1] + self._within_s <= moment:
            self._peaks.popleft()
        return bool(self._peaks) and is_dropped(value, self._peaks[0][0], self._percent)

    def _note(self, before: Amount | None, moment: float) -> None:
        if before is None:
            return
        while self._peaks and self._peaks[-1][0] <= before:
            self._peaks.pop()
        if self._peaks and moment - self._peaks[-1][1] < self._within_s / WINDOW_PARTS:
            return
        self._peaks.append((before, moment))

    def restart(self, latest: Latest, now: float) -> list[Change]:
        if self._alarm is None:
            self._peaks.clear()
        return super().restart(latest, now)

    def dump(self) -> dict[str, Any]:
        return {**super().dump(), "peaks": list(self._peaks)}

    def load(self, data: Mapping[str, Any]) -> None:
        super().load(data)
        self._peaks = deque((amount, float(until)) for amount, until in data["peaks"])


def is_dropped(value: Amount, peak: Amount, percent: Decimal) -> bool:
    """Return whether an amount is at least `percent` below another, computed exactly; nothing drops from 0."""
    return value < peak and EXACT.multiply(value, 100) <= EXACT.multiply(peak, EXACT.subtract(100, percent))
