"""`FrameReader` reads what Tornado's own reader reads, however it arrives, and closes what breaks RFC 6455."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tornado.websocket import WebSocketProtocol13, _WebSocketParams

from balance.aio.loop_budget import LoopBudget
from balance.realtime.frames import FrameReader
from balance.web.request_stream import READ_BYTES_MAX, RequestStream
from tests.support.raw_websocket import BINARY, CLOSE, FINAL, MASK, PING, PONG, TEXT, frame
from tests.support.strategies import examples

MESSAGE_BYTES_MAX = 70_000


class Budget(LoopBudget):
    """Every turn is over after one frame."""

    def is_turn_over(self) -> bool:
        return True


class Handler:
    """Notes what a WebSocket's reader calls it with; lets it wait after every third message.

    It closes for a fault, as the service does, and its turn is over after each frame.
    """

    websocket: WebSocketProtocol13

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.budget = Budget()

    def write_frame(self, frame: bytes) -> asyncio.Future[None]:
        return self.websocket.stream.write(frame)

    def fail(self, code: int, reason: str) -> None:
        self.websocket.close(code, reason)

    def linger(self, connection: socket.socket) -> None:
        connection.close()

    def on_message(self, message: str | bytes) -> asyncio.Future[None] | None:
        self.calls.append(message)
        if len(self.calls) % 3:
            return None
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(room.set_result, None)
        return room

    def on_ping(self, data: bytes) -> None:
        self.calls.append(("ping", data))

    def on_pong(self, data: bytes) -> None:
        self.calls.append(("pong", data))

    def log_exception(self, *_: object) -> None:
        raise AssertionError("nothing here fails")

    def on_ws_connection_close(self, code: int | None, reason: str | None) -> None:
        self.calls.append(("closed", code, reason))


Frame = tuple[int, bytes, bytes | None]  # the arguments of `frame`
payloads = st.one_of(
    st.text(max_size=30).map(str.encode),
    st.binary(max_size=8),
    st.sampled_from([b"", b"x" * 125, b"x" * 126, b"y" * 300]),
)
HEADS = [TEXT, FINAL, 0, FINAL | BINARY, FINAL | PING, FINAL | PONG, PING, 0xC1, 0x83, 0x8B]
frames = st.one_of(
    st.tuples(st.just(FINAL | TEXT), st.text(max_size=30).map(str.encode), st.just(MASK)),
    st.tuples(
        st.sampled_from([FINAL | TEXT] * 4 + HEADS),
        payloads,
        st.sampled_from([b"\0\0\0\0", MASK, b"\xff\x80\x7f\x01"] * 3 + [None]),
    ),
    st.sampled_from(
        [
            (FINAL | CLOSE, b"", MASK),
            (FINAL | CLOSE, b"\x03\xe8bye", MASK),
            (FINAL | CLOSE, b"\x03", MASK),
            (FINAL | CLOSE, b"\x03\xedbye", MASK),
            (FINAL | CLOSE, b"\x03\xe8\xff", MASK),
            (FINAL | TEXT, b"z" * MESSAGE_BYTES_MAX, b"\0\0\0\0"),
            (FINAL | TEXT, b"z" * (MESSAGE_BYTES_MAX + 1), b"\0\0\0\0"),
        ]
    ),
)


CLOSE_FAULTS = {b"\x03": 1002, b"\x03\xedbye": 1002, b"\x03\xe8\xff": 1007}


def first_fault(sent: list[Frame]) -> tuple[int, int] | None:
    """Find the first frame that breaks RFC 6455: its index, and the close code that it must get."""
    message: tuple[int, bytes] | None = None  # of a message that has begun: its opcode, and what there is of it
    for index, (head, data, mask) in enumerate(sent):
        is_final, opcode = bool(head & FINAL), head & 0x0F
        is_control = opcode >= CLOSE
        code = None
        if head & 0x70 or opcode in (3, 11) or mask is None or (is_control and (len(data) > 125 or not is_final)):
            code = 1002
        elif opcode == CLOSE:
            return (index, CLOSE_FAULTS[data]) if data in CLOSE_FAULTS else None
        elif not is_control and (message is None) is (opcode == 0):
            code = 1002
        elif not is_control:
            kind, before = message or (opcode, b"")
            message = kind, before + data
            if len(message[1]) > MESSAGE_BYTES_MAX:
                code = 1009
            elif is_final:
                code = 1007 if kind == TEXT and not is_utf8(message[1]) else None
                message = None
        if code is not None:
            return index, code
    return None


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def check_close(answered: bytes, code: int) -> None:
    """Check that this is one close frame with the code and a reason."""
    assert answered[0] == FINAL | CLOSE
    assert answered[1] == len(answered) - 2
    assert int.from_bytes(answered[2:4], "big") == code
    assert " " in answered[4:].decode()


async def read(
    reader: Callable[[Any, bool, _WebSocketParams], WebSocketProtocol13], pieces: list[bytes]
) -> tuple[list[object], bytes]:
    """Let a WebSocket read what arrives in these pieces; return the calls of its handler, and its answer."""
    ours, theirs = socket.socketpair()
    with closing(theirs):
        theirs.setblocking(False)
        handler, stream, loop = Handler(), RequestStream(ours), asyncio.get_running_loop()
        parameters = _WebSocketParams(max_message_size=MESSAGE_BYTES_MAX)
        websocket = handler.websocket = reader(handler, False, parameters)
        websocket.stream = stream
        reading = asyncio.ensure_future(handler.budget.run("127.0.0.1", websocket._receive_frame_loop()))
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
        except ConnectionError:  # it was closed with something unread
            pass
        await asyncio.wait_for(reading, 5)
        if websocket._waiting is not None:
            loop.remove_timeout(websocket._waiting)
        stream.close()
        return handler.calls, answered


def cut(data: bytes, lengths: list[int]) -> list[bytes]:
    """Cut bytes into pieces of these lengths, and the rest."""
    pieces = []
    for length in lengths:
        pieces.append(data[:length])
        data = data[length:]
    return [piece for piece in [*pieces, data] if piece]


@settings(max_examples=examples(300))
@given(st.lists(frames, max_size=12), st.lists(st.integers(1, 200), max_size=12), st.booleans())
def test_it_reads_what_tornado_reads_and_closes_what_breaks_the_protocol(
    sent: list[Frame], lengths: list[int], is_truncated: bool
) -> None:
    fault = first_fault(sent)
    whole = [frame(*one) for one in sent]
    calls, answered = asyncio.run(read(FrameReader, cut(b"".join(whole) + b"\x89" * is_truncated, lengths)))
    good = whole if fault is None else whole[: fault[0]]
    calls_by_tornado, answered_by_tornado = asyncio.run(read(WebSocketProtocol13, cut(b"".join(good), lengths)))
    assert calls == calls_by_tornado
    if fault is None:
        assert answered == answered_by_tornado
    else:
        check_close(answered.removeprefix(answered_by_tornado), fault[1])


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
    calls, _ = await read(FrameReader, [b"".join(frame(FINAL | TEXT, text.encode()) for text in texts)])
    other.cancel()
    await asyncio.wait([other])
    assert calls[:-1] == texts
    assert turns >= count


async def test_nothing_is_held_while_nothing_comes() -> None:
    ours, theirs = socket.socketpair()
    handler = Handler()
    websocket = FrameReader(handler, False, _WebSocketParams(max_message_size=MESSAGE_BYTES_MAX))
    websocket.stream = RequestStream(ours)
    reading = asyncio.ensure_future(handler.budget.run("127.0.0.1", websocket._receive_frame_loop()))
    theirs.sendall(frame(FINAL | TEXT, b"x" * 10_000))
    while not handler.calls:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert websocket._arrived == b""
    theirs.close()
    await reading
