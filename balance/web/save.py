"""The short way of a POST: from its head and body to the service, past the routing, the handler and the task that
Tornado has for each request.

It takes the plain case only, one update as JSON whose length is told, from no web page. Whatever is not plain goes the
long way, by `rest`; a property test holds the two to the same bytes. Built on Tornado's public interface for servers
(`tornado.httputil.HTTPServerConnectionDelegate`).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable
from functools import partial
from http.client import responses
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)

import protocol
from balance.aio.turns import Turns
from balance.feed.pending import Saving
from balance.service import Service
from balance.web.base import first_headers, to_refusal
from balance.web.cors import Hosts
from balance.web.snapshots import saved_answer
from protocol.operations import SNAPSHOTS

log = logging.getLogger("balance.web")

HOST = re.compile(r"[0-9A-Za-z.-]+(:[0-9]+)?")  # what else a host may be, the long way knows
NOT_PLAIN = ("Origin", "Content-Encoding", "Transfer-Encoding")


class ShortPost(HTTPServerConnectionDelegate):
    """Stands before an application, and answers plain POSTs in its place."""

    def __init__(
        self,
        application: HTTPServerConnectionDelegate,
        service: Service,
        hosts: Hosts,
        turns: Turns,
        *,
        body_bytes_max: int,
    ) -> None:
        self.application = application
        self.service = service
        self.turns = turns
        self._hosts = hosts
        self._body_bytes_max = body_bytes_max

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        """Take a request; which way it goes shows when its head is there."""
        return Request(self, server_conn, request_conn)

    def is_plain(self, start_line: RequestStartLine, headers: HTTPHeaders) -> bool:
        """Tell by its head whether a request may go the short way."""
        if start_line.method != "POST" or start_line.path != SNAPSHOTS or start_line.version != "HTTP/1.1":
            return False
        length, host = headers.get("Content-Length", ""), headers.get("Host", "")
        return (
            headers.get("Content-Type") == "application/json"
            and len(length) < 10
            and length.isdecimal()
            and int(length) <= self._body_bytes_max
            and HOST.fullmatch(host) is not None
            and self._hosts.serves(host)
            and not any(name in headers for name in NOT_PLAIN)
        )


class Request(HTTPMessageDelegate):
    """One request, and where it goes."""

    def __init__(self, door: ShortPost, server_conn: object, connection: HTTP1Connection) -> None:
        self._door = door
        self._server_conn = server_conn
        self._connection = connection
        self._context: Any = connection.context
        self._long: HTTPMessageDelegate | None = None
        self.body = b""

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Awaitable[None] | None:
        if self._door.is_plain(start_line, headers):
            # The connection of a trusted proxy carries many clients; on any other this changes nothing.
            return asyncio.sleep(0) if self._door.turns.charge_to(self._context.remote_ip) else None
        self._long = self._door.application.start_request(self._server_conn, self._connection)
        return self._long.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._long is not None:
            return self._long.data_received(chunk)
        self.body += chunk
        return None

    def finish(self) -> None:
        if self._long is not None:
            self._long.finish()
            return
        try:
            update = protocol.decode_update(self.body)
            saving = self._door.service.begin(update)
        except Exception as failure:
            self._refuse(failure)
        else:
            saving.on_end(partial(self._end, update))

    def on_connection_close(self) -> None:
        if self._long is not None:
            self._long.on_connection_close()

    def _end(self, update: object, saving: Saving) -> None:
        """Tell what became of an update."""
        headers = first_headers()
        try:
            status, headers["Location"], body = saved_answer(self._door.service.finish(update, saving))
        except Exception as failure:
            self._refuse(failure)
        else:
            self._answer(status, headers, body)

    def _refuse(self, failure: Exception) -> None:
        if not isinstance(failure, protocol.ServiceError):
            log.error("POST %s", SNAPSHOTS, exc_info=failure)
        headers = first_headers()
        error = to_refusal(failure, 500, headers)
        self._answer(error.status, headers, error.body())

    def _answer(self, status: int, headers: HTTPHeaders, body: object) -> None:
        if not self._connection.stream.closed():
            self.write(status, headers, protocol.encode(body))

    def write(self, status: int, headers: HTTPHeaders, body: bytes) -> None:
        """Write an answer whose body is JSON."""
        headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(len(body))
        self._connection.write_headers(ResponseStartLine("", status, responses[status]), headers, body)
        self._connection.finish()
