"""What counts as one client where something is shared out by address."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address

ADDRESSES_MAX = 10_000  # that are remembered at once


@lru_cache(ADDRESSES_MAX)
def to_address(ip: str) -> str:
    """Name what an IP address belongs to: itself, or the network of 64 bits that one client of IPv6 has (RFC 6177).

    Clients behind one proxy that is not trusted share its address. A text that is no IP address stands for itself.
    """
    try:
        parsed = ip_address(ip)
    except ValueError:
        return ip
    if not isinstance(parsed, IPv6Address):
        return ip
    return str(parsed.ipv4_mapped) if parsed.ipv4_mapped else parsed.packed[:8].hex()
