"""The head of a request: check its host, its query and the size of its body, and keep it if it may come again.

Two readers must not see two different requests in one message (RFC 9112, section 11.2): what could be read in two ways
is rejected.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tornado.httputil import HTTPHeaders, RequestStartLine

import protocol

KEPT_MAX = 1_024
KEPT_BYTES_MAX, KEPT_LINES_MAX = 1_024, 32  # of one head, so that the kept ones need a few megabytes when parsed

PARAMETERS_MAX = 1000  # of a query; Tornado's limit
# As in Tornado (RFC 9110, section 7.2), but without the comma, which makes it a list.
HOST = re.compile(r"(?:[0-9A-Za-z\-._~!$&'()*+;=\[\]:]|%[0-9A-Fa-f]{2})*")
DIGITS = re.compile("[0-9]+")
LENGTH_DIGITS_MAX = 18  # of a Content-Length; a longer text is not converted to a number


class RequestHead(NamedTuple):
    """A head that was parsed and checked; requests with the same head share it, so that nothing of it may change."""

    start_line: RequestStartLine
    headers: HTTPHeaders
    body_bytes: int | None
    """Of the body; None if it is chunked."""
    keeps_alive: bool
    """Whether the client may send another request on the connection."""
    expects_continue: bool
    """Whether the client waits for 100 Continue, or the final status, before it sends its body."""


class KnownHeads:
    """Heads that have come before: a bot sends the same bytes again and again, and parsing is a third of the work.

    A head with a query is not kept: most contain something that does not come again, a position or the id of a session.
    Only the parsed head is kept: each request with it is authorised and counted like the first.
    """

    def __init__(self) -> None:
        self._heads: dict[bytes, RequestHead] = {}
        self.get = self._heads.get

    def keep(self, data: bytes, head: RequestHead) -> None:
        """Keep what was read of a head without fault, instead of the oldest if there are too many."""
        if len(data) > KEPT_BYTES_MAX or data.count(b"\n") > KEPT_LINES_MAX or "?" in head.start_line.path:
            return
        if "Upgrade" in head.headers:  # the handler of a WebSocket changes the headers of its request
            return
        if len(self._heads) >= KEPT_MAX:
            del self._heads[next(iter(self._heads))]
        self._heads[data] = head


def check_host_and_query(start_line: RequestStartLine, headers: HTTPHeaders) -> None:
    """Check what Tornado checks when it makes an `HTTPServerRequest`, which not every request becomes.

    Raises InvalidPayload.
    """
    hosts = headers.get_list("Host")
    if not hosts and start_line.version != "HTTP/1.0":
        raise protocol.InvalidPayload("is required (RFC 9112, section 3.2)", "Host")
    if len(hosts) > 1:
        raise protocol.InvalidPayload("is given more than once", "Host")
    if start_line.path.partition("?")[2].count("&") >= PARAMETERS_MAX:
        raise protocol.InvalidPayload(f"must have at most {PARAMETERS_MAX} parameters", "query")
    if hosts and not HOST.fullmatch(hosts[0]):
        raise protocol.InvalidPayload("must be a host, or a host and a port, such as 127.0.0.1:3000", "Host")


def body_size(start_line: RequestStartLine, headers: HTTPHeaders) -> int | None:
    """Return the size of a request's body, None if it is chunked (RFC 9112, section 6.3).

    Raises InvalidPayload and PayloadTooLarge.
    """
    if "Transfer-Encoding" in headers:
        _check_chunked(start_line, headers)
        return None
    if "Content-Length" not in headers:
        return 0
    length = headers["Content-Length"]
    if "," in length:  # a proxy may join two headers
        lengths = {one.strip(" \t") for one in length.split(",")}
        if len(lengths) > 1:
            raise protocol.InvalidPayload("is given more than once", "Content-Length")
        headers["Content-Length"] = length = lengths.pop()
    if not DIGITS.fullmatch(length):
        raise protocol.InvalidPayload("must be a whole number of bytes", "Content-Length")
    if len(length) > LENGTH_DIGITS_MAX:
        raise protocol.PayloadTooLarge(f"must have at most {LENGTH_DIGITS_MAX} digits", "Content-Length")
    return int(length)


def expects_continue(start_line: RequestStartLine, headers: HTTPHeaders) -> bool:
    """Return whether a request with a body asks for 100 Continue (RFC 9110, section 10.1.1)."""
    return headers.get("Expect", "").lower() == "100-continue" and start_line.version != "HTTP/1.0"


def _check_chunked(start_line: RequestStartLine, headers: HTTPHeaders) -> None:
    """Check that a Transfer-Encoding is `chunked` and the only size. Raises InvalidPayload."""
    if "Content-Length" in headers:
        raise protocol.InvalidPayload("must not be sent with Content-Length", "Transfer-Encoding")
    if start_line.version == "HTTP/1.0":
        raise protocol.InvalidPayload("must not be sent in a request of HTTP/1.0", "Transfer-Encoding")
    if headers["Transfer-Encoding"].lower() != "chunked":
        raise protocol.InvalidPayload("must be chunked", "Transfer-Encoding")
