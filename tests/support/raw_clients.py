"""Raw Socket.IO clients for tests: Engine.IO 4 and Socket.IO 5 frames, without a client library.

A *frame* is one Engine.IO packet as text: `42["ping"]` is packet type 4 (message) holding Socket.IO type 2
(event). `SocketClient` carries frames over a WebSocket, `PollingClient` over HTTP long polling; both answer the
server's heartbeat by themselves and return everything else in the order of arrival. Every wait is bounded.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import suppress
from typing import Any, Self

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.iostream import IOStream
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from protocol import dumps, loads
from tests.support.http_client import HttpClient, Reply

PATH = "/api/socket.io"
SEPARATOR = "\x1e"  # between the frames of one polling body
WAIT_S = 15.0  # long, since other processes use the machine too


class Dropped(Exception):
    """The connection ended during a wait; `code` is the close code, None if none was sent."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"the connection was closed with code {code}")
        self.code = code


class Refused(Exception):
    """The server answered CONNECT with CONNECT_ERROR, which has this payload."""

    def __init__(self, payload: Any) -> None:
        super().__init__(f"the connection was refused: {payload}")
        self.payload = payload


class _Client:
    """What both transports share: the handshake, events, acknowledgements and the frames not yet read."""

    def __init__(self, answer_pings: bool = True) -> None:
        self.answer_pings = answer_pings
        self.handshake: dict[str, Any] = {}  # the payload of the OPEN packet
        self.sid = ""  # the Socket.IO id, from the CONNECT packet
        self.connected: dict[str, Any] = {}  # the payload of the `connected` event
        self.closed: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._frames: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[list[Any]]] = {}
        self._last_id = -1

    @classmethod
    async def open(cls, base_url: str, **options: Any) -> Self:
        """Open an Engine.IO session and send nothing on it."""
        raise NotImplementedError

    @classmethod
    async def connect(cls, base_url: str, auth: Any = None, *, await_connected: bool = True, **options: Any) -> Self:
        """Connect to the main namespace. Raises HTTPClientError, or Refused on a CONNECT_ERROR.

        `options` are those of `open`. Unless `await_connected` is False, the next packet must be the event
        `connected`.
        """
        client = await cls.open(base_url, **options)
        try:
            await client.send_raw("40" if auth is None else "40" + dumps(auth))
            await client.take_connect()
            if await_connected:
                client.connected = await client.expect("connected")
        except BaseException:
            await client.close()
            raise
        return client

    async def take_connect(self) -> None:
        """Read the server's answer to CONNECT, which must be the next frame. Raises Refused on a CONNECT_ERROR."""
        frame = str(await self.next_frame())
        if frame.startswith("44"):
            raise Refused(loads(frame[2:]))
        assert frame.startswith("40"), f"expected a CONNECT packet, got {frame[:200]}"
        self.sid = loads(frame[2:])["sid"]

    async def send_raw(self, frame: str | bytes) -> None:
        """Send one frame unchanged; bytes are a binary attachment."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close the connection and leave nothing running. May be called twice."""
        raise NotImplementedError

    async def emit(self, event: str, *args: Any) -> None:
        """Send an event."""
        await self.send_raw("42" + dumps([event, *args]))

    async def start_call(self, event: str, *args: Any) -> asyncio.Future[list[Any]]:
        """Send an event with an acknowledgement id; the future gives the arguments of the acknowledgement."""
        id_, answer = self.new_id()
        await self.send_raw(f"42{id_}{dumps([event, *args])}")
        return answer

    async def call(self, event: str, *args: Any, timeout: float = WAIT_S) -> list[Any]:
        """Send an event and return the arguments of its acknowledgement."""
        answer = await self.start_call(event, *args)
        async with asyncio.timeout(timeout):
            return await answer

    def new_id(self) -> tuple[int, asyncio.Future[list[Any]]]:
        """Make an acknowledgement id for a frame that the test writes, and the future of its answer."""
        self._last_id += 1
        self._answers[self._last_id] = asyncio.get_running_loop().create_future()
        return self._last_id, self._answers[self._last_id]

    async def next_frame(self, timeout: float = WAIT_S) -> str | bytes:
        """Return the next frame that is not a heartbeat or an acknowledgement. Raises Dropped, TimeoutError."""
        try:
            async with asyncio.timeout(timeout):
                frame = await self._frames.get()
        except TimeoutError:
            raise TimeoutError(f"nothing came within {timeout} s") from None
        if frame is None:
            self._frames.put_nowait(None)
            raise Dropped(self.closed.result())
        return frame

    async def next_event(self, timeout: float = WAIT_S) -> tuple[str, Any]:
        """Return the next event and its payload, None if it has none."""
        frame = str(await self.next_frame(timeout))
        assert frame.startswith("42"), f"expected an event, got {frame[:200]}"
        event, *args = loads(frame[2:])
        assert len(args) <= 1, f"expected one payload, got {frame[:200]}"
        return event, args[0] if args else None

    async def expect(self, event: str, timeout: float = WAIT_S) -> Any:
        """Return the payload of the next event, which must be this one."""
        name, payload = await self.next_event(timeout)
        assert name == event, f"expected {event}, got {name}: {payload}"
        return payload

    async def await_closed(self, timeout: float = WAIT_S) -> int | None:
        """Wait for the end of the connection and return the close code."""
        async with asyncio.timeout(timeout):
            return await asyncio.shield(self.closed)

    def waiting(self) -> int:
        """Return how many frames have arrived and were not read; after the end of the connection, one more."""
        return self._frames.qsize()

    async def expect_silence(self, seconds: float) -> None:
        """Check that no frame comes within this time and that the connection stays open."""
        with suppress(TimeoutError):
            frame = await self.next_frame(seconds)
            raise AssertionError(f"expected silence, got {frame[:200]!r}")

    async def _receive(self, frame: str | bytes) -> None:
        if frame == "2":
            if self.answer_pings:
                await self.send_raw("3")
        elif isinstance(frame, str) and frame.startswith("43"):
            digits = frame[2 : frame.index("[")]
            answer = self._answers.pop(int(digits), None)
            if answer is None:
                self._frames.put_nowait(frame)  # not asked for: the next read of an event fails on it
            elif not answer.done():
                answer.set_result(loads(frame[2 + len(digits) :]))
        elif frame != "6":  # NOOP only ends a poll
            self._frames.put_nowait(frame)

    def _end(self, code: int | None) -> None:
        if self.closed.done():
            return
        self.closed.set_result(code)
        self._frames.put_nowait(None)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Dropped(code))
                answer.exception()  # marks it as retrieved, for a caller that no longer waits


