"""What finds out the callers, made from the settings, and whether a server may be open to anyone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import protocol
from balance.access.authenticator import Authenticator
from balance.access.jwt import JwksError
from balance.access.setup import check_closed, make_authenticator
from balance.auth import ANONYMOUS, ANYONE, Caller, Role
from balance.config import Config
from balance.rate_limit import BURST_S, RateLimit
from balance.setting import ConfigError
from balance.storage.token_store import StoredToken
from tests.support.clock import Clock
from tests.support.jwks import AUDIENCE, ISSUER, JWKS, token

NO_LIMIT = RateLimit("failed-logins", 0, "")
IP = "192.0.2.7"
TO_DO = (
    " and there is no token: run `python server.py token create NAME`, set --jwks, or let everyone in by "
    "--allow-anonymous"
)


def with_jwks(file: Path) -> Config:
    return Config(jwks=str(file), jwt_issuer=ISSUER, jwt_audience=AUDIENCE)


@pytest.mark.parametrize(("allow_anonymous", "caller"), [(False, ANONYMOUS), (True, ANYONE)])
def test_without_a_jwks_only_the_tokens_of_the_database_count(allow_anonymous: bool, caller: Caller) -> None:
    one = make_authenticator(Config(allow_anonymous=allow_anonymous), NO_LIMIT)
    assert (one.jwt, one.anonymous) == (None, caller)


def test_a_jwks_verifies_tokens_of_its_issuer_for_its_audience(tmp_path: Path) -> None:
    (file := tmp_path / "jwks.json").write_bytes(JWKS)
    one = make_authenticator(with_jwks(file), NO_LIMIT)
    assert one.authenticate(token(), IP).role is Role.WRITER
    for claim in ("iss", "aud"):
        with pytest.raises(protocol.Unauthorized):
            one.authenticate(token(**{claim: "other"}), IP)


def test_credentials_that_are_not_valid_are_limited_by_the_given_limit(tmp_path: Path) -> None:
    (file := tmp_path / "jwks.json").write_bytes(JWKS)
    one = make_authenticator(with_jwks(file), RateLimit("failed-logins", 1, "failures", Clock()))
    for _ in range(BURST_S):
        with pytest.raises(protocol.Unauthorized):
            one.authenticate("x", IP)
    with pytest.raises(protocol.RateLimited):
        one.authenticate("x", IP)


def test_a_jwks_that_cannot_be_read_is_named_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--jwks: No such file or directory$") as refused:
        make_authenticator(with_jwks(tmp_path / "none"), NO_LIMIT)
    assert isinstance(refused.value.__cause__, JwksError)


def empty_authenticator() -> Authenticator:
    return Authenticator(allow_anonymous=False, jwt=None, failures=NO_LIMIT)


PROXY = {"trusted_proxies": ("127.0.0.1", "::1")}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        *(
            ({"host": one}, f"--host: {one} is not loopback")
            for one in ("0.0.0.0", "::", "192.0.2.7", "balance.internal")
        ),
        *(
            ({"public_url": one}, f"--public-url: {one} is not loopback")
            for one in ("https://balance.example.com", "http://192.0.2.7:8080/desk", "http://balance")
        ),
        *(
            ({"hosts": ("localhost", one)}, f"--hosts: {one} is not loopback")
            for one in ("balance.example.com", "*.example.com:443", "balance", "192.0.2.7", "[2001:db8::1]:80", "*")
        ),
        (PROXY, "--trusted-proxies: 127.0.0.1 opens the server to a network"),
        (
            {**PROXY, "public_url": "http://localhost:3000"},
            "--trusted-proxies: 127.0.0.1 opens the server to a network",
        ),
    ],
)
def test_on_a_network_or_behind_a_proxy_a_server_needs_tokens_or_allow_anonymous(
    settings: dict[str, Any], reason: str
) -> None:
    authenticator = empty_authenticator()
    with pytest.raises(ConfigError) as refused:
        check_closed(Config(**settings), authenticator)
    assert str(refused.value) == reason + TO_DO
    check_closed(Config(**settings, allow_anonymous=True), authenticator)
    authenticator.replace_tokens([StoredToken("1", "gone", "reader", b"", None, True)])
    check_closed(Config(**settings), authenticator)


@pytest.mark.parametrize(
    "settings",
    [
        *({"public_url": one} for one in ("http://localhost:3000", "https://b.localhost/desk", "http://[::1]:3000")),
        {"hosts": ("localhost", "*.localhost:3000", "127.0.0.1:*", "[::1]:3000")},
    ],
)
def test_settings_of_this_machine_alone_need_no_token(settings: dict[str, Any]) -> None:
    check_closed(Config(**settings), empty_authenticator())
