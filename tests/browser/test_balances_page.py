"""The page at / in a browser: the balances now and over time, live, to the last digit."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from balance.auth import Role
from balance.storage.epochs import begin_epoch
from balance.web.pages import package_folder
from balance.web.pages.balances_page import BALANCES, balances
from tests.support.access import add_token
from tests.support.browser import LivePage, run_in_browser
from tests.support.node import FOLDER, ask_node
from tests.support.payloads import UPDATE
from tests.support.repository import ROOT
from tests.support.restarted_server import Server
from tests.support.service import Database, MakeService, Processes, Service
from tests.support.transfer import import_, line

AMOUNT = "100074.9997800000000000000000000000000012"  # 40 digits
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LATE_MS_MAX = 100  # by which a busy machine may delay the first drawing after its start by the page
VIEWS = ("light", "bots", "dark", "phone")


async def fetch(service: Service, path: str, **headers: str) -> HTTPResponse:
    """Request a file, which need not be JSON; return the response, also with an error status."""
    return await AsyncHTTPClient().fetch(
        service.url + path, headers=headers, raise_error=False, decompress_response=False
    )


@pytest.mark.expects_log("every watcher has to resume")
@pytest.mark.gen_test(timeout=150)
async def test_the_page_shows_balances_over_time(
    make_service: MakeService, database: Database, browser_folder: Path, screenshots: Path
) -> None:
    service = await make_service()
    await service.post({**UPDATE, "pid": None})  # of a year before
    begin_epoch(database.url)
    seen = await run_in_browser("balances.mjs", service.url, str(screenshots), AMOUNT, folder=browser_folder)
    assert seen["problems"] == []
    assert [one for one in seen["requests"] if not one.startswith((f"{service.url}/", "data:", "blob:"))] == []
    assert seen["axe"] == {view: [] for view in VIEWS}
    print(f"first paint after {seen['paintMs']} ms, screenshots in {screenshots}")

    assert [tile[0] for tile in seen["tiles"]] == ["onchain.rlb", "onchain.usdt", "onsite.rlb", "onsite.usd"]
    assert seen["tiles"][0][1] == AMOUNT
    (day,) = seen["day"]
    assert (day["shape"], day["connectgaps"], day["customdata"][-1]) == ("hv", False, AMOUNT)
    gap = [i for i, text in enumerate(day["customdata"]) if text is None]
    assert len(gap) > 50, "three hours of a day without a snapshot"
    assert all(day["y"][i] is None for i in gap)
    assert seen["freshness"][0] == "fresh"
    (epoch,) = seen["epochs"]
    assert epoch.startswith("a new epoch of the feed began at ")
    *_, last = starts = seen["drawings"]
    assert len(starts) > 1
    assert last - starts[0] > 250 * (len(starts) - 1) - LATE_MS_MAX, "at most four times a second"
    assert AMOUNT in seen["hover"]

    assert seen["zoom"]["range"] == "own"
    (zoomed,) = seen["zoomed"]
    assert len(zoomed["x"]) == len(day["x"]) - 1, "a part of the day, with as many points and no end that is now"
    assert seen["reloaded"] == "own"

    assert seen["pids"] == ["pid 1", "pid 2", "pid 3"]
    assert [row[:2] for row in seen["bots"]] == [["fresh", "2"], ["fresh", "1"], ["silent", "3"]]
    assert seen["bots"][-1][2].endswith(", silent")
    assert float(seen["bots"][-1][3]) > 100_000, "not 0: it keeps its last amounts"
    assert seen["table"][1:] == ["pid 2", f"{AMOUNT}7"]
    assert "silent: pid 1, 3" in seen["note"]

    assert seen["dark"] == "rgb(21, 24, 26)"
    assert seen["phoneWidth"] == 390
    text, at, last = seen["spoken"]
    assert int(at) == int(last) - 3
    assert "UTC" in text
    assert (seen["streamsOfSecond"], seen["leaders"]) == (0, ["true", "false"])


@pytest.mark.gen_test(timeout=120)
async def test_the_page_resumes_over_a_killed_server(
    processes: Processes, database: Database, browser_folder: Path
) -> None:
    server = Server.at_one_address(processes, database)
    url = await server.start()
    await server.save(7, AMOUNT)
    async with LivePage.open("balances-live.mjs", url, folder=browser_folder) as page:
        await page.shows('"live"', f'"amounts":["{AMOUNT}"')
        await server.save(7, f"{AMOUNT}9")
        await page.shows(f'"amounts":["{AMOUNT}9"')
        for amount in ("3.25", "4.125"):
            await server.kill()
            await page.shows('"connecting"')
            await server.start()
            await server.save(7, amount)  # perhaps before the page is connected again
            shown = await page.shows('"live"', f'"amounts":["{amount}"', f'"{amount}"],"epochs"')
            assert shown["lines"][-1] == amount, "the chart is extended too"
        assert page.shown


@pytest.mark.gen_test(timeout=120)
async def test_the_page_shows_how_far_it_is_behind_until_it_is_live_again(
    processes: Processes, database: Database, browser_folder: Path
) -> None:
    server = Server.at_one_address(processes, database)
    url = await server.start()
    await server.save(7, "1")
    other = Server.at_one_address(processes, database)
    await other.start()
    async with LivePage.open("balances-live.mjs", url, folder=browser_folder) as page:
        await page.shows('"live"', '"amounts":["1"')
        await server.kill()
        await page.shows('"connecting"')
        for amount in range(2, 7):
            await other.save(7, f"{amount}")
        await server.start()
        await page.shows('"status":"live"', '"amounts":["6"')
        shown = dict.fromkeys(one["status"] for one in page.shown if one["state"] == "behind")
        assert [*shown] == [f"behind by {count}" for count in range(5, 0, -1)]


@pytest.mark.gen_test(timeout=120)
async def test_a_new_epoch_is_marked_and_the_open_page_goes_on_live(
    processes: Processes, database: Database, browser_folder: Path
) -> None:
    server = Server.at_one_address(processes, database)
    url = await server.start()
    await server.save(7, "1")
    async with LivePage.open("balances-live.mjs", url, folder=browser_folder) as page:
        assert (await page.shows('"live"', '"1"],"epochs"'))["epochs"] == []
        await asyncio.to_thread(begin_epoch, database.url)
        (mark,) = (await page.shows('"live"', "a new epoch"))["epochs"]
        assert mark.startswith("a new epoch of the feed began at ")
        await server.save(7, "2.5")
        shown = await page.shows('"live"', '"amounts":["2.5"', '"2.5"],"epochs"')
        assert shown["epochs"] == [mark]
        assert [one["amounts"] for one in page.shown if not one["amounts"]][1:] == [], "it was not loaded again"


@pytest.mark.gen_test(timeout=120)
async def test_the_page_shows_how_many_bots_there_are_and_finds_each(
    make_service: MakeService, browser_folder: Path, screenshots: Path
) -> None:
    service = await make_service()

    async def look(first: int, last: int) -> Any:
        lines = b"\n".join(line(pid=pid) for pid in range(first, last))
        assert (await import_(service, lines)).status == 200
        return await run_in_browser("balances-bots.mjs", service.url, str(screenshots), "7001", folder=browser_folder)

    few = await look(7000, 7200)
    assert (few["count"], few["isSearchShown"], few["rows"]) == ("200", False, 200)
    some = await look(7200, 7350)
    assert (some["count"], some["isSearchShown"], some["rows"]) == ("350", True, 200)
    assert some["shown"] == "200 of 350 bots are shown, the newest first."
    assert (some["found"], some["foundText"]) == (["7001"], "1 of 350 bots are shown, the newest first.")
    many = await look(7350, 8001)
    assert (many["count"], many["rows"]) == ("at least 1000", 200)
    assert many["shown"] == "200 of at least 1000 bots are shown, the newest first."
    assert [one["problems"] + one["axe"] for one in (few, some, many)] == [[], [], []]


@pytest.mark.gen_test(timeout=120)
async def test_a_token_opens_the_page_and_is_kept_in_its_tab_only(
    make_service: MakeService, browser_folder: Path, screenshots: Path
) -> None:
    service = await make_service()
    reader, writer = await add_token(service, Role.READER), await add_token(service, Role.WRITER)
    seen = await run_in_browser(
        "balances-sign-in.mjs", service.url, str(screenshots), reader, writer, folder=browser_folder
    )
    assert (seen["problems"], seen["axe"]) == ([], [])
    assert [one for one in seen["requests"] if reader in one] == [], "no address has the token"
    assert any("ticket=" in one for one in seen["requests"])
    assert seen["kept"] == [json.dumps({"balance-token": reader}, separators=(",", ":")), "{}", ""]
    assert seen["afterwards"] == 0


def test_a_missing_plotly_is_named() -> None:
    with pytest.raises(LookupError, match="/ needs plotly, which is not installed"):
        package_folder("no_such_package", "/ needs plotly")


def test_the_page_reads_and_subtracts_decimals_exactly() -> None:
    exact = ROOT / "balance" / "web" / "pages" / "balances" / "exact.js"
    cases = {
        ("100074.9997800000000000000000000000000012", "100000"): "74.9997800000000000000000000000000012",
        ("1", "1.000"): "0",
        ("1e-30", "0"): "0.000000000000000000000000000001",
        ("1e30", "1E+3"): "999999999999999999999999999000",
        ("0.1", "0.35"): "-0.25",
        ("0e5", "2"): "-2",
        ("10", "0"): "10",
    }
    questions = json.dumps({"pairs": [*cases], "json": f'{{"a":[{AMOUNT},-1e-7,null,true,"2 \\\\\\" 3"]}}'})
    found = json.loads(ask_node(FOLDER / "exact.mjs", questions, str(exact)))
    assert found["differences"] == [*cases.values()]
    assert found["parsed"] == {"a": [AMOUNT, "-1e-7", None, True, '2 \\" 3']}


async def test_the_page_and_its_files_have_the_policy_and_strong_etags(service: Service) -> None:
    for address, media_type in (
        ("/", "text/html; charset=utf-8"),
        (f"{BALANCES}/page.js", "text/javascript; charset=utf-8"),
        (f"{BALANCES}/balances.css", "text/css; charset=utf-8"),
        (f"{BALANCES}/plotly.js", "text/javascript; charset=utf-8"),
    ):
        accept = {"Accept": BROWSER, "Accept-Encoding": "gzip, deflate, br"}
        answer = await fetch(service, address, **accept)
        assert (address, answer.code, answer.headers["Content-Type"]) == (address, 200, media_type)
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["ETag"].startswith('"')
        again = await fetch(service, address, **accept, **{"If-None-Match": answer.headers["ETag"]})
        assert (again.code, again.body) == (304, b"")
    assert (await fetch(service, "/", Accept=BROWSER)).headers["Vary"] == "Accept, Accept-Encoding, Origin"
    assert (await fetch(service, f"{BALANCES}/index.html")).code == 404


@pytest.mark.parametrize("prefix", ["", "/balance"])
def test_nothing_in_the_page_is_inline_and_every_address_has_the_prefix(prefix: str) -> None:
    found = balances(prefix)
    text = found["/"].data.decode()
    for forbidden in ("<style", " style=", " onclick=", "<script>", "http:", "https:", "//cdn"):
        assert forbidden not in text
    addresses = re.findall(r'(?:href|src|data-plotly)="([^"]+)"', text)
    assert all(address.startswith(f"{prefix}/") for address in addresses)
    files = {address.removeprefix(prefix) for address in addresses if address.startswith(prefix + BALANCES)}
    assert files == found.keys() - {"/"}, "each file is loaded at once"
    assert not [name for name in sys.modules if name.partition(".")[0] == "plotly"]