class SocketClient(_Client):
    """A client over one WebSocket."""

    _connection: WebSocketClientConnection
    _stream: IOStream
    _reader: asyncio.Task[None]

    @classmethod
    async def open(
        cls,
        base_url: str,
        *,
        path: str = PATH,
        query: str = "EIO=4&transport=websocket",
        headers: dict[str, str] | None = None,
        answer_pings: bool = True,
    ) -> Self:
        """Open an Engine.IO session and send nothing on it. Raises HTTPClientError if it is refused."""
        client = cls(answer_pings)
        client._connection = await open_websocket(base_url, path=path, query=query, headers=headers)
        assert client._connection.protocol is not None
        client._stream = client._connection.protocol.stream
        client.resume_reading()
        try:
            frame = str(await client.next_frame())
            assert frame.startswith("0"), f"expected an OPEN packet, got {frame[:200]}"
            client.handshake = loads(frame[1:])
        except BaseException:
            await client.close()
            raise
        return client

    async def send_raw(self, frame: str | bytes) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                await self._connection.write_message(frame, binary=isinstance(frame, bytes))
        except WebSocketClosedError:
            raise Dropped(self._connection.close_code) from None

    async def stop_reading(self) -> None:
        """Read nothing more, so that the server's backlog grows."""
        self._reader.cancel()
        await asyncio.wait([self._reader])

    def resume_reading(self) -> None:
        """Read from now on."""
        self._reader = asyncio.create_task(self._read())

    async def close(self) -> None:
        if not self.closed.done() and not self._reader.done():
            self._connection.close()
            await asyncio.wait([self._reader], timeout=1)
        self.drop()
        self._reader.cancel()
        await asyncio.wait([self._reader])

    def drop(self) -> None:
        """Close the TCP connection without a close frame, as a client that loses its network."""
        self._stream.close()
        if self._connection.protocol is not None:
            self._connection.protocol.client_terminated = True  # so that Tornado's reader reads no more of its buffer
        while self._connection.read_queue.qsize():  # it may wait for space in this queue
            self._connection.read_queue.get_nowait()
        self._connection.close()  # for Tornado, whose client warns of connections left open
        self._end(None)

    async def _read(self) -> None:
        while (frame := await self._connection.read_message()) is not None:
            try:
                await self._receive(frame)
            except Dropped:
                break
        self._end(self._connection.close_code)
        self._connection.close()


