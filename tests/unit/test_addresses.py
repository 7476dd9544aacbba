"""The unit that limits are counted for: an IPv4 address, or an IPv6 network of 64 bits."""

from __future__ import annotations

import pytest

from balance.aio.addresses import to_address


@pytest.mark.parametrize(
    ("ip", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2::1", "20010db800010002"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "20010db800010002"),
        ("2001:DB8:1:3::1", "20010db800010003"),
        ("::1", "0000000000000000"),
        ("fe80::1%eth0", "fe80000000000000"),
        ("", ""),
        ("unix:", "unix:"),
        ("192.0.2.007", "192.0.2.007"),
    ],
)
def test_clients_are_counted_by_ipv4_address_or_ipv6_network(ip: str, address: str) -> None:
    assert to_address(ip) == address
