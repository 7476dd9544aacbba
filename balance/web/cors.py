"""Which hosts a request may name, and which web pages may call.

A browser lets a stranger's page reach this service in two ways. By CORS: the page's own origin stands in the header
`Origin` (Fetch standard, section 3.2; RFC 6454). By DNS rebinding: the stranger points a name of their own to this
address, and the browser takes the service for a part of the page. Then only the header `Host` shows it (RFC 9110,
section 7.2), and the trick needs a name that can be registered. `Hosts` decides about the second, `Origins` about the
first; a request must satisfy both, whatever it asks.

The settings `--hosts` and `--cors-origins` are normalised once, at the start, by `normal_host` and `normal_origin`.
Matching then looks up text: an origin is allowed if it, or one of the patterns that cover it, stands in the setting.

Threads: any. Nothing here waits or logs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

import idna

# Nobody can register a name under these: RFC 6761 (localhost, test), RFC 6762 (local, and so Kubernetes'
# cluster.local), RFC 8375 (home.arpa), and ICANN's resolution 2024.07.29.06 (internal).
PRIVATE_SUFFIXES = (".localhost", ".local", ".internal", ".test", ".home.arpa")
DEFAULT_PORTS = {"http": "80", "https": "443"}
NULL_SCHEMES = ("file", "data", "blob", "about", "javascript")  # browsers send `Origin: null` for pages of these
OTHER_SCHEMES = ("ws", "wss", "ftp")  # of addresses, but not of pages
NAME_LENGTH_MAX = 253  # RFC 1035, section 2.3.4, as text
HOST_LENGTH_MAX = NAME_LENGTH_MAX + len(".:65535")
HOSTS_CACHED = 1024

AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]*(?:%[0-9A-Za-z._~-]*)?\]|[0-9A-Za-z._-]*)(?::([0-9]*))?")
NAME = re.compile(r"[0-9a-z_-]{1,63}(?:\.[0-9a-z_-]{1,63})*")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # the last label of an IPv4 address (URL standard, section 3.5)
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")  # RFC 3986, section 3.1
APP_HOST = re.compile(r"[0-9a-z._:-]+")


class Authority(NamedTuple):
    """A host and a port, normalised."""

    name: str
    """In lower case and ASCII, without a dot at the end; an IPv6 address in brackets."""
    port: str
    """Decimal, or empty where none is given."""


class Origin(NamedTuple):
    """The origin of a web page, normalised."""

    scheme: str
    name: str
    port: str
    """Decimal, or empty for the scheme's default."""


class Hosts:
    """Decides for which hosts requests are served."""

    def __init__(self, named: Iterable[str] = ()) -> None:
        """Serve the hosts of the setting `--hosts` (each a result of `normal_host`) beside those that are always."""
        self._named = frozenset(named)
        self._serves = lru_cache(HOSTS_CACHED)(self._decide)  # asked for each request, and the answers are few

    def serves(self, host: str) -> bool:
        """Tell whether a request for `host`, as its header or its target gives it, is for this server."""
        return "*" in self._named or (len(host) <= HOST_LENGTH_MAX and self._serves(host))

    def _decide(self, host: str) -> bool:
        try:
            name, port = parse_authority(host)
        except ValueError:
            return False
        ports = [port] if port else DEFAULT_PORTS.values()
        return is_private(name) or any(
            pattern in self._named or any(f"{pattern}:{one}" in self._named for one in ports)
            for pattern in _patterns(name)
        )


class Origins:
    """Decides which web pages may call.

    Trusted: pages of an origin that `--cors-origins` names; pages of the very host and port that is called, if nobody
    can register that host; pages of a loopback host, which are programs of the same machine, if this server is called
    by a loopback host and listens for its own machine only. By `*` any other page may call, but without credentials.
    """

    def __init__(self, allowed: Iterable[str] = (), *, for_own_machine: bool = False) -> None:
        """Take the values of the setting `--cors-origins`, each a result of `normal_origin`."""
        self._allowed = frozenset(allowed)
        self._for_own_machine = for_own_machine

    @property
    def any_may_call(self) -> bool:
        """Whether `--cors-origins` has `*`."""
        return "*" in self._allowed

    def trusts(self, origin: str, host: str) -> bool:
        """Tell whether a page of `origin` may call this server as `host`, with credentials and headers of its own."""
        try:
            page = parse_origin(origin)
            return self._names(page) or self._is_near(page, parse_authority(host))
        except ValueError:
            return False

    def _is_near(self, page: Origin, called: Authority) -> bool:
        """Tell whether a page is of the host and port that is called, or a program's of this machine."""
        default = DEFAULT_PORTS.get(page.scheme)
        if default is None:
            return False
        if page.name == called.name and (page.port or default) == (called.port or default):
            return is_private(called.name)
        return self._for_own_machine and is_loopback(page.name) and is_loopback(called.name)

    def _names(self, page: Origin) -> bool:
        """Tell whether `--cors-origins` names the origin of a page."""
        suffix = f":{page.port}" if page.port else ""
        return any(
            f"{page.scheme}://{pattern}{port}" in self._allowed
            for pattern in _patterns(page.name)
            for port in (suffix, ":*")
        )


