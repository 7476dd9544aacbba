"""POST /api/balance/snapshot: saves one update (SEED.md, POST /api/balance/snapshot).

An update goes from its connection to the service without Tornado's routing, request handler and task, which would
cost it a third of its time. `SaveRouter` is given every request; one that saves nothing goes on to the application.
Built on Tornado's public interface for servers (`tornado.httputil.HTTPServerConnectionDelegate`).
"""

from __future__ import annotations

import asyncio
import logging
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
from balance.auth import Operation, Role, authorize
from balance.feed.pending import Saving
from balance.service import Service
from balance.snapshot import Saved
from balance.web.base import EXPOSED_HEADERS, check_host, check_page, first_headers, let_page_read, to_refusal
from balance.web.cors import Hosts, Origins
from protocol.operations import SNAPSHOTS

log = logging.getLogger("balance.web")

SAVED = "Balance snapshot saved successfully"  # SEED.md, POST /api/balance/snapshot
WITH_QUERY = f"{SNAPSHOTS}?"
HTTP_1_0_HOST = "127.0.0.1"  # of a request of HTTP/1.0 that names none; Tornado has the same


class SaveRouter(HTTPServerConnectionDelegate):
    """Answers each POST to the address of the snapshots; an application answers every other request."""

    def __init__(
        self,
        application: HTTPServerConnectionDelegate,
        service: Service,
        hosts: Hosts,
        origins: Origins,
        turns: Turns,
        *,
        body_bytes_max: int,
    ) -> None:
        self.application = application
        self.service = service
        self.hosts = hosts
        self.origins = origins
        self.turns = turns
        self.body_bytes_max = body_bytes_max

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        """Return the delegate of a request, whose head has not been read yet."""
        return RoutedRequest(self, server_conn, request_conn)


class RoutedRequest(HTTPMessageDelegate):
    """One request; its head decides which delegate it goes to."""

    _delegate: HTTPMessageDelegate

    def __init__(self, router: SaveRouter, server_conn: object, connection: HTTP1Connection) -> None:
        self._router = router
        self._server_conn = server_conn
        self._connection = connection

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Awaitable[None] | None:
        if is_save(start_line):
            self._delegate = SaveRequest(self._router, self._connection, headers)
        else:
            self._delegate = self._router.application.start_request(self._server_conn, self._connection)
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()


class SaveRequest(HTTPMessageDelegate):
    """One POST to the address of the snapshots, from its head to its answer.

    Whatever is wrong with it is answered after its body has been read: an answer before that would end the connection.
    """

    def __init__(self, router: SaveRouter, connection: HTTP1Connection, headers: HTTPHeaders) -> None:
        self._router = router
        self._connection = connection
        self._context: Any = connection.context
        self._headers = headers
        self._host = headers.get("Host", HTTP_1_0_HOST)
        self.body = bytearray()

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Awaitable[None] | None:
        # The connection of a trusted proxy carries many clients; on any other this changes nothing.
        return asyncio.sleep(0) if self._router.turns.charge_to(self._context.remote_ip) else None

    def data_received(self, chunk: bytes) -> None:
        """Keep at most one chunk more than a body may have."""
        if len(self.body) <= self._router.body_bytes_max:
            self.body += chunk

    def finish(self) -> None:
        try:
            check_host(self._router.hosts, self._host)
            check_page(self._router.origins, self._headers, self._host)
            authorize(Role.ANYONE, Operation.SAVE)
            check_content_type(self._headers)
            if len(self.body) > self._router.body_bytes_max:
                raise protocol.PayloadTooLarge(f"is larger than {self._router.body_bytes_max} bytes", "payload")
            update = protocol.decode_update(bytes(self.body))
            saving = self._router.service.begin(update)
        except Exception as failure:
            self._refuse(failure)
        else:
            saving.on_end(partial(self._end, update))

    def on_connection_close(self) -> None:
        """Save nothing: the body has not come to its end."""

    def _end(self, update: object, saving: Saving) -> None:
        """Answer an update whose save has succeeded or failed."""
        try:
            status, location, body = save_response(self._router.service.finish(update, saving))
        except Exception as failure:
            self._refuse(failure)
        else:
            headers = first_headers()
            self._let_page_read(headers)
            headers["Location"] = location
            self._answer(status, headers, body)

    def _refuse(self, failure: Exception) -> None:
        if not isinstance(failure, protocol.ServiceError):
            log.error("POST %s", SNAPSHOTS, exc_info=failure)
        headers = first_headers()
        error = to_refusal(failure, 500, headers)
        self._let_page_read(headers)
        self._answer(error.status, headers, error.body())

    def _let_page_read(self, answer: HTTPHeaders) -> None:
        let_page_read(answer, self._router.origins, self._headers, self._host, exposed=EXPOSED_HEADERS)

    def _answer(self, status: int, headers: HTTPHeaders, body: object) -> None:
        if not self._connection.stream.closed():
            self.write(status, headers, protocol.encode(body))

    def write(self, status: int, headers: HTTPHeaders, body: bytes) -> None:
        """Write an answer whose body is JSON."""
        headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(len(body))
        self._connection.write_headers(ResponseStartLine("", status, responses[status]), headers, body)
        self._connection.finish()


def is_save(start_line: RequestStartLine) -> bool:
    """Return whether a request is a POST to the address of the snapshots; its query, if it has one, means nothing."""
    path = start_line.path
    return start_line.method == "POST" and (path == SNAPSHOTS or path.startswith(WITH_QUERY))


def check_content_type(headers: HTTPHeaders) -> None:
    """Check that a body is JSON in UTF-8 and not compressed, as its headers have it. Raises UnsupportedMediaType."""
    content_type = headers.get("Content-Type", "")
    if content_type != "application/json":
        media_type, _, parameter = content_type.lower().partition(";")
        name, _, charset = parameter.partition("=")
        if media_type.strip() != "application/json" or name.strip() not in ("", "charset") or ";" in parameter:
            raise protocol.UnsupportedMediaType("must be application/json", "Content-Type")
        if parameter.strip() and charset.strip().removeprefix('"').removesuffix('"') not in ("utf-8", "utf8"):
            raise protocol.UnsupportedMediaType("must be utf-8 (RFC 8259, section 8.1)", "charset")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise protocol.UnsupportedMediaType("must not be compressed", "Content-Encoding")


def save_response(saved: Saved) -> tuple[int, str, dict[str, Any]]:
    """Return the status, the `Location` and the body that answer a POST that was saved."""
    body = {"success": True, "message": SAVED, "data": saved.snapshot.to_saved()}
    location = f"{SNAPSHOTS}/{saved.snapshot.id}"
    return (200, location, {**body, "duplicate": True}) if saved.duplicate else (201, location, body)
