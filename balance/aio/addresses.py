"""The unit in which time and slots are shared among clients: an IPv4 address, or an IPv6 network of 64 bits."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address

ADDRESSES_CACHED = 10_000


@lru_cache(ADDRESSES_CACHED)
def to_address(ip: str) -> str:
    """Return the address that an IP address belongs to: itself, or the /64 of one IPv6 client (RFC 6177).

    Clients behind a proxy that is not trusted share the proxy's address. A text that is not an IP address is returned
    unchanged.
    """
    try:
        parsed = ip_address(ip)
    except ValueError:
        return ip
    if not isinstance(parsed, IPv6Address):
        return ip
    return str(parsed.ipv4_mapped) if parsed.ipv4_mapped else parsed.packed[:8].hex()
