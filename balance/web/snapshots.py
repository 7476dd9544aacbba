"""REST handlers: lists of snapshots, single snapshots, and requests that no route serves (docs/spec.md, API Endpoints).

Saving is in `save`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream, StreamClosedError
from tornado.web import HTTPError

import protocol
from balance.aio.limiter import LimitExceeded
from balance.auth import Operation
from balance.service import Page, Service
from balance.web.base import JsonHandler
from balance.web.compression import accepts_gzip, compress_large
from balance.web.cors import misdirected
from balance.web.query import read_query

INTEGER_PARAMETERS = frozenset(("limit", "offset", "pid"))  # of schemas/list_query.json; the others are text


class RestHandler(JsonHandler):
    """A route of REST."""

    def initialize(self, *, service: Service, **common: Any) -> None:  # type: ignore[override]  # Tornado passes the arguments of the route
        super().initialize(**common)
        self.service = service
        self.limiter = service.read_limiter

    async def on_get(self, *path: str) -> None:
        with self.read_slot():
            await self.finish_in_time(await self.respond(*path))

    @contextmanager
    def read_slot(self) -> Iterator[None]:
        """Hold a slot of the limiter within the block. Raises Busy."""
        try:
            with self.limiter.slot(self.context.client):
                yield
        except LimitExceeded as error:
            raise protocol.Busy(str(error)) from error

    async def finish_in_time(self, written: asyncio.Future[None]) -> None:
        """Wait until the operating system has accepted a response; close the connection if that takes too long."""
        try:
            if not written.done():
                await asyncio.wait_for(written, self.service.read_s_max)
        except (TimeoutError, StreamClosedError):  # a page may be large, and its client may not read
            self.stream.close()

    @property
    def stream(self) -> IOStream:
        """The stream of the connection."""
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        return connection.stream

    @property
    def accepts_gzip(self) -> bool:
        """Whether the client accepts a compressed body."""
        return accepts_gzip(self.request.headers.get("Accept-Encoding", ""))

    def write_encoded(self, body: bytes, is_compressed: bool) -> asyncio.Future[None]:
        """Finish with JSON that may be compressed; the future is done when the operating system has accepted it."""
        self._headers["Content-Type"] = "application/json"
        self._headers["Vary"] = "Origin, Accept-Encoding"
        if is_compressed:
            self._headers["Content-Encoding"] = "gzip"
        return self.finish(body)

    async def respond(self, *path: str) -> asyncio.Future[None]:
        """Start the response to GET and HEAD; the future is done when the operating system has accepted all of it."""
        return self.write_json(await self.read(*path))

    async def read(self, *path: str) -> dict[str, Any]:
        """Return the body of the response to GET and HEAD."""
        raise NotImplementedError


def encode_page(page: Page) -> tuple[bytes, bool]:
    """Encode a page as the body of a response (schemas/list_reply.json); False: it is not compressed."""
    pagination = {
        "limit": page.limit,
        "offset": page.offset,
        "total": page.total,
        "hasMore": page.next is not None,
        "next": page.next,
    }
    return protocol.encode({"success": True, "data": page.data, "pagination": pagination}), False


def encode_page_for_gzip(page: Page) -> tuple[bytes, bool]:
    """Encode a page for a client that accepts gzip; return the body and whether it is compressed, as a large one is."""
    return compress_large(encode_page(page)[0])


class SnapshotsHandler(RestHandler):
    """`/api/balance/snapshot`: list snapshots. `save.SaveRouter` answers POST before a request gets here."""

    operation = Operation.READ
    methods = ("GET", "HEAD", "POST", "OPTIONS")

    async def respond(self, *_path: str) -> asyncio.Future[None]:
        encode = encode_page_for_gzip if self.accepts_gzip else encode_page
        return self.write_encoded(*await self.service.list(read_query(self.request, INTEGER_PARAMETERS), encode))


class SnapshotHandler(RestHandler):
    """`/api/balance/snapshot/{id}`: read one snapshot."""

    operation = Operation.READ

    async def read(self, *path: str) -> dict[str, Any]:
        snapshot = await self.service.find(path[0])
        return {"success": True, "data": snapshot.to_wire()}


class ServerHandler(RestHandler):
    """`OPTIONS *`: whether the server is there (RFC 9110, section 9.3.7)."""

    operation = None
    methods = ("OPTIONS",)


class NotFoundHandler(RestHandler):
    """Every other address."""

    def check_request(self) -> None:
        self.check_page_origin()
        raise protocol.NotFound("there is nothing at this address", self.request.path[:100])


class MisdirectedHandler(RestHandler):
    """Every address, for a host of another server (RFC 9110, section 15.5.20)."""

    def check_request(self) -> None:
        raise HTTPError(protocol.MisdirectedRequest.status)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer every request alike, also one with a method that Tornado does not know."""
        error = misdirected(self.request.host)
        super().write_error(error.status, exc_info=(type(error), error, None))
