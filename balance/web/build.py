"""Makes from the settings what decides which hosts are served and which web pages may call."""

from __future__ import annotations

from balance.config import Config
from balance.host_names import is_loopback
from balance.web.cors import HostPolicy, OriginPolicy


def make_policies(config: Config) -> tuple[HostPolicy, OriginPolicy]:
    """Return which hosts are served, and which web pages may call."""
    # The start line has the address of `--host`, so it is served too.
    hosts = HostPolicy((*config.hosts, config.host.lower().removesuffix(".")))
    # Behind a proxy, a page of a loopback host is of the visitor's machine, not of this one.
    for_own_machine = is_loopback(config.host) and not config.trusted_proxies
    return hosts, OriginPolicy(config.cors_origins, for_own_machine=for_own_machine)
