"""Says what is wrong with a request that cannot be read as HTTP/1.1, and writes the answer.

Tornado's parser decides what is refused. Only then is the head looked through again here, for the first fault and words
that name it: Tornado's own words are for its log, and change with its versions.
"""

from __future__ import annotations

import re
from http.client import responses

from tornado.httputil import HTTPHeaders, RequestStartLine

import protocol
from balance.web.base import first_headers
from protocol.check import to_path

TLS_HANDSHAKE = 0x16  # the first byte of every TLS connection (RFC 8446, section 5.1)
PARAMETERS_MAX = 1000  # of a query; Tornado's limit
REQUEST_LINE = "request line"
# A host as Tornado's parser takes it (RFC 9110, section 7.2), but without a comma: with one it is a list.
HOST = re.compile(r"(?:[0-9A-Za-z\-._~!$&'()*+;=\[\]:]|%[0-9A-Fa-f]{2})*")
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
CONTROL = re.compile(r"[\x00-\x08\x0A-\x1F\x7F]")
VERSION = re.compile(r"HTTP/[0-9]\.[0-9]")


def explain_head(head: bytes) -> protocol.InvalidPayload:
    """Return what is wrong with the head of a request that Tornado's parser has refused."""
    line, *fields = head.decode("latin1").strip("\r\n").split("\n")
    return _explain_request_line(line.removesuffix("\r")) or _explain_fields(fields)


def _explain_request_line(line: str) -> protocol.InvalidPayload | None:
    parts = line.split(" ")
    if len(parts) != 3 or not all(parts):
        reason = "must be a method, a target and HTTP/1.1, with one space between them"
    elif not TOKEN.fullmatch(parts[0]):
        reason = "the method must be a word of letters"
    elif CONTROL.search(parts[1]) or "\t" in parts[1]:
        reason = "the target must not hold control characters"
    elif not VERSION.fullmatch(parts[2]):
        reason = "must end in HTTP/1.1"
    elif not parts[2].startswith("HTTP/1."):
        reason = f"must end in HTTP/1.1; {parts[2]} is not spoken here"
    else:
        return None
    return protocol.InvalidPayload(reason, REQUEST_LINE)


def _explain_fields(fields: list[str]) -> protocol.InvalidPayload:
    before = "the first header"
    for field in fields:
        name, colon, value = field.removesuffix("\r").partition(":")
        if field.startswith((" ", "\t")):
            return protocol.InvalidPayload("must stand on one line (RFC 9112, section 5.2)", before)
        if not colon:
            return protocol.InvalidPayload("is a header line without a colon", to_path([name]))
        if not TOKEN.fullmatch(name):
            return protocol.InvalidPayload("is not a header name (RFC 9110, section 5.1)", to_path([name]))
        if CONTROL.search(value):
            return protocol.InvalidPayload("must not hold control characters", to_path([name]))
        before = to_path([name])
    return protocol.InvalidPayload("cannot be read as HTTP/1.1", "request")


def check_request(start_line: RequestStartLine, headers: HTTPHeaders) -> None:
    """Check the host and the query of a request whose head could be parsed. Raises InvalidPayload.

    The rules are those by which Tornado makes an `HTTPServerRequest`; a request that Tornado does not route needs
    them too.
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


def write_refusal(error: protocol.ServiceError, method: str | None) -> bytes:
    """Write the answer to a request that never reached a handler, the last one on its connection.

    Any web page may read it: it says nothing but what is wrong with the request itself.
    """
    body = protocol.encode(error.body())
    headers = first_headers()
    headers["Access-Control-Allow-Origin"] = "*"
    headers["Content-Type"] = "application/json"
    headers["Content-Length"] = str(len(body))
    headers["Connection"] = "close"
    lines = [f"HTTP/1.1 {error.status} {responses[error.status]}"]
    lines += [f"{name}: {value}" for name, value in headers.get_all()]
    return "\r\n".join([*lines, "", ""]).encode("latin1") + (b"" if method == "HEAD" else body)
