"""Every spelling of an address reaches the same route: absolute, percent-encoded, with a slash at its end."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, RequestStartLine

from balance.web.request_target import normalise_target
from protocol.operations import ASYNCAPI, CONTRACT, DOCS, HEALTHZ, LIVEZ, OPENAPI, READYZ, VERSION_PATH
from tests.support.http_client import Connection, request_bytes
from tests.support.refusals import check_refused
from tests.support.service import SNAPSHOTS
from tests.support.shared_service import SharedService, shared_service

CURL = shutil.which("curl")
UPDATE = b'{"onchain":{"rlb":1,"usdt":2},"onsite":{"rlb":3,"usd":4}}'
ID = "019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51"
HANDSHAKE = "/api/socket.io/?EIO=4&transport=polling"
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    with shared_service(postgres, template) as one:
        one.ask("POST", SNAPSHOTS, UPDATE[:-1] + b',"id":"%s"}' % ID.encode())
        yield one


def normalise(target: str, method: str = "GET", version: str = "HTTP/1.1", host: str = "x") -> tuple[str, str]:
    headers = HTTPHeaders({"Host": host})
    return normalise_target(RequestStartLine(method, target, version), headers).path, headers["Host"]


ROUTES = [
    f"{SNAPSHOTS}?limit=1",
    f"{SNAPSHOTS}/{ID}",
    CONTRACT,
    f"{CONTRACT}pong.json",
    OPENAPI,
    ASYNCAPI,
    DOCS,
    f"{DOCS}/events",
    f"{DOCS}/docs.css",
    LIVEZ,
    READYZ,
    HEALTHZ,
    VERSION_PATH,
    HANDSHAKE,
    HANDSHAKE.replace("io/", "io"),
]


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_is_served_by_every_spelling_of_its_address(shared: SharedService, route: str) -> None:
    path, mark, query = route.partition("?")
    bare = path.removesuffix("/")
    plain = shared.ask("GET", route)
    assert plain.status == 200
    for spelling in (bare, f"{bare}/", bare.replace("a", "%61").replace(".", "%2E")):
        for target in (spelling, f"http://any.internal:80{spelling}", f"HTTP://[::1]{spelling}"):
            reply = shared.ask("GET", target + mark + query)
            assert reply.status == 200, target
            assert reply.headers["Content-Type"] == plain.headers["Content-Type"]
            if not path.startswith("/api/socket.io"):
                assert reply.raw == plain.raw, target
    assert shared.ask("OPTIONS", f"http://any.internal{bare}/").status == 204


@pytest.mark.parametrize(
    "target", [f"{SNAPSHOTS}/", "/api/balance/%73napshot", f"http://x{SNAPSHOTS}", f"http://x{SNAPSHOTS}/"]
)
def test_a_snapshot_is_saved_by_every_spelling_of_its_address(shared: SharedService, target: str) -> None:
    reply = shared.ask("POST", target, UPDATE)
    assert reply.status == 201
    assert reply.headers["Location"].startswith(f"{SNAPSHOTS}/")


@pytest.mark.parametrize("target", ["/api/socket.io", "/api/%73ocket.io/", "http://x.internal/api/socket.io/"])
def test_a_websocket_is_opened_by_every_spelling_of_its_address(shared: SharedService, target: str) -> None:
    async def scene() -> bytes:
        async with Connection.to(shared.service.port) as one:
            await one.send(request_bytes("GET", f"{target}?EIO=4&transport=websocket", **UPGRADE))
            return await one._reader.readuntil(b"\r\n")

    assert shared.run(scene()) == b"HTTP/1.1 101 Switching Protocols\r\n"


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
@pytest.mark.parametrize(
    "body", [(), ("-H", "Content-Type: application/json", "-d", UPDATE.decode())], ids=["get", "post"]
)
def test_curl_is_served_if_it_uses_the_server_as_a_proxy(shared: SharedService, body: tuple[str, ...]) -> None:
    async def scene() -> bytes:
        address = f"http://127.0.0.1:{shared.service.port}"
        words = ("-sS", "--max-time", "10", "-x", address, f"{address}{SNAPSHOTS}", *body)
        process = await asyncio.create_subprocess_exec(str(CURL), *words, stdout=subprocess.PIPE)
        return (await process.communicate())[0]

    assert shared.run(scene()).startswith(b'{"success":true')


def test_options_for_the_whole_server_are_answered(shared: SharedService) -> None:
    reply = shared.ask("OPTIONS", "*")
    assert (reply.status, reply.headers["Allow"], reply.raw) == (204, "OPTIONS", b"")


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("/api/balance%2Fsnapshot", "not_found"),  # an encoded slash is not a separator
        ("/api/balance/%2573napshot", "not_found"),  # two encodings: only one is decoded
        ("/api/balance/snapshot%", "not_found"),
        ("/api/balance/%7znapshot", "not_found"),
        ("/api/balance/./snapshot", "not_found"),
        (f"{SNAPSHOTS}//", "not_found"),
        (f"//{SNAPSHOTS}", "not_found"),
        ("/api/balance/snapshot%3Flimit=1", "not_found"),
        (f"{SNAPSHOTS}/%ff", "invalid_payload"),
        (f"{SNAPSHOTS}/a%2Fb/", "invalid_payload"),
        (f"{SNAPSHOTS}/%2e%2e", "invalid_payload"),
    ],
)
def test_a_different_address_stays_different(shared: SharedService, target: str, error: str) -> None:
    reply = shared.ask("GET", target)
    check_refused(reply, error, reply.body["error"])


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        ("/", "/", "x"),
        ("/a/", "/a", "x"),
        ("/a//", "/a/", "x"),
        ("/a?b=/?c=/", "/a?b=/?c=/", "x"),
        ("/%61%2D%5f%2a%2F?%61=%2F", "/a-_%2a%2F?%61=%2F", "x"),
        ("/%2561", "/%2561", "x"),
        ("http://host", "/", "host"),
        ("http://host?a", "/?a", "host"),
        ("http://host:80/a/?b", "/a?b", "host:80"),
        ("http://host/a://b", "/a://b", "host"),
    ],
)
def test_a_target_has_one_form(target: str, path: str, host: str) -> None:
    assert normalise(target) == (path, host)


@given(st.text("/%?a6F1~z.", max_size=12))
def test_the_one_form_is_reached_in_one_step(tail: str) -> None:
    path, _ = normalise("/" + tail)
    again, _ = normalise(path)
    assert "%61" not in path.partition("?")[0]
    assert path.startswith("/")
    assert again == path or path.partition("?")[0].endswith("/"), "one of several slashes at the end is removed"
