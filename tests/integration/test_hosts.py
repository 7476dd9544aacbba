"""Which hosts are served: every request for a name that a stranger could have registered is rejected with 421, because
DNS rebinding shows in nothing else. `--hosts` names the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tornado.web import Application

from balance.config import Config
from balance.host_names import is_loopback
from balance.setting import ConfigError
from balance.web.connections import CONNECTIONS
from balance.web.cors import HostPolicy
from protocol.operations import EXPORT, FEED, IMPORT, LATEST, SERIES, STREAM, TICKET
from tests.support.http_client import Connection, Reply, request_bytes
from tests.support.refusals import check_refused
from tests.support.service import SNAPSHOTS
from tests.support.shared_service import SharedService, shared_service

UPDATE = b'{"onchain":{"rlb":1,"usdt":2},"onsite":{"rlb":3,"usd":4}}'
EVIL = "evil.example:3000"
SOCKET = "/api/socket.io/?EIO=4&transport="
REFUSAL = f"Host: {EVIL!r} is not a host of this server; see --hosts"
# At least one address of each route, and some without a route.
TARGETS = [
    SNAPSHOTS,
    f"{SNAPSHOTS}?limit=1",
    f"{SNAPSHOTS}/019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51",
    f"{SNAPSHOTS}/%ff",
    FEED,
    f"{FEED}?after=now&wait=55",
    LATEST,
    EXPORT,
    IMPORT,
    SERIES,
    CONNECTIONS,
    STREAM,
    TICKET,
    f"{SOCKET}polling",
    f"{SOCKET}polling&sid=unknown",
    f"{SOCKET}websocket",
    "/api/protocol/v1/",
    "/api/protocol/v1/pong.json",
    "/api/openapi.json",
    "/api/asyncapi.json",
    "/api/docs",
    "/api/docs/events",
    "/api/docs/swagger-ui.css",
    "/balances/page.js",
    "/",
    "/livez",
    "/readyz",
    "/healthz",
    "/version",
    "/metrics",
    "/nothing",
]
SERVER = "*"  # has OPTIONS only (RFC 9112, section 3.2.4)
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
SERVED = [
    "127.0.0.1",
    "127.0.0.1:3000",
    "203.0.113.7:65535",
    "[::1]:3000",
    "[2001:db8::1]",
    "[::ffff:203.0.113.7]:80",
    "127.1:3000",
    "0x7f.1",
    "localhost",
    "LocalHost:3000",
    "balance:3000",
    "balance_1:3000",
    "balance.",
    "balance:",
    "app.localhost",
    "balance.local",
    "Balance.Internal.:3000",
    "balance.test",
    "box.home.arpa",
    "balance.trading.svc.cluster.local:3000",
]
MISDIRECTED = [
    "evil.example",
    "evil.example.",
    "EVIL.EXAMPLE:3000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "notlocal.evillocal.example",
    "xlocalhost.example",
    "home.arpa.example",
    "arpa.home",
    "1.2.3.4.evil",
    "evil.example:99999",
    "evil.example:0",
    "evil.example:3000:1",
    "127.0.0.1:99999",
    "[::1",
    "[evil.example]",
    "[::1].evil.example",
    "%65vil",
    "a..local",
    ".local",
    "",
    "a" * 64,
    "a." * 127 + "local",
    "a" * 5000,
]


HOSTS = ("snapshots.example", "*.trade.example:3000")


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    with shared_service(postgres, template, allow_anonymous=True, hosts=HOSTS) as one:
        yield one


def application(shared: SharedService) -> Application:
    """Return the routes of a service."""
    found = shared.service.app._http.request_callback.application
    assert isinstance(found, Application)
    return found


def test_the_addresses_of_this_file_reach_every_route(shared: SharedService) -> None:
    (_, *routes) = application(shared).wildcard_router.rules
    patterns = [rule.matcher.regex.pattern for rule in routes]
    assert len(patterns) >= 7
    paths = {target.partition("?")[0] for target in (*TARGETS, SERVER)}
    paths |= {path.removesuffix("/") for path in paths}
    assert [one for one in patterns if not any(re.fullmatch(one, path) for path in paths)] == []


@pytest.mark.parametrize("target", TARGETS)
def test_a_request_for_a_name_that_can_be_registered_is_rejected(shared: SharedService, target: str) -> None:
    before = shared.stored()
    for method, body in (("GET", None), ("POST", UPDATE), ("OPTIONS", None), ("PUT", b"{}"), ("BREW", None)):
        check_refused(shared.ask(method, target, body, Host=EVIL), "misdirected_request", REFUSAL)
    check_refused(shared.ask("GET", target, Host=EVIL, **UPGRADE), "misdirected_request", REFUSAL)
    check_refused(shared.ask("GET", target, Host=EVIL, Origin=f"http://{EVIL}"), "misdirected_request", REFUSAL)
    check_refused(shared.ask("OPTIONS", SERVER, Host=EVIL), "misdirected_request", REFUSAL)
    head = shared.ask("HEAD", target, Host=EVIL)
    assert (head.status, head.raw, head.headers["Vary"]) == (421, b"", "Origin")
    assert shared.stored() == before


@pytest.mark.parametrize("host", SERVED)
def test_a_host_that_nobody_can_register_is_served(shared: SharedService, host: str) -> None:
    assert shared.ask("GET", f"{SNAPSHOTS}?limit=1", Host=host).status == 200
    assert shared.ask("POST", SNAPSHOTS, UPDATE, Host=host).status == 201


@pytest.mark.parametrize("host", MISDIRECTED, ids=lambda host: host[:30] or "empty")
def test_a_post_for_any_other_host_is_rejected(shared: SharedService, host: str) -> None:
    refusal = f"Host: {host[:100]!r} is not a host of this server; see --hosts"
    check_refused(shared.ask("POST", SNAPSHOTS, UPDATE, Host=host), "misdirected_request", refusal)
    check_refused(shared.ask("POST", SNAPSHOTS, UPDATE, Host=host, Accept="*/*"), "misdirected_request", refusal)


def test_an_old_client_without_a_host_is_served(shared: SharedService) -> None:
    reply = shared.exchange(f"GET {SNAPSHOTS}?limit=1 HTTP/1.0\r\n\r\n".encode())  # as HAProxy's health checks
    assert reply.status == 200


def test_a_name_in_the_setting_is_served(shared: SharedService) -> None:
    for host in ("snapshots.example", "Snapshots.Example.:8080", "a.trade.example:3000", "a.b.trade.example:3000"):
        assert shared.ask("POST", SNAPSHOTS, UPDATE, Host=host).status == 201
    for host in (
        "a.snapshots.example",
        "trade.example:3000",
        "a.trade.example:3001",
        "a.trade.example",
        "xtrade.example",
    ):
        assert shared.ask("POST", SNAPSHOTS, UPDATE, Host=host).status == 421


def test_after_the_rejection_the_connection_serves_the_next_request(shared: SharedService) -> None:
    async def scene() -> list[Reply]:
        async with Connection.to(shared.service.port) as one:
            await one.send(
                request_bytes("POST", SNAPSHOTS, UPDATE, Host=EVIL) + request_bytes("POST", SNAPSHOTS, UPDATE)
            )
            return [await one.read_reply(), await one.read_reply()]

    assert [reply.status for reply in shared.run(scene())] == [421, 201]


def test_a_web_page_that_may_call_can_read_the_rejection(postgres: str, template: str) -> None:
    page = "https://dashboard.example"
    with shared_service(postgres, template, cors_origins=(page,)) as one:
        refused = one.ask("GET", SNAPSHOTS, Host=EVIL, Origin=page)
        check_refused(refused, "misdirected_request", REFUSAL)
        assert refused.headers["Access-Control-Allow-Origin"] == page
        assert (
            "Access-Control-Allow-Origin" not in one.ask("GET", SNAPSHOTS, Host=EVIL, Origin="http://a.example").headers
        )


def test_the_name_that_the_service_listens_on_is_served(postgres: str, template: str) -> None:
    with shared_service(postgres, template, host="Listens.Example.", allow_anonymous=True) as one:
        for host in ("listens.example", f"listens.example:{one.service.port}"):
            assert one.ask("POST", SNAPSHOTS, UPDATE, Host=host).status == 201
        assert one.ask("GET", SNAPSHOTS, Host="a.listens.example").status == 421


# The setting


@pytest.mark.parametrize(
    ("value", "served", "refused"),
    [
        ("Balance.Example", ["balance.example", "balance.example:81"], ["a.balance.example"]),
        ("balance.example.", ["balance.example", "balance.example."], ["balance.example.com"]),
        ("balance.example:443", ["balance.example", "balance.example:443"], ["balance.example:80"]),
        ("balance.example:*", ["balance.example:1"], []),
        ("bücher.example", ["xn--bcher-kva.example"], ["bucher.example"]),
        ("straße.example", ["xn--strae-oqa.example"], ["strasse.example"]),  # as in browsers; Python's codec differs
        ("*.example.com", ["a.example.com", "a.b.example.com:8"], ["example.com", "evil-example.com"]),
        ("*.example.com", [], ["example.com.evil.net", "*.example.com", ".example.com"]),
        ("*.Bücher.example:80", ["a.xn--bcher-kva.example"], ["a.xn--bcher-kva.example:81"]),
        ("[2001:DB8:0::1]:3000", ["[2001:db8::1]:3000"], []),
        ("*", ["evil.example", "", "evil.example:99999", "a" * 5000], []),
        ("a.example, ,b.example,", ["a.example", "b.example"], ["c.example"]),
    ],
)  # fmt: skip
def test_a_value_of_hosts_is_normalised(value: str, served: list[str], refused: list[str]) -> None:
    hosts = HostPolicy(Config.read(["--hosts", value], {}).hosts)
    assert [host for host in served if not hosts.serves(host)] == []
    assert [host for host in refused if hosts.serves(host)] == []


@pytest.mark.parametrize(
    "value",
    [
        *("https://balance.example", "balance.example/", "me@balance.example", "balance.example?", "bal ance.example"),
        *("balance.example:0", "balance.example:65536", "balance.example:http", "balance:1:2", "balance..example"),
        *("::1", "[::1", "[::g]", ".example", "balance\x00.example", "balance%2eexample", "💩.example"),
        *("*.com", "*.4", "*.*.example.com", "bal*.example", "*balance.example", "*:3000", "**", "balance.*"),
        *("a" * 64, "a." * 127 + "example"),
    ],
)  # fmt: skip
def test_a_value_of_hosts_that_could_never_match_stops_the_start(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.read(["--hosts", f"good.example,{value}"], {})
    assert str(caught.value).startswith(f"--hosts: {value!r} is not a host such as balance.example: ")
    assert "\n" not in str(caught.value)


def test_a_loopback_host_is_recognised_in_every_form() -> None:
    for host in (
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "[::1]",
        "::ffff:127.0.0.1",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
    ):
        assert is_loopback(host), host
    for host in ("0.0.0.0", "::", "203.0.113.7", "balance", "localhost.example", "127.0.0.1.example", "xlocalhost"):
        assert not is_loopback(host), host
