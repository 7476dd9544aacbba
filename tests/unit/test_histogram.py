"""Histograms, and the lag of the event loop, which is one of their uses."""

from __future__ import annotations

import asyncio
import time
from math import inf
from types import SimpleNamespace

import pytest

from balance.aio.histogram import Histogram
from balance.aio.loop_lag import LoopLag
from tests.support.clock import Clock
from tests.support.waiting import until


def count(histogram: Histogram) -> int:
    return list(histogram.cumulative())[-1][1]


def test_a_value_is_in_the_first_range_whose_bound_it_does_not_exceed() -> None:
    histogram = Histogram((1, 2.5))
    assert list(histogram.cumulative()) == [(1, 0), (2.5, 0), (inf, 0)]
    for value in (0, 1, 1.5, 2.5, 2.6, 1000):
        histogram.observe(value)
    assert list(histogram.cumulative()) == [(1, 2), (2.5, 4), (inf, 6)]
    assert histogram.sum == 1007.6


def test_the_lag_is_the_time_from_when_a_timer_is_due_to_when_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, due = Clock(), list[float]()

    def call_later(seconds: float, _probe: object) -> SimpleNamespace:
        due.append(clock() + seconds)
        return SimpleNamespace(when=lambda at=due[-1]: at)

    loop = SimpleNamespace(time=clock, call_later=call_later)
    monkeypatch.setattr("balance.aio.loop_lag.asyncio.get_running_loop", lambda: loop)
    lag = LoopLag()
    lag.stop()
    lag.start()
    for seconds, lags in ((0.25, 0.0), (0.5, 0.25), (0.125, 0.25), (2.25, 2.25)):
        clock.advance(seconds)
        lag._probe()
        assert lag.seconds.sum == lags
    assert due == [1000.25, 1000.5, 1001.0, 1001.125, 1003.375]


async def test_a_callback_that_blocks_the_event_loop_shows_in_its_lag() -> None:
    lag = LoopLag()
    lag.start()
    await until(lambda: count(lag.seconds) == 1)
    before = lag.seconds.sum
    await asyncio.sleep(0.1)
    time.sleep(0.5)  # noqa: ASYNC251  # which is the fault to be measured
    await until(lambda: count(lag.seconds) == 2)
    assert lag.seconds.sum - before > 0.2
    lag.stop()
    await asyncio.sleep(0.3)
    assert count(lag.seconds) == 2
