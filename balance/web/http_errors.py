"""Explain what is wrong with a head that is not HTTP/1.1, and write the response.

Tornado's parser decides what is rejected. Only then is the head searched here, for the first fault and a text that
names it: Tornado's own texts are for its log, and change with its versions.
"""

from __future__ import annotations

import re

import protocol
from balance.request_context import RequestContext
from balance.web.headers import default_headers, encode_head
from protocol.check import to_path

TLS_HANDSHAKE = 0x16  # the first byte of every TLS connection (RFC 8446, section 5.1)
REQUEST_LINE = "request line"
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
CONTROL = re.compile(r"[\x00-\x08\x0A-\x1F\x7F]")
VERSION = re.compile(r"HTTP/[0-9]\.[0-9]")


def explain_head(head: bytes) -> protocol.InvalidPayload:
    """Return the first fault of a head that Tornado's parser has rejected."""
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
        reason = f"must end in HTTP/1.1; {parts[2]} is not supported"
    else:
        return None
    return protocol.InvalidPayload(reason, REQUEST_LINE)


def _explain_fields(fields: list[str]) -> protocol.InvalidPayload:
    previous = "the first header"
    for field in fields:
        name, colon, value = field.removesuffix("\r").partition(":")
        if field.startswith((" ", "\t")):
            return protocol.InvalidPayload("must be on one line (RFC 9112, section 5.2)", previous)
        if not colon:
            return protocol.InvalidPayload("is a header line without a colon", to_path([name]))
        if not TOKEN.fullmatch(name):
            return protocol.InvalidPayload("is not a header name (RFC 9110, section 5.1)", to_path([name]))
        if CONTROL.search(value):
            return protocol.InvalidPayload("must not hold control characters", to_path([name]))
        previous = to_path([name])
    return protocol.InvalidPayload("cannot be read as HTTP/1.1", "request")


def error_response(error: protocol.ServiceError, method: str | None, context: RequestContext, scheme: str) -> bytes:
    """Return the whole response to a request that reached no handler, the last one on its connection.

    Any web page may read it: it contains nothing but the fault of the request.
    """
    body = protocol.encode(error.body())
    headers = default_headers(context, scheme)
    headers["Access-Control-Allow-Origin"] = "*"
    headers["Content-Type"] = "application/json"
    headers["Content-Length"] = str(len(body))
    headers["Connection"] = "close"
    return encode_head(error.status, headers) + (b"" if method == "HEAD" else body)
