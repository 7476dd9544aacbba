"""Whatever a client writes into a header, a query, a path, a frame or a field, it does not hold up the event loop."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import quote

from tests.support.raw_clients import PATH, Dropped, SocketClient
from tests.support.service import SNAPSHOTS, Service

STALL_S_MAX = 0.05  # of the processor's time
RUN_BYTES = 15_000  # of a head or a packet of 16 KiB
RUNS = [
    *" \t;,\"'09./=aA-:%&*\\+[{_",
    *(" ;", '";', ", ", " =", "1.", 'W/"', "a,", "a;", "q=0.", "; q=", 'a="', "1:", "::", "%20", '\\"', "a=b&", "é"),
]
HEADERS = {
    "Content-Type": ["", "application/json; charset=", "application/json;", 'application/json; charset="'],
    "Accept-Encoding": ["", "gzip;q="],
    "Cookie": ["", "a="],
    "Origin": ["", "http://", "http://a:"],
    "Host": ["", "a:"],
    "If-None-Match": ["", '"', 'W/"'],
    "Range": ["bytes="],
    "Content-Encoding": [""],
    "Content-Length": [""],
    "Transfer-Encoding": ["", "chunked,"],
    "Expect": [""],
    "Connection": ["", "Upgrade,"],
    "X-Forwarded-For": [""],
    "Access-Control-Request-Headers": [""],
}
UPGRADE = {
    "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip
WEBSOCKET_HEADERS = ["Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol", "Sec-WebSocket-Key", "Upgrade", "Connection"]
LIST_PARAMETERS = ["limit=", "offset=", "cursor=", "cursor=1_", "from=", "to=2025-11-07T00:00:00.", "pid=", "x"]
ENGINE_PARAMETERS = ["EIO=", "EIO=4&transport=", "EIO=4&transport=polling&sid=", "EIO=4&j=", ""]
FRAMES = [
    *("42", "42/", '42["balance:update",', '421["balance:update",', '42["', "40", "40/", "41/", "43", "431", "44"),
    *("45", "451-", "451-/", "461-", "4", "2", "3", "6", '42["ping",', '42/a,1["', "42/?"),
]
FIELDS = ["id", "ts", "pid", "onchain", "x"]


def run(text: str, size: int = RUN_BYTES) -> str:
    """Repeat a text up to a number of bytes."""
    return text * (size // len(text.encode()))


@asynccontextmanager
async def bounded(what: list[str]) -> AsyncIterator[None]:
    """Check that no turn of the event loop, in which clients and service run alike, takes long; `what` names it."""
    loop, longest = asyncio.get_running_loop(), (0.0, "")
    since = time.process_time()

    def tick() -> None:
        nonlocal since, longest, handle
        now = time.process_time()
        longest = max(longest, (now - since, what[-1]))
        since = now
        handle = loop.call_soon(tick)

    handle = loop.call_soon(tick)
    gc.disable()  # a collection takes longer than anything that is measured here, with what pytest holds
    try:
        yield
    finally:
        gc.enable()
        handle.cancel()
    assert longest[0] < STALL_S_MAX, f"{longest[1]}: {longest[0] * 1e3:.0f} ms"


async def ask(port: int, head: str, body: bytes = b"") -> bytes:
    """Send a request, and read until the service has answered or closed the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode("latin1", "replace") + b"\r\n" + body)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def heads() -> Iterator[tuple[str, str]]:
    """Yield what is long in a request, and the head without the empty line."""
    plain = {"Host": "a", "Content-Length": "0"}
    for name, begins in HEADERS.items():
        for begin in begins:
            for text in RUNS:
                for first in (f"POST {SNAPSHOTS}", "GET /api/docs"):
                    yield f"{name}: {begin}{text}", written(first, {**plain, name: begin + run(text) + ";"})
    for name in WEBSOCKET_HEADERS:
        for text in RUNS:
            request = f"GET {PATH}/?EIO=4&transport=websocket"
            yield f"{name}: {text}", written(request, {"Host": "a", **UPGRADE, name: run(text) + ";"})
    for path, begins in ((SNAPSHOTS, LIST_PARAMETERS), (f"{PATH}/", ENGINE_PARAMETERS)):
        for begin in begins:
            for text in RUNS:
                yield f"?{begin}{text}", written(f"GET {path}?{begin}{quote(run(text, 5_000), safe='&=;,/%')}", plain)
    for text in RUNS:
        yield f"/{text}", written(f"GET {SNAPSHOTS}/{quote(run(text, 5_000), safe='/%')}", plain)


def written(first: str, headers: dict[str, str]) -> str:
    return "\r\n".join([f"{first} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()], ""])


def updates() -> Iterator[tuple[str, str]]:
    """Yield what is long in an update, and the update."""
    for text in RUNS:
        for name in FIELDS:
            update = {"onchain": {"rlb": 1, "usdt": 1}, "onsite": {"rlb": 1, "usd": 1}, name: run(text)}
            yield f"{name} {text}", json.dumps(update, ensure_ascii=False)
        yield f"rlb {text}", json.dumps({"onchain": {"rlb": run(text)}}, ensure_ascii=False)
        yield f"name {text}", json.dumps({"onchain": {run(text): 1}}, ensure_ascii=False)
        yield f"no JSON {text}", run(text)
    for digits in (run("9"), "0." + run("9"), "1e" + run("9"), "-" + run("0"), run("1") + "e" + run("9", 1000)):
        ledger = f'{{"rlb":{digits},"usdt":1}}'
        yield f"digits {digits[:3]}", f'{{"onchain":{ledger},"onsite":{{"rlb":1,"usd":1}}}}'


async def test_a_charset_of_a_thousand_spaces_is_refused_at_once(service: Service) -> None:
    async with bounded(["spaces"]):
        for spaces in (1_000, 2_000, 15_000):
            head = written(f"POST {SNAPSHOTS}", {
                "Host": "a", "Content-Length": "2", "Content-Type": f"application/json; charset={' ' * spaces};"
            })  # fmt: skip
            assert (await ask(service.port, head, b"{}")).startswith(b"HTTP/1.1 415 ")


async def test_no_header_query_or_path_of_any_text_holds_up_the_others(service: Service) -> None:
    what = [""]
    async with bounded(what):
        for name, head in heads():
            what[0] = name
            await ask(service.port, head)


async def test_no_frame_and_no_field_of_an_update_of_any_text_holds_up_the_others(service: Service) -> None:
    what, client = [""], await SocketClient.connect(service.url)
    async with bounded(what):
        for name, update in updates():
            what[0] = name
            posted = await service.request("POST", SNAPSHOTS, update.encode())
            id_, answer = client.new_id()
            await client.send_raw(f'42{id_}["balance:update",{update}]')
            assert (await answer)[0]["success"] == posted.body["success"]
        for begin in FRAMES:
            for text in RUNS:
                what[0] = begin + text
                try:
                    await client.send_raw(begin + run(text))
                except Dropped:  # for the frame before it
                    client = await SocketClient.connect(service.url)
                    await client.send_raw(begin + run(text))
        await asyncio.sleep(0.1)
    await client.close()
