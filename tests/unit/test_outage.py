"""What is logged of an outage, for each order of failures, reports and successes; time is set by the tests."""

from __future__ import annotations

import logging

import pytest

from balance.storage import outage as module
from balance.storage.outage import CONNECTION, LINE_S, READ, REASON_S, SAVE, Kind, Outage

GONE = "the database cannot be reached; requests that need it get `unavailable`: "
NO_SAVES = "the database cannot save; requests that need it get `unavailable`: "
NO_READS = "the database cannot be read; requests that need it get `unavailable`: "
BACK = "the database is available again, after "


class Clock:
    """A monotonic clock that only the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that an Outage logs; its logger is not one of the tree, whose warnings fail a test."""
    lines: list[str] = []
    log = logging.Logger("outage of a test")
    log.addFilter(lambda record: lines.append(record.getMessage()))
    monkeypatch.setattr(module, "log", log)
    return lines


def be_quiet(outage: Outage, clock: Clock, kind: Kind = READ) -> None:
    """Let something work after a second without a failure, in which the end is logged."""
    clock.now += LINE_S
    outage.worked(kind)


def test_the_begin_and_the_end_of_an_outage_are_one_line_each(clock: Clock, logged: list[str]) -> None:
    outage = Outage()
    outage.worked(READ)
    outage.failed(CONNECTION, "refused")
    outage.failed(CONNECTION, "refused")
    clock.now += 3
    outage.worked(READ)
    assert logged == [f"{GONE}refused"], "it may fail again at once"
    be_quiet(outage, clock)
    be_quiet(outage, clock)
    assert logged == [f"{GONE}refused", f"{BACK}3.0 s"]


def test_a_read_that_works_does_not_end_the_outage_of_saves(clock: Clock, logged: list[str]) -> None:
    outage = Outage()
    outage.failed(SAVE, "disk full")
    clock.now += 2
    outage.worked(READ)
    assert logged == [f"{NO_SAVES}disk full"]
    outage.worked(SAVE)
    be_quiet(outage, clock)
    assert logged == [f"{NO_SAVES}disk full", f"{BACK}2.0 s"]


def test_anything_that_works_ends_the_loss_of_a_connection(clock: Clock, logged: list[str]) -> None:
    outage = Outage()
    outage.failed(CONNECTION, "reset")
    outage.failed(SAVE, "disk full")
    clock.now += 2
    outage.worked(READ)
    assert logged == [f"{GONE}reset"], "another reason waits for its interval"
    clock.now += REASON_S
    outage.failed(SAVE, "disk full")
    assert logged == [f"{GONE}reset", f"{NO_SAVES}disk full"]


def test_another_reason_is_logged_after_its_interval(clock: Clock, logged: list[str]) -> None:
    outage = Outage()
    outage.failed(READ, "one")
    for _ in range(29):
        clock.now += 1
        outage.failed(READ, "two")
    assert logged == [f"{NO_READS}one"]
    clock.now += 1
    outage.failed(READ, "two")
    outage.failed(READ, "two")
    assert logged == [f"{NO_READS}one", f"{NO_READS}two"]


def test_a_state_that_changes_often_is_one_outage(clock: Clock, logged: list[str]) -> None:
    outage = Outage()
    for number in range(100):
        outage.failed(CONNECTION, str(number))
        outage.worked(SAVE)
        clock.now += 0.1
    assert logged == [f"{GONE}0"]
    be_quiet(outage, clock)
    assert logged == [f"{GONE}0", f"{BACK}9.9 s"]


def test_a_report_replaces_the_line_of_the_lost_connection(clock: Clock, logged: list[str]) -> None:
    outage = Outage(report_s_max=0.5)
    outage.failed(CONNECTION, "reset")
    clock.now += 0.1
    outage.report("the server was killed")
    clock.now += 2
    outage.worked(SAVE)
    be_quiet(outage, clock)
    assert logged == ["the server was killed", f"{BACK}2.1 s"]


