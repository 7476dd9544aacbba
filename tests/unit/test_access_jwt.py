"""JSON Web Tokens: which algorithms and claims are accepted, and which caller a token names."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

import protocol
from balance.access.authenticator import Authenticator
from balance.access.jwt import LEEWAY_S, JwtVerifier, parse_keys
from balance.auth import Role
from balance.rate_limit import RateLimit
from tests.support.jwks import (
    EC_KEY,
    ED_KEY,
    ISSUER,
    RSA_KEY,
    claims,
    entry,
    jwks,
    make_verifier,
    token,
    verifier_of_file,
)


@pytest.fixture
def verifier(tmp_path: Path) -> JwtVerifier:
    """A verifier with the keys of a file."""
    return verifier_of_file(tmp_path)


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(RSA_KEY, one, "rsa") for one in ("RS256", "RS512", "PS256", "PS384")]
    + [(EC_KEY, "ES256", "ec"), (ED_KEY, "EdDSA", "ed"), (EC_KEY, "ES256", None), (RSA_KEY, "RS256", None)],
)
def test_a_token_is_accepted_by_each_algorithm_of_a_public_key(
    verifier: JwtVerifier, key: Any, algorithm: str, kid: str | None
) -> None:
    caller = verifier.verify(token(key, algorithm, kid))
    assert (caller.role, caller.name, caller.token_id) == (Role.WRITER, "bot-7", "")
    assert caller.expires_at == pytest.approx(time.time() + 60 + LEEWAY_S, abs=2)


@pytest.mark.parametrize(
    ("scopes", "role"),
    [
        ({"scope": "balance:read"}, Role.READER),
        ({"scope": "balance:read balance:admin"}, Role.ADMIN),
        ({"scope": "balance:read balance:write"}, Role.WRITER),
        ({"scope": [["balance:admin"], 7, None, "balance:read"]}, Role.READER),
        ({"scope": "balance:read", "scp": "balance:admin"}, Role.ADMIN),
        ({"scope": "balance:admin", "scp": ["balance:read"]}, Role.ADMIN),
        ({"scope": "x", "scp": "balance:read"}, Role.READER),
        ({"scope": 7, "scp": ["balance:read"]}, Role.READER),
        ({"scope": None, "scp": ["balance:write", "x"]}, Role.WRITER),
        ({"scope": None, "scp": "balance:read"}, Role.READER),
    ],
)
def test_the_scopes_give_the_role(verifier: JwtVerifier, scopes: dict[str, Any], role: Role) -> None:
    assert verifier.verify(token(**scopes)).role is role


@pytest.mark.parametrize("scope", ["balance:readX x", None, 7, "BALANCE:READ", {}, {"balance:read": 1}, ""])
def test_a_token_without_a_scope_of_this_service_is_forbidden(verifier: JwtVerifier, scope: object) -> None:
    with pytest.raises(protocol.Forbidden) as refused:
        verifier.verify(token(scope=scope))
    assert str(refused.value) == "token: has none of the scopes balance:read, balance:write and balance:admin"
    assert refused.value.challenge.endswith(', scope="balance:read"'), "the least that would do"


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({}, "bot-7"),
        ({"client_id": "bot-8"}, "bot-7"),
        ({"sub": None, "client_id": "bot-8"}, "bot-8"),
        ({"sub": None}, ""),
        ({"sub": "é" * 100 + "x"}, "é" * 100),
    ],
)
def test_the_subject_is_the_name_or_else_the_client(verifier: JwtVerifier, more: dict[str, Any], name: str) -> None:
    assert verifier.verify(token(**more)).name == name


def test_clocks_may_differ_by_five_seconds(verifier: JwtVerifier) -> None:
    now = time.time()
    verifier.verify(token(exp=now - 3, nbf=now + 4, iat=now + 4))
    assert LEEWAY_S == 5


def test_without_any_keys_no_token_can_be_verified() -> None:
    with pytest.raises(protocol.Unavailable, match=r"^the keys that verify tokens are not available yet$"):
        make_verifier("https://login.example/jwks").verify(token())


def unsigned() -> str:
    _, body, _ = token().split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","kid":"rsa"}').rstrip(b"=").decode()
    return f"{none}.{body}."


def confused() -> str:
    """Return a token that is signed by HMAC with the public key as the secret."""
    secret = base64.urlsafe_b64encode(json.dumps(entry(RSA_KEY)).encode()).decode()
    return jwt.encode(claims(), secret, "HS256", {"kid": "rsa"})


def tampered() -> str:
    head, _, signature = token().split(".")
    other = base64.urlsafe_b64encode(json.dumps(claims(scope="balance:admin")).encode()).rstrip(b"=").decode()
    return f"{head}.{other}.{signature}"


UNKNOWN = "is signed by an unknown key or algorithm"
BAD: dict[str, tuple[Any, str]] = {
    "unsigned": (unsigned, UNKNOWN),
    "HMAC with a public key": (confused, UNKNOWN),
    "tampered": (tampered, "has a signature that does not fit"),
    "of another key": (lambda: token(rsa.generate_private_key(65537, 2048)), "has a signature that does not fit"),
    "of an unknown key": (lambda: token(kid="other"), UNKNOWN),
    "another algorithm of the key": (lambda: token(EC_KEY, "ES256", "rsa"), UNKNOWN),
    "expired": (lambda: token(exp=time.time() - LEEWAY_S - 1), "has expired"),
    "early": (lambda: token(nbf=time.time() + LEEWAY_S + 2), "is not valid yet"),
    "of the future": (lambda: token(iat=time.time() + LEEWAY_S + 2), "is not valid yet"),
    "an issue that is a text": (lambda: token(iat="soon"), "is not a valid token"),
    "an expiry that is too large": (lambda: token(exp=10**400), "is not a valid token"),
    "another issuer": (lambda: token(iss=f"{ISSUER}/"), "is of another issuer"),
    "another audience": (lambda: token(aud="other"), "is for another audience"),
    "no expiry": (lambda: token(exp=None), "lacks one of the claims iss, aud and exp"),
    "no issuer": (lambda: token(iss=None), "lacks one of the claims iss, aud and exp"),
    "no audience": (lambda: token(aud=None), "lacks one of the claims iss, aud and exp"),
    "an expiry that is a text": (lambda: token(exp="soon"), "is not a valid token"),
    "not a token": (lambda: "MARKED.x.y", "is not a valid token"),
    "nested": (lambda: base64.urlsafe_b64encode(b"[" * 9000).decode() + ".x.y", "is not a valid token"),
    "a kid that is a list": (
        lambda: base64.urlsafe_b64encode(b'{"alg":"RS256","kid":["rsa"]}').decode() + ".e30.x",
        "is not a valid token",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_token_is_refused_and_not_quoted(verifier: JwtVerifier, name: str) -> None:
    make, reason = BAD[name]
    bad = make()
    with pytest.raises(protocol.Unauthorized) as refused:
        verifier.verify(bad)
    assert str(refused.value) == f"token: {reason}"
    assert refused.value.__cause__ is None


def test_a_key_that_is_too_short_verifies_nothing() -> None:
    short = rsa.generate_private_key(65537, 1024)
    verifier = make_verifier("jwks.json")
    verifier.use_keys(parse_keys(jwks(entry(short, kid="rsa"))))
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        bad = token(short)
    with pytest.raises(protocol.Unauthorized):
        verifier.verify(bad)


def test_a_verified_token_is_kept_until_it_expires(verifier: JwtVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    authenticator = Authenticator(allow_anonymous=False, jwt=verifier, failures=RateLimit("failed-logins", 0, ""))
    text = token()
    caller = authenticator.authenticate(text, "127.0.0.1")
    monkeypatch.setattr(verifier, "verify", None)
    assert authenticator.authenticate(text, "127.0.0.1") is caller
    assert authenticator.is_current(caller)
    later = time.time() + 66
    monkeypatch.setattr("balance.access.authenticator.time.time", lambda: later)
    with pytest.raises(protocol.Unauthorized, match="has expired"):
        authenticator.authenticate(text, "127.0.0.1")
    assert not authenticator.is_current(caller)
