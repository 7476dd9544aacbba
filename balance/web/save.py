"""POST /api/balance/snapshot: save one update (docs/spec.md, POST /api/balance/snapshot).

An update goes from its connection to the service without Tornado's routing, `RequestHandler` and task, which would
cost a third of its time (docs/architecture.md, "Why each fast path exists"). `SaveRouter` gets every request; the
application gets those that are not a POST to this address.

Built on Tornado's public interface for servers (`tornado.httputil.HTTPServerConnectionDelegate`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, cast

from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
)

import protocol
from balance.access.authenticator import Authenticator, read_bearer
from balance.aio.addresses import to_address
from balance.aio.loop_budget import LoopBudget
from balance.auth import Operation
from balance.feed.pending import PendingSave
from balance.rate_limit import RateLimit
from balance.refusals import REST
from balance.request_context import RequestContext
from balance.request_log import RequestLog
from balance.service import Service
from balance.snapshot import Saved
from balance.web.base import check_size, to_service_error
from balance.web.cors import HostPolicy, OriginPolicy, check_host, check_origin, set_cors_headers
from balance.web.headers import default_headers, set_error_headers
from balance.web.http_connection import Exchange
from balance.web.problem import error_body
from balance.web.request_target import without_prefix
from protocol.operation import JSON
from protocol.operations import SNAPSHOTS

log = logging.getLogger("balance.web")

SAVED = "Balance snapshot saved successfully"  # docs/spec.md, POST /api/balance/snapshot
OPERATION = f"POST {SNAPSHOTS}"
WITH_QUERY = f"{SNAPSHOTS}?"
HOST_DEFAULT = "127.0.0.1"  # of a request of HTTP/1.0 without the header; the same as Tornado's


class SaveRouter(HTTPServerConnectionDelegate):
    """Answers each POST to the address of the snapshots; passes every other request to an application."""

    def __init__(
        self,
        application: HTTPServerConnectionDelegate,
        service: Service,
        authenticator: Authenticator,
        hosts: HostPolicy,
        origins: OriginPolicy,
        budget: LoopBudget,
        limit: RateLimit,
        request_log: RequestLog,
        *,
        body_bytes_max: int,
        prefix: str = "",
    ) -> None:
        """Serve addresses with and without `prefix`, with which clients see them."""
        self.prefix = prefix
        self.application = application
        self.service = service
        self.authenticator = authenticator
        self.hosts = hosts
        self.origins = origins
        self.budget = budget
        self.limit = limit
        self.request_log = request_log
        self.body_bytes_max = body_bytes_max

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        """Return the delegate of a request whose head has not been read yet."""
        return RoutedRequest(self, server_conn, request_conn)


class RoutedRequest(HTTPMessageDelegate):
    """One request; its head decides which delegate gets it."""

    _delegate: HTTPMessageDelegate

    def __init__(self, router: SaveRouter, server_conn: object, connection: Exchange) -> None:
        self._router = router
        self._server_conn = server_conn
        self._connection = connection

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Awaitable[None] | None:
        if prefix := self._router.prefix:
            start_line = without_prefix(start_line, prefix)
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
    """One POST to the address of the snapshots, from its head to its response.

    A request that is rejected is answered after its body has been read: an answer before that would end the connection.
    Only a client that waits for 100 Continue is answered before, for its head.
    """

    def __init__(self, router: SaveRouter, connection: Exchange, headers: HTTPHeaders) -> None:
        self._router = router
        self._connection = connection
        self._transport = cast("Any", connection.context)  # a `ConnectionContext`
        self._scheme: str = self._transport.protocol
        self._ip: str = self._transport.remote_ip
        self._context = RequestContext(headers, self._ip)
        self._headers = headers
        self._host = headers.get("Host", HOST_DEFAULT)
        self._origin = headers.get("Origin")
        self._is_exempt = router.authenticator.is_closed  # from the rule of origins
        self._is_admitted = False  # before its body
        self._limit_key = ""  # of the token or the address, once it is counted
        self.body = bytearray()

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Awaitable[None] | None:
        if self._connection.head.expects_continue:
            self._check_before_body()
        # The connection of a trusted proxy carries many clients; on any other this changes nothing.
        return asyncio.sleep(0) if self._router.budget.charge_to(self._ip) else None

    def data_received(self, chunk: bytes) -> None:
        """Keep at most one chunk more than a body may have."""
        if len(self.body) <= self._router.body_bytes_max:
            self.body += chunk

    def finish(self) -> None:
        """Start to save the update, or reject the request for its first fault."""
        try:
            if self._is_admitted:
                self._router.authenticator.admit_again(self._context.caller, Operation.SAVE)
            else:
                self._check_head()
            check_size(len(self.body), self._router.body_bytes_max)
            pending = self._router.service.begin_save(protocol.decode_update(bytes(self.body)))
        except Exception as error:
            self._write_error(error)
        else:
            pending.add_done_callback(self._answer)

    def _check_before_body(self) -> None:
        """Reject a request for its head if its client waits for that (RFC 9110, section 10.1.1)."""
        try:
            self._check_head()
            check_size(self._connection.head.body_bytes, self._router.body_bytes_max)
        except Exception as error:
            self._write_error(error)

    def _check_head(self) -> None:
        self._admit()
        check_content_type(self._headers)
        self._is_admitted = True

    def _admit(self) -> None:
        """Check that the caller may save; without a credential also the host and the origin. Raises ServiceError."""
        self._transport.check_connection()
        authenticator = self._router.authenticator
        credential = None if authenticator.ignores_credentials else read_bearer(self._headers.get("Authorization"))
        caller = self._context.caller = authenticator.admit(credential, Operation.SAVE, self._ip)
        if caller.has_credential:
            self._is_exempt = True
        else:
            check_host(self._router.hosts, self._host)
            check_origin(self._router.origins, self._origin, self._host)
        if self._router.limit.is_on:
            key = caller.credential_id or to_address(self._ip)
            self._router.limit.acquire(key)
            self._limit_key = key

    def on_connection_close(self) -> None:
        """Save nothing: the body is incomplete."""

    def _answer(self, pending: PendingSave) -> None:
        """Answer an update whose save has succeeded or failed."""
        try:
            status, location, body = save_response(self._router.service.finish_save(pending))
        except Exception as error:
            self._write_error(error)
        else:
            headers = self._response_headers()
            headers["Location"] = self._router.prefix + location
            headers["Content-Type"] = JSON
            self._write_json(status, headers, body)

    def _write_error(self, failure: Exception) -> None:
        if not isinstance(failure, protocol.ServiceError):
            log.error("%s", OPERATION, exc_info=failure)
        error, headers = to_service_error(failure, 500), self._response_headers()
        self._context.code = error.code
        self._router.service.refusals.count_save(REST, error)
        set_error_headers(headers, error)
        body, headers["Content-Type"] = error_body(error, self._headers.get("Accept"))
        self._write_json(error.status, headers, body)

    def _response_headers(self) -> HTTPHeaders:
        headers = default_headers(self._context, self._scheme)
        set_cors_headers(headers, self._router.origins, self._origin, self._host, is_public=self._is_exempt)
        if self._limit_key:
            headers.update(self._router.limit.headers(self._limit_key))
        return headers

    def _write_json(self, status: int, headers: HTTPHeaders, body: object) -> None:
        context = self._context
        self._router.request_log.write(context, OPERATION, context.code, context.started, status)
        if not self._connection.stream.closed():
            self.write(status, headers, protocol.encode(body))

    def write(self, status: int, headers: HTTPHeaders, body: bytes) -> None:
        """Write a response whose body is JSON of some kind."""
        self._connection.respond(status, headers, body)


def is_save(start_line: RequestStartLine) -> bool:
    """Return whether a request is a POST to the address of the snapshots; a query is ignored."""
    path = start_line.path
    return start_line.method == "POST" and (path == SNAPSHOTS or path.startswith(WITH_QUERY))


def check_content_type(headers: HTTPHeaders) -> None:
    """Check that a body is declared as JSON in UTF-8, not compressed. Raises UnsupportedMediaType."""
    content_type = headers.get("Content-Type", "")
    if content_type != "application/json":
        media_type, _, parameter = content_type.lower().partition(";")
        name, _, charset = parameter.partition("=")
        if media_type.strip() != "application/json" or name.strip() not in ("", "charset") or ";" in parameter:
            raise protocol.UnsupportedMediaType("must be application/json", "Content-Type")
        if parameter.strip() and charset.strip().removeprefix('"').removesuffix('"') not in ("utf-8", "utf8"):
            raise protocol.UnsupportedMediaType("must be utf-8 (RFC 8259, section 8.1)", "charset")
    if "Content-Encoding" in headers and headers["Content-Encoding"].lower() != "identity":
        raise protocol.UnsupportedMediaType("must not be compressed", "Content-Encoding")


def save_response(saved: Saved) -> tuple[int, str, dict[str, Any]]:
    """Return the status, the `Location` and the body of the response to a POST that was saved."""
    body = {"success": True, "message": SAVED, "data": saved.snapshot.to_save_reply()}
    location = f"{SNAPSHOTS}/{saved.snapshot.id}"
    return (200, location, {**body, "duplicate": True}) if saved.duplicate else (201, location, body)
