"""What every HTTP answer has in common: the one error shape, who may call from a web page, how large a body is.

Both kinds of handlers, REST (`rest`) and Socket.IO (`realtime.handler`), mix `Answers` in.

tests/unit/test_library_internals.py lists the private names of Tornado that this relies on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import lru_cache
from typing import Any

from tornado.httputil import HTTPHeaders, HTTPServerRequest, format_timestamp
from tornado.routing import Matcher
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

import protocol
from balance.aio.turns import Turns
from balance.auth import Operation, Role, authorize
from balance.web.cors import Hosts, Origins

log = logging.getLogger("balance.web")

PREFLIGHT_S = "600"
CREDENTIALS = "Access-Control-Allow-Credentials"
EXPOSED_HEADERS = "Location, Retry-After"
DISCARD_BYTES_MAX = 64 * 1024 * 1024


class HostNotServed(Matcher):
    """A route that takes each request, at any address, for a host that is none of this server's."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        return None if self._hosts.serves(request.host) else {}


@stream_request_body
class Answers(RequestHandler):
    """A handler whose every answer, refusal or not, has the service's one shape."""

    origins: Origins
    methods: tuple[str, ...] = ("GET", "HEAD", "OPTIONS")  # what may be asked here; answered by on_get and on_post
    operation: Operation | None  # what a caller must be permitted for all but OPTIONS; None where each packet asks
    is_public = False  # whether any web page may read what is here
    allowed_headers = "Content-Type"  # that any web page may send
    exposed_headers = EXPOSED_HEADERS  # that a web page may read
    body_bytes_max: int
    turns: Turns

    def __init__(self, application: Application, request: HTTPServerRequest, **arguments: Any) -> None:
        self._body = bytearray()
        super().__init__(application, request, **arguments)

    async def _execute(self, *arguments: Any, **more: Any) -> None:
        await self.turns.run(str(self.request.remote_ip), super()._execute(*arguments, **more))

    async def handle(self, *path: str) -> None:
        """Refuse or answer a request whose body has been read; an answer before that would end the connection."""
        self.check_caller()
        if self.request.method not in self.methods:
            raise protocol.MethodNotAllowed
        if self.request.method == "OPTIONS":  # a preflight carries no credentials (Fetch standard) and reads nothing
            self.answer_preflight()
            return
        if self.operation is not None:
            authorize(Role.ANYONE, self.operation)
        if self.request.method == "POST":
            await self.on_post()
        else:
            await self.on_get(*path)

    get = head = post = put = patch = delete = options = handle

    async def on_get(self, *path: str) -> None:
        """Answer GET and HEAD."""
        raise NotImplementedError

    async def on_post(self) -> None:
        """Answer POST."""
        raise NotImplementedError

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Decode a part of the path; what is not UTF-8 will fit no schema."""
        return value.decode(errors="replace")

    def data_received(self, chunk: bytes) -> None:
        """Keep no more of a body than it may have.

        The rest is read and thrown away, up to DISCARD_BYTES_MAX: the sender reads its answer only after that.
        """
        if len(self._body) <= self.body_bytes_max:
            self._body += chunk

    def read_body(self) -> bytes:
        """Give the whole body. Raises PayloadTooLarge."""
        if len(self._body) > self.body_bytes_max:
            raise protocol.PayloadTooLarge(f"is larger than {self.body_bytes_max} bytes", "payload")
        return bytes(self._body)

    def check_caller(self) -> None:
        """Check that the page that sends this request may call, and let it read the answer. Raises Forbidden."""
        self.let_page_read()
        if not self.is_public:
            check_page(self.origins, self.request.headers, self.request.host)

    def let_page_read(self) -> None:
        """Set the headers by which a browser lets the page that sends this request read the answer."""
        let_page_read(
            self._headers,
            self.origins,
            self.request.headers,
            self.request.host,
            exposed=self.exposed_headers,
            is_public=self.is_public,
        )

    def answer_preflight(self) -> None:
        """Answer OPTIONS: what may be called here, and by which methods and headers.

        A page of an origin that is trusted may send any header, and call a server of a private network.
        """
        self.set_status(204)
        self.set_header("Allow", ", ".join(self.methods))
        asked = self.request.headers
        if "Access-Control-Request-Method" not in asked:
            return
        headers = self.allowed_headers
        if CREDENTIALS in self._headers:
            headers = asked.get("Access-Control-Request-Headers") or headers
            if "Access-Control-Request-Private-Network" in asked:
                self.set_header("Access-Control-Allow-Private-Network", "true")
        self.set_header("Access-Control-Allow-Methods", ", ".join(self.methods))
        self.set_header("Access-Control-Allow-Headers", headers)
        self.set_header("Access-Control-Max-Age", PREFLIGHT_S)

    def answer(self, body: object, status: int = 200) -> asyncio.Future[None]:
        """Finish with a JSON body; the future is done when the operating system has taken it."""
        self.set_status(status)
        self._headers["Content-Type"] = "application/json"
        return self.finish(protocol.encode(body))

    def clear(self) -> None:
        """Begin an answer. Tornado would write the date anew for each, and check each header by three patterns."""
        self._headers = first_headers()
        self._write_buffer: list[bytes] = []
        self.set_status(200)

    def compute_etag(self) -> str | None:
        """Nothing is cached unless a handler says so, and no hash of each body is made."""
        return None

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Turn whatever ended a handler into the error of `protocol.errors` that it is."""
        error = to_refusal(kwargs["exc_info"][1] if "exc_info" in kwargs else None, status_code, self._headers)
        self.let_page_read()  # an error that a page may not read is of no use to it
        if isinstance(error, protocol.MethodNotAllowed):
            self.set_header("Allow", ", ".join(self.methods))
        self.answer(error.body(), error.status)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what is our own fault, and nothing of what is the caller's."""
        if not isinstance(value, (protocol.ServiceError, HTTPError)):
            log.error("%s %s", self.request.method, self.request.path, exc_info=value)


