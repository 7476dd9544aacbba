"""Hosts and origins: parse what a request names, and normalise what the settings name.

A host is a name or an IP address, with or without a port (RFC 9110, section 7.2). An origin is the scheme, the host and
the port of a web page (RFC 6454). Both are normalised to one spelling, so that they can be compared as text.

Threads: any. Nothing here waits, logs or imports another module of the service.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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

AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]*(?:%[0-9A-Za-z._~-]*)?\]|[0-9A-Za-z._-]*)(?::([0-9]*))?")
NAME = re.compile(r"[0-9a-z_-]{1,63}(?:\.[0-9a-z_-]{1,63})*")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # the last label of an IPv4 address (URL standard, section 3.5)
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")  # RFC 3986, section 3.1
PREFIX = re.compile(r"(?:/[0-9A-Za-z_~-][0-9A-Za-z._~-]*)*")  # of unreserved characters: nothing in it is encoded
OWN_PATHS = frozenset(("api", "healthz", "livez", "metrics", "readyz", "version"))  # first segments of routes
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


class PublicUrl(NamedTuple):
    """The address of the service as its clients see it, normalised: `https://balance.example.com/prefix`."""

    scheme: str
    host: Authority
    prefix: str
    """What comes before every path of the service; empty, or with a slash at its beginning and none at its end."""

    @property
    def address(self) -> str:
        """The host, with its port if it is not the default one."""
        return self.host.name + (self.host.port and f":{self.host.port}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}{self.prefix}"


def is_private(name: str) -> bool:
    """Return whether nobody can register a name, so that no stranger can point it to this server.

    That is an IP address in any form, a single label, or a name under one of PRIVATE_SUFFIXES.
    """
    return "." not in name or _is_address(name) or f".{name}".endswith(PRIVATE_SUFFIXES)


def is_loopback(host: str) -> bool:
    """Return whether a host, without a port, is of this machine: 127.0.0.0/8, ::1, localhost (RFC 6761, 6.3)."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return f".{host.lower().removesuffix('.')}".endswith(".localhost")
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def parse_authority(text: str) -> Authority:
    """Parse and normalise a host with or without a port. Raises ValueError with the reason."""
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
        raise ValueError("has no name that a host could have")
    return Authority(name, digits)


def parse_origin(text: str) -> Origin:
    """Parse and normalise the origin that a browser sends. Raises ValueError with the reason."""
    scheme, rest = _split_origin(text)
    if scheme not in DEFAULT_PORTS:
        return Origin(scheme, rest, "")
    name, port = parse_authority(rest)
    return Origin(scheme, name, "" if port == DEFAULT_PORTS[scheme] else port)


def parse_public_url(text: str) -> PublicUrl:
    """Parse and normalise the value of `--public-url`. Raises ValueError with the reason."""
    scheme, mark, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    if scheme.lower() not in DEFAULT_PORTS or not mark:
        raise ValueError(
            "is not an address such as https://balance.example.com/prefix: it must begin with https:// or http://"
        )
    try:
        name, port = parse_authority(_to_ascii(authority))
    except ValueError as error:
        raise ValueError(f"is not an address such as https://balance.example.com/prefix: it {error}") from error
    prefix = (slash + path).removesuffix("/")
    if not PREFIX.fullmatch(prefix):
        raise ValueError("has a path that is not of segments of letters, digits and ._~-")
    if (first := prefix.partition("/")[2].partition("/")[0]) in OWN_PATHS:
        raise ValueError(f"has a path that begins with /{first}, as paths of the service itself do")
    port = "" if port == DEFAULT_PORTS[scheme.lower()] else port
    return PublicUrl(scheme.lower(), Authority(name, port), prefix)


def normalise_host(text: str) -> str:
    """Normalise a value of `--hosts`. Raises ValueError with the reason.

    It is `*`, or a host. `*.` before the host means every name below it; a port restricts it to that port.
    """
    if text == "*":
        return text
    if "/" in text:
        raise ValueError("is not a host such as balance.example: it has a scheme or a path")
    try:
        return _normalise_pattern(text).removesuffix(":*")  # without a port it matches any
    except ValueError as error:
        raise ValueError(f"is not a host such as balance.example: it {error}") from error


def normalise_origin(text: str) -> str:
    """Normalise a value of `--cors-origins`. Raises ValueError with the reason.

    It is `*`, or an origin. `*.` before its host means every name below it; `*` as its port means any port.
    """
    if text == "*":
        return text
    if text.lower() == "null":
        raise ValueError("is not an origin that can be allowed: any page can send it, from a sandboxed frame")
    scheme, rest = _split_origin(text[:-1] if text.endswith("/") and not text.endswith("//") else text)
    if scheme not in DEFAULT_PORTS:
        return f"{scheme}://{rest}"
    try:
        return f"{scheme}://{_normalise_pattern(rest).removesuffix(f':{DEFAULT_PORTS[scheme]}')}"
    except ValueError as error:
        raise ValueError(f"is not an origin such as https://dashboard.example: it {error}") from error


def patterns_for(name: str) -> Iterator[str]:
    """Yield every pattern of a setting that matches a name: for a.b.c these are a.b.c, *.b.c and *.c."""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield f"*.{name}"


def _split_origin(text: str) -> tuple[str, str]:
    """Split an origin into its scheme and its host with its port; the host of an app's own scheme is not parsed."""
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


def _normalise_pattern(text: str) -> str:
    """Normalise a host of a setting, which may have `*.` before it and a port or `:*` after it."""
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
    """Encode a host with or without a port as browsers send it: in Punycode (UTS 46)."""
    if text.isascii():
        return text
    name, colon, port = text.partition(":")
    try:
        return idna.encode(name, uts46=True).decode() + colon + port
    except idna.IDNAError as error:
        raise ValueError(f"cannot be written in ASCII ({error}); write it as browsers send it, xn--…") from error


def _is_address(name: str) -> bool:
    return name.startswith("[") or bool(NUMBER.fullmatch(name.rpartition(".")[2]))


def normalise_address(text: str) -> str:
    """Convert an IP address to the form of the operating system. Raises ValueError with the reason."""
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise ValueError("is not an IP address") from error
