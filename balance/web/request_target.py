"""Normalise the target of each request to the one form by which it is routed.

Equal addresses have one spelling afterwards, on every route: an absolute form becomes a path (RFC 9112, section 3.2.2),
percent-encoded unreserved characters are decoded (RFC 3986, section 6.2.2.2), and a path has no slash at its end.
Other encoded characters stay: %2F is a character of a segment and not a separator, and %2541 is the text %41. Dot
segments stay too: a proxy in front may decide by the path, and must see the path that is served.
"""

from __future__ import annotations

import re
from string import ascii_letters, digits

from tornado.httputil import HTTPHeaders, RequestStartLine

import protocol

TARGET = "request target"  # the path of each error here
ENCODED = re.compile("%([0-9A-Fa-f]{2})")
AUTHORITY_END = re.compile("[/?#]")
UNRESERVED = frozenset(ascii_letters + digits + "-._~")  # RFC 3986, section 2.3


def normalise_target(start_line: RequestStartLine, headers: HTTPHeaders, expected: str = "http") -> RequestStartLine:
    """Return the request line with its target normalised; the host of an absolute form replaces the header.

    Raises InvalidPayload for a target that is neither a path nor an address whose scheme is `expected`, such as those
    for a proxy.
    """
    target = start_line.path
    is_path = target.startswith("/")
    if is_path and "%" not in target and not target.endswith("/") and "/?" not in target:
        return start_line  # the frequent case
    if not is_path:
        if target == "*" and start_line.method == "OPTIONS":
            return start_line
        target = _split_absolute_form(start_line, headers, expected)
    path, mark, query = target.partition("?")
    path = ENCODED.sub(_decode_unreserved, path)
    if len(path) > 1:
        path = path.removesuffix("/")
    return start_line._replace(path=path + mark + query)


def without_prefix(start_line: RequestStartLine, prefix: str) -> RequestStartLine:
    """Return the request line without a prefix of its path, which a proxy may have removed already (`--public-url`)."""
    rest = start_line.path.removeprefix(prefix)
    if len(rest) == len(start_line.path) or rest[:1] not in ("/", "?", ""):
        return start_line
    return start_line._replace(path=rest if rest.startswith("/") else f"/{rest}")


def _split_absolute_form(start_line: RequestStartLine, headers: HTTPHeaders, expected: str) -> str:
    """Return the path and query of an absolute form, and set its host in the headers."""
    scheme, found, rest = start_line.path.partition("://")
    if not found or start_line.method == "CONNECT":
        raise protocol.InvalidPayload(f"must be a path or an {expected}:// address; this server is not a proxy", TARGET)
    if scheme.lower() != expected:
        spoken = "TLS" if expected == "https" else "plain HTTP"
        raise protocol.InvalidPayload(f"must be an {expected}:// address: this port speaks {spoken}", TARGET)
    end = AUTHORITY_END.search(rest)
    authority, path = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    if not authority or "@" in authority:
        raise protocol.InvalidPayload("must have a host, and no user before it (RFC 9110, section 4.2)", TARGET)
    if len(headers.get_list("Host")) == 1 or start_line.version == "HTTP/1.0":  # any other number is rejected later
        headers["Host"] = authority
    return path if path.startswith("/") else f"/{path}"


def _decode_unreserved(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if character in UNRESERVED else found[0]
