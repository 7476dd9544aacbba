"""examples/dashboard.html in a browser: the start state, then every change, to the last digit, also over a restart."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import run_browser
from tests.support.example_clients import EXAMPLES, ExampleProcess
from tests.support.http_client import request
from tests.support.proxies import free_port
from tests.support.service import SNAPSHOTS, Database, Process, Processes

AMOUNT = "100074.9997800000000000000000001"  # 31 digits
LINES_MAX = 80


class Dashboard:
    """The page in the browser."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._printed = ExampleProcess(process)

    async def shows(self, *parts: str) -> dict[str, Any]:
        """Wait until the page shows all of the texts; return its state and the texts of its rows."""
        name, shown = json.loads(await self._printed.line(*parts))
        assert name == "shown", shown
        return dict(shown)

    def check_no_problem(self) -> None:
        assert [line for line in self._printed.lines if line.startswith('["problem"')] == []


def update(pid: int, amount: str) -> bytes:
    return f'{{"pid": {pid}, "onchain": {{"rlb": {amount}, "usdt": 0}}, "onsite": {{"rlb": 1, "usd": 2}}}}'.encode()


@pytest.mark.gen_test(timeout=120)
async def test_the_dashboard_shows_every_digit_and_resumes_after_restarts(
    processes: Processes, database: Database, browser_folder: Path
) -> None:
    port = free_port()

    async def serve() -> tuple[Process, str]:
        process = processes("--port", str(port), DATABASE_URL=database.url)
        return process, await asyncio.to_thread(process.url)

    async def save(pid: int, amount: str) -> None:
        assert (await request(url, "POST", SNAPSHOTS, update(pid, amount))).status == 201

    process, url = await serve()
    await save(1, AMOUNT)
    await save(2, "2.5")
    async with run_browser("dashboard.mjs", str(EXAMPLES / "dashboard.html"), url, folder=browser_folder) as browser:
        page = Dashboard(browser)
        shown = await page.shows('"live"', AMOUNT)
        assert [(row[0], row[1], row[3]) for row in shown["rows"]] == [
            ("2", "2", "2.5 rlb, 0 usdt"),
            ("1", "1", f"{AMOUNT} rlb, 0 usdt"),
        ]
        await save(1, f"{AMOUNT}9")
        assert [row[0] for row in (await page.shows(f"{AMOUNT}9 rlb"))["rows"]] == ["1", "2"]

        for amount in ("3.25", "4.125"):
            process.kill()
            await page.shows('"connecting"')
            process, url = await serve()
            await save(3, amount)  # perhaps before the page is connected again
            await page.shows(f'"{amount} rlb', '"live"')
        page.check_no_problem()


def test_the_dashboard_is_short_and_loads_nothing_from_elsewhere() -> None:
    text = (EXAMPLES / "dashboard.html").read_text()
    assert len(text.splitlines()) <= LINES_MAX
    assert "default-src 'none'" in text
    for forbidden in (" src=", '<link rel="stylesheet', "@import", "//cdn", "innerHTML"):
        assert forbidden not in text
