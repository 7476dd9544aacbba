"""A real browser's EventSource follows the feed over restarts, with no code for that in its page."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import run_in_browser
from tests.support.http_client import request
from tests.support.payloads import UPDATE
from tests.support.service import SNAPSHOTS, Database, Processes

CONNECTING = 0  # readyState of an EventSource; it would be 2 if it had given up
WAIT_S = 30.0


async def save(url: str, count: int) -> None:
    """Save this many snapshots."""
    for _ in range(count):
        assert (await request(url, "POST", SNAPSHOTS, UPDATE)).status == 201


async def until_connected(url: str, number: int) -> None:
    """Wait for the snapshot that the page saves when it connects for this time."""
    async with asyncio.timeout(WAIT_S):
        while not (await request(url, "GET", f"{SNAPSHOTS}?pid={number}")).body["data"]:
            await asyncio.sleep(0.05)


@pytest.mark.gen_test(timeout=120)
async def test_an_event_source_gets_everything_once_over_a_stop_and_a_kill(
    processes: Processes, database: Database, browser_folder: Path
) -> None:
    def start(port: int) -> Any:
        return processes(f"--port={port}", DATABASE_URL=database.url)

    server = start(0)
    url = await asyncio.to_thread(server.url)
    port = int(url.rpartition(":")[2])
    await save(url, 3)
    following = asyncio.create_task(run_in_browser("event-source.mjs", url, "15", folder=browser_folder))
    await until_connected(url, 1)
    assert await asyncio.to_thread(server.terminate) == 0
    server = start(port)
    assert await asyncio.to_thread(server.url) == url
    await save(url, 3)
    await until_connected(url, 2)
    await save(url, 2)
    await asyncio.to_thread(server.kill)
    server = start(port)
    assert await asyncio.to_thread(server.url) == url
    await save(url, 4)
    await until_connected(url, 3)
    seen = await following
    assert seen["seqs"] == list(range(1, 16)), "3, one of the page, 3, one, 2, 4 and one"
    assert seen["recovered"] == [True, True, True]
    assert seen["bye"] == ["stopping"]
    assert set(seen["states"]) == {CONNECTING}
    assert await asyncio.to_thread(server.terminate) == 0
