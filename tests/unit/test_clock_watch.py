"""A clock that is set is counted and logged once, and one that is slewed is not."""

from __future__ import annotations

import time

import pytest

from balance.aio import clock_watch
from balance.aio.clock_watch import ClockWatch
from tests.support.waiting import until


@pytest.mark.expects_log("the clock of this machine was set")
async def test_each_jump_of_the_clock_is_one_line_and_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clock_watch, "CHECK_S", 0.01)
    clock, ahead = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: clock() + ahead)
    watch = ClockWatch()
    watch.start()
    for number, ahead in enumerate((3600.0, 0.0, -3600.0), 1):  # noqa: B007
        await until(lambda number=number: watch.jumps == number)
    ahead = -3600.5
    await until(lambda: watch._ahead < -3600.4 + clock() - time.monotonic())
    watch.stop()
    assert [record.getMessage() for record in caplog.records] == [
        "the clock of this machine was set forward by 3600.0 s",
        "the clock of this machine was set back by 3600.0 s",
        "the clock of this machine was set back by 3600.0 s",
    ]
