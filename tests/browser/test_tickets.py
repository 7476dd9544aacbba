"""A real browser's EventSource follows the feed with tickets: the code of docs/clients.md in a page of another site."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from balance.auth import Role
from tests.support.access import add_token, bearer
from tests.support.browser import run_browser
from tests.support.example_clients import ExampleProcess
from tests.support.payloads import UPDATE
from tests.support.repository import ROOT
from tests.support.service import SNAPSHOTS, MakeService


async def test_a_page_of_another_origin_follows_the_feed_with_tickets(
    make_service: MakeService, browser_folder: Path, tmp_path: Path
) -> None:
    service = await make_service()
    reader, writer = await add_token(service, Role.READER), await add_token(service, Role.WRITER)
    (code,) = re.findall(
        r"^```js ticket$(.*?)^```$", (ROOT / "docs" / "clients.md").read_text(), re.DOTALL | re.MULTILINE
    )
    shown = code.replace("http://127.0.0.1:3000", service.url).replace("JSON.parse(event.data)", "event.data")
    assert shown.count("console.log(event.data)") == 1
    (tmp_path / "page.js").write_text(shown)

    async def save() -> None:
        assert (await service.request("POST", SNAPSHOTS, UPDATE, **bearer(writer))).status == 201

    page = f"http://localhost:{service.port}/nothing"
    async with run_browser("ticket.mjs", page, str(tmp_path / "page.js"), reader, folder=browser_folder) as process:
        follower = ExampleProcess(process)
        async with asyncio.timeout(40):
            while not len(service.app.streams):
                await asyncio.sleep(0.05)
        await save()
        await follower.shows(1)
        service.app.streams.end_all()  # as after ten minutes; the page gets another ticket
        await save()
        await save()
        await follower.shows(3)
        assert follower.seqs == [1, 2, 3]
        assert process.returncode is None
