"""Pitfalls of connecting: T1, T3, T4, T15, T18, T19 and T21. A rejection is the same on both transports."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_client import HttpClient
from tests.support.node import node_modules, run_node
from tests.support.payloads import UPDATE
from tests.support.raw_clients import PATH, Dropped, PollingClient, Refused, SocketClient, open_websocket
from tests.support.refusals import check_error, refusal_of_websocket
from tests.support.stock_server import Stock, stock
from tests.support.waiting import until

EVIL = {"Origin": "http://evil.example"}
GOOD = {"Origin": "http://good.example"}
POLLING = "EIO=4&transport=polling"
WEBSOCKET = "EIO=4&transport=websocket"
TALK = Path(__file__).parent.parent / "js" / "ping.js"


async def status_of_both(url: str, headers: dict[str, str]) -> tuple[int, int]:
    """Return the status of a handshake by polling and of one by WebSocket."""
    http = HttpClient(headers)
    polling = (await http.fetch(f"{url}{PATH}/?{POLLING}")).status
    http.close()
    try:
        return polling, (await refusal_of_websocket(url, headers=headers))[0]
    except AssertionError:
        return polling, 101


# T1 ------------------------------------------------------------------------------------------------------

UNACCEPTABLE = {
    "old-version": ("EIO=3&transport=websocket", {}, 400),
    "unknown-session": (WEBSOCKET + "&sid=unknown", {}, 400),
    "unknown-transport": ("EIO=4&transport=pigeon", {}, 400),
    "foreign-origin": (WEBSOCKET, EVIL, 403),
}


@pytest.mark.parametrize(("query", "headers", "_"), UNACCEPTABLE.values(), ids=UNACCEPTABLE)
async def test_t1_stock_leaves_a_refused_websocket_open_and_hoards_what_it_sends(query, headers, _):
    async with stock() as server:
        connection = await open_websocket(server.url, query=query, headers=headers)
        for _ in range(100):
            await connection.write_message("x" * 10_000)
        await until(lambda: server.handlers[0].receive_queue.qsize() == 100)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await connection.read_message()
        connection.close()


@pytest.mark.parametrize(("query", "headers", "status"), UNACCEPTABLE.values(), ids=UNACCEPTABLE)
async def test_t1_a_refused_websocket_gets_an_http_status_and_the_error_body(make_service, query, headers, status):
    service = await make_service()
    received, body = await refusal_of_websocket(service.url, query=query, headers=headers)
    assert received == status
    check_error(body)


@pytest.mark.parametrize("query", ["EIO=3&transport=polling", POLLING + "&sid=unknown", "transport=polling", ""])
async def test_t1_a_refused_polling_request_gets_the_same_error_body(make_service, query):
    service = await make_service()
    http = HttpClient()
    response = await http.fetch(f"{service.url}{PATH}/?{query}")
    http.close()
    assert response.status == 400
    check_error(response.raw)


# T3 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "statuses"),
    [(["*"], (200, 403)), ([], (200, 403)), (lambda origin: True, (200, 500)), (None, (400, 101))],
    ids=["list-of-star", "empty-list", "callable", "none"],
)
async def test_t3_stock_judges_an_origin_differently_on_each_transport(allowed, statuses):
    async with stock(cors_allowed_origins=allowed) as server:
        assert await status_of_both(server.url, EVIL) == statuses


@pytest.mark.parametrize("cors_origins", [(), ("http://good.example",)], ids=["none-allowed", "another-allowed"])
@pytest.mark.parametrize(
    "headers",
    [
        EVIL,
        {"Origin": "null"},
        {"Origin": "http://["},
        {**EVIL, "Sec-Fetch-Site": "cross-site"},
        {**EVIL, "Sec-Fetch-Site": "same-origin"},
    ],
    ids=["foreign", "null", "malformed", "cross-site", "lying-fetch-metadata"],
)
async def test_t3_a_foreign_origin_is_refused_on_both_transports(make_service, cors_origins, headers):
    service = await make_service(cors_origins=cors_origins)
    assert await status_of_both(service.url, headers) == (403, 403)


@pytest.mark.parametrize(
    "headers",
    [{}, GOOD, {**GOOD, "Sec-Fetch-Site": "cross-site"}, "same"],
    ids=["no-origin", "allowed", "allowed-by-browser", "same-origin"],
)
async def test_t3_an_allowed_origin_passes_on_both_transports(make_service, headers):
    service = await make_service(cors_origins=("http://good.example",))
    if headers == "same":
        headers = {"Origin": service.url}
    assert await status_of_both(service.url, headers) == (200, 101)


async def test_t3_every_origin_passes_where_all_are_allowed(make_service):
    service = await make_service(cors_origins=("*",))
    assert await status_of_both(service.url, EVIL) == (200, 101)


async def test_t3_an_allowed_page_may_read_the_answer(make_service):
    service = await make_service(cors_origins=("http://good.example",))
    http = HttpClient(GOOD)
    response = await http.fetch(f"{service.url}{PATH}/?{POLLING}")
    http.close()
    assert response.headers["Access-Control-Allow-Origin"] == GOOD["Origin"]


# T4 ------------------------------------------------------------------------------------------------------


async def test_t4_stock_broadcasts_to_a_client_that_is_not_yet_connected():
    asked, may_answer = asyncio.Event(), asyncio.Event()

    def slow_connect(sio):
        @sio.on("connect")
        async def on_connect(sid, environ, auth=None):
            asked.set()
            await may_answer.wait()

    async with stock(slow_connect) as server:
        client = await SocketClient.open(server.url)
        await client.send_raw("40")
        await asked.wait()
        await server.sio.emit("balance:snapshot", UPDATE)
        assert await client.expect("balance:snapshot") == UPDATE
        may_answer.set()
        await client.take_connect()
        await client.close()


async def test_t4_stock_keeps_a_client_whose_connect_handler_failed():
    def failing_connect(sio):
        @sio.on("connect")
        async def on_connect(sid, environ, auth=None):
            raise RuntimeError("the database is away")

    async with stock(failing_connect) as server:
        client = await SocketClient.open(server.url)
        await client.send_raw("40")
        await client.expect_silence(0.1)
        await server.sio.emit("balance:snapshot", UPDATE)
        assert await client.expect("balance:snapshot") == UPDATE
        await client.close()


@pytest.mark.parametrize("connect", ["", '40{"surprise":1}'], ids=["not-connected", "refused"])
@pytest.mark.parametrize("kind", [SocketClient, PollingClient])
async def test_t4_a_client_that_is_not_connected_gets_no_broadcast(make_service, kind, connect):
    service = await make_service()
    outsider = await kind.open(service.url)
    if connect:
        await outsider.send_raw(connect)
        with pytest.raises(Refused):
            await outsider.take_connect()
    sender = await SocketClient.connect(service.url)
    await sender.call("balance:update", UPDATE)
    with suppress(Dropped):
        await outsider.expect_silence(0.1)
    await outsider.close()
    await sender.close()


# T15 -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def packages() -> Path:
    """The JavaScript packages, installed before the clock of a test runs."""
    return node_modules()


async def talk(url: str, package: str, transports: str) -> list[list[Any]]:
    """Let a JavaScript client connect and ping; return what it reports."""
    async with run_node(TALK, package, url, transports) as process:
        async with asyncio.timeout(10):
            output, errors = await process.communicate()
        assert not errors, errors.decode()
        return [json.loads(line) for line in output.splitlines()]


async def test_t15_stock_leaves_a_version_2_client_without_an_answer(packages):
    async with stock() as server, run_node(TALK, "socket.io-client-2", server.url, "websocket") as process:
        await until(lambda: bool(server.handlers and server.handlers[0].ws_connection), 10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await process.stdout.readline()


@pytest.mark.parametrize("transports", ["websocket", "polling", "polling,websocket"])
async def test_t15_a_version_2_client_gets_an_error(make_service, packages, transports):
    service = await make_service()
    ((what, message),) = await talk(service.url, "socket.io-client-2", transports)
    assert what == "connect_error"
    assert message


@pytest.mark.parametrize("package", ["socket.io-client-3", "socket.io-client"])
@pytest.mark.parametrize("transports", ["websocket", "polling", "polling,websocket"])
async def test_t15_ping_and_pong_are_events_like_any_other(make_service, packages, package, transports):
    service = await make_service()
    connect, connected, pong = await talk(service.url, package, transports)
    assert connect == ["connect"]
    assert connected[0] == "connected"
    assert connected[1]["message"] == "Connected to balance snapshot server"
    assert pong[0] == "pong"
    assert pong[1]["timestamp"].endswith("Z")


# T18 -----------------------------------------------------------------------------------------------------


async def test_t18_stock_runs_a_connect_handler_that_raises_type_error_twice():
    calls = []

    def failing_connect(sio):
        @sio.on("connect")
        async def on_connect(sid, environ, auth=None):
            calls.append(sid)
            raise TypeError("a mistake of ours")

    async with stock(failing_connect) as server:
        client = await SocketClient.open(server.url)
        await client.send_raw("40")
        await until(lambda: len(calls) == 2)
        await client.close()


@pytest.mark.parametrize(
    "auth", ["[]", '""', "false", " 0", " 1", '"token"', '["token"]', '{"surprise":1}', "NaN", "{"], ids=str
)
async def test_t18_a_connect_that_cannot_be_accepted_is_rejected_once(make_service, auth):
    # A TypeError in a connect handler would run it twice. There is no connect handler.
    service = await make_service()
    client = await SocketClient.open(service.url)
    await client.send_raw("40" + auth)
    with pytest.raises(Refused) as refused:
        await client.take_connect()
    assert isinstance(refused.value.payload["message"], str)
    check_error(refused.value.payload["data"])
    with suppress(Dropped):
        await client.expect_silence(0.1)
    await client.close()


@pytest.mark.parametrize("auth", ["", "null", "{}"], ids=["absent", "null", "empty"])
async def test_t18_a_connect_without_auth_is_accepted_once(make_service, auth):
    service = await make_service()
    client = await SocketClient.open(service.url)
    await client.send_raw("40" + auth)
    await client.take_connect()
    assert (await client.expect("connected"))["socketId"] == client.sid
    await client.expect_silence(0.1)
    await client.close()


@pytest.mark.parametrize(
    ("connect", "error"),
    [
        ("40/admin,", "namespace: there is none but /"),
        ("40", "namespace: this client is connected to it already"),
    ],
    ids=["unknown", "twice"],
)
async def test_a_namespace_that_cannot_be_joined_is_rejected_and_changes_nothing(make_service, connect, error):
    # The library would send a bare string, of which socket.io-client makes an error whose message is undefined.
    service = await make_service()
    client = await SocketClient.connect(service.url)
    await client.send_raw(connect)
    frame = str(await client.next_frame())
    assert frame.startswith("44")
    refusal = json.loads(frame[frame.index("{") :])
    assert refusal["message"] == error
    check_error(refusal["data"], "invalid_payload")
    assert (await client.call("balance:update", UPDATE))[0]["success"]
    await client.close()


# T19 -----------------------------------------------------------------------------------------------------


async def test_t19_stock_delivers_what_the_connect_handler_emits_before_the_connect_packet():
    def greeting_connect(sio):
        @sio.on("connect")
        async def on_connect(sid, environ, auth=None):
            await sio.emit("connected", {"socketId": sid}, to=sid)

    async with stock(greeting_connect) as server:
        client = await SocketClient.open(server.url)
        await client.send_raw("40")
        await client.expect("connected")
        await client.take_connect()
        await client.close()


@pytest.mark.parametrize("kind", [SocketClient, PollingClient])
async def test_t19_the_connect_packet_is_first_and_connected_second_even_amid_broadcasts(make_service, kind):
    service = await make_service()
    sender = await SocketClient.connect(service.url)
    answers = [await sender.start_call("balance:update", UPDATE) for _ in range(100)]
    # Each `connect` checks the order of the first two packets.
    watchers = await asyncio.gather(*(kind.connect(service.url) for _ in range(20)))
    await asyncio.gather(*answers)
    for watcher in watchers:
        assert watcher.connected["socketId"] == watcher.sid
        await watcher.close()
    await sender.close()


# T21 -----------------------------------------------------------------------------------------------------


async def session_from(server: Stock, source_ip: str, headers: dict[str, str]) -> dict[str, Any]:
    """Make a session by polling and return the environ that the stock server keeps of it."""
    http = HttpClient(headers, source_ip)
    assert (await http.fetch(f"{server.url}{PATH}/?{POLLING}")).status == 200
    http.close()
    (environ,) = server.sio.environ.values()
    return environ


async def test_t21_stock_believes_that_every_client_is_local_and_any_forwarded_header():
    async with stock() as server:
        forwarded = {
            "X-Forwarded-Proto": "gopher",
            "X-Forwarded-Host": "evil.example",
            "Origin": "gopher://evil.example",
        }
        environ = await session_from(server, "127.0.0.2", forwarded)
        assert environ["REMOTE_ADDR"] == "127.0.0.1"
        assert environ["tornado.handler"].request.remote_ip == "127.0.0.2"
        assert environ["wsgi.url_scheme"] == "gopher"


async def test_t21_a_forwarded_header_of_a_client_is_not_believed(make_service):
    # REMOTE_ADDR is read nowhere: the address is that of Tornado's request, and only logs and limits use it.
    service = await make_service()
    forwarded = {"X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil.example", **EVIL}
    assert await status_of_both(service.url, forwarded) == (403, 403)
