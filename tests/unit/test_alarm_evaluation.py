"""When alarms begin and end, with the time as an argument: single cases, and a comparison with a simple model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import protocol
from balance.alarms.alarm import Amount, Change, Latest, received_from
from balance.alarms.evaluation import REMOVED, Evaluation
from balance.alarms.rules import parse_rules
from balance.alarms.silence import FORGET_S, FORGOTTEN
from balance.alarms.values import STALE_S

START = 1_000_000.0
NOTHING = Latest(None, {}, {600: frozenset(), 5: frozenset()})
Fired = list[tuple[bool, str, int | None]]


def evaluation(*rules: str) -> Evaluation:
    """Return the evaluation of rules, whose alarms have the ids 0, 1, …"""
    numbers = count()
    return Evaluation(parse_rules(rules), lambda: str(next(numbers)))


def snapshot(usdt: Amount | None, pid: int | None = None, ts: float = START) -> dict[str, Any]:
    """Return a snapshot as it is in the feed; without an amount it does not name the asset."""
    onchain = {} if usdt is None else {"usdt": usdt}
    return {"pid": pid, "ts": datetime.fromtimestamp(ts, UTC).isoformat(), "onchain": onchain, "onsite": {"usd": 1}}


def latest(*snapshots: dict[str, Any], recent: Mapping[int, Sequence[int]] | None = None) -> Latest:
    """Return the state of a feed that ends with these snapshots."""
    received = [received_from(one, START, START) for one in snapshots]
    pids = {one.pid: one for one in received if one.pid is not None}
    sets = {seconds: frozenset(some) for seconds, some in (recent or {600: pids, 5: pids}).items()}
    return Latest(received[-1] if received else None, pids, sets)


def brief(changes: list[Change]) -> Fired:
    """Return of each change whether it is a begin, and of which rule and pid."""
    return [(change.is_firing, change.alarm.rule, change.alarm.pid) for change in changes]


def test_a_limit_fires_once_and_ends_once() -> None:
    rule = "onchain.usdt < 1000"
    one = evaluation(rule)
    seen = [one.receive(snapshot(usdt), START + n, is_live=True) for n, usdt in enumerate((1000, 999, 5, 1000, 2000))]
    assert [brief(changes) for changes in seen] == [[], [(True, rule, None)], [], [(False, rule, None)], []]
    assert (seen[1][0].value, seen[3][0].value) == (999, 1000)
    assert seen[1][0].alarm == seen[3][0].alarm


def test_an_amount_is_compared_to_the_last_digit() -> None:
    one = evaluation("onchain.usdt < 1000", "sum onchain.usdt >= 2000")
    below, above = Decimal("999.9999999999999999999999999999999999999999"), Decimal("1000.0000000000000000000000000001")
    assert brief(one.receive(snapshot(below, 1), START, is_live=True)) == [(True, "onchain.usdt < 1000", None)]
    (ended, fired) = one.receive(snapshot(above, 2), START, is_live=True)
    assert (ended.is_firing, fired.is_firing) == (False, True)
    assert fired.value == Decimal("2000.0000000000000000000000000000999999999999")


def test_a_limit_with_a_time_fires_when_it_was_met_all_that_time() -> None:
    one = evaluation("onchain.usdt < 1000 for 60s")
    one.receive(snapshot(1), START, is_live=True)
    assert one.due_at == START + 60
    assert one.advance(START + 59) == []
    one.receive(snapshot(2000), START + 59, is_live=True)
    one.receive(snapshot(1), START + 59.5, is_live=True)
    assert one.advance(START + 119) == []
    assert len(one.advance(START + 119.5)) == 1
    assert one.advance(START + 200) == []


def test_a_recovery_that_was_missed_prevents_an_alarm_whatever_the_time() -> None:
    one = evaluation("onchain.usdt < 1000 for 60s")
    one.receive(snapshot(1), START, is_live=True)
    assert one.receive(snapshot(2000, ts=START + 5), START + 300, is_live=False) == []
    assert one.advance(START + 300) == []


def test_what_lasts_is_counted_again_after_a_jump_of_the_clock() -> None:
    one = evaluation("onchain.usdt < 1000 for 60s")
    one.receive(snapshot(1), START, is_live=True)
    one.begin_again(START + 30)
    assert one.due_at == START + 60, "an interruption changes nothing"
    one.begin_again(START + 9_000, is_jump=True)
    assert one.advance(START + 9_059) == []
    assert len(one.advance(START + 9_060)) == 1


def test_a_snapshot_without_the_asset_or_of_another_pid_changes_nothing() -> None:
    one = evaluation("pid 7 onchain.usdt < 1000")
    assert len(one.receive(snapshot(5, 7), START, is_live=True)) == 1
    for other in (snapshot(None, 7), snapshot(2000, 8), snapshot(2000)):
        assert one.receive(other, START + 1, is_live=True) == []
    assert len(one.receive(snapshot(2000, 7), START + 2, is_live=True)) == 1


def test_a_drop_ends_when_the_amount_recovers_or_the_peak_is_too_old() -> None:
    one = evaluation("onchain.usdt drops 10% in 10s")
    seen = [
        brief(one.receive(snapshot(usdt), START + at, is_live=True))
        for at, usdt in ((0, 100), (5, 91), (12, 90), (13, 95), (14, 90))
    ]
    rule = "onchain.usdt drops 10% in 10s"
    assert seen == [[], [], [(True, rule, None)], [(False, rule, None)], [(True, rule, None)]]
    assert one.due_at == START + 15, "100 was in force up to 5 s"
    assert brief(one.advance(START + 15)) == [(False, rule, None)]


def test_a_slow_decline_that_was_missed_does_not_fire() -> None:
    one = evaluation("onchain.usdt drops 10% in 1h")
    one.receive(snapshot(100), START, is_live=True)
    hour = 3_600
    for n, usdt in enumerate((95, 90, 85, 80), 1):  # 5 h away: each step comes two hours after the one before it
        assert one.receive(snapshot(usdt, ts=START + 2 * n * hour), START + 9 * hour, is_live=False) == []


def test_silence_is_counted_again_after_an_interruption() -> None:
    one = evaluation("pid 7 silent 120s")
    one.begin_again(START)
    one.receive(snapshot(1, 7), START + 100, is_live=True)
    one.begin_again(START + 200)
    assert one.advance(START + 319) == []
    assert len(one.advance(START + 320)) == 1
    one.begin_again(START + 330)
    assert one.advance(START + 1_000) == []
    assert len(one.receive(snapshot(1, 7), START + 1_001, is_live=False)) == 1


def test_each_pid_has_an_alarm_of_its_own_and_is_forgotten_after_a_day() -> None:
    rule = "any pid silent 5s"
    one = evaluation(rule)
    one.restart(latest(snapshot(1, 7), snapshot(1, 8), snapshot(1, 9), recent={5: [7, 8]}), START)
    one.receive(snapshot(1, 8), START + 4, is_live=True)
    assert brief(one.advance(START + 5)) == [(True, rule, 7)]
    assert brief(one.advance(START + 9)) == [(True, rule, 8)]
    assert brief(one.receive(snapshot(1, 8), START + 10, is_live=True)) == [(False, rule, 8)]
    (forgotten, silent) = one.advance(START + 5 + FORGET_S)
    assert (forgotten.is_firing, forgotten.alarm.pid, forgotten.reason) == (False, 7, FORGOTTEN)
    assert (silent.is_firing, silent.alarm.pid) == (True, 8)
    assert [alarm.pid for alarm in one.alarms] == [8]


def test_a_sum_leaves_out_a_pid_that_was_silent_too_long() -> None:
    rule = "sum onchain.usdt < 100"
    one = evaluation(rule)
    one.receive(snapshot(60, 1), START, is_live=True)
    (ended,) = one.receive(snapshot(60, 2), START + 300, is_live=True)
    assert (ended.is_firing, ended.value) == (False, 120)
    assert one.due_at == START + STALE_S
    (fired,) = one.advance(START + STALE_S)
    assert (fired.is_firing, fired.value) == (True, 60)
    assert one.advance(START + 900) == [], "nothing is known any more"


def test_the_state_of_the_feed_can_fire_and_never_ends_what_fires() -> None:
    rules = "onchain.usdt < 100", "pid 7 onchain.usdt < 100", "sum onchain.usdt < 100", "onchain.usdt drops 50% in 1h"
    one = evaluation(*rules)
    assert brief(one.restart(latest(snapshot(5, 7)), START)) == [(True, rule, None) for rule in rules[:3]]
    assert one.restart(latest(snapshot(500, 7)), START + 1) == [], "the snapshot may be older than what was lost"
    assert one.advance(START + 2) == []
    assert brief(one.receive(snapshot(500, 7), START + 3, is_live=True)) == [(False, rule, None) for rule in rules[:3]]


def test_a_drop_from_an_amount_that_was_lost_is_not_reported() -> None:
    one = evaluation("onchain.usdt drops 50% in 1h")
    one.receive(snapshot(1000), START, is_live=True)
    assert one.restart(latest(snapshot(100)), START + 1) == []
    assert one.receive(snapshot(100), START + 2, is_live=True) == []


def test_the_alarm_of_a_rule_that_was_removed_ends() -> None:
    before = evaluation("onchain.usdt < 100", "silent 5s")
    before.receive(snapshot(5), START, is_live=True)
    after = evaluation("silent 5s", "onchain.usdt < 200")
    stored = protocol.loads(protocol.encode(before.dump()))
    (ended,) = after.removed(stored, START + 1)
    assert (ended.is_firing, ended.alarm.rule, ended.reason) == (False, "onchain.usdt < 100", REMOVED)
    assert not after.load(stored), "a rule is new"
    assert evaluation("silent 5s").load(stored)


# The model -----------------------------------------------------------------------------------------------------------

HOLD_S, WITHIN_S, SILENT_S, LIMIT = 3, 10, 5, 50
RULES = (
    "onchain.usdt < 50",
    "onchain.usdt < 50 for 3s",
    "pid 1 onchain.usdt >= 50",
    "sum onchain.usdt < 50",
    "onchain.usdt drops 50% in 10s",
    "pid 1 silent 5s",
    "any pid silent 5s",
    "silent 5s",
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("receive"), st.sampled_from((None, 1, 2)), st.integers(0, 100)),
        st.tuples(st.just("advance"), st.sampled_from((1, 2, 5, 300))),
        st.tuples(st.just("restart of the watch")),
    ),
    max_size=40,
)


class Model:
    """All that has happened; each answer is computed from its beginning."""

    def __init__(self) -> None:
        self.received: list[tuple[float, int | None, int]] = []
        self.counted: dict[int, tuple[float, int]] = {}  # of the sum
        self.silent_since: dict[tuple[str, int | None], float] = {}
        self.firing: set[tuple[str, int | None]] = set()

    def receive(self, now: float, pid: int | None, usdt: int) -> None:
        self.received.append((now, pid, usdt))
        silences = {("silent 5s", None)}
        if pid is not None:
            self.counted[pid] = (now, usdt)
            silences |= {("any pid silent 5s", pid)} | ({("pid 1 silent 5s", None)} if pid == 1 else set())
        self.silent_since |= dict.fromkeys(silences, now)
        self.firing -= silences
        self._judge(now, time_passes=False)

    def advance(self, now: float) -> None:
        self.counted = {pid: one for pid, one in self.counted.items() if now - one[0] < STALE_S}
        self.firing |= {key for key, since in self.silent_since.items() if now - since >= SILENT_S}
        self._judge(now, time_passes=True)

    def begin_again(self, now: float) -> None:
        self.counted = {pid: (now, usdt) for pid, (_, usdt) in self.counted.items()}
        always = ("silent 5s", None), ("pid 1 silent 5s", None)
        self.silent_since = dict.fromkeys((*always, *self.silent_since), now)

    def _judge(self, now: float, *, time_passes: bool) -> None:
        if self.received:
            below_since = now
            for at, _, usdt in reversed(self.received):
                if usdt >= LIMIT:
                    break
                below_since = at
            is_below = self.received[-1][2] < LIMIT
            self._set("onchain.usdt < 50", is_below, begins=True)
            self._set("onchain.usdt < 50 for 3s", is_below, begins=time_passes and now - below_since >= HOLD_S)
            in_force = [
                usdt
                for (_, _, usdt), (until, _, _) in zip(self.received, self.received[1:], strict=False)
                if now - until < WITHIN_S
            ]
            is_dropped = any(Fraction(self.received[-1][2]) <= Fraction(peak, 2) and peak > 0 for peak in in_force)
            self._set("onchain.usdt drops 50% in 10s", is_dropped, begins=True)
        if of_pid := [usdt for _, pid, usdt in self.received if pid == 1]:
            self._set("pid 1 onchain.usdt >= 50", of_pid[-1] >= LIMIT, begins=True)
        if self.counted:
            self._set("sum onchain.usdt < 50", sum(usdt for _, usdt in self.counted.values()) < LIMIT, begins=True)

    def _set(self, rule: str, is_met: bool, *, begins: bool) -> None:
        if not is_met:
            self.firing.discard((rule, None))
        elif begins:
            self.firing.add((rule, None))


def run(steps: Sequence[tuple[Any, ...]], reload: Callable[[Evaluation], Evaluation]) -> list[Fired]:
    """Apply steps to an evaluation; check the alarms that fire after each, and return the changes of each step."""
    one, model, now, seen = evaluation(*RULES), Model(), START, []
    one.begin_again(now)
    model.begin_again(now)
    for kind, *arguments in steps:
        if kind == "receive":
            pid, usdt = arguments
            changes = one.receive(snapshot(usdt, pid), now, is_live=True)
            model.receive(now, pid, usdt)
        elif kind == "advance":
            now += arguments[0]
            changes = one.advance(now)
            model.advance(now)
        else:
            one, changes = reload(one), []
            one.begin_again(now)
            model.begin_again(now)
        seen.append(brief(changes))
        assert {(alarm.rule, alarm.pid) for alarm in one.alarms} == model.firing
    return seen


def reloaded(one: Evaluation) -> Evaluation:
    """Return the evaluation after a restart of the process."""
    other = evaluation(*RULES)
    assert other.load(protocol.loads(protocol.encode(one.dump())))
    return other


@given(STEPS)
def test_alarms_begin_and_end_as_in_a_simple_model_and_never_twice(steps: Sequence[tuple[Any, ...]]) -> None:
    firing: set[tuple[str, int | None]] = set()
    for changes in run(steps, lambda one: one):
        for is_firing, rule, pid in changes:
            assert ((rule, pid) in firing) is not is_firing
            firing ^= {(rule, pid)}


@given(STEPS)
def test_a_restart_of_the_process_changes_no_alarm(steps: Sequence[tuple[Any, ...]]) -> None:
    assert run(steps, reloaded) == run(steps, lambda one: one)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_judged_before_anything_is_known(rule: str) -> None:
    one = evaluation(rule)
    assert one.restart(NOTHING, START) == []
    assert "silent" in rule or one.advance(START + 10_000) == []
