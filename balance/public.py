"""What the address of the service, as its clients see it, decides: allowed hosts and origins, and what documents state.

The address is the setting `--public-url`, or the one on which the service listens.
"""

from __future__ import annotations

from balance.config import Config
from balance.host_names import is_loopback
from balance.web.cors import HostPolicy, OriginPolicy
from protocol.limits import DEFAULT, Limits


def policies(config: Config) -> tuple[HostPolicy, OriginPolicy]:
    """Return what decides about hosts and origins; those of the public address are allowed."""
    public = config.public
    # The start line has the address of `--host`, so it is served too.
    hosts = [*config.hosts, config.host.lower().removesuffix(".")]
    origins = list(config.cors_origins)
    if public is not None:
        hosts.append(public.host.name)
        origins.append(f"{public.scheme}://{public.address}")
    # Behind a proxy, a page of a loopback host is of the visitor's machine, not of this one.
    for_own_machine = is_loopback(config.host) and not config.trusted_proxies and public is None
    return HostPolicy(hosts), OriginPolicy(origins, for_own_machine=for_own_machine)


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