class PollingClient(_Client):
    """A client over HTTP long polling: always one GET in flight, and one POST at a time."""

    def __init__(self, base_url: str, path: str, headers: dict[str, str] | None, answer_pings: bool) -> None:
        super().__init__(answer_pings)
        self.http = HttpClient(headers)
        self.url = f"{base_url}{path}/?EIO=4&transport=polling"
        self.polls = 0  # answered so far
        self._posting = asyncio.Lock()
        self._pong: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        base_url: str,
        *,
        path: str = PATH,
        headers: dict[str, str] | None = None,
        answer_pings: bool = True,
        poll: bool = True,
    ) -> Self:
        """Open an Engine.IO session and send nothing on it. Raises HTTPClientError if it is refused.

        With `poll` False the caller polls, by `poll` or `start_polling`.
        """
        client = cls(base_url, path, headers, answer_pings)
        try:
            reply = await client.http.fetch(client.url)
            _check_ok(reply)
        except BaseException:
            client.http.close()
            raise
        first, *more = reply.raw.decode().split(SEPARATOR)
        assert first.startswith("0"), f"expected an OPEN packet, got {first[:200]}"
        client.handshake = loads(first[1:])
        client.url += f"&sid={client.handshake['sid']}"
        for frame in more:
            await client._receive(frame)
        if poll:
            client.start_polling()
        return client

    def start_polling(self) -> None:
        """Keep one GET in flight from now on."""
        self._reader = asyncio.create_task(self._read())

    async def poll(self) -> None:
        """Send one GET and handle the frames of its reply. Raises HTTPClientError."""
        reply = await self.http.fetch(self.url, timeout=60)
        _check_ok(reply)
        self.polls += 1
        for frame in reply.raw.decode().split(SEPARATOR):
            if frame == "1":
                self._end(None)
            elif frame:
                await self._receive(frame)

    async def send_raw(self, frame: str | bytes) -> None:
        _check_ok(await self.post(frame))

    async def post(self, *frames: str | bytes, **options: Any) -> Reply:
        """Send frames in one request and return the reply, whatever its status."""
        text = [frame if isinstance(frame, str) else "b" + b64encode(frame).decode() for frame in frames]
        async with self._posting:
            return await self.http.fetch(self.url, "POST", SEPARATOR.join(text), **options)

    async def close(self) -> None:
        if not self.closed.done():
            with suppress(HTTPClientError, OSError):
                await self.post("1", timeout=1)
        self._end(None)
        self.http.close()
        if self._reader:
            # Its request fails by the close; after a cancellation Tornado would log an unretrieved failure.
            await asyncio.wait([self._reader], timeout=1)
        if self._pong:
            await asyncio.wait([self._pong], timeout=1)

    async def _receive(self, frame: str | bytes) -> None:
        if frame == "2" and self.answer_pings:  # sent by a task of its own, since a poll must not wait for it
            self._pong = asyncio.create_task(self._send_pong())
        else:
            await super()._receive(frame)

    async def _send_pong(self) -> None:
        with suppress(HTTPClientError, OSError):
            await self.send_raw("3")

    async def _read(self) -> None:
        with suppress(HTTPClientError, OSError):
            while not self.closed.done():
                await self.poll()
        self._end(None)


def _check_ok(reply: Reply) -> None:
    """Raise HTTPClientError unless the status is 200."""
    if reply.status != 200:
        raise HTTPClientError(reply.status, response=reply)  # type: ignore[arg-type]  # tests read its headers


async def open_websocket(
    base_url: str,
    *,
    path: str = PATH,
    query: str = "EIO=4&transport=websocket",
    headers: dict[str, str] | None = None,
    compression_options: dict[str, Any] | None = None,
) -> WebSocketClientConnection:
    """Open a WebSocket at the Socket.IO path; `.headers` are those of the reply. Raises HTTPClientError."""
    url = f"ws{base_url.removeprefix('http')}{path}/?{query}"
    request = HTTPRequest(url, headers=headers or {}, connect_timeout=WAIT_S, request_timeout=WAIT_S)
    return await websocket_connect(request, compression_options=compression_options)
