"""The pages of /api/docs in a browser: they are complete and work under their own policy, with files of this server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

import protocol
from balance.auth import Role
from balance.web.pages import LANGUAGES, pages
from protocol.limits import DEFAULT
from protocol.operations import DOCS
from tests.support.access import add_token
from tests.support.browser import run_in_browser
from tests.support.repository import ROOT
from tests.support.service import Database, MakeService, Service

AMOUNT = "100074.9997800000000000000000001"  # 31 digits
UPDATE = f'{{"onchain": {{"rlb": {AMOUNT}, "usdt": 0}}, "onsite": {{"rlb": 1, "usd": 2}}}}'
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
BACKGROUNDS = {"light": "rgb(247, 248, 249)", "dark": "rgb(21, 24, 26)", "phone": "rgb(247, 248, 249)"}
MEDIA_TYPES = {
    "": "text/html; charset=utf-8",
    "/": "text/html; charset=utf-8",
    "/events": "text/html; charset=utf-8",
    "/events/": "text/html; charset=utf-8",
    "/design.css": "text/css; charset=utf-8",
    "/docs.css": "text/css; charset=utf-8",
    "/swagger.css": "text/css; charset=utf-8",
    "/swagger-ui.css": "text/css; charset=utf-8",
    "/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "/rest.js": "text/javascript; charset=utf-8",
    "/events.js": "text/javascript; charset=utf-8",
    "/guide.js": "text/javascript; charset=utf-8",
    "/favicon.png": "image/png",
}


def check_looks(seen: dict[str, Any]) -> None:
    """Check what a page looks like: light, dark and on a phone."""
    assert seen["axe"] == {"light": [], "dark": [], "phone": []}
    assert seen["widths"] == {"light": 1280, "dark": 1280, "phone": 390}
    assert seen["backgrounds"] == BACKGROUNDS, "those of the page at /"
    assert all(map(all, seen["inSight"].values())), seen["inSight"]


async def browse(
    page: str, service: Service, folder: Path, screenshots: Path, prefix: str, given: str = UPDATE, *more: str
) -> dict[str, Any]:
    """Read and use a page, light, dark and on a phone; return what it shows.

    Fails on whatever the browser or axe-core complains of, on a request to elsewhere, without the links to the other
    pages, and without the guide, ready for this server.
    """
    url = service.url + prefix
    seen = await run_in_browser("docs.mjs", page, url, given, str(screenshots), *more, folder=folder)
    assert seen["problems"] == []
    if page != "restOpened":  # the audit of all operations at once would take minutes
        check_looks(seen)
    addresses = {"Balances": "/", "REST": DOCS, "Events": f"{DOCS}/events"}
    assert [link[:2] for link in seen["pages"]] == [[name, prefix + path] for name, path in addresses.items()]
    assert [link[0] for link in seen["pages"] if link[2] == "page"] == ["Events" if page == "events" else "REST"]
    assert [name for name, exists in seen["contents"] if not exists] == []
    elsewhere = [one for one in seen["requests"] if not one.startswith((f"{url}/", "data:"))]
    assert elsewhere == []
    assert len(seen["programs"]) == len(LANGUAGES)
    changes = {"127.0.0.1:3000/": f"127.0.0.1:{service.port}{prefix}/", "127.0.0.1:3000'": f"127.0.0.1:{service.port}'"}
    changes |= {"'/api/socket.io'": f"'{prefix}/api/socket.io'"}
    guide = sorted(file for file in (ROOT / "protocol" / "guide").iterdir() if file.is_file())
    for program, file in zip(seen["programs"], guide, strict=True):
        expected = file.read_text("utf-8")
        for old, new in changes.items():
            expected = expected.replace(old, new)
        assert program == expected
    return seen


async def fetch(service: Service, path: str, method: str = "GET", **headers: str) -> HTTPResponse:
    """Request a document, which need not be JSON; return the response, also with an error status."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await AsyncHTTPClient().fetch(
        service.url + path, method=method, headers=names, raise_error=False, decompress_response=False
    )


