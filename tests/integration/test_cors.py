"""Which web pages may call, and the headers by which a browser learns it (Fetch standard, CORS protocol)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from balance.config import Config
from balance.setting import ConfigError
from balance.web.cors import OriginPolicy
from tests.support.http_client import Reply
from tests.support.refusals import check_refused
from tests.support.service import SNAPSHOTS
from tests.support.shared_service import SharedService, shared_service

UPDATE = b'{"onchain":{"rlb":1,"usdt":2},"onsite":{"rlb":3,"usd":4}}'
ID = "019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51"
HANDSHAKE = "/api/socket.io/?EIO=4&transport=polling"
DOCUMENT = "/api/protocol/v1/pong.json"
LOCAL = "127.0.0.1:3000"
NAME = "snapshots.example:3000"
DASHBOARD = "https://dashboard.example"
REFUSAL = "Origin: pages of this origin may not call; see --cors-origins"
PREFLIGHT = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}
LISTS = "GET, HEAD, POST, OPTIONS"
READS = "GET, HEAD, OPTIONS"

# A page of this origin may call the service by this host.
ALLOWED = [
    (DASHBOARD, NAME),
    (DASHBOARD, LOCAL),
    ("HTTPS://Dashboard.Example:443", LOCAL),
    # The host and port that it calls, of those that nobody can register.
    ("http://balance:3000", "balance:3000"),
    ("http://balance", "balance"),
    ("http://balance:80", "balance"),
    ("https://balance", "balance"),  # behind a proxy that speaks TLS
    ("https://balance.internal", "Balance.Internal:443"),
    ("https://balance.local:8443", "balance.local:8443"),
    ("http://203.0.113.7:3000", "203.0.113.7:3000"),
    ("http://[2001:db8::1]:3000", "[2001:DB8:0::1]:3000"),
    ("http://localhost:3000", "localhost:3000"),
    # A program of the same machine, because this service listens for its own machine only.
    ("http://localhost:5173", LOCAL),
    ("http://127.0.0.1", LOCAL),
    ("http://[::1]:8080", "localhost:3000"),
    ("https://app.localhost", "[::1]:3000"),
]
FOREIGN = [
    ("https://evil.example", LOCAL),
    ("http://dashboard.example", LOCAL),
    ("https://dashboard.example:444", LOCAL),
    ("https://dashboard.example.evil.net", LOCAL),
    ("https://evil-dashboard.example", LOCAL),
    ("https://sub.dashboard.example", LOCAL),
    ("http://localhost.evil.example", LOCAL),
    ("http://127.0.0.1.evil.example", LOCAL),
    ("http://203.0.113.7:3001", "203.0.113.7:3000"),  # another port of the same address
    ("http://203.0.113.7", "203.0.113.7:3000"),
    ("http://203.0.113.8:3000", "203.0.113.7:3000"),
    ("http://balance:3001", "balance:3000"),
    ("https://balance", "balance:3000"),
    ("http://other:3000", "balance:3000"),
    ("http://localhost:5173", "balance:3000"),  # through a proxy, this page is a program of the visitor's machine
    ("http://localhost:5173", NAME),
    (f"http://{NAME}", NAME),  # the name is registered, so --cors-origins must name it
    ("https://snapshots.example", "snapshots.example"),
    ("ftp://localhost", LOCAL),
    ("capacitor://localhost", LOCAL),
    ("null", LOCAL),
    ("file://", LOCAL),
    ("http://[", LOCAL),
    ("http://localhost:5173, http://localhost:5173", LOCAL),
    ("http://localhost:99999", LOCAL),
    ("http://localhost/", LOCAL),
    ("http://me@localhost", LOCAL),
    ("http://\xfc.localhost", LOCAL),
    ("http://*.localhost", LOCAL),
    ("*", LOCAL),
    ("", LOCAL),
]
EXPOSED = "Location, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id"


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    """One service that listens for its own machine and is known by a registered name too."""
    with shared_service(
        postgres, template, allow_anonymous=True, hosts=("snapshots.example",), cors_origins=(DASHBOARD,)
    ) as one:
        yield one


@pytest.fixture(scope="module")
def network(postgres: str, template: str) -> Iterator[SharedService]:
    """One service that every page may call, and that listens to the network."""
    with shared_service(postgres, template, host="0.0.0.0", allow_anonymous=True, cors_origins=("*", DASHBOARD)) as one:
        yield one


def cors(reply: Reply) -> dict[str, str]:
    """Return the headers by which a browser decides, without the prefix of their names."""
    prefix = "Access-Control-"
    return {name.removeprefix(prefix): value for name, value in reply.headers.items() if name.startswith(prefix)}


@pytest.mark.parametrize(("origin", "host"), ALLOWED)
def test_a_page_that_may_call_can_read_the_responses(shared: SharedService, origin: str, host: str) -> None:
    for path, methods in ((SNAPSHOTS, LISTS), (f"{SNAPSHOTS}/{ID}", READS)):
        before = shared.ask("OPTIONS", path, Origin=origin, Host=host, **PREFLIGHT)
        assert (before.status, before.raw) == (204, b"")
        assert before.headers["Access-Control-Allow-Methods"] == methods
        assert before.headers["Access-Control-Allow-Headers"] == "content-type"
        assert int(before.headers["Access-Control-Max-Age"]) > 0
        for answer in (
            before,
            shared.ask("GET", path, Origin=origin, Host=host),
            shared.ask("PUT", path, Origin=origin, Host=host),
            shared.ask("GET", "/nothing", Origin=origin, Host=host),
            shared.ask("GET", HANDSHAKE, Origin=origin, Host=host),
            shared.ask("GET", f"{HANDSHAKE}&sid=unknown", Origin=origin, Host=host),
            shared.ask("GET", DOCUMENT, Origin=origin, Host=host),
        ):
            assert answer.headers["Access-Control-Allow-Origin"] == origin
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"
            assert "Origin" in answer.headers["Vary"]
            assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(("origin", "host"), FOREIGN)
def test_a_foreign_page_may_not_call(shared: SharedService, origin: str, host: str) -> None:
    before = shared.stored()
    for path in (SNAPSHOTS, f"{SNAPSHOTS}/{ID}", "/nothing", HANDSHAKE, f"{HANDSHAKE}&sid=unknown"):
        for reply in (
            shared.ask("OPTIONS", path, Origin=origin, Host=host, **PREFLIGHT),
            shared.ask("GET", path, Origin=origin, Host=host),
            shared.ask("POST", path, UPDATE, Origin=origin, Host=host),
            shared.ask("PUT", path, Origin=origin, Host=host),
        ):
            check_refused(reply, "forbidden", REFUSAL)
            assert cors(reply) == {}
            assert reply.headers["Vary"] == "Origin"
    assert shared.stored() == before


def test_a_page_of_an_allowed_origin_may_send_credentials_and_any_headers(shared: SharedService) -> None:
    wanted = "authorization,content-type,traceparent,x-request-id"
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": wanted}
    for path in (SNAPSHOTS, f"{SNAPSHOTS}/{ID}", HANDSHAKE, DOCUMENT):
        allowed = cors(shared.ask("OPTIONS", path, Origin=DASHBOARD, **asked))
        assert allowed["Allow-Credentials"] == "true"
        assert allowed["Allow-Headers"] == wanted
        assert "Allow-Private-Network" not in allowed
        near = cors(
            shared.ask("OPTIONS", path, Origin=DASHBOARD, **asked, Access_Control_Request_Private_Network="true")
        )
        assert near["Allow-Private-Network"] == "true"
    sent = {"Authorization": "Bearer x", "X_Request_Id": "1", "Cookie": "a=b"}
    saved = shared.ask("POST", SNAPSHOTS, UPDATE, Origin=DASHBOARD, **sent)
    assert saved.status == 201
    assert cors(saved) == {
        "Allow-Origin": DASHBOARD,
        "Allow-Credentials": "true",
        "Expose-Headers": EXPOSED,
    }


def test_a_page_that_requests_no_headers_may_send_the_usual_ones(shared: SharedService) -> None:
    reply = shared.ask("OPTIONS", SNAPSHOTS, Origin=DASHBOARD, Access_Control_Request_Method="GET")
    assert reply.headers["Access-Control-Allow-Headers"] == "Content-Type"


def test_a_page_that_only_the_star_admits_gets_no_credentials(network: SharedService) -> None:
    asked = {
        **PREFLIGHT,
        "Access_Control_Request_Headers": "authorization",
        "Access_Control_Request_Private_Network": "1",
    }
    for origin in ("https://evil.example", "null", "file://", "http://localhost:5173"):
        before = network.ask("OPTIONS", SNAPSHOTS, Origin=origin, **asked)
        assert cors(before) == {
            "Allow-Origin": "*",
            "Expose-Headers": EXPOSED,
            "Allow-Methods": LISTS,
            "Allow-Headers": "Content-Type",
            "Max-Age": "600",
        }
        for answer in (
            network.ask("POST", SNAPSHOTS, UPDATE, Origin=origin),
            network.ask("GET", "/nothing", Origin=origin),
            network.ask("GET", HANDSHAKE, Origin=origin),
        ):
            assert cors(answer) == {"Allow-Origin": "*", "Expose-Headers": EXPOSED}
            assert answer.headers["Vary"] == "Origin"
    assert cors(network.ask("GET", SNAPSHOTS)) == {}, "a request without Origin is not from a page"
    named = cors(network.ask("OPTIONS", SNAPSHOTS, Origin=DASHBOARD, **asked))
    assert (named["Allow-Origin"], named["Allow-Credentials"]) == (DASHBOARD, "true")
    assert named["Allow-Headers"] == "authorization"


def test_a_page_of_localhost_may_call_only_a_service_of_its_machine(postgres: str, template: str) -> None:
    page = {"Origin": "http://localhost:9"}
    for settings in ({"host": "0.0.0.0"}, {"trusted_proxies": ("127.0.0.1",)}):
        with shared_service(postgres, template, allow_anonymous=True, **settings) as one:
            check_refused(one.ask("GET", SNAPSHOTS, **page), "forbidden", REFUSAL)
            assert one.ask("GET", SNAPSHOTS, Origin="http://localhost:3000", Host="localhost:3000").status == 200
    with shared_service(
        postgres, template, host="0.0.0.0", allow_anonymous=True, cors_origins=("http://localhost:9",)
    ) as one:
        assert one.ask("GET", SNAPSHOTS, **page).status == 200


def test_any_page_may_read_the_documents_but_not_with_credentials(shared: SharedService) -> None:
    for reply in (shared.ask("GET", DOCUMENT, Origin="https://evil.example"), shared.ask("GET", DOCUMENT)):
        assert cors(reply) == {
            "Allow-Origin": "*",
            "Expose-Headers": "ETag, Retry-After, X-Request-Id",
        }
        assert reply.headers["Vary"] == "Accept-Encoding, Origin"


# The setting


@pytest.mark.parametrize(
    ("value", "trusted", "refused"),
    [
        ("https://d.example:443", ["https://d.example", "https://d.example:443"], ["http://d.example"]),
        ("HTTPS://D.Example/", ["https://d.example"], ["https://d.example:8443"]),
        ("https://d.example.", ["https://d.example"], []),
        (
            "https://bücher.example",
            ["https://xn--bcher-kva.example"],
            ["https://bücher.example", "https://bucher.example"],
        ),
        ("https://faß.example", ["https://xn--fa-hia.example"], ["https://fass.example"]),
        ("https://xn--bcher-kva.example", ["https://xn--bcher-kva.example"], []),
        ("https://*.example.com", ["https://a.example.com", "https://a.b.example.com"], ["https://example.com"]),
        (
            "https://*.example.com",
            [],
            ["https://evil-example.com", "https://.example.com", "http://a.example.com", "https://a.example.com:8443"],
        ),
        (
            "https://*.example.com",
            [],
            ["https://a.example.com.evil.net", "https://a.example.com@evil.net", "https://*.example.com", "null"],
        ),
        ("https://*.example.com:*", ["https://a.example.com", "https://a.example.com:8443"], ["https://example.com:1"]),
        ("https://*.local", ["https://balance.local"], ["https://local", "https://local.example"]),
        (
            "http://localhost:*",
            ["http://localhost", "http://localhost:5173"],
            ["https://localhost", "http://a.localhost"],
        ),
        ("http://[::1]:5173", ["http://[::1]:5173", "http://[0::1]:5173"], ["http://[::1]", "http://[::2]:5173"]),
        ("http://[0:0:0:0:0:0:0:1]", ["http://[::1]:80"], []),
        ("capacitor://localhost", ["capacitor://localhost"], ["capacitor://evil", "http://localhost"]),
        ("Ionic://LocalHost/", ["ionic://localhost"], []),
        ("chrome-extension://abcdefghijklmnop", ["chrome-extension://abcdefghijklmnop"], ["chrome-extension://abc"]),
        ("app://.", ["app://."], ["app://x"]),
        ("https://a.example, https://b.example,,", ["https://a.example", "https://b.example"], ["https://c.example"]),
        ("*, https://a.example", ["https://a.example"], ["https://b.example", "null"]),
    ],
)
def test_a_value_of_cors_origins_is_normalised(value: str, trusted: list[str], refused: list[str]) -> None:
    origins = OriginPolicy(Config.read(["--cors-origins", value], {}).cors_origins)
    assert [origin for origin in trusted if not origins.trusts(origin, LOCAL)] == []
    assert [origin for origin in refused if origins.trusts(origin, LOCAL)] == []


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        *((value, "any page can send it") for value in ("null", "NULL")),
        *(
            (value, "browsers send `null`")
            for value in ("file://", "file:///", "FILE:///srv/page.html", "data://x", "blob://x")
        ),
        *(
            (value, "must begin with http")
            for value in ("d.example", "localhost:5173", "//d.example", "https:/d.example")
        ),
        *(
            (value, "must begin with http")
            for value in ("ws://d.example", "wss://d.example", "ftp://d.example", "https://")
        ),
        *(
            (value, "more than a host")
            for value in ("https://d.example/page", "https://d.example?x", "https://d.example#x")
        ),
        *((value, "more than a host") for value in ("https://me@d.example", "https://a.example https://b.example")),
        *(
            (value, "a port")
            for value in ("https://d.example:0", "https://d.example:65536", "https://d.example:123456789")
        ),
        *(
            (value, "is not a host")
            for value in ("https://d.example:x", "http://::1:5173", "http://[::1", "http://[::g]")
        ),
        *(
            (value, "no name")
            for value in ("https://d..example", "https://.example", "https://:80", f"https://{'a' * 64}")
        ),
        *((value, "has a *") for value in ("https://*", "https://*:*", "https://*example.com", "https://a.*.com")),
        *(
            (value, "has a *")
            for value in ("https://*.*.example.com", "https://**.example.com", "https://d.example:8*")
        ),
        *(
            (value, "would allow all")
            for value in ("https://*.com", "https://*.COM:*", "https://*.2.3.4", "https://*.[::1]")
        ),
        ("https://💩.example", "write it as browsers send it, xn--"),
        ("capacitor://", "must begin with http"),
        ("capacitor://localhost/page", "a scheme and a host"),
        ("capacitor://*", "a scheme and a host"),
    ],
)
def test_a_value_of_cors_origins_that_could_never_match_stops_the_start(value: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.read(["--cors-origins", f"https://good.example,{value}"], {})
    assert str(caught.value).startswith(f"--cors-origins: {value!r} is not an origin ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
