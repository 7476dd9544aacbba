"""The limits of each client, at and over their edges: saves, accepts, connections, handshakes, invalid tokens.

Time is a clock that the test sets. Each limit leaves the clients of other tokens and addresses undisturbed.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError

import protocol
from balance.aio.turn_limit import TurnLimit
from balance.auth import Role
from balance.rate_limit import BURST_S
from balance.refusals import HTTP
from balance.web import listener
from balance.web.connection_limit import ANSWERED_MAX
from protocol.operations import FEED, LATEST, OPENAPI, STREAM
from tests.support.access import add_token, bearer
from tests.support.clock import Clock
from tests.support.http_client import Connection, HttpClient, Reply
from tests.support.payloads import UPDATE
from tests.support.proxies import make_certificate
from tests.support.raw_clients import PollingClient, Refused, SocketClient
from tests.support.service import SNAPSHOTS, Database, MakeService, Service
from tests.support.sse import StreamClient
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("tokens_read_often")

SAVES = "2 updates a second are allowed for one token or address"
OTHER = "127.0.0.2"
BODY = protocol.dumps(UPDATE).encode()
KINDS = [SocketClient, PollingClient]


def check_limited(reply: Reply, error: str, wait_s: int = 1) -> None:
    """Check a refusal by HTTP: its body, and the headers that state the limit."""
    assert reply.status == 429, reply.body
    assert reply.body == {"success": False, "error": error, "code": "rate_limited"}
    assert reply.headers["Retry-After"] == str(wait_s)
    assert "RateLimit-Policy" in reply.headers
    assert ";r=0" in reply.headers["RateLimit"]


def limited(error: str, wait_s: int = 1, **more: Any) -> dict[str, Any]:
    """Return a refusal by Socket.IO."""
    return {"success": False, "error": error, "code": "rate_limited", "retryAfter": wait_s, **more}


async def ask(port: int, method: str, target: str, body: bytes | None = None, **headers: str) -> Reply:
    async with Connection.to(port) as one:
        return await one.ask(method, target, body, **headers)


async def save_from(service: Service, source_ip: str) -> int:
    """Save from another address; return the status."""
    client = HttpClient({"Content-Type": "application/json"}, source_ip)
    try:
        return (await client.fetch(service.url + SNAPSHOTS, "POST", BODY)).status
    finally:
        client.close()


# Saves


async def test_saves_of_an_address_are_limited_on_every_transport_together(make_service: MakeService) -> None:
    service = await make_service(saves_per_s_max=2)
    clock = service.app.rate_limits.saves.clock = Clock()
    watcher, poller = await SocketClient.connect(service.url), await PollingClient.connect(service.url)
    first = await ask(service.port, "POST", SNAPSHOTS, BODY)
    assert first.status == 201
    assert first.headers["RateLimit-Policy"] == '"saves";q=20;w=10'
    assert first.headers["RateLimit"] == '"saves";r=19;t=1'
    for client in [watcher, poller] * 9:
        assert (await client.call("balance:update", UPDATE))[0]["success"]
    last = await ask(service.port, "POST", SNAPSHOTS, BODY)
    assert last.status == 201, "the edge"
    assert last.headers["RateLimit"] == '"saves";r=0;t=10'
    check_limited(await ask(service.port, "POST", SNAPSHOTS, BODY), SAVES)
    for client in (watcher, poller):
        assert await client.call("balance:update", UPDATE) == [limited(SAVES)]
        update = {**UPDATE, "id": "019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51"}
        assert await client.call("balance:update", update) == [limited(SAVES, id=update["id"])]
        await client.send_raw('42["balance:update",1,2]')  # not by the fast path
        assert (await client.call("ping"))[0].keys() == {"timestamp"}, "only saves are limited"
    assert (await ask(service.port, "GET", SNAPSHOTS)).status == 200
    assert await save_from(service, OTHER) == 201
    clock.advance(0.5)
    assert (await watcher.call("balance:update", UPDATE))[0]["success"]
    check_limited(await ask(service.port, "POST", SNAPSHOTS, BODY), SAVES)
    await watcher.close()
    await poller.close()


async def test_saves_are_counted_by_token_and_not_by_its_address(make_service: MakeService) -> None:
    service = await make_service(saves_per_s_max=2)
    service.app.rate_limits.saves.clock = Clock()
    one, other = [await add_token(service, name=name) for name in ("one", "other")]
    client = await SocketClient.connect(service.url, {"token": one})
    for _ in range(10):
        assert (await client.call("balance:update", UPDATE))[0]["success"]
        assert (await ask(service.port, "POST", SNAPSHOTS, BODY, **bearer(one))).status == 201
    check_limited(await ask(service.port, "POST", SNAPSHOTS, BODY, **bearer(one)), SAVES)
    assert await client.call("balance:update", UPDATE) == [limited(SAVES)]
    assert (await ask(service.port, "POST", SNAPSHOTS, BODY, **bearer(other))).status == 201
    reader = await add_token(service, Role.READER)
    assert (await ask(service.port, "POST", SNAPSHOTS, BODY, **bearer(reader))).status == 403
    await client.close()


async def test_behind_a_trusted_proxy_saves_are_counted_by_the_real_address(make_service: MakeService) -> None:
    service = await make_service(saves_per_s_max=1, allow_anonymous=True, trusted_proxies=("127.0.0.1",))
    service.app.rate_limits.saves.clock = Clock()
    async with Connection.to(service.port) as proxy:
        for _ in range(BURST_S):
            for ip in ("2001:db8::1", "2001:db8::2"):  # of one network of 64 bits
                reply = await proxy.ask("POST", SNAPSHOTS, BODY, X_Forwarded_For=ip)
            other = await proxy.ask("POST", SNAPSHOTS, BODY, X_Forwarded_For="192.0.2.7")
            assert other.status == 201
        assert reply.status == 429
        assert (await proxy.ask("POST", SNAPSHOTS, BODY, X_Forwarded_For="192.0.2.7")).status == 429
        assert (await proxy.ask("POST", SNAPSHOTS, BODY, X_Forwarded_For="192.0.2.8")).status == 201


async def test_an_update_counts_whether_it_is_valid_or_not(make_service: MakeService) -> None:
    service = await make_service(saves_per_s_max=1)
    service.app.rate_limits.saves.clock = Clock()
    for _ in range(BURST_S):
        refused = await ask(service.port, "POST", SNAPSHOTS, b"{}")
        assert refused.status == 400
        assert "RateLimit" in refused.headers
    assert (await ask(service.port, "POST", SNAPSHOTS, BODY)).status == 429


async def test_without_the_setting_nothing_is_counted_or_stated(service: Service) -> None:
    replies = [await ask(service.port, "POST", SNAPSHOTS, BODY) for _ in range(30)]
    assert {reply.status for reply in replies} == {201}
    assert "RateLimit" not in replies[-1].headers
    assert len(service.app.rate_limits.saves) == 0


# Handshakes

HANDSHAKES = "1 handshakes a second are allowed for one address"


async def test_handshakes_of_an_address_are_limited_on_every_transport_together(make_service: MakeService) -> None:
    service = await make_service(handshakes_per_s_max=1)
    clock = service.app.rate_limits.handshakes.clock = Clock()
    clients = [await kind.connect(service.url) for kind in KINDS * 4]
    for _ in range(2):
        async with StreamClient.to(service.port) as stream:
            await stream.expect("connected")
    for kind in KINDS:
        with pytest.raises(HTTPClientError) as refused:
            await kind.connect(service.url)
        assert refused.value.response is not None
        assert refused.value.code == 429
        assert refused.value.response.headers["Retry-After"] == "1"
    stream = await StreamClient.open(service.port)
    assert stream.status == 200, "EventSource gives up for ever on any other status"
    (bye,) = await stream.read_to_end()
    assert bye.data == {"reason": "busy"}
    assert bye.retry is not None
    assert 1_000 <= bye.retry <= 3_000
    assert (await clients[0].call("balance:update", UPDATE))[0]["success"], "those that are connected stay"
    assert (await clients[1].call("balance:update", UPDATE))[0]["success"]
    clock.advance(1)
    clients.append(await SocketClient.connect(service.url))
    for client in clients:
        await client.close()
    await stream.close()


# Failed logins

LOGINS = "1 invalid tokens a second are allowed for one address"


@pytest.mark.parametrize("kind", KINDS)
async def test_tokens_that_are_not_valid_are_limited_and_valid_ones_are_not(
    make_service: MakeService, kind: type[SocketClient | PollingClient]
) -> None:
    service = await make_service(failed_logins_per_s_max=1)
    clock = service.app.rate_limits.failed_logins.clock = Clock()
    token = await add_token(service)
    for number in range(BURST_S - 3):
        assert (await ask(service.port, "GET", LATEST, **bearer(f"guess {number}"))).status == 401
    assert (await ask(service.port, "POST", SNAPSHOTS, BODY, **bearer("guess"))).status == 401
    assert (await ask(service.port, "GET", f"{STREAM}?ticket=guess")).status == 401
    with pytest.raises(Refused) as refused:
        await kind.connect(service.url, {"token": "guess"})
    assert refused.value.payload["data"]["code"] == "unauthorized"

    check_limited(await ask(service.port, "GET", LATEST, **bearer("guess")), LOGINS)
    check_limited(await ask(service.port, "POST", SNAPSHOTS, BODY, **bearer("guess")), LOGINS)
    with pytest.raises(Refused) as refused:
        await kind.connect(service.url, {"token": "guess"})
    assert refused.value.payload == {"message": LOGINS, "data": limited(LOGINS)}
    stream = await StreamClient.open(service.port, "?ticket=guess")
    assert [event.data for event in await stream.read_to_end()] == [{"reason": "busy"}]
    assert (await ask(service.port, "GET", LATEST)).status == 401, "a request without a credential does not count"
    assert (await ask(service.port, "GET", OPENAPI)).status == 200
    assert (await ask(service.port, "POST", SNAPSHOTS, BODY, **bearer(token))).status == 201
    client = await kind.connect(service.url, {"token": token})
    assert (await client.call("balance:update", UPDATE))[0]["success"]
    clock.advance(1)
    assert (await ask(service.port, "GET", LATEST, **bearer("guess"))).status == 401
    await client.close()
    await stream.close()


# Accepts


def refused_at_accept(service: Service) -> int:
    return service.app.service.refusals.answers[HTTP, "rate_limited"]


async def is_served(service: Service, source_ip: str | None = None) -> bool:
    """Return whether a new connection gets an answer, and not a reset."""
    client = HttpClient(source_ip=source_ip)
    try:
        return (await client.fetch(service.url + LATEST)).status == 200
    except OSError:
        return False
    finally:
        client.close()


@pytest.mark.expects_log("new connections of 127.0.0.1 are closed")
async def test_new_connections_of_an_address_are_limited_and_those_that_exist_are_not(
    make_service: MakeService,
) -> None:
    service = await make_service(accepts_per_s_max=1)
    clock = service.app.rate_limits.accepts.clock = Clock()
    client = await SocketClient.connect(service.url)
    async with Connection.to(service.port) as kept:
        for _ in range(BURST_S - 2):
            assert await is_served(service)
        for number in range(1, 4):
            assert not await is_served(service)
            assert refused_at_accept(service) == number
        for _ in range(2 * BURST_S):
            assert (await kept.ask("GET", LATEST)).status == 200, "a connection counts once, not its requests"
        assert (await client.call("balance:update", UPDATE))[0]["success"]
        assert await save_from(service, OTHER) == 201
        clock.advance(1)
        assert await is_served(service)
        assert not await is_served(service)
    await client.close()


async def shake_hands(service: Service) -> None:
    """Open a connection with TLS, and close it. Raises OSError."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", service.port, ssl=context)
    writer.close()
    await writer.wait_closed()


