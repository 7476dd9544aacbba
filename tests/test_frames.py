"""`FrameReader` makes of the bytes of a WebSocket what Tornado's own reader makes of them, however they arrive."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado.iostream import IOStream
from tornado.websocket import WebSocketProtocol13, _WebSocketParams

from balance.realtime.frames import READ_BYTES_MAX, TURN_FRAMES_MAX, FrameReader

MESSAGE_BYTES_MAX = 70_000
FINAL, TEXT, BINARY, CLOSE, PING, PONG = 0x80, 0x1, 0x2, 0x8, 0x9, 0xA


class Handler:
    """Notes what a WebSocket's reader tells its handler; lets it wait after every third message."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def on_message(self, message: str | bytes) -> asyncio.Future[None] | None:
        self.told.append(message)
        if len(self.told) % 3:
            return None
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(room.set_result, None)
        return room

    def on_ping(self, data: bytes) -> None:
        self.told.append(("ping", data))

    def on_pong(self, data: bytes) -> None:
        self.told.append(("pong", data))

    def on_ws_connection_close(self, code: int | None, reason: str | None) -> None:
        self.told.append(("closed", code, reason))


def frame(head: int, data: bytes, mask: bytes | None = b"\x01\x02\x03\x04") -> bytes:
    """Make a frame (RFC 6455, section 5.2); without a mask it is one that only a server may send."""
    flag = 0x80 if mask else 0
    if len(data) < 126:
        size = bytes([flag | len(data)])
    elif len(data) < 65_536:
        size = bytes([flag | 126]) + len(data).to_bytes(2, "big")
    else:
        size = bytes([flag | 127]) + len(data).to_bytes(8, "big")
    if mask:
        data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
    return bytes([head]) + size + (mask or b"") + data


payloads = st.one_of(
    st.text(max_size=30).map(str.encode),
    st.binary(max_size=8),
    st.sampled_from([b"", b"x" * 125, b"x" * 126, b"y" * 300]),
)
frames = st.one_of(
    payloads.map(lambda data: frame(FINAL | TEXT, data)),
    st.builds(
        frame,
        st.sampled_from([FINAL | TEXT] * 4 + [TEXT, FINAL, 0, FINAL | BINARY, FINAL | PING, FINAL | PONG, PING, 0xC1]),
        payloads,
        st.sampled_from([b"\0\0\0\0", b"\x01\x02\x03\x04", b"\xff\x80\x7f\x01", None]),
    ),
    st.sampled_from(
        [
            frame(FINAL | CLOSE, b""),
            frame(FINAL | CLOSE, b"\x03\xe8bye"),
            frame(FINAL | TEXT, b"z" * MESSAGE_BYTES_MAX, b"\0\0\0\0"),
            frame(FINAL | TEXT, b"z" * (MESSAGE_BYTES_MAX + 1), b"\0\0\0\0"),
            b"\x81\xff",  # cut off within its length
        ]
    ),
)


def frame_reader(*arguments: Any, on_write: Callable[[], None] = lambda: None) -> FrameReader:
    """A reader of whose own writes nobody needs to know."""
    return FrameReader(*arguments, on_write=on_write)


async def read(
    reader: Callable[[Any, bool, _WebSocketParams], WebSocketProtocol13], pieces: list[bytes]
) -> tuple[list[object], bytes]:
    """Let a WebSocket read what arrives in these pieces; return what its handler was told, and what it answered."""
    ours, theirs = socket.socketpair()
    with closing(theirs):
        theirs.setblocking(False)
        handler, stream, loop = Handler(), IOStream(ours), asyncio.get_running_loop()
        parameters = _WebSocketParams(max_message_size=MESSAGE_BYTES_MAX)
        websocket = reader(handler, False, parameters)
        websocket.stream = stream
        reading = asyncio.ensure_future(websocket._receive_frame_loop())
        for piece in pieces:
            if reading.done():
                break
            try:
                await loop.sock_sendall(theirs, piece)
            except OSError:
                break
            for _ in range(3):
                await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        if not reading.done():
            theirs.shutdown(socket.SHUT_WR)
        answered = b""
        try:
            while data := await asyncio.wait_for(loop.sock_recv(theirs, 65_536), 5):
                answered += data
        except ConnectionError:  # it was cut off with something unread
            pass
        await asyncio.wait_for(reading, 5)
        if websocket._waiting is not None:
            loop.remove_timeout(websocket._waiting)
        stream.close()
        return handler.told, answered


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes into pieces; a place counts from the end of the one before."""
    pieces = []
    for place in places:
        pieces.append(data[:place])
        data = data[place:]
    return [piece for piece in [*pieces, data] if piece]


@settings(max_examples=300, deadline=None)
@given(st.lists(frames, max_size=12), st.lists(st.integers(1, 200), max_size=12))
def test_it_reads_what_tornado_reads(sent: list[bytes], places: list[int]) -> None:
    pieces = cut(b"".join(sent), places)
    assert asyncio.run(read(frame_reader, pieces)) == asyncio.run(read(WebSocketProtocol13, pieces))


@pytest.mark.gen_test
async def test_of_many_that_come_at_once_each_is_read_and_others_have_their_turn() -> None:
    count = 10 * READ_BYTES_MAX // 100
    texts = [f"{number:094}" for number in range(count)]
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.ensure_future(others())
    told, _ = await read(frame_reader, [b"".join(frame(FINAL | TEXT, text.encode()) for text in texts)])
    other.cancel()
    await asyncio.wait([other])
    assert told[:-1] == texts
    assert turns > count / TURN_FRAMES_MAX


@pytest.mark.gen_test
async def test_nothing_is_held_while_nothing_comes() -> None:
    ours, theirs = socket.socketpair()
    websocket = frame_reader(Handler(), False, _WebSocketParams(max_message_size=MESSAGE_BYTES_MAX))
    websocket.stream = IOStream(ours)
    reading = asyncio.ensure_future(websocket._receive_frame_loop())
    theirs.sendall(frame(FINAL | TEXT, b"x" * 10_000))
    while not websocket.handler.told:  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert websocket._arrived == b""
    theirs.close()
    await reading
