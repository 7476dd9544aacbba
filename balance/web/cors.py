"""Which hosts a request may name, and which web pages may call.

A browser lets a stranger's page reach this service by two methods. By CORS: the header `Origin` names the page's own
origin (Fetch standard, section 3.2; RFC 6454). By DNS rebinding: the stranger points a registered name to the address
of this service, and the browser treats the service as a part of the page. Then only the header `Host` shows it (RFC
9110, section 7.2). `OriginPolicy` decides about the first, `HostPolicy` about the second; every request must satisfy
both.

The values of `--hosts` and `--cors-origins` are normalised (`balance.host_names`). A host or an origin matches if the
setting has it, or one of the patterns for it, as text.

Threads: any. Nothing here waits or logs.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from tornado.httputil import HTTPHeaders

import protocol
from balance.host_names import (
    DEFAULT_PORTS,
    HOST_LENGTH_MAX,
    Authority,
    Origin,
    is_loopback,
    is_private,
    parse_authority,
    parse_origin,
    patterns_for,
)

CREDENTIALS = "Access-Control-Allow-Credentials"
EXPOSED_HEADERS = "Location, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id"
HOSTS_CACHED = 1024


class HostPolicy:
    """Decides for which hosts requests are served."""

    def __init__(self, named: Iterable[str] = ()) -> None:
        """Serve the hosts of the setting `--hosts` (each normalised) and those that nobody can register."""
        self._named = frozenset(named)
        self._serves = lru_cache(HOSTS_CACHED)(self._decide)  # asked for each request, and there are few hosts

    def serves(self, host: str) -> bool:
        """Return whether a request for `host`, as its header or its target has it, is for this server."""
        return "*" in self._named or (len(host) <= HOST_LENGTH_MAX and self._serves(host))

    def _decide(self, host: str) -> bool:
        try:
            name, port = parse_authority(host)
        except ValueError:
            return False
        ports = [port] if port else DEFAULT_PORTS.values()
        return is_private(name) or any(
            pattern in self._named or any(f"{pattern}:{one}" in self._named for one in ports)
            for pattern in patterns_for(name)
        )


class OriginPolicy:
    """Decides which web pages may call.

    Trusted are pages of an origin in `--cors-origins`; pages of the same host and port as the request, if nobody can
    register that host; and, if this server listens for its own machine only and is called by a loopback host, pages of
    a loopback host, which are programs of the same machine. With `*` any other page may call, but without credentials.
    """

    def __init__(self, allowed: Iterable[str] = (), *, for_own_machine: bool = False) -> None:
        """Trust the values of the setting `--cors-origins`, each normalised."""
        self._allowed = frozenset(allowed)
        self._for_own_machine = for_own_machine

    @property
    def allows_any(self) -> bool:
        """Whether `--cors-origins` has `*`."""
        return "*" in self._allowed

    def trusts(self, origin: str, host: str) -> bool:
        """Return whether a page of `origin` may call this server as `host`, with credentials and any headers."""
        try:
            page = parse_origin(origin)
            return self._names(page) or self._is_near(page, parse_authority(host))
        except ValueError:
            return False

    def _is_near(self, page: Origin, called: Authority) -> bool:
        """Return whether a page is of the same host and port as the request, or of a program of this machine."""
        default = DEFAULT_PORTS.get(page.scheme)
        if default is None:
            return False
        if page.name == called.name and (page.port or default) == (called.port or default):
            return is_private(called.name)
        return self._for_own_machine and is_loopback(page.name) and is_loopback(called.name)

    def _names(self, page: Origin) -> bool:
        """Return whether `--cors-origins` has the origin of a page."""
        suffix = f":{page.port}" if page.port else ""
        return any(
            f"{page.scheme}://{pattern}{port}" in self._allowed
            for pattern in patterns_for(page.name)
            for port in (suffix, ":*")
        )


def check_host(hosts: HostPolicy, host: str) -> None:
    """Check that a request is for a host of this server. Raises MisdirectedRequest."""
    if not hosts.serves(host):
        raise misdirected(host)


def misdirected(host: str) -> protocol.MisdirectedRequest:
    """Return the error for a request that is for another server's host (RFC 9110, section 15.5.20)."""
    return protocol.MisdirectedRequest(f"{host[:100]!r} is not a host of this server; see --hosts", "Host")


def check_origin(origins: OriginPolicy, origin: str | None, host: str) -> None:
    """Check that a request for `host` is from no web page, or from one that may call. Raises Forbidden."""
    if origin is not None and not origins.allows_any and not origins.trusts(origin, host):
        raise protocol.Forbidden("pages of this origin may not call; see --cors-origins", "Origin")


def set_cors_headers(
    response: HTTPHeaders,
    origins: OriginPolicy,
    origin: str | None,
    host: str,
    *,
    exposed: str = EXPOSED_HEADERS,
    is_public: bool = False,
) -> None:
    """Set the headers by which a browser lets a page of `origin` read the response (Fetch standard, CORS protocol).

    A page that only `*` admits gets no credentials: the browser would send those of its user for any stranger's page.
    """
    if origin is not None and origins.trusts(origin, host):
        response["Access-Control-Allow-Origin"] = origin
        response[CREDENTIALS] = "true"
    elif is_public or (origin is not None and origins.allows_any):
        response["Access-Control-Allow-Origin"] = "*"
    else:
        return
    response["Access-Control-Expose-Headers"] = exposed
