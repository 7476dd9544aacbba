"""Items are handled in slices of the event loop's time."""

from __future__ import annotations

import asyncio

import pytest

from balance.aio import slices
from balance.aio.slices import SlicedWork, Slices
from tests.support.waiting import until


async def test_everything_else_runs_between_two_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)  # one item each
    handled: list[int] = []
    work = SlicedWork(handled.append)
    work.add(range(10))
    counts = []
    while len(handled) < 10:
        counts.append(len(handled))
        await asyncio.sleep(0)
    assert counts == list(range(10))
    assert sorted(handled) == list(range(10))


async def test_a_slice_is_as_long_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    handled: list[int] = []
    monkeypatch.setattr(slices, "perf_counter", lambda: len(handled) * slices.SLICE_S / 4)
    work = SlicedWork(handled.append)
    work.add(range(10))
    counts = [0]
    while len(handled) < 10:
        await asyncio.sleep(0)
        counts.append(len(handled))
    assert counts == [0, 4, 8, 10]


async def test_items_that_are_added_one_by_one_have_one_slice_in_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    handled: list[int] = []
    work = SlicedWork(handled.append)
    for item in range(5):
        work.add([item])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(handled) == 2


async def test_an_item_added_again_is_handled_once_and_a_discarded_one_never() -> None:
    handled: list[str] = []
    work = SlicedWork(handled.append)
    work.add(["a", "b"])
    work.add(["b", "c"])
    for item in ("a", "z"):
        work.discard(item)
    await until(lambda: len(handled) == 2)
    await asyncio.sleep(0)
    assert sorted(handled) == ["b", "c"]


@pytest.mark.expects_log("an item could not be handled")
async def test_an_item_that_fails_does_not_stop_the_others_and_all_can_be_handled_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handled: list[float] = []
    work = SlicedWork(lambda item: handled.append(1 / item))
    work.add([0, 1, 2, 0.0])
    work.finish()
    assert sorted(handled) == [0.5, 1]
    assert caplog.messages == ["an item could not be handled"]


async def test_a_coroutine_is_over_its_slice_after_the_time_of_one_and_begins_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, turns = 100.0, list[int]()
    monkeypatch.setattr(slices, "perf_counter", lambda: clock)
    one = Slices()
    for turn in range(3):
        assert not one.is_over()
        clock += slices.SLICE_S / 2
        assert not one.is_over()
        clock += slices.SLICE_S / 2
        assert one.is_over()
        asyncio.get_running_loop().call_soon(turns.append, turn)
        waiting = asyncio.ensure_future(one.next())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert waiting.done(), "in the next turn"
        assert turns[-1] == turn, "after everything else"