def is_private(name: str) -> bool:
    """Tell whether nobody can register a host, so that no stranger can point it here.

    An IP address in any form, a single label, or a name under one of PRIVATE_SUFFIXES.
    """
    return "." not in name or _is_address(name) or f".{name}".endswith(PRIVATE_SUFFIXES)


def is_loopback(host: str) -> bool:
    """Tell whether a host, without a port, is this machine's own: 127.0.0.0/8, ::1, localhost (RFC 6761, 6.3)."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return f".{host.lower().removesuffix('.')}".endswith(".localhost")
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def parse_authority(text: str) -> Authority:
    """Normalise a host with or without a port. Raises ValueError with the reason."""
    found = AUTHORITY.fullmatch(text)
    if found is None:
        raise ValueError("is not a host with or without a port")
    name, digits = found[1].lower().removesuffix("."), (found[2] or "").lstrip("0")
    if found[2] and not (0 < len(digits) <= 5 and int(digits) <= 65535):
        raise ValueError("has a port that is not within 1 and 65535")
    if name.startswith("["):
        try:
            return Authority(f"[{IPv6Address(name[1:-1])}]", digits)
        except ValueError as error:
            raise ValueError("has no IPv6 address in its brackets") from error
    if len(name) > NAME_LENGTH_MAX or not NAME.fullmatch(name):
        raise ValueError("has no name that could be one of a host")
    return Authority(name, digits)


def parse_origin(text: str) -> Origin:
    """Normalise the origin that a browser sends. Raises ValueError with the reason."""
    scheme, rest = _split_origin(text)
    if scheme not in DEFAULT_PORTS:
        return Origin(scheme, rest, "")
    name, port = parse_authority(rest)
    return Origin(scheme, name, "" if port == DEFAULT_PORTS[scheme] else port)


def normal_host(text: str) -> str:
    """Normalise a value of `--hosts`. Raises ValueError with the reason.

    It is `*`, or a host; `*.` before it stands for every name below it, a port behind it for this port alone.
    """
    if text == "*":
        return text
    if "/" in text:
        raise ValueError("is not a host such as balance.example: it has a scheme or a path")
    try:
        return _normal_pattern(text).removesuffix(":*")  # without a port it is at any
    except ValueError as error:
        raise ValueError(f"is not a host such as balance.example: it {error}") from error


def normal_origin(text: str) -> str:
    """Normalise a value of `--cors-origins`. Raises ValueError with the reason.

    It is `*`, or an origin; `*.` before its host stands for every name below it, `*` in place of its port for any port.
    """
    if text == "*":
        return text
    if text.lower() == "null":
        raise ValueError("is not an origin that can be allowed: any page can send it, from a sandboxed frame")
    scheme, rest = _split_origin(text[:-1] if text.endswith("/") and not text.endswith("//") else text)
    if scheme not in DEFAULT_PORTS:
        return f"{scheme}://{rest}"
    try:
        return f"{scheme}://{_normal_pattern(rest).removesuffix(f':{DEFAULT_PORTS[scheme]}')}"
    except ValueError as error:
        raise ValueError(f"is not an origin such as https://dashboard.example: it {error}") from error


def _split_origin(text: str) -> tuple[str, str]:
    """Split an origin into its scheme and its host with its port; of an app's own scheme the host is kept as it is."""
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    if scheme in NULL_SCHEMES:
        raise ValueError(
            f"is not an origin that can be allowed: browsers send `null` for pages of {scheme}:, as any page can"
        )
    if not rest or not SCHEME.fullmatch(scheme) or scheme in OTHER_SCHEMES:
        raise ValueError("is not an origin such as https://dashboard.example: it must begin with http:// or https://")
    if scheme not in DEFAULT_PORTS:
        rest = rest.lower()
        if not APP_HOST.fullmatch(rest):
            raise ValueError("is not an origin such as capacitor://localhost: a scheme and a host are all it has")
    return scheme, rest


def _normal_pattern(text: str) -> str:
    """Normalise a host of a setting, with `*.` before it and a port or `:*` behind it where they stand."""
    if any(mark in text for mark in "/?#@ "):
        raise ValueError("has more than a host and a port")
    below = "*." if text.startswith("*.") else ""
    any_port = ":*" if text.endswith(":*") else ""
    bare = text.removeprefix(below).removesuffix(any_port)
    if "*" in bare:
        raise ValueError("has a * that is neither its first label nor its port")
    name, port = parse_authority(_to_ascii(bare))
    if below and f".{name}" not in PRIVATE_SUFFIXES and ("." not in name or _is_address(name)):
        raise ValueError(f"would allow all that ends with {name}")
    return below + name + (any_port or (port and f":{port}"))


def _to_ascii(text: str) -> str:
    """Write a host with or without a port as browsers send it: in Punycode (UTS 46)."""
    if text.isascii():
        return text
    name, colon, port = text.partition(":")
    try:
        return idna.encode(name, uts46=True).decode() + colon + port
    except idna.IDNAError as error:
        raise ValueError(f"cannot be written in ASCII ({error}); write it as browsers send it, xn--…") from error


def _is_address(name: str) -> bool:
    return name.startswith("[") or bool(NUMBER.fullmatch(name.rpartition(".")[2]))


def _patterns(name: str) -> Iterator[str]:
    """Yield every pattern of a setting that covers a name: of a.b.c these are a.b.c, *.b.c and *.c."""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield f"*.{name}"
