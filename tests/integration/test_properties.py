"""Properties of everything that can be sent, with generated examples.

A valid update is read back to the last digit. No bytes on any transport cause a status of 500, a logged warning or a
service that stops: after each example a connection that was opened before all of them saves an update. A malformed
Socket.IO packet (a frame that begins with `4`) does not harm even its own connection.

Each property runs over a fixed set of examples; the `slow` run is longer and draws new ones.
"""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, configuration, given, settings
from hypothesis import strategies as st
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError

from tests.support.http_client import Connection, HttpClient, request_bytes
from tests.support.raw_clients import PATH, SEPARATOR, SocketClient, open_websocket
from tests.support.service import SNAPSHOTS
from tests.support.shared_service import SharedService, shared_service
from tests.support.strategies import ValidUpdate, valid_updates

# The connection pool uses `random` in a thread of its own, which hypothesis reports as use by a strategy.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

GOOD = b'{"onchain":{"rlb":1,"usdt":2},"onsite":{"rlb":3,"usd":4}}'
LONG = 15  # the factor of the examples of the slow run
ANSWER_S_MAX = 3.0


class ServiceUnderAttack:
    """A service, a connection that must stay usable, a watcher, and connections for malformed data."""

    def __init__(self, shared: SharedService) -> None:
        self.shared = shared
        self.bad_socket: WebSocketClientConnection | None = None  # kept for all examples until the server closes it
        self.bad_polling: PollingSession | None = None
        self.probes = count(10**12)

    async def open(self) -> None:
        self.good = await Connection.open(self.shared.service.port)
        self.watcher = await SocketClient.connect(self.shared.service.url)

    async def close(self) -> None:
        await self.watcher.close()
        await self.good.close()
        if self.bad_socket is not None:
            drop(self.bad_socket)
        if self.bad_polling is not None:
            self.bad_polling.http.close()

    async def check_alive(self) -> None:
        """Check that the service saves and has logged nothing."""
        reply = await self.good.ask("POST", SNAPSHOTS, GOOD)
        assert reply.status == 201, reply
        noise, self.shared.noise.records = self.shared.noise.records, []
        assert not noise


@pytest.fixture(scope="module")
def attacked(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceUnderAttack]:
    configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))  # otherwise it writes into the tree
    with shared_service(postgres, template, connect_ms_max=500, shutdown_ms_max=500) as shared:
        one = ServiceUnderAttack(shared)
        shared.run(one.open())
        yield one
        shared.run(one.close())
    configuration.set_hypothesis_home_dir(None)


