"""A pause of the watch, restarts of the server, outages and failovers raise no alarm, and hide or repeat none."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.alarm_receiver import receiving
from tests.support.proxies import free_port
from tests.support.replication import Pair
from tests.support.restarted_server import Server
from tests.support.service import Database, Processes, Service
from tests.support.waiting import until
from tests.support.watches import NOTICED_S_MAX, Watches, followed, reporting, stop

LIMIT, DROP = "onchain.usdt < 1000", "sum onchain.usdt drops 50% in 1h"
SILENT, ANY_SILENT = "pid 7 silent 2s", "any pid silent 2s"
RULES = (LIMIT, DROP, SILENT, ANY_SILENT)
SILENT_S = 2.0
AWAY_S = SILENT_S + 1.0  # longer than the silence that fires


@pytest.fixture
def watches(processes: Processes, tmp_path: Path) -> Watches:
    """Start watches as processes."""
    return Watches(processes, tmp_path)


@pytest.fixture
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pair, Database]]:
    """Start a primary and a standby, with a migrated database."""
    pair = Pair(tmp_path_factory.mktemp("pair"))
    try:
        with pair.migrated() as name:
            yield pair, pair.database(name)
    finally:
        pair.stop()


@pytest.mark.gen_test(timeout=120)
async def test_restarts_of_the_server_raise_no_alarm_and_hide_none(
    processes: Processes, database: Database, watches: Watches
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = Server(lambda: processes(f"--port={port}", DATABASE_URL=database.url))
    await server.start()
    async with receiving() as receiver:
        watch = watches.start(url, receiver, *RULES)
        await followed(watch)
        async with reporting(url, 7) as bot:
            await server.kill()
            bot.is_paused = True  # it comes back later than the watch
            await asyncio.sleep(AWAY_S)
            await server.start()
            await followed(watch, 2)
            await asyncio.sleep(SILENT_S / 4)
            bot.is_paused = False
            await asyncio.sleep(SILENT_S)
            assert receiver.arrived == []

            await server.kill()
            bot.usdt = 500  # reported as soon as the server is back
            await server.start()
            saved_at = await bot.report(500)
            await receiver.until(2)
            assert receiver.accepted[1].at - saved_at < NOTICED_S_MAX
            await server.kill()
            await server.start()
            saved_at = await bot.report(3000)
            await receiver.until(4)
            assert receiver.accepted[3].at - saved_at < NOTICED_S_MAX
        silent_at = time.monotonic()
        await receiver.until(6)
        assert receiver.accepted[4].at - silent_at > SILENT_S - 1
        assert receiver.accepted[5].at - silent_at < SILENT_S + NOTICED_S_MAX
        await stop(watch)
    assert receiver.accepted == receiver.arrived
    assert sorted(receiver.alarms[:2]) == [("firing", LIMIT), ("firing", DROP)]
    assert sorted(receiver.alarms[2:4]) == [("resolved", LIMIT), ("resolved", DROP)]
    assert sorted(receiver.alarms[4:]) == [("firing", f"{ANY_SILENT} 7"), ("firing", SILENT)]


async def test_a_watch_that_was_suspended_reads_what_has_come_before_it_judges(
    service: Service, watches: Watches
) -> None:
    async with receiving() as receiver:
        watch = watches.start(service.url, receiver, SILENT, "onchain.usdt < 1000 for 2s")
        await followed(watch)
        async with reporting(service.url, 7) as bot:
            await bot.report(500)
            watch.send_signal(signal.SIGSTOP)
            await bot.report(2000)
            await asyncio.sleep(AWAY_S)
            watch.send_signal(signal.SIGCONT)
            await asyncio.sleep(SILENT_S)
            assert receiver.arrived == []
        await receiver.until(1)
        await stop(watch)
    assert receiver.alarms == [("firing", SILENT)]


@pytest.mark.gen_test(timeout=120)
async def test_an_outage_and_a_failover_that_loses_rows_raise_no_alarm_and_end_none(
    replicated: tuple[Pair, Database], processes: Processes, watches: Watches
) -> None:
    pair, database = replicated
    process = processes("--port=0", DATABASE_URL=database.url)
    url = await asyncio.to_thread(process.url)
    async with receiving() as receiver:
        watch = watches.start(url, receiver, *RULES)
        await followed(watch)
        async with reporting(url, 7) as bot:
            await bot.report(2000)
            await asyncio.to_thread(pair.wait_in_step)
            await asyncio.to_thread(pair.standby.stop)
            saved_at = await bot.report(500)  # acknowledged, and lost
            await receiver.until(2)
            assert receiver.accepted[1].at - saved_at < NOTICED_S_MAX
            await asyncio.to_thread(pair.primary.kill)
            await asyncio.sleep(AWAY_S)
            await asyncio.to_thread(pair.fail_over)
            saved_at = await bot.report(400)
            await until(lambda: any("the feed has lost rows: diverged" in line for line in watch.stderr), 30)
            await followed(watch, 2)
            await asyncio.sleep(SILENT_S)
            assert len(receiver.arrived) == 2, receiver.alarms
            saved_at = await bot.report(3000)
            await receiver.until(4)
            assert receiver.accepted[3].at - saved_at < NOTICED_S_MAX
        await receiver.until(6)
        await stop(watch)
    assert receiver.accepted == receiver.arrived
    assert sorted(receiver.alarms[:2]) == [("firing", LIMIT), ("firing", DROP)]
    assert sorted(receiver.alarms[2:4]) == [("resolved", LIMIT), ("resolved", DROP)]
    assert sorted(receiver.alarms[4:]) == [("firing", f"{ANY_SILENT} 7"), ("firing", SILENT)]
