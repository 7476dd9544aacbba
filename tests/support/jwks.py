"""An identity provider for tests: its keys, the public ones as a JWKS, and tokens that it signs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from balance.access.jwt import JwtSettings, JwtVerifier

ISSUER, AUDIENCE = "https://login.example", "balance"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def entry(key: Any, *, is_private: bool = False, **more: object) -> dict[str, Any]:
    """Return a public key as an entry of a JWKS, if asked with its private part."""
    kinds = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    algorithm: Any = next((one for kind, one in kinds.items() if isinstance(key, kind)), OKPAlgorithm)
    return {**json.loads(algorithm.to_jwk(key if is_private else key.public_key())), **more}


def jwks(*entries: dict[str, Any]) -> bytes:
    """Return a JWKS of these entries."""
    return json.dumps({"keys": entries}).encode()


JWKS = jwks(entry(RSA_KEY, kid="rsa"), entry(EC_KEY, kid="ec", alg="ES256"), entry(ED_KEY, kid="ed", use="sig"))


def claims(**more: Any) -> dict[str, Any]:
    """Return good claims, with others in addition; None removes one."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60, "sub": "bot-7", "scope": "openid balance:write"}
    return {name: value for name, value in {**good, **more}.items() if value is not None}


def token(key: Any = RSA_KEY, algorithm: str = "RS256", kid: str | None = "rsa", **more: Any) -> str:
    """Return a signed token."""
    return jwt.encode(claims(**more), key, algorithm, {} if kid is None else {"kid": kid})


def make_verifier(source: Path | str) -> JwtVerifier:
    """Make a verifier of the tokens of this provider, with the keys of a file or a URL."""
    return JwtVerifier(JwtSettings(str(source), ISSUER, AUDIENCE))


def verifier_of_file(folder: Path) -> JwtVerifier:
    """Make a verifier with the keys of this provider in the file jwks.json of a folder."""
    (folder / "jwks.json").write_bytes(JWKS)
    one = make_verifier(folder / "jwks.json")
    one.load_file()
    return one
