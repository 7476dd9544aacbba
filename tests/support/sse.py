"""Read streams of server-sent events as a browser does (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, Self

from tornado.httputil import HTTPHeaders

import protocol
from protocol.operations import STREAM
from tests.support.http_client import request_bytes

WAIT_S = 15.0  # long, since other processes use the machine too


class Event(NamedTuple):
    """One event, or a block without data; `id` and `retry` are those of the block itself, None if it has none."""

    name: str
    data: Any
    id: str | None = None
    retry: int | None = None


def read_events(stream: bytes) -> list[Event]:
    """Parse whole events; what follows the last blank line must be empty, so that no event is torn."""
    *blocks, rest = stream.decode().split("\n\n")
    assert rest == "", rest
    return [read_event(block) for block in blocks]


def read_event(block: str) -> Event:
    """Parse one event."""
    fields: dict[str, str] = {}
    for line in block.split("\n"):
        name, _, value = line.partition(": ")
        assert name in ("id", "event", "data", "retry"), line
        assert name not in fields, block
        fields[name] = value
    retry = fields.get("retry")
    return Event(
        fields["event"], protocol.loads(fields["data"]), fields.get("id"), None if retry is None else int(retry)
    )


class StreamClient:
    """One stream, read by a plain socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers = HTTPHeaders()
        self.events: list[Event] = []
        """Those that were read."""

    @classmethod
    async def open(
        cls, port: int, query: str = "", method: str = "GET", *, tls: ssl.SSLContext | None = None, **headers: str
    ) -> Self:
        """Request a stream, and read the head of the response; in the names of headers `_` is written for `-`.

        Raises EOFError and OSError when the connection ends before.
        """
        one = cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**20, ssl=tls))
        try:
            await one.send(request_bytes(method, STREAM + query, **headers))
            await one._read_head()
        except BaseException:
            await one.close()
            raise
        return one

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int, query: str = "", **headers: str) -> AsyncIterator[Self]:
        """Open a stream, which must be accepted, and close it at the end of the block."""
        one = await cls.open(port, query, **headers)
        try:
            assert one.status == 200, await one.read_body()
            yield one
        finally:
            await one.close()

    async def _read_head(self) -> None:
        async with asyncio.timeout(WAIT_S):
            line, _, lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin1").partition("\r\n")
        self.status, self.headers = int(line.split()[1]), HTTPHeaders.parse(lines)

    async def next(self, timeout: float = WAIT_S) -> Event:
        """Return the next event. Raises EOFError at the end of the stream."""
        async with asyncio.timeout(timeout):
            block = await self._reader.readuntil(b"\n\n")
        self.events.append(read_event(block.decode()[:-2]))
        return self.events[-1]

    async def expect(self, name: str, timeout: float = WAIT_S) -> Event:
        """Return the next event, which must have this name."""
        event = await self.next(timeout)
        assert event.name == name, event
        return event

    async def snapshots(self, count: int) -> list[int]:
        """Return the `seq` of the next snapshots; no other event may come between them."""
        return [(await self.expect("balance:snapshot")).data["seq"] for _ in range(count)]

    async def read_to_end(self) -> list[Event]:
        """Return all events until the server closes the connection."""
        return read_events(await self.read_body())

    async def read_body(self) -> bytes:
        """Read until the server closes the connection."""
        async with asyncio.timeout(WAIT_S):
            return await self._reader.read()

    def stop_reading(self) -> None:
        """Read nothing more from the socket, so that the server's backlog grows."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a socket

    def resume_reading(self) -> None:
        """Read from now on."""
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def send(self, data: bytes) -> None:
        """Send something after the request."""
        self._writer.write(data)
        await self._writer.drain()

    def drop(self) -> None:
        """Close the connection without a wait; a call of `next` raises EOFError."""
        self._writer.close()

    async def close(self) -> None:
        """Close the connection."""
        self.drop()
        with suppress(OSError):
            await self._writer.wait_closed()
