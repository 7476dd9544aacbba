"""Silence as a condition: nothing was received for a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from math import inf
from typing import Any

from balance.alarms.alarm import Alarm, Change, Latest, Received, alarm_from
from balance.alarms.condition import NewId
from balance.alarms.rules import Silence
from balance.alarms.values import PIDS_MAX

FORGET_S = 86_400.0  # of silence, after which a pid is taken for gone: a process has another pid after each restart
FORGOTTEN = "the pid is forgotten, since nothing was received of it for a day"


class SilenceOfOne:
    """Nothing is received of the account, or of one pid."""

    def __init__(self, rule: Silence, new_id: NewId) -> None:
        self._rule = rule
        self._new_id = new_id
        self._since = inf  # when counting began
        self._alarm: Alarm | None = None

    @property
    def alarms(self) -> Iterable[Alarm]:
        return [] if self._alarm is None else [self._alarm]

    @property
    def due_at(self) -> float:
        return inf if self._alarm is not None else self._since + self._rule.after_s

    def receive(self, received: Received) -> list[Change]:
        if self._rule.pid is not None and received.pid != self._rule.pid:
            return []
        self._since = received.at
        ended, self._alarm = self._alarm, None
        return [] if ended is None else [Change(ended, False, received.at)]

    def advance(self, now: float) -> list[Change]:
        if now < self.due_at:
            return []
        self._alarm = Alarm(self._new_id(), self._rule.text, None, now)
        return [Change(self._alarm, True, now)]

    def begin_again(self, now: float, *, is_jump: bool = False) -> None:
        self._since = now

    def restart(self, latest: Latest, now: float) -> list[Change]:
        self.begin_again(now)
        return []

    def dump(self) -> dict[str, Any]:
        return {"alarm": self._alarm}

    def load(self, data: Mapping[str, Any]) -> None:
        self._alarm = None if data["alarm"] is None else alarm_from(data["alarm"])


class SilenceOfEach:
    """Nothing is received of one of the pids that are known: an alarm for each of them."""

    def __init__(self, rule: Silence, new_id: NewId) -> None:
        self._rule = rule
        self._new_id = new_id
        self._since: dict[int, float] = {}  # of those without an alarm, the one received last at the end
        self._alarms: dict[int, Alarm] = {}  # in the order of their begin

    @property
    def alarms(self) -> Iterable[Alarm]:
        return list(self._alarms.values())

    @property
    def due_at(self) -> float:
        silent_at = next(iter(self._since.values()), inf) + self._rule.after_s
        return min(silent_at, next((alarm.started_at for alarm in self._alarms.values()), inf) + FORGET_S)

    def receive(self, received: Received) -> list[Change]:
        if received.pid is None:
            return []
        self._since.pop(received.pid, None)
        self._since[received.pid] = received.at
        if len(self._since) > PIDS_MAX:
            del self._since[next(iter(self._since))]
        ended = self._alarms.pop(received.pid, None)
        return [] if ended is None else [Change(ended, False, received.at)]

    def advance(self, now: float) -> list[Change]:
        changes = []
        for pid in [pid for pid, alarm in self._alarms.items() if alarm.started_at + FORGET_S <= now]:
            changes.append(Change(self._alarms.pop(pid), False, now, reason=FORGOTTEN))
        for pid in [pid for pid, since in self._since.items() if since + self._rule.after_s <= now]:
            del self._since[pid]
            self._alarms[pid] = Alarm(self._new_id(), self._rule.text, pid, now)
            changes.append(Change(self._alarms[pid], True, now))
        return changes

    def begin_again(self, now: float, *, is_jump: bool = False) -> None:
        self._since = dict.fromkeys(self._since, now)

    def restart(self, latest: Latest, now: float) -> list[Change]:
        known = chain(latest.recent[self._rule.after_s], self._since)
        self._since = {pid: now for pid in known if pid not in self._alarms}
        return []

    def dump(self) -> dict[str, Any]:
        return {"pids": list(self._since), "alarms": list(self._alarms.values())}

    def load(self, data: Mapping[str, Any]) -> None:
        self._since = dict.fromkeys(data["pids"], inf)
        self._alarms = {alarm.pid: alarm for alarm in map(alarm_from, data["alarms"]) if alarm.pid is not None}
