"""What web pages of several origins can do in a real browser, by the rules of the service and of the browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.browser import run_in_browser
from tests.support.service import Database, MakeService

FAILURES = {"unreadable", "refused"}


@pytest.mark.gen_test(timeout=90)
async def test_a_page_reads_saves_and_connects_only_from_allowed_origins(
    make_service: MakeService, database: Database, browser_folder: Path
) -> None:
    service = await make_service(cors_origins=("http://dashboard.example:*",))
    seen = await run_in_browser("pages.mjs", str(service.port), folder=browser_folder)
    misdirected = "421 misdirected_request"
    assert seen["rebound"] == {
        **dict.fromkeys(("list", "save", "save with credentials", "document"), misdirected),
        "websocket": "refused",
    }
    assert len(seen["foreign"]) == 7
    assert set(seen["foreign"].values()) == FAILURES
    assert set(seen["sandboxed"].values()) == FAILURES
    may = {"list": "200 ok", "save": "201 ok", "save with credentials": "201 ok", "document": "200 ok"}
    assert seen["allowed"] == {
        **may,
        **dict.fromkeys(("websocket", "socket.io by polling", "socket.io"), "connected"),
    }
    assert seen["own"] == {**may, "websocket": "connected"}
    assert database.count() == 4