def holds(
    examples: st.SearchStrategy[Any], how_many: int
) -> Callable[[Callable[[ServiceUnderAttack, Any], Awaitable[None]]], Any]:
    """Make a test out of a check of one example."""

    def decorate(check: Callable[[ServiceUnderAttack, Any], Awaitable[None]]) -> Any:
        lengths = [pytest.param(1, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.slow)]

        @pytest.mark.parametrize("times", lengths)
        def test(attacked: ServiceUnderAttack, times: int) -> None:
            @settings(
                max_examples=how_many * times, deadline=None, database=None, derandomize=times == 1,
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(examples)
            def each(example: Any) -> None:
                attacked.shared.noise.records.clear()  # records of an example that failed
                attacked.shared.run(check(attacked, example))

            each()

        test.__name__ = test.__qualname__ = check.__name__
        test.__doc__ = check.__doc__
        return test

    return decorate


def exact(text: str) -> Any:
    """Decode JSON with every number as a Decimal."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def check_read(snapshot: dict[str, Any], update: ValidUpdate) -> None:
    """Check the snapshot that one reader received of an update."""
    assert snapshot["onchain"] == update.onchain
    assert snapshot["onsite"] == update.onsite
    moment = datetime.fromisoformat(snapshot.get("ts") or snapshot["timestamp"])
    assert moment == (update.ts or moment)


@holds(valid_updates(), 80)
async def test_any_valid_update_comes_back_to_the_last_digit(attacked: ServiceUnderAttack, update: ValidUpdate) -> None:
    id_ = str(uuid.uuid4())
    saved = await attacked.good.ask(
        "POST", SNAPSHOTS, update.text.replace("<id>", id_).replace("<ID>", id_.upper()).encode()
    )
    assert saved.status == 201, (update.text, saved)
    answer = exact(saved.raw.decode())["data"]
    assert answer["id"] == id_ or not update.has_id
    check_read(answer, update)

    event = ""
    while answer["id"] not in event:  # other properties have stored snapshots
        event = str(await attacked.watcher.next_frame()).removeprefix('42["balance:snapshot",')[:-1]
    check_read(exact(event), update)
    assert exact(event)["pid"] == update.pid

    ts = datetime.fromisoformat(answer["timestamp"])
    found = await attacked.good.ask("GET", saved.headers["Location"])
    assert found.raw.decode() == f'{{"success":true,"data":{event}}}', "the event and the row are equal"
    micros = (ts - datetime(1, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    behind = quote(f"{micros}_{int(exact(event)['seq']) + 1}")
    page = await attacked.good.ask("GET", f"{SNAPSHOTS}?limit=1&cursor={behind}")
    assert page.raw.decode().startswith(f'{{"success":true,"data":[{event}],'), "the event and the list are equal"

    (row,) = attacked.shared.rows(
        "SELECT ts, pid, onchain::text, onsite::text FROM balance_snapshot WHERE id = %s", (uuid.UUID(answer["id"]),)
    )
    assert (row["ts"], row["pid"]) == (ts, update.pid)
    assert (exact(row["onchain"]), exact(row["onsite"])) == (update.onchain, update.onsite)


PATHS = ["/", SNAPSHOTS, SNAPSHOTS + "/", SNAPSHOTS + "/019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51", PATH, PATH + "/"]
QUERIES = [
    "limit=",
    "offset=",
    "cursor=",
    "from=",
    "to=",
    "pid=",
    "EIO=4&transport=polling&sid=",
    "EIO=",
    "transport=",
    "j=",
]
HEADERS = [
    "Content-Type",
    "Origin",
    "Accept",
    "Cookie",
    "X-Forwarded-For",
    "Content-Encoding",
    "Range",
    "Host",
    "Expect",
]
VALUES = [
    "application/json", "application/json; charset=", "multipart/form-data; boundary=x", "multipart/form-data",
    "application/x-www-form-urlencoded", "gzip", "identity", "http://localhost", "http://[", "null", "a=b; c",
    "bytes=0-1", "100-continue", "websocket", "127.0.0.1:3000", "\xff", "",
]  # fmt: skip
junk_text = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20)
bodies = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda at, more: GOOD[:at] + more + GOOD[at:], st.integers(0, len(GOOD)), st.binary(max_size=5)),
    st.builds(lambda body, at: body[:at], st.just(GOOD), st.integers(0, len(GOOD))),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw a complete request with any content."""
    method = draw(
        st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE"])
        | st.from_regex("[A-Z]{1,9}", fullmatch=True)
    )
    escaped = st.binary(max_size=12).map(quote)
    target = draw(st.sampled_from(PATHS)) + draw(st.just("") | escaped | junk_text)
    queries = draw(
        st.lists(st.tuples(st.sampled_from(QUERIES), escaped | junk_text | st.integers().map(str)), max_size=3)
    )
    target += "?" * bool(queries) + "&".join(name + value for name, value in queries)
    headers = draw(st.dictionaries(st.sampled_from(HEADERS), st.sampled_from(VALUES) | junk_text, max_size=3))
    return request_bytes(method, target, draw(st.none() | bodies), Connection="close", **headers)


async def exchange(attacked: ServiceUnderAttack, data: bytes, whole: bool) -> bytes:
    """Send bytes on a connection of its own; return everything that the server sends until it closes it."""
    one = await Connection.open(attacked.shared.service.port)
    try:
        await one.send(data)
        if not whole:
            one.end_sending()
        return await one.read_rest()
    except ConnectionError:  # the server has closed the connection
        return b""
    finally:
        await one.close()


@holds(requests() | bodies.map(lambda body: request_bytes("POST", SNAPSHOTS, body, Connection="close")), 160)
async def test_no_request_fails_the_service(attacked: ServiceUnderAttack, data: bytes) -> None:
    output = await exchange(attacked, data, whole=True)
    status = int(output.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").split()[1])
    assert 200 <= status < 500, output
    await attacked.check_alive()


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Draw valid bytes with some removed, inserted or changed."""
    data = draw(whole)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        data = data[:start] + draw(st.binary(max_size=8)) + data[end:]
    return data


WHOLE = [
    request_bytes("POST", SNAPSHOTS, GOOD),
    request_bytes("POST", SNAPSHOTS, Content_Type="application/json", Transfer_Encoding="chunked")
    + b"39\r\n%b\r\n0\r\n\r\n" % GOOD,
    request_bytes("GET", SNAPSHOTS + "?limit=1"),
    request_bytes("GET", PATH + "/?EIO=4&transport=polling"),
    request_bytes(
        "GET", PATH + "/?EIO=4&transport=websocket", Upgrade="websocket", Connection="Upgrade",
        Sec_WebSocket_Version="13", Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAA==",
    ) + b"\x81\x82\x00\x00\x00\x0040\x82\x81\x00\x00\x00\x00x",
]  # fmt: skip


@holds(st.binary(max_size=300) | damaged(st.sampled_from(WHOLE)), 130)
async def test_no_bytes_on_a_connection_fail_the_service(attacked: ServiceUnderAttack, data: bytes) -> None:
    output = await exchange(attacked, data, whole=False)
    assert b"HTTP/1.1 5" not in output
    await attacked.check_alive()


FRAMES = [
    f'42["balance:update",{GOOD.decode()}]', f'4217["balance:update",{GOOD.decode()}]',
    '42["balance:update"]', '42["balance:update",1,2]', '42["balance:update",null]',
    '42["ping"]', '421["ping",{}]', '42["connect"]', '42["disconnect"]', '42["message"]',
    '42/admin,["ping"]', '42/admin,7["balance:update",{}]', "40/admin,", "41/admin,",
    "40", "40{}", '40{"token":1}', "43[]", "431[]", '44{"message":"x"}',
    '451-["balance:update",{"_placeholder":true,"num":0}]', "461-[]", "47", "48x",
    "4", "42", "42[", "42[]", "42[1]", "42{}", "42null", "421" * 50, "4" + "9" * 120, "42" + "9" * 120 + "[]",
    "42" + "[" * 300 + "]" * 300, '42["\\ud800"]', "42[1e99999999999999999999]",
]  # fmt: skip
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
damaged_frames = damaged(st.sampled_from([frame.encode() for frame in FRAMES])).map(
    lambda data: data.decode(errors="replace")
)
packets = st.sampled_from(FRAMES) | any_text.map("4".__add__) | damaged_frames.map(lambda frame: "4" + frame[1:])
frames = st.lists(packets, min_size=1, max_size=5)
wild_frames = st.lists(
    any_text
    | packets
    | damaged_frames
    | st.binary(max_size=30)
    | st.sampled_from(["1", "2", "2probe", "3", "5", "6", ""]),
    min_size=1,
    max_size=5,
)


NOT_JOINED = '44{"message":"not connected"}'


def leaves(frame: str | bytes) -> bool:
    """Return whether a frame may end the connection to the main namespace: one that begins like DISCONNECT."""
    return isinstance(frame, str) and frame.startswith("41")


def drop(one: WebSocketClientConnection) -> None:
    """Close a connection at once; a close handshake could take longer than the event loop runs."""
    if one.protocol is not None:
        one.protocol.stream.close()
    one.close()


async def joined(attacked: ServiceUnderAttack) -> WebSocketClientConnection:
    """Return the connection for bad frames: that of the last example, or a new one if it was closed."""
    if attacked.bad_socket is None:
        attacked.bad_socket = await open_websocket(attacked.shared.service.url)
        await attacked.bad_socket.write_message("40")
    return attacked.bad_socket


async def probe(attacked: ServiceUnderAttack, one: WebSocketClientConnection) -> None:
    """Save an update over this connection and wait for its acknowledgement."""
    head = f"43{next(attacked.probes)}["
    await one.write_message(f'42{head[2:]}"balance:update",{GOOD.decode()}]')
    while not str(message := await one.read_message()).startswith(head):
        assert message is not None, "the connection was closed"
        if message == "2":
            await one.write_message("3")
    assert json.loads(str(message)[len(head) - 1 :])[0]["success"] is True, message


@holds(frames, 130)
async def test_no_socket_io_packet_harms_its_own_connection(attacked: ServiceUnderAttack, sent: list[str]) -> None:
    one = await joined(attacked)
    for frame in sent:
        await one.write_message(frame)
    if any(map(leaves, sent)):
        drop(one)
        attacked.bad_socket = None
    else:
        try:
            await probe(attacked, one)
        except BaseException:
            drop(one)
            attacked.bad_socket = None
            raise
    await attacked.check_alive()


@holds(st.tuples(st.booleans(), wild_frames), 100)
async def test_after_any_frames_the_connection_works_or_is_closed(
    attacked: ServiceUnderAttack, example: tuple[bool, list[str | bytes]]
) -> None:
    """It is never left open without an answer, and the service works in either case."""
    joins_first, sent = example
    one = await open_websocket(attacked.shared.service.url)
    head = f"43{next(attacked.probes)}["
    last = f'42{head[2:]}"balance:update",{GOOD.decode()}]'
    try:
        for frame in ["40", *sent, last] if joins_first else [*sent, "40", last]:
            await one.write_message(frame, binary=isinstance(frame, bytes))
        while message := await asyncio.wait_for(one.read_message(), ANSWER_S_MAX):
            if str(message).startswith(head) or (message == NOT_JOINED and any(map(leaves, sent))):
                break
    except WebSocketClosedError:
        pass
    finally:
        drop(one)
    await attacked.check_alive()


class PollingSession:
    """A connected polling session for which the test writes each request."""

    def __init__(self, url: str) -> None:
        self.http = HttpClient()
        self.url = f"{url}{PATH}/?EIO=4&transport=polling"

    async def open(self) -> None:
        opened = await self.http.fetch(self.url)
        self.url += f"&sid={json.loads(opened.raw[1:])['sid']}"
        assert (await self.post(b"40")) == 200

    async def post(self, body: bytes) -> int:
        return (await self.http.fetch(self.url, "POST", body)).status

    async def probe(self, number: int) -> None:
        """Save an update and poll for its acknowledgement."""
        assert await self.post(f'42{number}["balance:update",{GOOD.decode()}]'.encode()) == 200
        while True:
            polled = await self.http.fetch(self.url)
            assert polled.status == 200, polled.raw
            for frame in polled.raw.decode().split(SEPARATOR):
                if frame.startswith(f"43{number}["):
                    assert json.loads(frame[len(f"43{number}") :])[0]["success"] is True, frame
                    return
                if frame == "2":
                    await self.post(b"3")


@st.composite
def polling_bodies(draw: st.DrawFn) -> bytes:
    parts = [
        frame.encode() if isinstance(frame, str) else b"b" + base64.b64encode(frame) for frame in draw(wild_frames)
    ]
    return draw(st.sampled_from([SEPARATOR.encode(), b""])).join(parts)


@holds(frames.map(lambda sent: SEPARATOR.join(sent).encode()) | polling_bodies() | st.binary(max_size=100), 100)
async def test_no_polling_request_fails_the_service_and_a_refused_one_ends_its_session(
    attacked: ServiceUnderAttack, body: bytes
) -> None:
    if attacked.bad_polling is None:
        attacked.bad_polling = PollingSession(attacked.shared.service.url)
        await attacked.bad_polling.open()
    status = await attacked.bad_polling.post(body)
    packets = body.split(SEPARATOR.encode())
    if status == 400:
        assert (await attacked.bad_polling.http.fetch(attacked.bad_polling.url)).status == 400
        attacked.bad_polling.http.close()
        attacked.bad_polling = None
    elif any(packet.startswith((b"1", b"41")) for packet in packets):  # CLOSE, DISCONNECT
        attacked.bad_polling.http.close()
        attacked.bad_polling = None
    else:
        assert status in (200, 413)
        try:
            await attacked.bad_polling.probe(next(attacked.probes))
        except BaseException:
            attacked.bad_polling.http.close()
            attacked.bad_polling = None
            raise
    await attacked.check_alive()
