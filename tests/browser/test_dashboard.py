"""examples/dashboard.html in a browser: the start state, then every change, to the last digit, also over a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.browser import LivePage
from tests.support.example_clients import EXAMPLES
from tests.support.restarted_server import Server
from tests.support.service import Database, Processes

AMOUNT = "100074.9997800000000000000000001"  # 31 digits
LINES_MAX = 80


@pytest.mark.gen_test(timeout=120)
async def test_the_dashboard_shows_every_digit_and_resumes_after_restarts(
    processes: Processes, database: Database, browser_folder: Path
) -> None:
    server = Server.at_one_address(processes, database)
    url = await server.start()
    await server.save(1, AMOUNT)
    await server.save(2, "2.5")
    async with LivePage.open("dashboard.mjs", str(EXAMPLES / "dashboard.html"), url, folder=browser_folder) as page:
        shown = await page.shows('"live"', AMOUNT)
        assert [(row[0], row[1], row[3]) for row in shown["rows"]] == [
            ("2", "2", "2.5 rlb, 0 usdt"),
            ("1", "1", f"{AMOUNT} rlb, 0 usdt"),
        ]
        await server.save(1, f"{AMOUNT}9")
        assert [row[0] for row in (await page.shows(f"{AMOUNT}9 rlb"))["rows"]] == ["1", "2"]

        for amount in ("3.25", "4.125"):
            await server.kill()
            await page.shows('"connecting"')
            await server.start()
            await server.save(3, amount)  # perhaps before the page is connected again
            await page.shows(f'"{amount} rlb', '"live"')
        assert page.shown


def test_the_dashboard_is_short_and_loads_nothing_from_elsewhere() -> None:
    text = (EXAMPLES / "dashboard.html").read_text()
    assert len(text.splitlines()) <= LINES_MAX
    assert "default-src 'none'" in text
    for forbidden in (" src=", '<link rel="stylesheet', "@import", "//cdn", "innerHTML"):
        assert forbidden not in text
