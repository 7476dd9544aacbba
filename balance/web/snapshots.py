"""The REST interface: decodes requests, calls the service, encodes answers and refusals (SEED.md, API Endpoints)."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError

import protocol
from balance.aio.turns import Turns
from balance.auth import Operation
from balance.service import Page, Service
from balance.web.base import Answers, misdirected
from balance.web.compression import GZIP_BYTES_MIN, compressed, takes_gzip
from balance.web.cors import Origins

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,30}")
NUMBERS = frozenset(("limit", "offset", "pid"))  # of schemas/list_query.json; the others are text


class RestHandler(Answers):
    """A route of the service."""

    def initialize(self, *, service: Service, origins: Origins, turns: Turns, body_bytes_max: int) -> None:
        self.service = service
        self.turns = turns
        self.places = service.reads
        self.origins = origins
        self.body_bytes_max = body_bytes_max

    async def on_get(self, *path: str) -> None:
        with self.places.take(str(self.request.remote_ip)):
            written = await self.respond(*path)
            try:
                if not written.done():
                    await asyncio.wait_for(written, self.service.read_s_max)
            except (TimeoutError, StreamClosedError):  # a page may be large, and its reader may not read
                connection = self.request.connection
                assert isinstance(connection, HTTP1Connection)
                connection.stream.close()

    async def respond(self, *path: str) -> asyncio.Future[None]:
        """Begin the answer to GET and HEAD; the future is done when the operating system has taken all of it."""
        return self.answer(await self.read(*path))

    async def read(self, *path: str) -> dict[str, Any]:
        """Give the body of the answer to GET and HEAD."""
        raise NotImplementedError


def write_plain(page: Page) -> tuple[bytes, bool]:
    """Write the answer that holds a page (schemas/list_reply.json); it is not compressed."""
    pagination = {
        "limit": page.limit,
        "offset": page.offset,
        "total": page.total,
        "hasMore": page.next is not None,
        "next": page.next,
    }
    return protocol.encode({"success": True, "data": page.data, "pagination": pagination}), False


def write_zipped(page: Page) -> tuple[bytes, bool]:
    """Write the answer that holds a page, compressed where it is large, and say whether it is."""
    body, _ = write_plain(page)
    return (body, False) if len(body) < GZIP_BYTES_MIN else (compressed(body), True)


class SnapshotsHandler(RestHandler):
    """`/api/balance/snapshot`: list many. A POST, by which one is saved, never comes here: `save` answers it."""

    operation = Operation.READ
    methods = ("GET", "HEAD", "POST", "OPTIONS")

    async def respond(self, *_path: str) -> asyncio.Future[None]:
        zips = takes_gzip(self.request.headers.get("Accept-Encoding", ""))
        body, is_zipped = await self.service.list(self._read_query(), write_zipped if zips else write_plain)
        self._headers["Content-Type"] = "application/json"
        self._headers["Vary"] = "Origin, Accept-Encoding"
        if is_zipped:
            self._headers["Content-Encoding"] = "gzip"
        return self.finish(body)

    def _read_query(self) -> dict[str, Any]:
        """Read the query string: numbers as numbers. Raises InvalidPayload for a name given twice."""
        query: dict[str, Any] = {}
        for name, values in self.request.query_arguments.items():
            if len(values) > 1:
                raise protocol.InvalidPayload("is given more than once", name)
            try:
                text = values[0].decode()
            except UnicodeDecodeError as error:
                raise protocol.InvalidPayload("is not valid UTF-8", name) from error
            if name not in NUMBERS and " " in text and "+" in self.request.query:
                raise protocol.InvalidPayload("holds a space, which a + in a query means: write + as %2B", name)
            query[name] = int(text) if name in NUMBERS and WHOLE_NUMBER.fullmatch(text) else text
        return query


class SnapshotHandler(RestHandler):
    """`/api/balance/snapshot/{id}`: read one."""

    operation = Operation.READ

    async def read(self, *path: str) -> dict[str, Any]:
        snapshot = await self.service.find(path[0])
        return {"success": True, "data": snapshot.to_wire()}


class AllHandler(RestHandler):
    """`OPTIONS *`: whether the server is there (RFC 9110, section 9.3.7)."""

    methods = ("OPTIONS",)


class NotFoundHandler(RestHandler):
    """Every other address."""

    async def handle(self, *path: str) -> None:
        self.check_caller()
        raise protocol.NotFound("there is nothing at this address", self.request.path[:100])

    get = head = post = put = patch = delete = options = handle


class MisdirectedHandler(RestHandler):
    """Every address, of a host that is none of this server's (RFC 9110, section 15.5.20)."""

    async def handle(self, *path: str) -> None:
        raise HTTPError(protocol.MisdirectedRequest.status)

    get = head = post = put = patch = delete = options = handle

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Refuse alike whatever was asked, also by a method that Tornado does not know."""
        error = misdirected(self.request.host)
        super().write_error(error.status, exc_info=(type(error), error, None))
