"""HTTP for tests: `Connection` sends bytes as they are, `HttpClient` sends requests, and both give a `Reply`.

`Connection` is one TCP connection, kept open as long as the server keeps it. `HttpClient` is Tornado's client with
one connection for each request; `request` is a single request of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self
from weakref import WeakSet

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.tcpclient import TCPClient

import protocol

READ_S_MAX = 5.0
FETCH_S_MAX = 15.0  # long, since other processes use the machine too
REQUEST_S_MAX = 30.0
NO_BODY = (100, 101, 204, 304)


@dataclass(frozen=True)
class Reply:
    """An HTTP reply; `raw` is its body."""

    status: int
    headers: HTTPHeaders
    raw: bytes

    @cached_property
    def body(self) -> Any:
        """The JSON body, decoded exactly; None if the body is empty. Raises MalformedJson."""
        return protocol.loads(self.raw) if self.raw else None


class Connection:
    """One HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to a port of the loopback address."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**20))

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator[Self]:
        """Open a connection, and close it at the end of the block."""
        one = await cls.open(port)
        try:
            yield one
        finally:
            await one.close()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are. Raises OSError when the server has closed the connection."""
        self._writer.write(data)
        await asyncio.wait_for(self._writer.drain(), READ_S_MAX)

    async def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Reply:
        """Send one request and read its reply; in the names of headers `_` is written for `-`."""
        await self.send(request_bytes(method, target, body, **headers))
        return await self.read_reply(method)

    async def read_reply(self, method: str = "GET") -> Reply:
        """Read one reply. Raises EOFError (IncompleteReadError) when the server closes before its end."""
        async with asyncio.timeout(READ_S_MAX):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin1")
            line, _, lines = head.partition("\r\n")
            headers, status = HTTPHeaders.parse(lines), int(line.split()[1])
            size = 0 if method == "HEAD" or status in NO_BODY else int(headers["Content-Length"])
            return Reply(status, headers, await self._reader.readexactly(size))

    def end_sending(self) -> None:
        """Close the sending side of the connection."""
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def read_rest(self) -> bytes:
        """Read until the server closes the connection."""
        async with asyncio.timeout(READ_S_MAX):
            return await self._reader.read()

    async def close(self) -> None:
        """Close the connection; the server may have closed it before."""
        self._writer.close()
        with suppress(OSError):
            await asyncio.wait_for(self._writer.wait_closed(), READ_S_MAX)


def request_bytes(method: str, target: str, body: bytes | None = None, **headers: str) -> bytes:
    """Write one request; a body is JSON unless the headers name another type."""
    lines = {"Host": "127.0.0.1"}
    if body is not None:
        lines |= {"Content-Length": str(len(body)), "Content-Type": "application/json"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin1") + (body or b"")


class HttpClient:
    """HTTP requests, each on a connection of its own; `close` closes them at once, during a request too."""

    def __init__(self, headers: dict[str, str] | None = None, source_ip: str | None = None) -> None:
        self._headers = headers or {}
        self._client = AsyncHTTPClient(force_instance=True, max_clients=1000)
        assert isinstance(self._client, SimpleAsyncHTTPClient)
        self._tcp = self._client.tcp_client = _ListedStreams(source_ip)
        self._closed = False

    async def fetch(
        self,
        url: str,
        method: str = "GET",
        body: str | bytes | None = None,
        *,
        timeout: float = FETCH_S_MAX,
        **options: Any,
    ) -> Reply:
        """Send one request, with Tornado's options; return the reply, whatever its status.

        Raises HTTPClientError 599 when no reply comes in time, and after `close`.
        """
        if self._closed:  # the pong to a ping of the last poll may still come
            raise HTTPClientError(599, "this client is closed")
        options["headers"] = {**self._headers, **options.get("headers", {})}
        options.setdefault("allow_nonstandard_methods", True)
        request = HTTPRequest(url, method, body=body, request_timeout=timeout, follow_redirects=False, **options)
        response = await self._client.fetch(request, raise_error=False)
        return Reply(response.code, response.headers, response.body)

    def close(self) -> None:
        """Close every connection; a request in flight fails, and so does every later one."""
        self._closed = True
        for stream in self._tcp.streams:
            stream.close()
        self._client.close()


class _ListedStreams(TCPClient):
    """A TCP client that keeps a list of its connections."""

    def __init__(self, source_ip: str | None) -> None:
        super().__init__()
        self.streams: WeakSet[IOStream] = WeakSet()
        self._source_ip = source_ip

    async def connect(self, *args: Any, **options: Any) -> IOStream:
        options["source_ip"] = self._source_ip
        stream = await super().connect(*args, **options)
        self.streams.add(stream)
        return stream


async def request(
    url: str, method: str, path: str, body: Any = None, *, ca_certs: str | None = None, **headers: str
) -> Reply:
    """Send one request to the service at `url`; `body` is bytes, or a value to be written as JSON.

    With https, the certificate of the service must be in the file `ca_certs`.
    """
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        named.setdefault("Content-Type", "application/json")
        if not isinstance(body, bytes):
            body = protocol.dumps(body).encode()
    client = HttpClient(named)
    try:
        options = {"ca_certs": ca_certs, "decompress_response": False}
        return await client.fetch(url + path, method, body, timeout=REQUEST_S_MAX, **options)
    finally:
        client.close()
