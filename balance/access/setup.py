"""Builds what finds out the callers from the settings, and checks that a server is not open to a network by mistake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from balance import program
from balance.access.authenticator import Authenticator
from balance.config import Config
from balance.host_names import is_loopback, parse_authority
from balance.rate_limit import RateLimit
from balance.setting import ConfigError

if TYPE_CHECKING:
    from balance.access.jwt import JwtVerifier


def make_authenticator(config: Config, failures: RateLimit) -> Authenticator:
    """Make what finds out the callers. Raises ConfigError if the keys of `--jwks` cannot be read."""
    return Authenticator(allow_anonymous=config.allow_anonymous, jwt=_jwt_verifier(config), failures=failures)


def _jwt_verifier(config: Config) -> JwtVerifier | None:
    if not config.jwks:
        return None
    # PyJWT and its cryptography take a tenth of a second, which a server without a JWKS saves.
    from balance.access.jwt import JwksError, JwtSettings, JwtVerifier

    verifier = JwtVerifier(JwtSettings(config.jwks, config.jwt_issuer, config.jwt_audience))
    try:
        verifier.load_file()
    except JwksError as error:
        raise ConfigError(f"--jwks: {error}") from error
    return verifier


def check_closed(config: Config, authenticator: Authenticator) -> None:
    """Check that not everyone in a network may call, unless the settings allow it. Raises ConfigError."""
    if config.allow_anonymous or authenticator.has_credentials:
        return
    reason = next(_reasons_open(config), None)
    if reason is not None:
        raise ConfigError(
            f"{reason} and there is no token: run `{program.COMMAND} token create NAME`, "
            "set --jwks, or let everyone in by --allow-anonymous"
        )


def _reasons_open(config: Config) -> Iterator[str]:
    """Yield each setting by which others than this machine reach the server, with the reason.

    A server that listens on loopback is open to a network by a proxy, of which several settings are a sign.
    """
    addresses = [("--host", config.host, config.host)]
    if config.public is not None:
        addresses.append(("--public-url", config.public_url, config.public.host.name))
    addresses += [("--hosts", host, _name_of_pattern(host)) for host in config.hosts]
    for flag, address, name in addresses:
        if not is_loopback(name):
            yield f"{flag}: {address} is not loopback"
    if config.trusted_proxies:
        yield f"--trusted-proxies: {config.trusted_proxies[0]} opens the server to a network"


def _name_of_pattern(host: str) -> str:
    """Return the name in a value of `--hosts`, without its port; `*`, for any name, is returned as it is."""
    return host if host == "*" else parse_authority(host.removeprefix("*.")).name
