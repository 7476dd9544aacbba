"""What is known of a connection of the port for all its requests: its peer, its slots and what it speaks.

Not `request_context.RequestContext`, which is of one request, and lives on with the WebSocket or the stream that it
opens. A connection has many requests, and exists before the first one; behind a proxy they are of many clients.

tests/unit/test_library_internals.py lists the private names of Tornado that this relies on.
"""

from __future__ import annotations

from typing import Any

from tornado.httpserver import _HTTPRequestContext
from tornado.httputil import HTTPHeaders

from balance.aio.addresses import to_address
from balance.refusals import Refusals
from balance.request_log import RequestLog
from balance.web.connection_limit import ConnectionLimit
from balance.web.request_stream import RequestStream, TlsStream


class ConnectionContext(_HTTPRequestContext):
    """The peer of a connection, and the client of its current request, which differ behind a trusted proxy."""

    request_log: RequestLog  # for the requests that reach no handler
    refusals: Refusals

    def __init__(
        self,
        stream: RequestStream,
        address: Any,
        assumed_scheme: str | None,
        proxies: list[str] | None,
        limit: ConnectionLimit,
    ) -> None:
        """Make the context of a connection of the port.

        `assumed_scheme` is that of the clients of a proxy that does not send X-Forwarded-Proto. Without trusted proxies
        any peer may be the proxy.
        """
        is_assumed = not proxies or address[0] in proxies
        super().__init__(stream, address, assumed_scheme if is_assumed else None, proxies)
        self.port_scheme = "https" if isinstance(stream, TlsStream) else "http"
        """What the port of the connection speaks; `protocol` is what the client speaks, to a proxy in front."""
        self._stream = stream
        self._limit = limit
        self._is_of_proxy = self.remote_ip in self.trusted_downstream
        self.is_refused = False
        """Whether the connection of the current request is one too many of its address."""

    def begin_connection(self) -> bool:
        """Count a connection of a client; return False if it is to be closed at once."""
        return not self._limit.is_on or self._is_of_proxy or self._count()

    def _count(self) -> bool:
        slot = self._limit.acquire(to_address(self.remote_ip))
        self._stream.count(slot)
        self.is_refused = slot is None or slot.is_over
        return slot is not None

    def check_connection(self) -> None:
        """Check that the connection of the current request is not one too many of its address. Raises RateLimited."""
        if self.is_refused:
            raise self._limit.refusal()

    def _apply_xheaders(self, headers: HTTPHeaders) -> None:
        """Read the client's address from X-Forwarded-For, if a trusted proxy has sent it, and count its request.

        Tornado trusts every peer, and X-Real-Ip before X-Forwarded-For, although a proxy passes it on unchanged.
        """
        if self._is_of_proxy:
            if "X-Real-Ip" in headers:
                headers = headers.copy()  # requests with the same head share them (`KnownHeads`)
                del headers["X-Real-Ip"]
            super()._apply_xheaders(headers)
            if self._limit.is_on:
                self._count()

    def end_request(self) -> None:
        """Count a connection of a proxy no more until its next request."""
        if self._is_of_proxy:
            self._stream.count(None)
            self.is_refused = False
