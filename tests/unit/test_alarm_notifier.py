"""Notices on their path to a real receiver: attempts, their limits, and repetition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from balance.alarms import notifier as module
from balance.alarms.alarm import Alarm, Change
from balance.alarms.http_client import HttpClient
from balance.alarms.messages import format_of
from balance.alarms.notifier import GIVE_UP_S, NOTICES_MAX, Notifier
from balance.alarms.state_file import StateFile
from tests.support.alarm_receiver import SECRET, Receiver, receiving
from tests.support.clock import Clock
from tests.support.waiting import until

ALARM = Alarm("a1", "onchain.usdt < 1000", None, 1_000.0, 5)
FAILING = "does not accept notices"
FAILED = (FAILING, "accepts notices again", "is given up")


def change(value: int) -> Change:
    """Return a change that is known by its value."""
    return Change(ALARM, True, 1_000.0, value)


def values(receiver: Receiver) -> list[int]:
    """Return the values of the webhooks that were accepted."""
    return [one.json["data"]["value"] for one in receiver.accepted]


@asynccontextmanager
async def running(receiver: Receiver, clock: Clock, *alarms: Alarm, form: str = "webhook") -> AsyncIterator[Notifier]:
    """Run a notifier within the block; `alarms` fire."""
    secret = SECRET if form == "webhook" else None
    with HttpClient() as http:
        chosen = format_of(form, receiver.url, secret, "http://127.0.0.1:3000")
        one = Notifier(chosen, http, StateFile(None), clock, lambda: alarms)
        task = asyncio.ensure_future(one.run())
        try:
            yield one
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.expects_log(*FAILED)
async def test_a_notice_is_given_up_after_a_day_and_the_next_one_is_sent() -> None:
    clock = Clock()
    async with receiving() as receiver, running(receiver, clock) as one:
        receiver.statuses = [500]
        one.add([change(1)])
        await until(lambda: len(receiver.arrived) == 1)
        clock.advance(GIVE_UP_S + 1)
        receiver.statuses = [500]
        one.add([change(2)])
        await receiver.until(1)
        assert values(receiver) == [2]
        await until(lambda: not len(one))


@pytest.mark.expects_log(*FAILED)
async def test_a_receiver_that_is_gone_gets_no_second_attempt() -> None:
    async with receiving() as receiver, running(receiver, Clock()) as one:
        receiver.statuses = [410]
        one.add([change(1), change(2)])
        await receiver.until(1)
        assert [one.status for one in receiver.arrived] == [410, 204]
        assert values(receiver) == [2]


@pytest.mark.expects_log(*FAILED)
async def test_the_wait_that_a_receiver_demands_is_kept() -> None:
    async with receiving() as receiver, running(receiver, Clock()) as one:
        receiver.statuses, receiver.answer_headers = [429], {"Retry-After": "3"}
        one.add([change(1)])
        await receiver.until(1)
        refused, accepted = receiver.arrived
        assert accepted.at - refused.at >= 3


@pytest.mark.expects_log("notices wait for 127.0.0.1: the oldest one is given up")
def test_the_oldest_notice_is_given_up_when_too_many_wait(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "state")
    state.open()
    with HttpClient() as http:
        form = format_of("webhook", "http://127.0.0.1/", None, "")
        one = Notifier(form, http, state, Clock(), list)
        one.add(change(n) for n in range(NOTICES_MAX + 2))
        state.write()
    state.close()
    again = StateFile(tmp_path / "state")
    again.open()
    assert [notice["change"]["value"] for notice in again.get("notices")] == list(range(2, NOTICES_MAX + 2))
    again.close()
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


async def test_what_fires_is_repeated_for_alertmanager_and_only_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPEAT_S", 0.05)
    async with receiving() as receiver:
        async with running(receiver, Clock(), ALARM, form="alertmanager"):
            await receiver.until(3)
            assert {one.json[0]["labels"]["rule"] for one in receiver.arrived} == {ALARM.rule}
        count = len(receiver.arrived)
        async with running(receiver, Clock(), form="alertmanager"), running(receiver, Clock(), ALARM):
            await asyncio.sleep(0.3)
        assert len(receiver.arrived) == count


@pytest.mark.expects_log(FAILING)
async def test_a_receiver_that_is_not_reached_is_named_in_the_log_without_its_path(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with receiving() as receiver:
        pass
    async with running(receiver, Clock()) as one:
        one.add([change(1)])
        await until(lambda: FAILING in caplog.text)
        assert len(one) == 1
    assert "127.0.0.1" in caplog.text
    assert "hook" not in caplog.text
