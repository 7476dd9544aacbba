"""The headers of every response, beside those of CORS."""

from __future__ import annotations

import time
from functools import lru_cache
from http.client import responses

from tornado.httputil import HTTPHeaders, format_timestamp

import protocol
from balance.request_context import RequestContext

HSTS = f"max-age={365 * 24 * 3600}"  # RFC 6797; without includeSubDomains, since other services may be below this name
SECURITY = {
    "X-Content-Type-Options": "nosniff",  # no browser guesses another type
    "Content-Security-Policy": "frame-ancestors 'none'",  # no page shows a response in a frame
    "Cross-Origin-Resource-Policy": "same-origin",  # no foreign page embeds it; does not apply to CORS (Fetch, 3.7)
}
"""The headers by which a browser protects its user (OWASP REST). The pages, which have links and scripts, have more."""


def default_headers(context: RequestContext, scheme: str) -> HTTPHeaders:
    """Return the headers of every response to a request that its client sent by `scheme`; no cache keeps balances."""
    headers = HTTPHeaders()
    headers["Date"] = _date(int(time.time()))
    headers["Cache-Control"] = "no-store"
    headers["Vary"] = "Origin"
    for name, value in SECURITY.items():
        headers[name] = value
    context.set_headers(headers)
    if scheme == "https":  # RFC 6797, section 7.2: over a secure transport only
        headers["Strict-Transport-Security"] = HSTS
    return headers


def encode_head(status: int, headers: HTTPHeaders) -> bytes:
    """Encode the head of a response that does not go through Tornado. Raises ValueError for a line end in a value."""
    lines = [f"HTTP/1.1 {status} {responses[status]}", *[f"{name}: {value}" for name, value in headers.get_all()]]
    head = "\r\n".join([*lines, "", ""])
    if head.count("\n") + head.count("\r") > 2 * len(lines) + 2:
        raise ValueError(f"a header has a line end in it: {head!r}")
    return head.encode("latin1")


@lru_cache(1)
def _date(seconds: int) -> str:
    return format_timestamp(seconds)


def set_error_headers(headers: HTTPHeaders, error: protocol.ServiceError) -> None:
    """Set the headers of an error: the seconds to wait, the limit that is reached, or the credential that is needed."""
    if error.challenge is not None:
        headers["WWW-Authenticate"] = error.challenge
    if isinstance(error, protocol.RateLimited):
        headers.update(error.headers)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
