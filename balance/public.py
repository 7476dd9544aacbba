"""What the address of the service, as its clients see it, decides: allowed hosts and origins, and what documents state.

The address is the setting `--public-url`, or the one on which the service listens.
"""

from __future__ import annotations

from balance.config import Config
from balance.web.cors import HostPolicy, OriginPolicy, make_policies
from protocol.limits import DEFAULT, Limits


def policies(config: Config) -> tuple[HostPolicy, OriginPolicy]:
    """Return what decides about hosts and origins; those of the public address are allowed."""
    hosts, origins, public = list(config.hosts), list(config.cors_origins), config.public
    if public is not None:
        hosts.append(public.host.name)
        origins.append(f"{public.scheme}://{public.address}")
    behind_proxy = bool(config.trusted_proxies) or public is not None
    return make_policies(config.host, hosts, origins, behind_proxy=behind_proxy)


def limits_of(config: Config) -> Limits:
    """Return what the documents state, with the address as clients see it."""
    public = config.public
    own = f"{config.host}:{config.port}" if config.port else DEFAULT.address
    return Limits(
        update_bytes_max=config.body_bytes_max,
        ping_interval_s=config.ping_interval_s,
        ping_timeout_s=config.ping_timeout_s,
        address=own if public is None else public.address,
        scheme=("https" if config.tls_cert else "http") if public is None else public.scheme,
        prefix="" if public is None else public.prefix,
    )
