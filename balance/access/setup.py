"""Builds what finds out the callers from the settings, and checks that a server is not open to a network by mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING

from balance import program
from balance.access.authenticator import Authenticator
from balance.config import Config
from balance.host_names import is_loopback
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
    """Check that not everyone in a network may call, unless the settings allow it. Raises ConfigError.

    A server that listens on loopback is open to a network by a proxy, if it has a public URL.
    """
    if config.allow_anonymous or authenticator.has_credentials:
        return
    addresses = {"--host": (config.host, config.host)}
    if config.public is not None:
        addresses["--public-url"] = (config.public_url, config.public.host.name)
    for flag, (address, host) in addresses.items():
        if not is_loopback(host):
            raise ConfigError(
                f"{flag}: {address} is not loopback and there is no token: run `{program.COMMAND} token create NAME`, "
                "set --jwks, or let everyone in by --allow-anonymous"
            )