@pytest.mark.expects_log("new connections of 127.0.0.1 are closed")
async def test_a_connection_over_the_limit_gets_no_tls_handshake(
    make_service: MakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(make_certificate(tmp_path))
    service = await make_service(accepts_per_s_max=1, tls_cert=file, tls_key=file)
    service.app.rate_limits.accepts.clock = Clock()
    opened = []
    open_stream = service.app._http._open_stream
    monkeypatch.setattr(service.app._http, "_open_stream", lambda one: opened.append(one) or open_stream(one))
    for _ in range(BURST_S):
        await shake_hands(service)
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        await shake_hands(service)
    assert len(opened) == BURST_S
    assert refused_at_accept(service) == 1


@pytest.mark.expects_log("new connections of 127.0.0.2 are closed")
async def test_the_connections_of_a_trusted_proxy_are_not_limited(make_service: MakeService) -> None:
    service = await make_service(accepts_per_s_max=1, allow_anonymous=True, trusted_proxies=("127.0.0.1",))
    service.app.rate_limits.accepts.clock = Clock()
    for _ in range(3 * BURST_S):
        assert await is_served(service)
    for number in range(2 * BURST_S):
        assert await is_served(service, OTHER) == (number < BURST_S)
    assert len(service.app.rate_limits.accepts) == 1


@pytest.mark.expects_log("new connections of 127.0.0.1 are closed", "no new connection is over --accepts-per-s-max")
async def test_many_connections_over_the_limit_have_one_line_and_their_end_another(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("balance.web.logged_period.OVER_S", 0.5)
    service = await make_service(accepts_per_s_max=1)
    clock = service.app.rate_limits.accepts.clock = Clock()

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "balance.connections"]

    for begun in (1, 2):
        for number in range(BURST_S + 5):
            assert await is_served(service) == (number < BURST_S)
        assert len(lines()) == 2 * begun - 1
        await until(lambda: len(lines()) == 2 * begun)  # noqa: B023
        clock.advance(BURST_S)
    begins = (
        "new connections of 127.0.0.1 are closed: 1 new connections a second are allowed for one address "
        "(--accepts-per-s-max)"
    )
    assert lines()[::2] == [begins] * 2
    ends = r"no new connection is over --accepts-per-s-max any more, after \d\.\d s; 5 were closed"
    assert all(re.fullmatch(ends, line) for line in lines()[1::2])


# Connections

CONNECTIONS = "4 connections are allowed for one address"


async def test_a_connection_over_the_limit_is_answered_and_closed(make_service: MakeService) -> None:
    service = await make_service(connections_per_address_max=4)
    limit = service.app._http._connection_limit
    clients = [await SocketClient.connect(service.url), await SocketClient.connect(service.url)]
    async with StreamClient.to(service.port) as stream, Connection.to(service.port) as old:
        assert (await old.ask("GET", LATEST)).status == 200, "the edge"
        for method, target, body in (("GET", LATEST, None), ("POST", SNAPSHOTS, BODY), ("GET", OPENAPI, None)):
            async with Connection.to(service.port) as over:
                reply = await over.ask(method, target, body)
                check_limited(reply, CONNECTIONS)
                assert reply.headers["RateLimit-Policy"] == '"connections";q=4;qu="concurrent-requests"'
                assert reply.headers["Connection"] == "close"
                assert await over.read_rest() == b""
        async with StreamClient.to(service.port) as refused:
            assert [event.data for event in await refused.read_to_end()] == [{"reason": "busy"}]
        with pytest.raises(HTTPClientError) as failure:
            await SocketClient.connect(service.url)
        assert failure.value.code == 429
        assert (await old.ask("GET", LATEST)).status == 200, "one that was within the limit stays so"
        await stream.expect("connected")
        assert (await clients[0].call("balance:update", UPDATE))[0]["success"]
        assert await save_from(service, OTHER) == 201
        await clients.pop().close()
        await until(lambda: limit._counts.get("127.0.0.1") == 3)
        clients.append(await SocketClient.connect(service.url))
    for client in clients:
        await client.close()
    await until(lambda: not len(limit))


async def test_connections_far_over_the_limit_are_closed_at_once_and_silent_ones_soon(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await make_service(connections_per_address_max=4)
    limit = service.app._http._connection_limit
    held = [await Connection.open(service.port) for _ in range(4 + ANSWERED_MAX)]
    await until(lambda: limit._counts.get("127.0.0.1") == 4 + ANSWERED_MAX)
    async with Connection.to(service.port) as more:
        assert await more.read_rest() == b""
    assert refused_at_accept(service) == 1, "it got no answer, and is counted"
    assert await save_from(service, OTHER) == 201
    monkeypatch.setattr(listener, "REFUSED_HEAD_S_MAX", 0.0)
    await until(lambda: limit._counts.get("127.0.0.1") == 4)
    assert (await held[0].ask("GET", LATEST)).status == 200
    for one in held:
        await one.close()
    await until(lambda: not len(limit))


async def test_a_connection_of_a_proxy_counts_for_the_client_of_its_request(make_service: MakeService) -> None:
    service = await make_service(connections_per_address_max=1, allow_anonymous=True, trusted_proxies=("127.0.0.1",))
    limit = service.app._http._connection_limit
    real = {"X-Forwarded-For": "192.0.2.7"}
    async with Connection.to(service.port) as proxy, Connection.to(service.port) as second:
        assert (await proxy.ask("GET", LATEST, X_Forwarded_For="192.0.2.7")).status == 200
        await until(lambda: not len(limit))
        client = await SocketClient.connect(service.url, headers=real)
        assert limit._counts == {"192.0.2.7": 1}
        refused = await proxy.ask("GET", LATEST, X_Forwarded_For="192.0.2.7")
        check_limited(refused, "1 connections are allowed for one address")
        assert (await second.ask("GET", LATEST, X_Forwarded_For="192.0.2.8")).status == 200, "the proxy serves others"
        assert (await second.ask("POST", SNAPSHOTS, BODY, X_Forwarded_For="192.0.2.8")).status == 201
        await client.expect("balance:snapshot")
        await client.close()
        await until(lambda: not len(limit))
        async with StreamClient.to(service.port, X_Forwarded_For="192.0.2.7") as stream:
            await stream.expect("connected")
            over = await StreamClient.open(service.port, X_Forwarded_For="192.0.2.7")
            assert [event.data for event in await over.read_to_end()] == [{"reason": "busy"}]
            await over.close()
    await until(lambda: not len(limit))


# Turns of the event loop


async def test_clients_of_each_transport_take_the_turns_of_their_address(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquired, acquire = list[str](), TurnLimit.acquire
    monkeypatch.setattr(TurnLimit, "acquire", lambda self, ip: acquired.append(ip) or acquire(self, ip))
    service = await make_service(allow_anonymous=True, trusted_proxies=("127.0.0.1",))
    assert (await service.post(UPDATE)).status == 201
    feed = (await service.request("GET", FEED)).body["feed"]
    missed = {"epoch": feed["epoch"], "after": 0}

    async def take_turns(ip: str) -> None:
        real = {"X-Forwarded-For": ip}
        clients = [await kind.connect(service.url, missed, headers=real) for kind in KINDS]
        for client in clients:
            await client.expect("balance:snapshot")
            await client.close()
        async with StreamClient.to(service.port, "?after=0", **real) as stream:
            await stream.expect("connected")
            await stream.expect("balance:snapshot")
        at_head = f"{FEED}?after={feed['last']}&epoch={feed['epoch']}&wait=1"
        assert (await ask(service.port, "GET", at_head, **real)).body["data"] == []

    for ip in ("192.0.2.7", "192.0.2.8"):
        acquired.clear()
        await take_turns(ip)
        assert set(acquired) == {ip}
        assert len(acquired) >= 5, "three replays, and two kinds of polls"


# Problem details


@pytest.mark.parametrize(
    ("accept", "is_problem"),
    [
        ("application/problem+json", True),
        ("application/json, application/problem+json;q=0.9", True),
        ("APPLICATION/Problem+JSON", True),
        ("application/problem+json;q=0", False),
        ("application/problem+json; q=0.000", False),
        ("*/*", False),
        ("application/json", False),
        ("application/*", False),
        ("", False),
    ],
)
async def test_errors_are_problem_details_only_for_those_that_ask(
    service: Service, accept: str, is_problem: bool
) -> None:
    for method, target, body, status in (
        ("POST", SNAPSHOTS, b"{}", 400),
        ("GET", f"{SNAPSHOTS}?limit=0", None, 400),
        ("GET", "/nothing", None, 404),
        ("GET", f"{protocol.SOCKET_PATH}?EIO=3&transport=polling", None, 400),
    ):
        reply = await ask(service.port, method, target, body, Accept=accept)
        assert reply.status == status
        bare = {name: reply.body[name] for name in ("success", "error", "code")}
        if not is_problem:
            assert reply.headers["Content-Type"] == "application/json"
            assert reply.body == bare
            continue
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.body == {
            "type": f"https://balance-snapshot.example/v1/errors/{bare['code']}",
            "title": protocol.ERRORS[bare["code"]].message(),
            "status": status,
            "detail": bare["error"],
            **bare,
        }
        protocol.check("problem_details", reply.body)


async def test_a_position_that_is_not_good_has_its_fields_in_problem_details(service: Service) -> None:
    target = f"/api/balance/feed?after=5&epoch={service.app.feed.head.epoch}"  # type: ignore[union-attr]
    reply = await ask(service.port, "GET", target, Accept="application/problem+json")
    assert reply.status == 409
    assert reply.body["reason"] == "ahead"
    assert reply.body["head"] == 0


async def test_a_success_is_json_whatever_the_client_accepts(service: Service, database: Database) -> None:
    reply = await ask(service.port, "POST", SNAPSHOTS, BODY, Accept="application/problem+json")
    assert reply.status == 201
    assert reply.headers["Content-Type"] == "application/json"
    assert database.count() == 1
