"""Check the requests at the Socket.IO path before the libraries get them.

The libraries would accept some of these requests and leave them without an answer, and reject others without the error
of the service. Here each is rejected by an HTTP status, before an upgrade.
"""

from __future__ import annotations

import re

from tornado.httputil import HTTPServerRequest

import protocol

KEY = re.compile("[A-Za-z0-9+/]{22}==")  # 16 bytes (RFC 6455, section 4.2.1)


def is_upgrade(request: HTTPServerRequest) -> bool:
    """Return whether a request asks for a WebSocket."""
    return request.headers.get("Upgrade", "").lower() == "websocket"


def check_transport(request: HTTPServerRequest, query: dict[str, list[str]]) -> str:
    """Return the transport of a request. Raises InvalidPayload."""
    transport = query.get("transport", [""])[0]
    if transport not in ("polling", "websocket"):
        raise protocol.InvalidPayload("must be polling or websocket", "transport")
    if (transport == "websocket") != is_upgrade(request):
        raise protocol.InvalidPayload("does not fit the request's Upgrade header", "transport")
    if "j" in query:
        raise protocol.InvalidPayload("JSONP is not served", "j")
    return transport


def check_handshake(request: HTTPServerRequest, query: dict[str, list[str]]) -> None:
    """Check a request that names no session. Raises InvalidPayload."""
    if request.method != "GET":
        raise protocol.InvalidPayload("is required", "sid")
    if query.get("EIO") != ["4"]:
        raise protocol.InvalidPayload("must be 4, as socket.io-client 3 and 4 send it; 2 is too old", "EIO")


def check_upgrade(request: HTTPServerRequest, *, is_exempt: bool) -> None:
    """Check all that Tornado would reject with a text of its own (RFC 6455, section 4.2.1). Raises ServiceError.

    `is_exempt` is whether a page of any site may call.
    """
    headers = request.headers
    if request.version == "HTTP/1.0":
        raise protocol.InvalidPayload("must end in HTTP/1.1 for a WebSocket", "request line")
    if not headers.get("Host"):
        raise protocol.InvalidPayload("must not be empty for a WebSocket", "Host")
    # Browsers send Origin with each WebSocket, but some proxies are set up to drop it (Fetch Metadata, 2.3).
    if (
        not is_exempt
        and "Origin" not in headers
        and headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
    ):
        raise protocol.Forbidden("a page of another site may not call without its Origin", "Sec-Fetch-Site")
    if "upgrade" not in [part.strip().lower() for part in headers.get("Connection", "").split(",")]:
        raise protocol.InvalidPayload("must be Upgrade", "Connection")
    if headers.get("Sec-WebSocket-Version") != "13":
        raise protocol.InvalidPayload("must be 13 (RFC 6455)", "Sec-WebSocket-Version")
    if not KEY.fullmatch(headers.get("Sec-WebSocket-Key", "")):
        raise protocol.InvalidPayload("must be 16 bytes in base64 (RFC 6455)", "Sec-WebSocket-Key")
