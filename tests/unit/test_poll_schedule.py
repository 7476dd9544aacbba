"""When the tail polls: the times of a schedule on a clock that the test sets."""

from __future__ import annotations

import asyncio

import pytest

from balance.feed.poll_schedule import PollSchedule


class Clock:
    """The clock of an event loop."""

    now = 100.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def schedule(monkeypatch: pytest.MonkeyPatch) -> PollSchedule:
    monkeypatch.setattr(asyncio, "get_running_loop", Clock)
    return PollSchedule()


def pauses(schedule: PollSchedule, *, is_watched: bool) -> list[float]:
    found = []
    for _ in range(9):
        schedule.note_quiet(is_watched=is_watched)
        found.append(schedule.seconds_left)
    return found


def test_the_first_poll_is_due_at_once(schedule: PollSchedule) -> None:
    assert schedule.seconds_left == 0


def test_polls_that_find_nothing_become_rare_and_rarer_without_watchers(schedule: PollSchedule) -> None:
    growing = [0.005 * 1.5**n for n in range(1, 8)]
    assert pauses(schedule, is_watched=True) == pytest.approx([*growing, 0.1, 0.1])
    schedule.hasten(0)
    assert pauses(schedule, is_watched=False) == pytest.approx([*growing, 1, 1])


def test_a_poll_that_finds_something_is_soon_followed_by_another_with_watchers(schedule: PollSchedule) -> None:
    pauses(schedule, is_watched=True)
    schedule.note_found(is_watched=True)
    assert schedule.seconds_left == pytest.approx(0.005)
    pauses(schedule, is_watched=False)
    schedule.note_found(is_watched=False)
    assert schedule.seconds_left == pytest.approx(1)


def test_a_poll_is_brought_forward_but_never_put_off(schedule: PollSchedule) -> None:
    pauses(schedule, is_watched=False)
    schedule.poll_within(0.25)
    assert schedule.seconds_left == pytest.approx(0.25)
    schedule.poll_within(0.5)
    assert schedule.seconds_left == pytest.approx(0.25)
    schedule.postpone()
    assert schedule.seconds_left == pytest.approx(0.1)
    schedule.hasten(0.05)
    assert schedule.seconds_left == pytest.approx(0.05)
    schedule.postpone()
    assert schedule.seconds_left == pytest.approx(0.005)


def test_after_failures_the_pause_grows_until_a_read_works(schedule: PollSchedule) -> None:
    found = list[float]()
    for _ in range(4):
        assert schedule.is_failing is bool(found)
        schedule.note_failed()
        found.append(schedule.seconds_left)
    assert found == [0.25, 0.5, 1, 1]
    schedule.note_found(is_watched=False)
    schedule.note_quiet(is_watched=True)
    assert schedule.seconds_left == 1, "a batch does not replace the poll"
    schedule.note_worked()
    assert not schedule.is_failing
    schedule.note_quiet(is_watched=True)
    assert schedule.seconds_left == pytest.approx(0.0075)