def test_a_lost_connection_is_logged_if_no_report_comes_in_time(clock: Clock, logged: list[str]) -> None:
    outage = Outage(report_s_max=0.5)
    outage.failed(CONNECTION, "reset")
    clock.now += 0.5
    outage.failed(CONNECTION, "refused")
    assert logged == [f"{GONE}refused"]


def test_a_connection_that_is_back_before_a_report_is_one_line(clock: Clock, logged: list[str]) -> None:
    outage = Outage(report_s_max=0.5)
    outage.failed(CONNECTION, "reset")
    clock.now += 0.2
    outage.worked(SAVE)
    be_quiet(outage, clock)
    assert logged == [f"{BACK}0.2 s; its connections were lost: reset"]


def test_the_end_is_logged_by_a_later_success(clock: Clock, logged: list[str]) -> None:
    outage = Outage()
    outage.failed(CONNECTION, "reset")
    clock.now += 0.5
    outage.worked(READ)
    assert logged == [f"{GONE}reset"]
    clock.now += 0.5
    outage.worked(READ)
    assert logged == [f"{GONE}reset"]
    clock.now += 0.5
    outage.worked(READ)
    assert logged == [f"{GONE}reset", f"{BACK}0.5 s"]


def test_an_outage_that_is_over_before_its_line_is_one_line_later(clock: Clock, logged: list[str]) -> None:
    outage = Outage()
    outage.failed(CONNECTION, "reset")
    clock.now += 2
    outage.worked(READ)
    be_quiet(outage, clock)
    clock.now += 0.1
    outage.failed(CONNECTION, "short")
    clock.now += 0.1
    outage.worked(READ)
    assert logged == [f"{GONE}reset", f"{BACK}2.0 s"]
    clock.now += 2
    outage.worked(READ)
    assert logged[2:] == [f"{BACK}0.1 s; its connections were lost: short"]


def test_two_failures_with_a_success_between_their_lines_are_one_outage(clock: Clock, logged: list[str]) -> None:
    outage = Outage()
    outage.failed(SAVE, "disk full")
    clock.now += 0.2
    outage.worked(SAVE)
    clock.now += 0.2
    outage.failed(SAVE, "disk full")
    clock.now += 2
    outage.worked(SAVE)
    be_quiet(outage, clock)
    assert logged == [f"{NO_SAVES}disk full", f"{BACK}2.4 s"]


def test_the_time_of_an_outage_counts_from_what_showed_it_first(clock: Clock, logged: list[str]) -> None:
    outage = Outage()
    outage.report("the server was killed")
    clock.now += 2
    outage.failed(CONNECTION, "refused")
    clock.now += 2
    outage.worked(READ)
    be_quiet(outage, clock)
    assert logged == ["the server was killed", f"{BACK}4.0 s"]


def test_a_loss_that_was_logged_is_not_repeated_by_the_line_of_its_end(clock: Clock, logged: list[str]) -> None:
    outage = Outage(report_s_max=0.5)
    outage.failed(CONNECTION, "reset")
    clock.now += 1
    outage.failed(CONNECTION, "refused")
    clock.now += 1
    outage.worked(READ)
    be_quiet(outage, clock)
    assert logged == [f"{GONE}refused", f"{BACK}2.0 s"]


def test_what_fails_is_known_until_it_works_or_a_connection_is_back(logged: list[str]) -> None:
    outage = Outage(report_s_max=60)
    outage.failed(SAVE, "disk full")
    outage.failed(CONNECTION, "refused")
    assert [outage.fails(kind) for kind in (CONNECTION, SAVE, READ)] == [True, True, False]
    outage.worked(READ)
    assert [outage.fails(kind) for kind in (CONNECTION, SAVE, READ)] == [False, True, False]
    outage.worked(SAVE)
    assert not outage.fails(SAVE)
    assert logged
