"""HTTP requests whose connections can be closed at any time, and which may be restricted to public addresses.

With `CheckedResolver` a name is resolved once, each address is checked, and the connection is made to one that passed.
So a name that resolves to another address a moment later (DNS rebinding) leads nowhere else. No request follows a
redirect, and Tornado's client uses no proxy.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, NamedTuple

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import DefaultLoopResolver, Resolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.tcpclient import TCPClient

FAILURES = (OSError, HTTPClientError, StreamClosedError, ValueError)
"""What a request raises that gets no response; ValueError for a name that cannot be one, or a response that is not."""
CONNECT_S_MAX = 5.0
RESPONSE_BYTES_MAX = 2**62  # of a stream; other responses are small, or are discarded
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052


class Response(NamedTuple):
    """A response; the body is empty if it was received by a callback."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class CheckedResolver(DefaultLoopResolver):
    """Resolves names to public addresses only."""

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        """Return the public addresses of a host. Raises OSError, also if it has none."""
        found = await super().resolve(host, port, family)
        public = [(kind, address) for kind, address in found if is_public(address[0])]
        if not public:
            raise OSError(f"{host} has no public address; --allow-private permits others")
        return public


def is_public(text: str) -> bool:
    """Return whether an IP address is of the public Internet, also if it only embeds an IPv4 address that is not."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and (embedded := _embedded(address)) is not None:
        address = embedded
    return address.is_global and not address.is_multicast


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address leads to: mapped, 6to4, Teredo or NAT64."""
    if address in NAT64:
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


class HttpClient:
    """One or more requests, and their connections."""

    def __init__(self, resolver: Resolver | None = None) -> None:
        """Connect to the addresses that the resolver returns, by default to any."""
        self._client = SimpleAsyncHTTPClient(force_instance=True, resolver=resolver, max_body_size=RESPONSE_BYTES_MAX)
        self._connections = self._client.tcp_client = _Connections(self._client.resolver)

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._connections.abort()
        self._client.close()

    async def fetch(
        self,
        url: str,
        *,
        timeout_s: float,
        on_data: Callable[[bytes], Awaitable[None] | None] | None = None,
        **options: Any,
    ) -> Response:
        """Send a request and return its response; `timeout_s` 0 is none for the response. Raises FAILURES.

        `on_data` receives each part of the body as it comes; the next is read when what it returns is done, if that
        can be awaited.
        """
        request = HTTPRequest(
            url,
            connect_timeout=CONNECT_S_MAX,
            request_timeout=timeout_s,
            follow_redirects=False,
            decompress_response=False,
            streaming_callback=on_data,
            **options,
        )
        fetching = self._client.fetch(request, raise_error=False)
        fetching.add_done_callback(lambda done: done.cancelled() or done.exception())  # the caller may be cancelled
        response = await asyncio.shield(fetching)  # Tornado logs an error for a future that is cancelled
        return Response(response.code, response.headers, response.body)


class _Connections(TCPClient):
    """A TCP client that can close what it has opened."""

    def __init__(self, resolver: Resolver) -> None:
        super().__init__(resolver)
        self._streams: list[IOStream] = []
        self._is_aborted = False

    async def connect(self, *arguments: Any, **options: Any) -> IOStream:
        stream = await super().connect(*arguments, **options)
        self._streams = [one for one in self._streams if not one.closed()]
        self._streams.append(stream)
        if self._is_aborted:
            self.abort()
        return stream

    def abort(self) -> None:
        """Close every connection, and those that are opened later."""
        self._is_aborted = True
        for stream in self._streams:
            stream.close()