@pytest.mark.parametrize(
    ("prefix", "page", "more"),
    [
        ("", "restOpened", ["12"]),
        ("/balance", "rest", []),
        pytest.param("", "restOpened", ["1"], marks=pytest.mark.slow),
    ],
    ids=["", "/balance", "all opened"],
)
@pytest.mark.gen_test(timeout=150)
async def test_the_page_of_rest_shows_every_operation_and_calls_some(
    make_service: MakeService,
    database: Database,
    browser_folder: Path,
    screenshots: Path,
    prefix: str,
    page: str,
    more: list[str],
) -> None:
    service = await make_service(public_url=f"http://localhost{prefix}")
    seen = await browse(page, service, browser_folder, screenshots, prefix, UPDATE, *more)
    assert sorted(seen["operations"]) == sorted(f"{one.method} {one.path}" for one in protocol.OPERATIONS.values())
    assert seen["warnings"] == ["This writes real rows: each snapshot is stored for good and sent to all watchers."]
    assert seen["hash"].startswith("#/snapshots/listSnapshot"), "the address of the page opens the same operation"
    for name, status, schema in (("saved", "201", "save_reply"), ("listed", "200", "list_reply")):
        assert seen[name][0] == status
        assert f'"rlb": {AMOUNT},' in seen[name][1]
        protocol.check(schema, protocol.loads(seen[name][1].encode()))
    assert [str(row["onchain"]["rlb"]) for row in database.rows()] == [AMOUNT]


@pytest.mark.gen_test(timeout=90)
async def test_the_page_of_rest_sends_the_token_that_it_was_given(
    make_service: MakeService, browser_folder: Path, screenshots: Path
) -> None:
    service = await make_service()
    token = await add_token(service, Role.READER)
    assert (await service.get()).status == 401
    seen = await browse("restWithToken", service, browser_folder, screenshots, "", token)
    assert seen["listed"][0] == "200"


@pytest.mark.parametrize("prefix", ["", "/balance"])
@pytest.mark.gen_test(timeout=90)
async def test_the_page_of_events_shows_and_sends_every_event(
    make_service: MakeService, database: Database, browser_folder: Path, screenshots: Path, prefix: str
) -> None:
    service = await make_service(public_url=f"http://localhost{prefix}")
    seen = await browse("events", service, browser_folder, screenshots, prefix)
    assert seen["events"] == [*protocol.EVENTS, "connect_error"]
    assert seen["errors"] == [*protocol.ERRORS]
    listed = [name for name, _ in seen["contents"]]
    assert listed[:2] == ["connect", "try"]
    assert [name for name in listed if name in seen["events"]] == seen["events"]
    assert seen["warning"].startswith("This writes real rows")
    assert protocol.loads(seen["example"].encode()) == protocol.schema("balance_update")["examples"][0]
    received = {name: text for direction, name, text in seen["log"] if direction == "in"}
    for name in (protocol.CONNECTED, protocol.BALANCE_ACK, protocol.BALANCE_SNAPSHOT, protocol.PONG):
        protocol.check(protocol.EVENTS[name].schema, protocol.loads(received[name].encode()))
    assert f'"rlb":{AMOUNT},' in received[protocol.BALANCE_SNAPSHOT]
    assert received["acknowledgement 1"] == received[protocol.BALANCE_ACK]
    assert [name for direction, name, _ in seen["log"] if direction == "wrong"] == ["not sent"]
    assert database.count() == 1


async def test_each_file_has_its_type_and_the_policy(service: Service) -> None:
    for path, media_type in MEDIA_TYPES.items():
        answer = await fetch(service, DOCS + path)
        assert (path, answer.code, answer.headers["Content-Type"]) == (path, 200, media_type)
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"


async def test_an_unchanged_page_is_not_sent_again(service: Service) -> None:
    whole = await fetch(service, DOCS)
    head = await fetch(service, DOCS, "HEAD")
    again = await fetch(service, DOCS, If_None_Match=whole.headers["ETag"])
    assert (head.code, head.body, head.headers["Content-Length"]) == (200, b"", str(len(whole.body)))
    assert head.headers["ETag"] == whole.headers["ETag"]
    assert again.code == 304


async def test_an_unknown_file_is_not_found(service: Service) -> None:
    for path in ("/events.html", "/__init__.py", "/../app.py", "/swagger-ui-bundle.js.map"):
        answer = await service.request("GET", DOCS + path)
        assert (path, answer.status) == (path, 404)
        protocol.check("error_reply", answer.body)


def test_nothing_in_the_pages_is_inline_or_from_elsewhere() -> None:
    for page in (DOCS, f"{DOCS}/events"):
        text = pages(DEFAULT)[page].data.decode()
        for forbidden in ("<style", " style=", " onclick=", "<script>", 'src="http', 'href="http', "//cdn"):
            assert forbidden not in text
