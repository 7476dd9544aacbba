"""Every response has the headers by which a browser protects its user, whatever it answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.httputil import HTTPHeaders

import protocol
from protocol.operations import ASYNCAPI, CONTRACT, DOCS, FEED, LATEST, OPENAPI, TICKET
from tests.support.http_client import HttpClient, Reply
from tests.support.payloads import UPDATE
from tests.support.proxies import make_certificate
from tests.support.raw_clients import open_websocket
from tests.support.service import SNAPSHOTS, MakeService, Service
from tests.support.shared_service import SharedService, shared_service
from tests.support.sse import StreamClient

BODY = protocol.dumps(UPDATE).encode()
POLLING = f"{protocol.SOCKET_PATH}/?EIO=4&transport=polling"
REQUESTS = [
    ("POST", SNAPSHOTS, BODY, 201),
    ("POST", SNAPSHOTS, b"{", 400),
    ("GET", SNAPSHOTS, None, 200),
    ("HEAD", LATEST, None, 200),
    ("GET", FEED, None, 200),
    ("GET", f"{SNAPSHOTS}/unknown", None, 400),
    ("PUT", SNAPSHOTS, b"", 405),
    ("OPTIONS", SNAPSHOTS, None, 204),
    ("POST", TICKET, b"", 200),
    ("GET", CONTRACT, None, 200),
    ("GET", f"{CONTRACT}types.d.ts", None, 200),
    ("GET", OPENAPI, None, 200),
    ("GET", ASYNCAPI, None, 200),
    ("GET", POLLING, None, 200),
    ("GET", f"{POLLING}&sid=x", None, 400),
    ("GET", "/nothing", None, 404),
    ("OPTIONS", "*", None, 204),
]
PAGES = [DOCS, f"{DOCS}/events", f"{DOCS}/docs.css", f"{DOCS}/swagger-ui-bundle.js"]


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    with shared_service(postgres, template) as one:
        yield one


def check_headers(headers: HTTPHeaders) -> None:
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Strict-Transport-Security" not in headers
    assert "Server" not in headers


@pytest.mark.parametrize(("method", "target", "body", "status"), REQUESTS)
def test_every_response_has_them(
    shared: SharedService, method: str, target: str, body: bytes | None, status: int
) -> None:
    reply = shared.ask(method, target, body)
    assert reply.status == status
    check_headers(reply.headers)


@pytest.mark.parametrize("data", [b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000])
def test_a_request_that_is_not_http_gets_them_too(shared: SharedService, data: bytes) -> None:
    check_headers(shared.exchange(data).headers)


@pytest.mark.parametrize("target", PAGES)
def test_a_page_may_load_what_is_its_own_and_nothing_else(shared: SharedService, target: str) -> None:
    headers = shared.ask("GET", target).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]


async def test_a_stream_and_a_websocket_have_them(service: Service) -> None:
    async with StreamClient.to(service.port) as stream:
        check_headers(stream.headers)
    connection = await open_websocket(service.url)
    check_headers(connection.headers)
    connection.close()


def test_a_browser_is_kept_on_https_only_if_it_came_by_https(postgres: str, template: str) -> None:
    def ask(one: SharedService, method: str, scheme: str) -> Reply:
        headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": scheme}
        return one.ask(method, SNAPSHOTS, BODY if method == "POST" else None, **headers)

    with shared_service(postgres, template, allow_anonymous=True, trusted_proxies=("127.0.0.1",)) as one:
        for method in ("GET", "POST"):
            assert ask(one, method, "https").headers["Strict-Transport-Security"] == "max-age=31536000"
            assert "Strict-Transport-Security" not in ask(one, method, "http").headers
    with shared_service(postgres, template) as one:
        for method in ("GET", "POST"):
            assert "Strict-Transport-Security" not in ask(one, method, "https").headers, "the proxy is not trusted"


@pytest.mark.parametrize(
    ("scheme", "proxies", "forwarded", "is_kept"),
    [
        ("https", (), None, True),
        ("http", (), None, False),
        ("https", ("127.0.0.1",), None, True),
        ("https", ("127.0.0.1",), "https", True),
        ("https", ("127.0.0.1",), "http", False),
        ("http", ("127.0.0.1",), "https", True),
        ("https", ("192.0.2.1",), None, False),
        ("https", ("192.0.2.1",), "https", False),
    ],
)
def test_with_a_public_url_a_browser_is_kept_on_its_scheme(
    postgres: str, template: str, scheme: str, proxies: tuple[str, ...], forwarded: str | None, is_kept: bool
) -> None:
    url = f"{scheme}://balance.example.com"
    headers = {"Host": "balance.example.com"} | ({"X-Forwarded-Proto": forwarded} if forwarded else {})
    with shared_service(postgres, template, public_url=url, trusted_proxies=proxies, allow_anonymous=True) as one:
        for method, target, body in (("GET", SNAPSHOTS, None), ("POST", SNAPSHOTS, BODY), ("GET", POLLING, None)):
            reply = one.ask(method, target, body, **headers)
            assert reply.status < 300
            assert ("Strict-Transport-Security" in reply.headers) == is_kept
        absolute = one.ask("GET", f"http://balance.example.com{SNAPSHOTS}", **headers)
        assert absolute.status == 200, "what the port itself speaks has not changed"
        unreadable = one.exchange(b"GET / HTTP/9.9\r\n\r\n")
        assert unreadable.status == 400


async def test_a_service_with_tls_keeps_browsers_on_it(make_service: MakeService, tmp_path: Path) -> None:
    file = str(make_certificate(tmp_path))
    service = await make_service(tls_cert=file, tls_key=file, public_url="http://localhost")
    client = HttpClient()
    for target in (SNAPSHOTS, POLLING, DOCS):
        reply = await client.fetch(service.url + target, ca_certs=file)
        assert reply.headers["Strict-Transport-Security"] == "max-age=31536000"
    client.close()
