"""Clients that cost the service as much as they can: `python -m tests.support.hostile <port> <connections> <kind> …`.

All of them connect from 127.0.0.1. Each connection sends as fast as the service reads, and reads the answers, except
for the kind `unread`. Prints a line as soon as every connection has begun to send, and continues until it is killed.
"""

from __future__ import annotations

import asyncio
import gzip
import sys
from contextlib import suppress

from tests.support.raw_websocket import CONTINUATION, FINAL, PING, PONG, TEXT, frame, text_frame

PATH = "/api/socket.io/?EIO=4&transport="
SNAPSHOTS = "/api/balance/snapshot"
HOST = "Host: 127.0.0.1\r\n"
UPGRADE = (
    f"GET {PATH}websocket HTTP/1.1\r\n{HOST}Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def update(*assets: str) -> bytes:
    ledger = ",".join(('"rlb":1,"usdt":1', *assets))
    return f'{{"onchain":{{{ledger}}},"onsite":{{"rlb":1,"usd":1}}}}'.encode()


def event(payload: bytes) -> bytes:
    return b'42["balance:update",' + payload + b"]"


def post(target: str, body: bytes, *headers: str) -> bytes:
    head = [f"POST {target} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


JSON = "Content-Type: application/json"
BAD_NAMES = update(*[f'"a {n}":1' for n in range(330)])
TEXTS = update(*[f'"a{n}":"1"' for n in range(1_200)])
SPACES = f"Content-Type: application/json; charset={' ' * 2_000};"
HEAD = "".join(f"h{n}:v\r\n" for n in range(1_700))
PACKETS = {"packets": "4no packet", "pong packets": "3"}  # thousands of each in one polling request

# What one connection sends again and again on a WebSocket, after CONNECT.
FRAMES = {
    "bad names": text_frame(event(BAD_NAMES)) * 10,
    "texts": text_frame(event(TEXTS)) * 3,
    "pings": frame(FINAL | PING, b"x") * 1_000,
    "pongs": frame(FINAL | PONG, b"") * 4_000,
    "tiny frames": text_frame("4") * 1_000,
    "fragments": (frame(TEXT, b"4") + frame(CONTINUATION, b"") * 500 + frame(FINAL | CONTINUATION, b"")),
    "large frames": text_frame("4" + "x" * 900_000),
}
# What one connection sends again and again by HTTP.
REQUESTS = {
    "charset": post(SNAPSHOTS, b"{}", SPACES) * 5,
    "bad posts": post(SNAPSHOTS, BAD_NAMES, JSON) * 10,
    "heads": f"GET /nothing HTTP/1.1\r\n{HOST}{HEAD}\r\n".encode(),
    "documents": f"GET /api/openapi.json HTTP/1.1\r\n{HOST}\r\n".encode() * 20,
}
GZIPPED = gzip.compress(bytes(10_000_000))
MORE_REQUESTS = {
    "guesses": b"".join(
        f"GET {SNAPSHOTS} HTTP/1.1\r\n{HOST}Authorization: Bearer bal_writer_{n:022}_000000\r\n\r\n".encode()
        for n in range(50)
    ),
    "gzip bodies": post(SNAPSHOTS, GZIPPED, JSON, "Content-Encoding: gzip") * 5,
    "extensions": UPGRADE.replace("\r\n\r\n", f"\r\nSec-WebSocket-Extensions: {'permessage-deflate, ' * 700}\r\n\r\n")
    .replace("websocket HTTP", "polling HTTP")
    .encode(),
}


async def send_for_ever(writer: asyncio.StreamWriter, data: bytes, begun: asyncio.Event) -> None:
    while True:
        writer.write(data)
        await writer.drain()
        begun.set()


async def read_for_ever(reader: asyncio.StreamReader) -> None:
    while await reader.read(1_000_000):
        pass


async def send_and_read(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, begun: asyncio.Event
) -> None:
    reading = asyncio.ensure_future(read_for_ever(reader))
    try:
        await send_for_ever(writer, data, begun)
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        writer.transport.abort()


async def websocket(kind: str, port: int, begun: asyncio.Event) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(UPGRADE.encode() + text_frame("40"))
    await reader.readuntil(b'42["connected"')
    await send_and_read(reader, writer, FRAMES[kind], begun)


async def requests(kind: str, port: int, begun: asyncio.Event) -> None:
    await send_and_read(*await asyncio.open_connection("127.0.0.1", port), {**REQUESTS, **MORE_REQUESTS}[kind], begun)


async def packets(kind: str, port: int, begun: asyncio.Event) -> None:
    """Send polling requests of thousands of packets."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {PATH}polling HTTP/1.1\r\n{HOST}\r\n".encode())
    sid = (await reader.readuntil(b"}")).rpartition(b'"sid":"')[2].partition(b'"')[0].decode()
    target = f"{PATH}polling&sid={sid}"
    body = "\x1e".join([PACKETS[kind]] * 16_000).encode()
    polling = asyncio.ensure_future(poll(port, target))  # reads the answers; without that no more packets are accepted
    try:
        await send_and_read(reader, writer, post(target, b"40") + post(target, body), begun)
    finally:
        polling.cancel()


async def poll(port: int, target: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(OSError, asyncio.IncompleteReadError):
        while True:
            writer.write(f"GET {target} HTTP/1.1\r\n{HOST}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r")[0]))


async def unread(port: int, begun: asyncio.Event) -> None:
    """Request large pages and read none."""
    while True:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(f"GET {SNAPSHOTS}?limit=1000 HTTP/1.1\r\n{HOST}\r\n".encode())
        begun.set()
        await asyncio.sleep(6)
        writer.transport.abort()


async def slow_heads(port: int, begun: asyncio.Event) -> None:
    """Send fifty heads, a line now and then (Slowloris)."""
    writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(50)]
    for writer in writers:
        writer.write(f"GET {SNAPSHOTS} HTTP/1.1\r\n{HOST}".encode())
    begun.set()
    while True:
        for writer in writers:
            writer.write(b"X: y\r\n")
        await asyncio.sleep(0.1)


async def silent_sessions(port: int, begun: asyncio.Event) -> None:
    """Join fifty times, read nothing, and answer no ping; begin again when they are ended."""
    while True:
        joined = [await asyncio.open_connection("127.0.0.1", port, limit=1) for _ in range(50)]
        for _, writer in joined:
            writer.write(UPGRADE.encode() + text_frame("40"))
        begun.set()
        await asyncio.sleep(4)
        for _, writer in joined:
            writer.transport.abort()


async def handshakes(port: int, begun: asyncio.Event) -> None:
    """Join and leave, one session after the other."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(UPGRADE.encode() + text_frame("40"))
        begun.set()
        await reader.readuntil(b'42["connected"')
        writer.transport.abort()


async def connections(port: int, begun: asyncio.Event) -> None:
    """Open connections and close them."""
    while True:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        begun.set()
        writer.transport.abort()


BEHAVIOURS = {
    "unread": unread,
    "slow heads": slow_heads,
    "silent sessions": silent_sessions,
    "handshakes": handshakes,
    "connections": connections,
}
KINDS = [*FRAMES, *REQUESTS, *PACKETS, "unread"]
ATTACKS = [*KINDS, *MORE_REQUESTS, *(kind for kind in BEHAVIOURS if kind not in KINDS)]
"""Beside what costs most, the attacks of the threat model in SECURITY.md."""


async def attack(kind: str, port: int, begun: asyncio.Event) -> None:
    """Use one connection until it is closed."""
    if kind in FRAMES:
        await websocket(kind, port, begun)
    elif kind in PACKETS:
        await packets(kind, port, begun)
    elif kind in BEHAVIOURS:
        await BEHAVIOURS[kind](port, begun)
    else:
        await requests(kind, port, begun)


async def again(kind: str, port: int, begun: asyncio.Event) -> None:
    """Use one connection after another."""
    while True:
        with suppress(OSError, asyncio.IncompleteReadError):
            await attack(kind, port, begun)
        await asyncio.sleep(0.001)


async def main(port: int, connections: int, *kinds: str) -> None:
    begun = {(kind, number): asyncio.Event() for kind in kinds for number in range(connections)}
    tasks = [asyncio.ensure_future(again(kind, port, event)) for (kind, _), event in begun.items()]
    for event in begun.values():
        await event.wait()
    print("begun", flush=True)
    await asyncio.gather(*tasks)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
