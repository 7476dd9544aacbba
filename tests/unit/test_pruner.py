"""When the service prunes, what it logs, and how it ends; no test has a database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from balance import pruner as module
from balance.pruner import FIRST_S, JUMP_S_MAX, PAUSE_S, Pruner
from balance.storage.connect import DatabaseError
from balance.storage.migrate import SchemaError
from balance.storage.retention import Pruned, PruningElsewhere
from tests.support.waiting import wait_until

KEEP = timedelta(days=90)
NOTHING = Pruned(0, 7, 1)
Outcome = Pruned | Exception | Callable[[], Pruned]


class FakeStopping:
    """In place of the event that ends the thread: notes the waits, and is set after some."""

    def __init__(self, waits_max: int) -> None:
        self.waits: list[float] = []
        self._waits_max = waits_max
        self._is_set = False

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self._is_set or len(self.waits) > self._waits_max

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set


class Rig:
    """A pruner whose runs have the outcomes that a test gives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, outcomes: Iterable[Outcome], **more: float) -> None:
        self.begun: list[tuple[str, datetime]] = []
        self.stops = 0
        self._outcomes = iter(outcomes)
        monkeypatch.setattr(module, "Pruning", self._begin)
        self.pruner = Pruner("postgresql://somewhere", KEEP, **more)
        self.runs = 0

    def _begin(self, url: str, before: datetime) -> Any:
        self.begun.append((url, before))
        return SimpleNamespace(run=self._run, stop=self._stop)

    def _run(self) -> Pruned:
        self.runs += 1
        outcome = next(self._outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome if isinstance(outcome, Pruned) else outcome()

    def _stop(self) -> None:
        self.stops += 1

    def repeat(self, times: int) -> list[float]:
        """Let some runs be due, at once; return the pauses before each, and before the one that did not begin."""
        stopping: Any = FakeStopping(times)
        self.pruner._stopping = stopping
        self.pruner._run()
        return list(stopping.waits)


def clocks(monkeypatch: pytest.MonkeyPatch, *ahead: float) -> None:
    """Let the clock be ahead by these seconds, each time it is read."""
    values = iter(ahead)
    monkeypatch.setattr(module, "_clocks", lambda: next(values))


def test_it_prunes_a_minute_after_the_start_and_then_every_hour(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "balance.retention")
    rig = Rig(monkeypatch, [NOTHING] * 3)
    assert rig.repeat(3) == [FIRST_S, PAUSE_S, PAUSE_S, PAUSE_S] == [60, 3600, 3600, 3600]
    now = datetime.now(UTC)
    assert [url for url, _ in rig.begun] == ["postgresql://somewhere"] * 3
    assert all(abs(before + KEEP - now) < timedelta(seconds=10) for _, before in rig.begun)
    assert rig.runs == 3
    assert caplog.records == [], "nothing was deleted"
    assert Rig(monkeypatch, [NOTHING], first_s=7, pause_s=8).repeat(1) == [7, 8]


@pytest.mark.expects_log("old snapshots are not deleted now: ")
def test_a_failure_is_logged_and_the_next_run_is_an_hour_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "balance.retention")
    failures = [DatabaseError("it is away"), SchemaError("it is old"), PruningElsewhere("another")]
    rig = Rig(monkeypatch, [*failures, Pruned(2, 5, 6)])
    assert rig.repeat(4) == [60, 3600, 3600, 3600, 3600]
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:2] == [
        "old snapshots are not deleted now: it is away",
        "old snapshots are not deleted now: it is old",
    ]
    before = rig.begun[-1][1].isoformat(timespec="seconds")
    assert lines[2:] == [f"deleted 2 of 5 snapshots, which were received before {before}; the feed begins at seq 6"], (
        "another process that prunes is not worth a line"
    )


@pytest.mark.expects_log("the clock was set forward by 601 s: old snapshots are deleted in an hour, not now")
def test_one_run_is_left_out_after_the_clock_was_set_forward(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert JUMP_S_MAX == 600
    clocks(monkeypatch, 5.0, 605.0, 1206.0, 1206.0, 0.0)
    rig = Rig(monkeypatch, [NOTHING] * 3)
    assert rig.repeat(4) == [60, 3600, 3600, 3600, 3600]
    assert rig.runs == 3, "ten minutes count as no jump, and neither does a clock that was set back"
    assert [record.getMessage() for record in caplog.records] == [
        "the clock was set forward by 601 s: old snapshots are deleted in an hour, not now"
    ]


def test_the_clock_is_compared_with_the_monotonic_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: 1_000.0, monotonic=lambda: 300.0))
    assert module._clocks() == 700


def test_a_stop_ends_the_run_in_work_and_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = threading.Event(), threading.Event()

    def run() -> Pruned:
        entered.set()
        assert leave.wait(10)
        return NOTHING

    rig = Rig(monkeypatch, [run], first_s=0)
    rig.pruner.start()
    assert rig.pruner._thread.name == "balance-prune"
    assert rig.pruner._thread.daemon, "a run that hangs must not hold up the exit"
    assert entered.wait(10)
    rig.pruner.stop()
    assert rig.stops == 1
    monkeypatch.setattr(module, "JOIN_S_MAX", 0.01)
    rig.pruner.join()
    assert rig.pruner._thread.is_alive(), "it does not wait for long"
    leave.set()
    wait_until(lambda: not rig.pruner._thread.is_alive())
    rig.pruner.join()
    assert rig.runs == 1


def test_a_stop_before_a_run_is_seen_lets_it_delete_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, [NOTHING])
    begin = rig._begin

    def stop_then_begin(url: str, before: datetime) -> Any:
        rig.pruner.stop()
        return begin(url, before)

    monkeypatch.setattr(module, "Pruning", stop_then_begin)
    rig.repeat(1)
    assert (len(rig.begun), rig.runs) == (1, 0)


def test_a_pruner_that_was_not_started_can_be_stopped_and_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, [])
    rig.pruner.stop()
    rig.pruner.join()
    rig.pruner.start()
    rig.pruner.join()
    assert not rig.pruner._thread.is_alive()
    assert rig.begun == []
