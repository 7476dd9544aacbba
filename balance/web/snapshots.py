"""REST handlers: lists of snapshots, single snapshots, and requests that no route serves (docs/spec.md, API Endpoints).

Saving is in `save`.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError

import protocol
from balance.aio.limiter import LimitExceeded
from balance.aio.loop_budget import LoopBudget
from balance.auth import Operation
from balance.service import Page, Service
from balance.web.base import JsonHandler
from balance.web.compression import GZIP_BYTES_MIN, accepts_gzip, compress
from balance.web.cors import OriginPolicy, misdirected

INTEGER_PARAMETERS = frozenset(("limit", "offset", "pid"))  # of schemas/list_query.json; the others are text
INTEGER = re.compile(r"-?[0-9]{1,30}")


class RestHandler(JsonHandler):
    """A route of REST."""

    def initialize(self, *, service: Service, origins: OriginPolicy, budget: LoopBudget, body_bytes_max: int) -> None:
        self.service = service
        self.budget = budget
        self.limiter = service.read_limiter
        self.origins = origins
        self.body_bytes_max = body_bytes_max

    async def on_get(self, *path: str) -> None:
        try:
            with self.limiter.slot(str(self.request.remote_ip)):
                await self._respond_in_time(*path)
        except LimitExceeded as error:
            raise protocol.Busy(str(error)) from error

    async def _respond_in_time(self, *path: str) -> None:
        written = await self.respond(*path)
        try:
            if not written.done():
                await asyncio.wait_for(written, self.service.read_s_max)
        except (TimeoutError, StreamClosedError):  # a page may be large, and its client may not read
            connection = self.request.connection
            assert isinstance(connection, HTTP1Connection)
            connection.stream.close()

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
    body, _ = encode_page(page)
    return (body, False) if len(body) < GZIP_BYTES_MIN else (compress(body), True)


class SnapshotsHandler(RestHandler):
    """`/api/balance/snapshot`: list snapshots. `save.SaveRouter` answers POST before a request gets here."""

    operation = Operation.READ
    methods = ("GET", "HEAD", "POST", "OPTIONS")

    async def respond(self, *_path: str) -> asyncio.Future[None]:
        encode = encode_page_for_gzip if accepts_gzip(self.request.headers.get("Accept-Encoding", "")) else encode_page
        body, is_compressed = await self.service.list(self._read_query(), encode)
        self._headers["Content-Type"] = "application/json"
        self._headers["Vary"] = "Origin, Accept-Encoding"
        if is_compressed:
            self._headers["Content-Encoding"] = "gzip"
        return self.finish(body)

    def _read_query(self) -> dict[str, Any]:
        """Decode the query string: integers as int. Raises InvalidPayload for a name that is given twice."""
        query: dict[str, Any] = {}
        for name, values in self.request.query_arguments.items():
            if len(values) > 1:
                raise protocol.InvalidPayload("is given more than once", name)
            try:
                text = values[0].decode()
            except UnicodeDecodeError as error:
                raise protocol.InvalidPayload("is not valid UTF-8", name) from error
            if name not in INTEGER_PARAMETERS and " " in text and "+" in self.request.query:
                raise protocol.InvalidPayload("holds a space, which a + in a query means: write + as %2B", name)
            query[name] = int(text) if name in INTEGER_PARAMETERS and INTEGER.fullmatch(text) else text
        return query


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

    async def dispatch(self, *path: str) -> None:
        self.check_page_origin()
        raise protocol.NotFound("there is nothing at this address", self.request.path[:100])

    get = head = post = put = patch = delete = options = dispatch


class MisdirectedHandler(RestHandler):
    """Every address, for a host of another server (RFC 9110, section 15.5.20)."""

    async def dispatch(self, *path: str) -> None:
        raise HTTPError(protocol.MisdirectedRequest.status)

    get = head = post = put = patch = delete = options = dispatch

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer every request alike, also one with a method that Tornado does not know."""
        error = misdirected(self.request.host)
        super().write_error(error.status, exc_info=(type(error), error, None))
