"""Check the head of a request that could be parsed: its host, its query, and the size of its body.

Two readers must not see two different requests in one message (RFC 9112, section 11.2): what could be read in two ways
is rejected.
"""

from __future__ import annotations

import re

from tornado.httputil import HTTPHeaders, RequestStartLine

import protocol

PARAMETERS_MAX = 1000  # of a query; Tornado's limit
# As in Tornado (RFC 9110, section 7.2), but without the comma, which makes it a list.
HOST = re.compile(r"(?:[0-9A-Za-z\-._~!$&'()*+;=\[\]:]|%[0-9A-Fa-f]{2})*")
DIGITS = re.compile("[0-9]+")
LENGTH_DIGITS_MAX = 18  # of a Content-Length; a longer text is not converted to a number


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


def _check_chunked(start_line: RequestStartLine, headers: HTTPHeaders) -> None:
    """Check that a Transfer-Encoding is `chunked` and the only size. Raises InvalidPayload."""
    if "Content-Length" in headers:
        raise protocol.InvalidPayload("must not be sent with Content-Length", "Transfer-Encoding")
    if start_line.version == "HTTP/1.0":
        raise protocol.InvalidPayload("must not be sent in a request of HTTP/1.0", "Transfer-Encoding")
    if headers["Transfer-Encoding"].lower() != "chunked":
        raise protocol.InvalidPayload("must be chunked", "Transfer-Encoding")
