"""`--public-url`: the address that clients see, with its prefix, behind a proxy that removes it or passes it on."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from balance.config import Config
from balance.host_names import parse_public_url
from balance.setting import ConfigError
from protocol.operations import ASYNCAPI, CONTRACT, DOCS, FEED, LATEST, OPENAPI, SNAPSHOTS
from tests.support.raw_clients import PollingClient, SocketClient
from tests.support.service import Database, MakeService, Processes
from tests.support.shared_service import SharedService, shared_service

PREFIX = "/desk/balance"
PUBLIC = f"https://balance.example.com:8443{PREFIX}"
UPDATE = b'{"onchain":{"rlb":1,"usdt":2},"onsite":{"rlb":3,"usd":4}}'
ROUTES = [
    f"{SNAPSHOTS}?limit=1",
    f"{FEED}?after=0",
    LATEST,
    CONTRACT,
    f"{CONTRACT}pong.json",
    OPENAPI,
    ASYNCAPI,
    DOCS,
    f"{DOCS}/events",
    f"{DOCS}/docs.css",
]


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    with shared_service(postgres, template, public_url=PUBLIC, allow_anonymous=True) as one:
        yield one


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://balance.example.com", "https://balance.example.com"),
        ("HTTPS://Balance.Example.com:443/", "https://balance.example.com"),
        ("http://balance:80/a/", "http://balance/a"),
        ("https://balance.example.com:8443/a/b-c_d.e~f", "https://balance.example.com:8443/a/b-c_d.e~f"),
        ("https://bücher.example/a", "https://xn--bcher-kva.example/a"),
        ("http://[2001:DB8::1]:3000/apis", "http://[2001:db8::1]:3000/apis"),
    ],
)
def test_an_address_has_one_spelling(text: str, normal: str) -> None:
    assert str(parse_public_url(text)) == normal
    assert Config(public_url=text).public_url == normal


@pytest.mark.parametrize(
    "text",
    [
        "balance.example.com",
        "ftp://balance.example.com",
        "https://",
        "https:///a",
        "https://user@balance.example.com",
        "https://balance.example.com:99999",
        "https://balance.example.com/a?b",
        "https://balance.example.com/a#b",
        "https://balance.example.com/a//b",
        "https://balance.example.com/a/../b",
        "https://balance.example.com/a%20b",
        "https://balance.example.com/é",
        "https://balance.example.com/api",
        "https://balance.example.com/api/v1",
        "https://balance.example.com/metrics",
    ],
)
def test_an_address_that_cannot_be_served_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--public-url: {text!r}")):
        Config(public_url=text)


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_is_served_with_and_without_the_prefix(shared: SharedService, route: str) -> None:
    without, with_prefix = (shared.ask("GET", prefix + route) for prefix in ("", PREFIX))
    assert (without.status, with_prefix.status) == (200, 200)
    assert without.raw == with_prefix.raw


@pytest.mark.parametrize("target", [f"{PREFIX}x{SNAPSHOTS}", f"{PREFIX}{PREFIX}{SNAPSHOTS}", f"/desk{SNAPSHOTS}"])
def test_another_path_is_not_the_prefix(shared: SharedService, target: str) -> None:
    assert shared.ask("GET", target).status == 404


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_the_location_of_a_save_is_a_path_as_clients_see_it(shared: SharedService, prefix: str) -> None:
    reply = shared.ask("POST", prefix + SNAPSHOTS, UPDATE)
    assert reply.status == 201
    assert reply.headers["Location"] == f"{PREFIX}{SNAPSHOTS}/{reply.body['data']['id']}"
    assert shared.ask("GET", reply.headers["Location"]).status == 200


def test_every_link_of_the_pages_and_the_index_has_the_prefix_and_leads_somewhere(shared: SharedService) -> None:
    links: set[str] = set()
    for page in (DOCS, f"{DOCS}/events"):
        links |= set(re.findall(r'(?:href|src|data-openapi)="(/[^"]*)"', shared.ask("GET", page).raw.decode()))
    index = shared.ask("GET", CONTRACT).body["data"]
    links |= {index[name] for name in ("docs", "bundle", "types", "openapi", "asyncapi")}
    links |= {one["url"] for one in index["schemas"]}
    page = shared.ask("GET", PREFIX, Accept="text/html").raw.decode()
    links |= set(re.findall(r'(?:href|src|data-plotly)="(/[^"]*)"', page))
    root = shared.ask("GET", PREFIX)
    assert root.headers["Location"] == f"{PREFIX}{DOCS}"
    links |= {link for name, link in root.body["data"].items() if name != "version"}
    assert len(links) > 40
    for link in links:
        assert link.startswith(f"{PREFIX}/"), link
        assert shared.ask("GET", link, Accept="text/html,*/*").status == 200, link


def test_the_documents_name_the_public_address(shared: SharedService) -> None:
    near, public = shared.ask("GET", OPENAPI).body["servers"]
    assert near["url"] == PREFIX
    assert public["url"].replace("{address}", public["variables"]["address"]["default"]) == PUBLIC
    (server,) = shared.ask("GET", ASYNCAPI).body["servers"].values()
    assert server["protocol"] == "wss"
    assert server["variables"]["host"]["default"] == "balance.example.com:8443"
    assert server["pathname"] == server["x-socketio"]["path"] == f"{PREFIX}/api/socket.io"


def test_the_public_host_and_origin_are_allowed_and_no_other(shared: SharedService) -> None:
    for host in ("balance.example.com:8443", "balance.example.com"):
        assert shared.ask("GET", SNAPSHOTS, Host=host).status == 200
    host = "balance.example.com:8443"
    assert shared.ask("POST", SNAPSHOTS, UPDATE, Host=host, Origin=f"https://{host}").status == 201
    assert shared.ask("GET", SNAPSHOTS, Host="other.example.com").status == 421
    for origin in (f"http://{host}", "https://balance.example.com", "http://localhost:9", "https://evil.example"):
        refused = shared.ask("GET", SNAPSHOTS, Host=host, Origin=origin)
        assert (refused.status, refused.body["code"]) == (403, "forbidden"), origin


async def test_clients_of_each_transport_use_the_prefix(make_service: MakeService) -> None:
    service = await make_service(public_url=PUBLIC, allow_anonymous=True)
    for kind in (SocketClient, PollingClient):
        for prefix in ("", PREFIX):
            client = await kind.connect(service.url, path=f"{prefix}/api/socket.io")
            await client.call("ping")
            await client.close()


def test_the_start_line_has_the_public_address(processes: Processes, database: Database) -> None:
    process = processes("--port", "0", "--public-url", f"{PUBLIC}/", "--allow-anonymous", DATABASE_URL=database.url)
    assert process.url().startswith("http://127.0.0.1:")
    assert process.terminate() == 0
    assert process.stdout[-1].endswith(f"documentation at {PUBLIC}/api/docs")
