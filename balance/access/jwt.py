"""JSON Web Tokens of an identity provider, verified by the public keys of a JWKS (RFC 7517, RFC 7519, RFC 8725).

Accepted are signatures by public keys only, of ALGORITHMS, with the issuer, the audience and an expiry. The scopes
balance:read, balance:write and balance:admin give the role.

Threads: `read_keys` blocks, and is for one thread; the rest is for the event loop. `verify` does not wait.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import protocol
from balance.auth import SCOPES, TOKEN_ROLES, Caller, Role

log = logging.getLogger("balance.access")

RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS = {("RSA", None): RSA, ("EC", "P-256"): ("ES256",), ("EC", "P-384"): ("ES384",), ("EC", "P-521"): ("ES512",),
              ("OKP", "Ed25519"): ("EdDSA",)}  # fmt: skip
"""By the type and the curve of a key: what it may be used for. No secret is shared, and `none` is not among them."""
PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
"""Of a JWK (RFC 7518, sections 6.2.2 and 6.3.2; RFC 8037, section 2): what only the issuer should have."""
LEEWAY_S = 5  # by which the clocks of the issuer and of this machine may differ
READ_URL_S = 300.0  # between two reads of the keys from a URL
READ_AGAIN_S = 10.0  # at least, before they are read again for an unknown key
FETCH_S_MAX = 5.0
KEYS_BYTES_MAX = 1_000_000
REASONS: Mapping[type[Exception], str] = {
    jwt.ExpiredSignatureError: "has expired",
    jwt.ImmatureSignatureError: "is not valid yet",
    jwt.InvalidIssuerError: "is of another issuer",
    jwt.InvalidAudienceError: "is for another audience",
    jwt.MissingRequiredClaimError: "lacks one of the claims iss, aud and exp",
    jwt.InvalidSignatureError: "has a signature that does not fit",
}

NO_KEYS = "it has no public key for signatures by RS, PS, ES or EdDSA"


class Key(NamedTuple):
    """A public key, for one algorithm."""

    public: jwt.PyJWK
    identity: str
    """What distinguishes it from all other keys, whatever their `kid`: its algorithm and a hash of it."""


class Keys(dict[tuple[str | None, str], Key]):
    """The keys by their id and algorithm; the id None has the only key of an algorithm."""

    identities: frozenset[str] = frozenset()
    """Those of all keys, also of one whose key id another key has too."""


class JwksError(Exception):
    """The keys cannot be read; the text is one line."""


class JwtSettings(NamedTuple):
    """Where the keys are, and which tokens are accepted."""

    source: str
    """A file, or a URL."""
    issuer: str
    audience: str


class JwtVerifier:
    """Verifies tokens by the keys that were read last."""

    def __init__(self, settings: JwtSettings) -> None:
        self._settings = settings
        self._keys: Keys | None = None  # None until they are read
        self._read_at = float("-inf")
        self._file_state: tuple[int, int] | None = None
        self._wants_keys = True
        self._logged = ""

    def verify(self, token: str) -> Caller:
        """Return the caller that a token names. Raises Unauthorized, Forbidden, and Unavailable without any keys."""
        if self._keys is None:
            raise protocol.Unavailable("the keys that verify tokens are not available yet")
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.get((header.get("kid"), str(header.get("alg"))))
            if key is None:
                self._wants_keys = True
                raise protocol.Unauthorized("is signed by an unknown key or algorithm", "token")
            claims = jwt.decode(
                token,
                key.public,
                algorithms=[key.public.algorithm_name],
                issuer=self._settings.issuer,
                audience=self._settings.audience,
                leeway=LEEWAY_S,
                options={"require": ["iss", "aud", "exp"], "enforce_minimum_key_length": True},
            )
            return to_caller(claims)._replace(key_identity=key.identity)
        except (jwt.PyJWTError, ValueError, ArithmeticError, RecursionError) as error:
            # Without the cause: its text may quote the token.
            raise protocol.Unauthorized(REASONS.get(type(error), "is not a valid token"), "token") from None

    def read_keys(self) -> Keys | None:
        """Read the keys if they may have changed; return them, None if not. Logs a failure, and an empty set, once.

        A set that can be read counts as it is (RFC 7517, section 5): one without a key trusts it no longer.
        """
        try:
            found = self._read_if_due()
        except (OSError, HTTPException, ValueError, JwksError) as error:  # URLError is an OSError
            if self._logged != str(error):
                self._logged = str(error)
                log.warning("--jwks: the keys cannot be read, and those read before stay valid: %s", error)
            return None
        if found:
            self._logged = ""
        elif found is not None and self._logged != NO_KEYS:
            self._logged = NO_KEYS
            log.warning("--jwks: no JWT is accepted any more: %s", NO_KEYS)
        return found

    def load_file(self) -> None:
        """Read the keys from a file, or raise JwksError; a URL is read later, since its server may be away."""
        if is_url(self._settings.source):
            return
        try:
            keys = self._read_if_due()
        except OSError as error:
            raise JwksError(error.strerror or str(error)) from error
        if not keys:
            raise JwksError(NO_KEYS)
        self.use_keys(keys)

    def use_keys(self, keys: Keys) -> None:
        """Verify by these keys from now on."""
        self._keys = keys

    def trusts(self, identity: str) -> bool:
        """Return whether the key that verified a token is still among the keys."""
        return self._keys is not None and identity in self._keys.identities

    def _read_if_due(self) -> Keys | None:
        now = time.monotonic()
        if not is_url(self._settings.source):
            return self._read_file(Path(self._settings.source))
        if now - self._read_at < (READ_AGAIN_S if self._wants_keys else READ_URL_S):
            return None
        self._read_at = now
        request = Request(self._settings.source, headers={"Accept": "application/jwk-set+json, application/json"})
        with urlopen(request, timeout=FETCH_S_MAX) as answer:
            keys = parse_keys(answer.read(KEYS_BYTES_MAX))
        self._wants_keys = False
        return keys

    def _read_file(self, path: Path) -> Keys | None:
        status = path.stat()
        state = status.st_mtime_ns, status.st_ino
        if state == self._file_state:
            return None
        keys = parse_keys(path.read_bytes()[:KEYS_BYTES_MAX])
        self._file_state = state
        return keys


def is_url(source: str) -> bool:
    """Return whether a source of keys is a URL, not a file."""
    return source.startswith(("http://", "https://"))


def parse_keys(text: bytes) -> Keys:
    """Parse a JWKS; keys for other purposes than signatures are skipped, which may be all. Raises JwksError."""
    try:
        found = json.loads(text)["keys"]
        entries = [entry for entry in found if isinstance(entry, dict)]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise JwksError("it is not a JWKS: a JSON object with the array keys (RFC 7517, section 5)") from None
    keys = Keys()
    by_algorithm: dict[str, list[Key]] = {}
    for entry in entries:
        for key in _keys_of(entry):
            keys[entry.get("kid"), key.public.algorithm_name] = key
            by_algorithm.setdefault(key.public.algorithm_name, []).append(key)
    for algorithm, some in by_algorithm.items():
        if len(some) == 1:
            keys[None, algorithm] = some[0]
    keys.identities = frozenset(key.identity for some in by_algorithm.values() for key in some)
    return keys


def _keys_of(entry: dict[str, Any]) -> Iterator[Key]:
    """Yield a key for each algorithm that an entry of a JWKS may be used for."""
    purposes = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(purposes, list) or "verify" not in purposes:
        return
    if not isinstance(entry.get("kid"), str | None):
        return
    fitting = next((names for key, names in ALGORITHMS.items() if key == (entry.get("kty"), entry.get("crv"))), ())
    algorithms = fitting if "alg" not in entry else [one for one in fitting if one == entry["alg"]]
    if algorithms and entry.keys() & PRIVATE_MEMBERS:
        log.warning("--jwks: a key of the type %s has its private part: any reader of it can sign tokens", entry["kty"])
    public_part = {name: value for name, value in entry.items() if name not in PRIVATE_MEMBERS}
    for algorithm in algorithms:
        try:
            public = jwt.PyJWK(public_part, algorithm)
            yield Key(public, f"{algorithm}:{_fingerprint(public)}")
        except jwt.PyJWTError:  # without its text, which quotes the key
            log.warning("--jwks: a key of the type %s cannot be used", entry["kty"])
            return


def _scopes(claim: object) -> list[Any]:
    """Return the scopes of a claim: a text with spaces between (RFC 8693, section 4.2), or an array."""
    return claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []


def _fingerprint(public: jwt.PyJWK) -> str:
    """Return the digest of a public key, which does not depend on how its entry is written."""
    return hashlib.sha256(public.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def to_caller(claims: Mapping[str, Any]) -> Caller:
    """Return the caller of verified claims. Raises Forbidden without a scope of this service."""
    granted = [*_scopes(claims.get("scope")), *_scopes(claims.get("scp"))]
    for role in reversed(TOKEN_ROLES):
        if SCOPES[role] in granted:
            name = claims.get("sub", claims.get("client_id", ""))
            return Caller(role, str(name)[:100], "", float(claims["exp"]) + LEEWAY_S)
    reason = "has none of the scopes balance:read, balance:write and balance:admin"
    raise protocol.Forbidden(reason, "token", scope=SCOPES[Role.READER])