def check_host(hosts: Hosts, host: str) -> None:
    """Check that a request is for a host of this server. Raises MisdirectedRequest."""
    if not hosts.serves(host):
        raise misdirected(host)


def misdirected(host: str) -> protocol.MisdirectedRequest:
    """Return the error for a request that is for another server's host."""
    return protocol.MisdirectedRequest(f"{host[:100]!r} is none of this server's hosts; see --hosts", "Host")


def check_page(origins: Origins, headers: HTTPHeaders, host: str) -> None:
    """Check that the web page that sends a request for `host`, if one does, may call. Raises Forbidden."""
    origin = headers.get("Origin")
    if origin is not None and not origins.any_may_call and not origins.trusts(origin, host):
        raise protocol.Forbidden("pages of this origin may not call; see --cors-origins", "Origin")


def let_page_read(
    answer: HTTPHeaders, origins: Origins, headers: HTTPHeaders, host: str, *, exposed: str, is_public: bool = False
) -> None:
    """Set the headers of an answer by which a browser lets the page that sent the request read it (Fetch, CORS).

    A page that only `*` admits gets no credentials: the browser would send those of its user for any stranger's page.
    """
    origin = headers.get("Origin")
    if origin is not None and origins.trusts(origin, host):
        answer["Access-Control-Allow-Origin"] = origin
        answer[CREDENTIALS] = "true"
    elif is_public or (origin is not None and origins.any_may_call):
        answer["Access-Control-Allow-Origin"] = "*"
    else:
        return
    answer["Access-Control-Expose-Headers"] = exposed


def first_headers() -> HTTPHeaders:
    """Begin an answer: keep balances out of caches, and bodies from being taken for something else (OWASP REST)."""
    headers = HTTPHeaders()
    headers["Date"] = _date(int(time.time()))
    headers["Cache-Control"] = "no-store"
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Vary"] = "Origin"
    return headers


@lru_cache(1)
def _date(seconds: int) -> str:
    return format_timestamp(seconds)


def to_refusal(error: BaseException | None, status: int, headers: HTTPHeaders) -> protocol.ServiceError:
    """Name the service's error for an exception, and put into the headers of its answer what goes with it."""
    refusal = to_service_error(error, status)
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    return refusal


def to_service_error(error: BaseException | None, status: int) -> protocol.ServiceError:
    """Name the service's error for whatever ended a request; what we do not know is our own fault."""
    if isinstance(error, protocol.ServiceError):
        return error
    if status == 405:
        return protocol.MethodNotAllowed()
    if 400 <= status < 500:
        return protocol.InvalidPayload(getattr(error, "log_message", None) or "can not be read", "request")
    return protocol.InternalError()


def log_request(handler: RequestHandler) -> None:
    """Log nothing per request: at thousands a second the log would be the load; `log_exception` has the faults."""
