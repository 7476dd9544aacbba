"""JSON Web Tokens: which keys, algorithms and claims are accepted, and that the keys are read again."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

import protocol
from balance.access.authenticator import Authenticator
from balance.access.jwt import LEEWAY_S, JwksError, JwtSettings, JwtVerifier, parse_keys
from balance.auth import Role
from balance.rate_limit import RateLimit

ISSUER, AUDIENCE = "https://login.example", "balance"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def entry(key: Any, **more: str) -> dict[str, Any]:
    """Return a public key as an entry of a JWKS."""
    kinds = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    algorithm: Any = next((one for kind, one in kinds.items() if isinstance(key, kind)), OKPAlgorithm)
    return {**json.loads(algorithm.to_jwk(key.public_key())), **more}


def jwks(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": entries}).encode()


JWKS = jwks(entry(RSA_KEY, kid="rsa"), entry(EC_KEY, kid="ec", alg="ES256"), entry(ED_KEY, kid="ed", use="sig"))


def claims(**more: Any) -> dict[str, Any]:
    """Return good claims, with others in addition; None removes one."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60, "sub": "bot-7", "scope": "openid balance:write"}
    return {name: value for name, value in {**good, **more}.items() if value is not None}


def token(key: Any = RSA_KEY, algorithm: str = "RS256", kid: str | None = "rsa", **more: Any) -> str:
    return jwt.encode(claims(**more), key, algorithm, {} if kid is None else {"kid": kid})


@pytest.fixture
def verifier(tmp_path: Path) -> JwtVerifier:
    """A verifier with the keys of a file."""
    (tmp_path / "jwks.json").write_bytes(JWKS)
    one = JwtVerifier(JwtSettings(str(tmp_path / "jwks.json"), ISSUER, AUDIENCE))
    one.load_file()
    return one


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
        ({"scope": None, "scp": ["balance:write", "x"]}, Role.WRITER),
        ({"scope": None, "scp": "balance:read"}, Role.READER),
    ],
)
def test_the_scopes_give_the_role(verifier: JwtVerifier, scopes: dict[str, Any], role: Role) -> None:
    assert verifier.verify(token(**scopes)).role is role


@pytest.mark.parametrize("scope", ["balance:readX x", None, 7, "BALANCE:READ", {}])
def test_a_token_without_a_scope_of_this_service_is_forbidden(verifier: JwtVerifier, scope: object) -> None:
    with pytest.raises(protocol.Forbidden, match="has none of the scopes"):
        verifier.verify(token(scope=scope))


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


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"[]", b'{"keys":7}', b"{}", jwks(), jwks({"kty": "oct", "k": "c2VjcmV0", "kid": "x"})),
        *(jwks(entry(RSA_KEY, use="enc")), jwks(entry(EC_KEY, alg="HS256")), jwks({"kty": "RSA"}) + b"x"),
    ],
)
def test_a_set_without_a_usable_key_is_an_error(text: bytes) -> None:
    with pytest.raises(JwksError):
        parse_keys(text)


def test_a_key_that_is_too_short_verifies_nothing() -> None:
    short = rsa.generate_private_key(65537, 1024)
    verifier = JwtVerifier(JwtSettings("jwks.json", ISSUER, AUDIENCE))
    verifier.use_keys(parse_keys(jwks(entry(short, kid="rsa"))))
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        bad = token(short)
    with pytest.raises(protocol.Unauthorized):
        verifier.verify(bad)


def test_a_file_is_read_again_when_it_has_changed(verifier: JwtVerifier, tmp_path: Path) -> None:
    authenticator = Authenticator(allow_anonymous=False, jwt=verifier, failures=RateLimit("failed-logins", 0, ""))
    assert authenticator.authenticate(token(), "127.0.0.1").role is Role.WRITER
    assert verifier.read_keys() is None, "it has not changed"
    (tmp_path / "new.json").write_bytes(jwks(entry(EC_KEY, kid="new")))
    os.replace(tmp_path / "new.json", tmp_path / "jwks.json")
    keys = verifier.read_keys()
    assert keys is not None
    authenticator.replace_keys(keys)
    assert authenticator.authenticate(token(EC_KEY, "ES256", "new"), "127.0.0.1").role is Role.WRITER
    with pytest.raises(protocol.Unauthorized, match=UNKNOWN):
        authenticator.authenticate(token(), "127.0.0.1")


@pytest.mark.expects_log("--jwks: the keys cannot be read, and those read before stay valid")
def test_a_file_that_cannot_be_read_leaves_the_keys_and_is_logged_once(
    verifier: JwtVerifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "jwks.json").unlink()
    for _ in range(3):
        assert verifier.read_keys() is None
    assert len(caplog.records) == 1
    assert verifier.verify(token()).role is Role.WRITER


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


class Provider(BaseHTTPRequestHandler):
    """Serves what `answer` has."""

    answer: tuple[int, bytes] = 503, b""

    def do_GET(self) -> None:
        status, body = self.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def provider() -> Iterator[str]:
    """An identity provider that serves the keys."""
    Provider.answer = 503, b""
    with HTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/jwks"
        server.shutdown()
        thread.join()


@pytest.mark.expects_log("--jwks: the keys cannot be read")
def test_a_url_is_read_later_and_again_for_an_unknown_key(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balance.access.jwt.READ_AGAIN_S", 0.0)
    verifier = JwtVerifier(JwtSettings(provider, ISSUER, AUDIENCE))
    verifier.load_file()
    assert verifier.read_keys() is None
    with pytest.raises(protocol.Unavailable):
        verifier.verify(token())
    Provider.answer = 200, jwks(entry(RSA_KEY, kid="old"))
    keys = verifier.read_keys()
    assert keys is not None
    verifier.use_keys(keys)
    assert verifier.read_keys() is None, "it is read rarely"
    Provider.answer = 200, JWKS
    with pytest.raises(protocol.Unauthorized, match=UNKNOWN):
        verifier.verify(token())
    keys = verifier.read_keys()
    assert keys is not None
    verifier.use_keys(keys)
    assert verifier.verify(token()).role is Role.WRITER
