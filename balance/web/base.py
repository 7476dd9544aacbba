"""What all HTTP handlers have in common: error responses, CORS, body sizes, permissions and shares of time.

`JsonHandler` is mixed into both kinds of handlers, REST (`snapshots`) and Socket.IO (`realtime.handler`). `save`, which
answers POST without a handler, uses the functions of this module.

tests/unit/test_library_internals.py lists the private names of Tornado that this relies on. `RequestHandler.clear` sets
`_headers`, `_write_buffer` and the status, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

from tornado.httputil import HTTPServerRequest
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

import protocol
from balance.access.authenticator import Authenticator, read_bearer
from balance.aio.loop_budget import LoopBudget
from balance.auth import Caller, Operation, authorize
from balance.refusals import REST
from balance.request_context import RequestContext
from balance.request_log import RequestLog
from balance.web.cors import CREDENTIALS, EXPOSED_HEADERS, OriginPolicy, check_origin, set_cors_headers
from balance.web.headers import default_headers, set_error_headers
from balance.web.problem import error_body
from balance.web.request_head import RequestHead

log = logging.getLogger("balance.web")

PREFLIGHT_S = "600"  # for which a browser may cache the answer to a preflight
DRAIN_BYTES_MAX = 64 * 1024 * 1024  # of a body that is over its limit


@stream_request_body
class JsonHandler(RequestHandler):
    """A handler whose errors are the service's own JSON; `dispatch` is the entry of every method."""

    origins: OriginPolicy
    methods: tuple[str, ...] = ("GET", "HEAD", "OPTIONS")  # of this address; on_get and on_post answer them
    operation: Operation | None  # needs permission, except OPTIONS; None if there are OPTIONS only, or each packet asks
    is_public = False  # whether any web page may read the responses
    allowed_headers = "Content-Type"  # the headers that any web page may send
    exposed_headers = EXPOSED_HEADERS  # the headers that a web page may read
    may_wait = False  # whether a response waits for something to be saved, so that it is not slow
    logs_success = True  # whether a request that succeeds has a line in the log
    body_bytes_max: int
    budget: LoopBudget
    transport = REST  # of the refusals that are counted
    authenticator: Authenticator

    def initialize(
        self, *, authenticator: Authenticator, origins: OriginPolicy, budget: LoopBudget, body_bytes_max: int
    ) -> None:
        self.authenticator = authenticator
        self.origins = origins
        self.budget = budget
        self.body_bytes_max = body_bytes_max

    def __init__(self, application: Application, request: HTTPServerRequest, **arguments: Any) -> None:
        self._body = bytearray()
        self.context = RequestContext(request.headers, str(request.remote_ip))
        super().__init__(application, request, **arguments)

    async def _execute(self, *arguments: Any, **more: Any) -> None:
        await self.budget.run(self.context.client, super()._execute(*arguments, **more))
        body: asyncio.Future[None] = self.request._body_future
        if body.done() and (error := body.exception()) is not None:
            # The client left before the end. Tornado breaks the cycles of a handler only when it has answered.
            error.__traceback__ = None
            self.ui = None  # type: ignore[assignment]

    @property
    def request_head(self) -> RequestHead:
        """The head of this request."""
        connection: Any = self.request.connection
        return cast("RequestHead", connection.head)

    def prepare(self) -> None:
        """Reject a request for its head if its client waits for that (RFC 9110, section 10.1.1)."""
        if self.request_head.expects_continue:
            self.check_request()

    async def dispatch(self, *path: str) -> None:
        """Reject or answer a request whose body has been read; an answer before that would end the connection."""
        if not self.request_head.expects_continue:  # otherwise `prepare` has checked it
            self.check_request()
        elif self.request.method != "OPTIONS":
            self.authenticator.admit_again(self.context.caller, self.operation)
        if self.request.method == "OPTIONS":
            self.answer_preflight()
        elif self.request.method == "POST":
            await self.on_post()
        else:
            await self.on_get(*path)

    get = head = post = put = patch = delete = options = dispatch

    def check_request(self) -> None:
        """Check that this request is permitted, and its method known. Raises ServiceError."""
        if self.request.method != "OPTIONS":  # which carries no credentials (Fetch standard) and reads nothing
            self.check_connection()
            self.context.caller = self.find_caller()
        self.check_page_origin()
        if self.request.method not in self.methods:
            raise protocol.MethodNotAllowed

    def check_connection(self) -> None:
        """Check that the connection is not one too many of its address. Raises RateLimited."""
        connection: Any = self.request.connection
        connection.context.check_connection()

    def find_caller(self) -> Caller:
        """Return the caller of this request. Raises Unauthorized, Forbidden and Unavailable if it is not permitted."""
        if self.is_public and self.operation is not None:  # the same for everybody, so that no credential is read
            authorize(self.authenticator.anonymous.role, self.operation)
            return self.authenticator.anonymous
        credential = self.read_credential()
        if self.operation is None:
            return self.authenticator.authenticate(credential, self.context.client)
        return self.authenticator.admit(credential, self.operation, self.context.client)

    def read_credential(self) -> str | None:
        """Return the token that this request has; None without one, or if this server ignores it."""
        if self.authenticator.ignores_credentials:
            return None
        return read_bearer(self.request.headers.get("Authorization"))

    @property
    def is_exempt(self) -> bool:
        """Whether the rule of origins does not apply: a page gets nothing here by what its browser knows of its user.

        It has a credential itself, or could do nothing without one.
        """
        return self.context.caller.has_credential or self.authenticator.is_closed

    async def on_get(self, *path: str) -> None:
        """Answer GET and HEAD."""
        raise NotImplementedError

    async def on_post(self) -> None:
        """Answer POST."""
        raise NotImplementedError

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Decode a part of the path; one that is not UTF-8 fits no schema."""
        return value.decode(errors="replace")

    def data_received(self, chunk: bytes) -> None:
        """Keep at most one chunk more than a body may have.

        The rest is read and discarded, up to DRAIN_BYTES_MAX: a client reads the response only after it has sent all.
        """
        if len(self._body) <= self.body_bytes_max:
            self._body += chunk

    def read_body(self) -> bytes:
        """Return the whole body. Raises PayloadTooLarge."""
        check_size(len(self._body), self.body_bytes_max)
        return bytes(self._body)

    def check_page_origin(self) -> None:
        """Check that the page that sent this request may call, and let it read the response. Raises Forbidden."""
        self.set_cors_headers()
        if not (self.is_public or self.is_exempt):
            check_origin(self.origins, self.request.headers.get("Origin"), self.request.host)

    def set_cors_headers(self) -> None:
        """Set the headers by which a browser lets the page that sent this request read the response."""
        set_cors_headers(
            self._headers,
            self.origins,
            self.request.headers.get("Origin"),
            self.request.host,
            exposed=self.exposed_headers,
            is_public=self.is_public or self.is_exempt,
        )

    def answer_preflight(self) -> None:
        """Answer OPTIONS: the methods and the headers that may be used here.

        A page of a trusted origin may send any header, and call a server of a private network.
        """
        self.set_status(204)
        self.set_header("Allow", ", ".join(self.methods))
        requested = self.request.headers
        if "Access-Control-Request-Method" not in requested:
            return
        headers = self.allowed_headers
        if self.authenticator.is_closed:
            headers += ", Authorization"
        if CREDENTIALS in self._headers:
            headers = requested.get("Access-Control-Request-Headers") or headers
            if "Access-Control-Request-Private-Network" in requested:
                self.set_header("Access-Control-Allow-Private-Network", "true")
        self.set_header("Access-Control-Allow-Methods", ", ".join(self.methods))
        self.set_header("Access-Control-Allow-Headers", headers)
        self.set_header("Access-Control-Max-Age", PREFLIGHT_S)

    def write_json(self, body: object, status: int = 200) -> asyncio.Future[None]:
        """Finish with a JSON body; the future is done when the operating system has accepted all of it."""
        self.set_status(status)
        self._headers["Content-Type"] = "application/json"
        return self.finish(protocol.encode(body))

    def clear(self) -> None:
        """Start a response. Tornado's own method formats each date and checks each header by three patterns."""
        self._headers = default_headers(self.context, self.request.protocol)
        self._write_buffer: list[bytes] = []
        self.set_status(200)

    def compute_etag(self) -> str | None:
        """Return no ETag: nothing is cached unless a handler overrides this, and no body is hashed."""
        return None

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with the error of `protocol.errors` for the exception that ended a handler."""
        error = to_service_error(kwargs["exc_info"][1] if "exc_info" in kwargs else None, status_code)
        self.context.code = error.code
        self.count_refusal(error)
        set_error_headers(self._headers, error)
        self.set_cors_headers()  # otherwise the page that called could not read the error
        if isinstance(error, protocol.MethodNotAllowed):
            self.set_header("Allow", ", ".join(self.methods))
        self.set_status(error.status)
        body, self._headers["Content-Type"] = error_body(error, self.request.headers.get("Accept"))
        self.finish(protocol.encode(body))

    def count_refusal(self, error: protocol.ServiceError) -> None:
        """Count an error that is sent to a client."""
        self.settings["refusals"].count(self.transport, error)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log a fault of the service, not one of a client."""
        if not isinstance(value, (protocol.ServiceError, HTTPError)):
            log.error("%s %s", self.request.method, self.request.path, exc_info=value)


def check_size(size: int | None, bytes_max: int) -> None:
    """Check the size of a body, None if that is not known yet. Raises PayloadTooLarge."""
    if size is not None and size > bytes_max:
        raise protocol.PayloadTooLarge(f"is larger than {bytes_max} bytes", "payload")


def to_service_error(error: BaseException | None, status: int) -> protocol.ServiceError:
    """Return the service's error for an exception that ended a request; an unknown one is a fault of the service."""
    if isinstance(error, protocol.ServiceError):
        return error
    if status == 405:
        return protocol.MethodNotAllowed()
    if 400 <= status < 500:
        return protocol.InvalidPayload(getattr(error, "log_message", None) or "cannot be read", "request")
    return protocol.InternalError()


def log_request(request_log: RequestLog, handler: RequestHandler) -> None:
    """Log a request that is answered. Without its query, which may have a ticket."""
    assert isinstance(handler, JsonHandler)
    context, request, status = handler.context, handler.request, handler.get_status()
    if handler.logs_success or status >= 400:
        operation = f"{request.method} {request.path[:100]}"
        request_log.write(context, operation, context.code, context.started, status, may_wait=handler.may_wait)
