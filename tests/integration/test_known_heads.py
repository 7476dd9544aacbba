"""A head that was parsed before is obeyed as one that is parsed now (`web.request_head.KnownHeads`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tornado.httputil import HTTPHeaders

from balance.auth import Role
from balance.rate_limit import BURST_S
from balance.storage.token_store import revoke_token
from balance.web.request_head import KnownHeads
from tests.support.access import add_token, bearer, until
from tests.support.clock import Clock
from tests.support.http_client import Connection, Reply, request_bytes
from tests.support.malformed import UPDATE
from tests.support.service import SNAPSHOTS, Database, MakeService, Service
from tests.support.shared_service import SharedService, shared_service

REQUESTS = {
    "save": ("POST", SNAPSHOTS, UPDATE),
    "refused save": ("POST", SNAPSHOTS, b"{}"),
    "list": ("GET", SNAPSHOTS, None),
    "latest": ("GET", "/api/balance/latest", None),
    "head": ("HEAD", SNAPSHOTS, None),
    "preflight": ("OPTIONS", SNAPSHOTS, None),
    "unknown address": ("GET", "/nothing", None),
    "unknown method": ("PUT", SNAPSHOTS, UPDATE),
    "encoded address": ("GET", "/api/balance/sn%61pshot/", None),
}


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    with shared_service(postgres, template) as one:
        yield one


def known_heads(service: Service) -> KnownHeads:
    known: KnownHeads = service.app._http._known_heads
    return known


async def replies_to(port: int, data: bytes, method: str, count: int) -> list[Reply]:
    """Send the same bytes on one connection, and then on as many others, one at a time."""
    replies = []
    async with Connection.to(port) as one:
        for _ in range(count):
            await one.send(data)
            replies.append(await one.read_reply(method))
    for _ in range(count):
        async with Connection.to(port) as other:
            await other.send(data)
            replies.append(await other.read_reply(method))
    return replies


@pytest.mark.parametrize("name", REQUESTS)
def test_a_head_that_comes_again_is_obeyed_as_the_first_time(shared: SharedService, name: str) -> None:
    method, target, body = REQUESTS[name]
    data = request_bytes(method, target, body, Origin="http://127.0.0.1:1", Accept="application/json")
    head = data[: data.index(b"\r\n\r\n") + 4]
    assert known_heads(shared.service).get(head) is None
    replies = shared.run(replies_to(shared.service.port, data, method, 3))
    assert known_heads(shared.service).get(head) is not None
    varying = {"Date", "X-Request-Id", "Location"}
    seen = {(one.status, *((*line,) for line in one.headers.get_all() if line[0] not in varying)) for one in replies}
    assert len(seen) == 1
    assert len({one.headers["X-Request-Id"] for one in replies}) == len(replies)


@pytest.mark.parametrize("name", REQUESTS)
def test_no_request_changes_the_headers_that_others_share(shared: SharedService, name: str) -> None:
    method, target, body = REQUESTS[name]
    data = request_bytes(method, target, body, X_Real_Ip="192.0.2.1", X_Forwarded_For="192.0.2.2", Accept="*/*")
    shared.run(replies_to(shared.service.port, data, method, 2))
    head = data[: data.index(b"\r\n\r\n") + 4]
    known = known_heads(shared.service).get(head)
    assert known is not None
    assert [*known.headers.get_all()] == [*HTTPHeaders.parse(head.decode().partition("\r\n")[2]).get_all()]


async def test_the_address_that_a_proxy_names_is_read_from_a_known_head(make_service: MakeService) -> None:
    service = await make_service(allow_anonymous=True, trusted_proxies=("127.0.0.1",), saves_per_s_max=1)
    service.app.rate_limits.saves.clock = Clock()
    for forwarded in ("192.0.2.2", "192.0.2.3"):
        data = request_bytes("POST", SNAPSHOTS, UPDATE, X_Forwarded_For=forwarded, X_Real_Ip="192.0.2.1")
        replies = await replies_to(service.port, data, "POST", BURST_S)
        assert [one.status for one in replies] == [201] * BURST_S + [429] * BURST_S


async def test_a_known_head_ends_the_connection_each_time_if_it_asks_for_that(service: Service) -> None:
    data = request_bytes("POST", SNAPSHOTS, UPDATE, Connection="close")
    for _ in range(3):
        async with Connection.to(service.port) as one:
            await one.send(data)
            reply = await one.read_reply()
            assert (reply.status, reply.headers["Connection"]) == (201, "close")
            assert await one.read_rest() == b""


async def test_a_known_head_with_a_revoked_token_is_refused(service: Service, database: Database) -> None:
    token = await add_token(service, Role.WRITER)
    data = request_bytes("POST", SNAPSHOTS, UPDATE, **bearer(token))
    async with Connection.to(service.port) as one:
        await one.send(data)
        assert (await one.read_reply()).status == 201
        revoke_token(database.url, "writer")
        await until(lambda: not service.app.authenticator.is_current(service.app.authenticator._by_id["1"].caller))
        await one.send(data)
        assert (await one.read_reply()).status == 401
    assert database.count() == 1
