"""The keys that verify JSON Web Tokens: which of a set are used, and when they are read again."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import protocol
from balance.access.authenticator import Authenticator
from balance.access.jwt import JwksError, parse_keys
from balance.auth import Role
from balance.rate_limit import RateLimit
from tests.support.clock import Clock
from tests.support.jwks import EC_KEY, ED_KEY, JWKS, RSA_KEY, entry, jwks, make_verifier, token, verifier_of_file

OTHER_KEY = rsa.generate_private_key(65537, 2048)
EMPTIED = "--jwks: no JWT is accepted any more: it has no public key for signatures by RS, PS, ES or EdDSA"
UNREADABLE = "--jwks: the keys cannot be read, and those read before stay valid: "
NESTED = [b"[" * 100_000, b'{"keys":' + b"[" * 100_000]


def replace(file: Path, data: bytes) -> None:
    """Replace a file by a new one."""
    new = file.with_name("new.json")
    new.write_bytes(data)
    new.replace(file)


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"\xff", b'{"keys":7}', b"{}", jwks() + b"x", *NESTED])
def test_a_text_that_is_not_a_set_of_keys_is_an_error(text: bytes) -> None:
    with pytest.raises(JwksError) as caught:
        parse_keys(text)
    assert str(caught.value) == "it is not a JWKS: a JSON object with the array keys (RFC 7517, section 5)"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "unusable",
    [
        [],
        [{"kty": "oct", "k": "c2VjcmV0", "kid": "x"}],
        [entry(RSA_KEY, use="enc")],
        [entry(EC_KEY, alg="HS256")],
        [{**entry(EC_KEY), "key_ops": ["sign"]}],
        [entry(EC_KEY, crv="secp256k1")],
        [entry(RSA_KEY, kty="rsa")],
    ],
)
@pytest.mark.expects_log(EMPTIED)
def test_a_set_without_a_usable_key_trusts_none_and_is_refused_at_the_start(
    unusable: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    verifier, file = verifier_of_file(tmp_path), tmp_path / "jwks.json"
    failures = RateLimit("failed-logins", 0, "")
    authenticator = Authenticator(allow_anonymous=False, jwt=verifier, failures=failures)
    caller = authenticator.authenticate(token(), "127.0.0.1")
    assert authenticator.is_current(caller)
    for _ in range(2):
        replace(file, jwks(*unusable))
        keys = verifier.read_keys()
        assert keys == {}
    assert [record.getMessage() for record in caplog.records] == [EMPTIED]
    authenticator.replace_keys(keys)
    with pytest.raises(protocol.Unauthorized, match="is signed by an unknown key or algorithm"):
        authenticator.authenticate(token(), "127.0.0.1")
    assert str(authenticator.fault(caller)) == "token: is signed by a key that is no longer trusted"
    with pytest.raises(JwksError, match=r"^it has no public key for signatures by RS, PS, ES or EdDSA$"):
        make_verifier(file).load_file()


@pytest.mark.parametrize(
    ("changed", "is_current"),
    [
        ([entry(RSA_KEY, kid="other"), entry(EC_KEY, kid="rsa")], True),
        ([entry(RSA_KEY, kid="rsa", alg="RS512"), entry(EC_KEY)], False),
        ([entry(OTHER_KEY, kid="rsa")], False),
        ([entry(EC_KEY, kid="ec")], False),
    ],
    ids=["another id", "another algorithm", "another key of that id", "removed"],
)
def test_what_was_opened_by_a_key_ends_when_that_key_is_removed(
    tmp_path: Path, changed: list[dict[str, Any]], is_current: bool
) -> None:
    verifier = verifier_of_file(tmp_path)
    failures = RateLimit("failed-logins", 0, "")
    authenticator = Authenticator(allow_anonymous=False, jwt=verifier, failures=failures)
    caller = authenticator.authenticate(token(), "127.0.0.1")
    authenticator.replace_keys(parse_keys(jwks(*changed)))
    assert authenticator.is_current(caller) is is_current


@pytest.mark.parametrize(
    "wrong",
    [
        *({"kid": []}, {"kid": {}}, {"kid": 7}, {"crv": []}, {"crv": {}}, {"kty": []}, {"kty": {}}, {"kty": None}),
        *({"key_ops": 7}, {"key_ops": None}, {"key_ops": "verify"}, {"use": []}, {"alg": []}, {"alg": None}),
        *({"x": 7}, {"x": None}, {"x": "!"}, {"x": ""}, {"x": "AAAA"}, {"x": "é"}, {"y": "AAAA"}, {"x": []}),
    ],
    ids=str,
)
@pytest.mark.expects_log("--jwks: a key of the type EC cannot be used")
def test_a_malformed_key_is_skipped_and_the_others_are_used(
    wrong: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    keys = parse_keys(jwks({**entry(EC_KEY, kid="bad"), **wrong}, entry(EC_KEY, kid="good")))
    assert {kid for kid, _ in keys} == {"good", None}
    assert [record.getMessage() for record in caplog.records] == (
        ["--jwks: a key of the type EC cannot be used"] if wrong.keys() & {"x", "y"} else []
    )


@pytest.mark.parametrize(("key", "algorithm"), [(RSA_KEY, "RS256"), (EC_KEY, "ES256"), (ED_KEY, "EdDSA")])
@pytest.mark.expects_log("has its private part: any reader of it can sign tokens")
def test_of_a_key_with_its_private_part_the_public_one_is_used(
    tmp_path: Path, key: Any, algorithm: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(entry(key, is_private=True, kid="k", key_ops=["sign", "verify"])))
    verifier = make_verifier(file)
    verifier.load_file()
    caller = verifier.verify(token(key, algorithm, "k"))
    assert len(caplog.records) == 1
    assert parse_keys(jwks(entry(key))).identities >= {caller.key_identity}
    replace(file, jwks(entry(OTHER_KEY, is_private=True, kid="k", key_ops=["verify"])))
    keys = verifier.read_keys()
    assert keys is not None
    verifier.use_keys(keys)
    assert not verifier.trusts(caller.key_identity)


def test_keys_are_found_by_id_and_algorithm_and_a_lone_one_without_id() -> None:
    e384, e521 = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1())
    keys = parse_keys(
        jwks(
            {**entry(RSA_KEY, kid="r1", alg="RS256"), "key_ops": ["verify", "x"]},
            entry(RSA_KEY, kid="r2"),
            entry(e384, kid="e3"),
            entry(e521, kid="e5", use="sig"),
            entry(ED_KEY),
        )
    )
    rsa_only = {"RS384", "RS512", "PS256", "PS384", "PS512"}
    assert set(keys) == {
        *(("r1", "RS256"), ("r2", "RS256"), ("e3", "ES384"), ("e5", "ES512"), (None, "EdDSA")),
        *(("r2", one) for one in rsa_only),
        *((None, one) for one in {*rsa_only, "ES384", "ES512"}),
    }
    assert all(key.public.algorithm_name == algorithm for (_, algorithm), key in keys.items())


# Files


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    verifier, file, new = verifier_of_file(tmp_path), tmp_path / "jwks.json", tmp_path / "new.json"
    failures = RateLimit("failed-logins", 0, "")
    authenticator = Authenticator(allow_anonymous=False, jwt=verifier, failures=failures)
    assert authenticator.authenticate(token(), "127.0.0.1").role is Role.WRITER
    assert verifier.read_keys() is None, "it has not changed"
    new.write_bytes(jwks(entry(EC_KEY, kid="new")))
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    os.utime(new, ns=times)
    os.replace(new, file)
    keys = verifier.read_keys()
    assert keys is not None, "another file of the same time"
    authenticator.replace_keys(keys)
    assert authenticator.authenticate(token(EC_KEY, "ES256", "new"), "127.0.0.1").role is Role.WRITER
    with pytest.raises(protocol.Unauthorized, match="is signed by an unknown key or algorithm"):
        authenticator.authenticate(token(), "127.0.0.1")
    assert verifier.read_keys() is None
    os.utime(file, ns=(times[0], times[1] + 1))
    assert verifier.read_keys() is not None, "the same file of another time"


@pytest.mark.expects_log(UNREADABLE)
def test_a_file_that_cannot_be_read_leaves_the_keys_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    verifier, file = verifier_of_file(tmp_path), tmp_path / "jwks.json"
    file.unlink()
    for _ in range(3):
        assert verifier.read_keys() is None
    assert [record.getMessage() for record in caplog.records] == [
        f"{UNREADABLE}[Errno 2] No such file or directory: '{file}'"
    ]
    file.write_text("{}")
    for _ in range(3):
        assert verifier.read_keys() is None, "a file that is not good is read again"
    assert len(caplog.records) == 2, "another reason"
    assert verifier.verify(token()).role is Role.WRITER
    file.write_bytes(JWKS)
    assert verifier.read_keys() is not None
    file.unlink()
    assert verifier.read_keys() is None
    assert len(caplog.records) == 3, "the first reason, after a success"


def test_at_the_start_a_file_must_have_keys_and_a_url_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(JwksError, match=r"^No such file or directory$"):
        make_verifier(tmp_path / "none").load_file()
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(JwksError, match=r"^it is not a JWKS: "):
        make_verifier(tmp_path / "empty").load_file()
    make_verifier("https://127.0.0.1:1/jwks").load_file()
    make_verifier("http://127.0.0.1:1/jwks").load_file()


def test_of_a_file_or_an_answer_a_megabyte_is_read(tmp_path: Path, provider: str) -> None:
    large = JWKS + b" " * 1_000_000
    (tmp_path / "jwks.json").write_bytes(large + b"x")
    make_verifier(tmp_path / "jwks.json").load_file()
    (tmp_path / "jwks.json").write_bytes(large[: 1_000_000 - 1] + b"x")
    with pytest.raises(JwksError):
        make_verifier(tmp_path / "jwks.json").load_file()
    Provider.answer = 200, large + b"x"
    assert make_verifier(provider).read_keys() is not None


# URLs


class Provider(BaseHTTPRequestHandler):
    """Serves what `answer` has, and keeps the requests."""

    answer: tuple[int, bytes] = 503, b""
    requests: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.requests.append((self.path, self.headers["Accept"]))
        status, body = self.answer
        if status == 0:
            self.wfile.write(body)
            return
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def provider() -> Iterator[str]:
    """An identity provider that serves the keys."""
    Provider.answer = 503, b""
    Provider.requests.clear()
    with HTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/jwks"
        server.shutdown()
        thread.join()


@pytest.mark.expects_log(UNREADABLE)
def test_a_url_is_read_every_five_minutes_and_sooner_for_an_unknown_key(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("balance.access.jwt.time", SimpleNamespace(monotonic=clock))
    verifier = make_verifier(provider)
    assert verifier.read_keys() is None
    with pytest.raises(protocol.Unavailable):
        verifier.verify(token())
    Provider.answer = 200, jwks(entry(RSA_KEY, kid="old"))

    def read_after(seconds: float) -> bool:
        """Return whether the keys are read after these seconds, and not before."""
        clock.advance(seconds - 0.01)
        assert verifier.read_keys() is None
        clock.advance(0.01)
        keys = verifier.read_keys()
        if keys is not None:
            verifier.use_keys(keys)
        return keys is not None

    assert read_after(10), "after a failure"
    assert read_after(300)
    Provider.answer = 200, JWKS
    clock.advance(5)
    with pytest.raises(protocol.Unauthorized, match="is signed by an unknown key or algorithm"):
        verifier.verify(token())
    assert read_after(5), "ten seconds after the last time"
    assert verifier.verify(token()).role is Role.WRITER
    assert read_after(300)
    assert Provider.requests == [("/jwks", "application/jwk-set+json, application/json")] * 5


@pytest.mark.expects_log(UNREADABLE)
@pytest.mark.parametrize(
    "answer",
    [(0, b"no HTTP\r\n\r\n"), (0, b""), (200, b"[" * 100_000), (200, b"{}"), (404, JWKS)],
    ids=["no HTTP", "nothing", "deep nesting", "no keys", "another status"],
)
def test_an_answer_that_is_not_good_leaves_the_keys(
    provider: str, answer: tuple[int, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    Provider.answer = answer
    verifier = make_verifier(provider)
    verifier.use_keys(parse_keys(JWKS))
    assert verifier.read_keys() is None
    assert len(caplog.records) == 1
    assert verifier.verify(token()).role is Role.WRITER


@pytest.mark.expects_log(f"{UNREADABLE}timed out")
def test_a_provider_that_does_not_answer_is_waited_for_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balance.access.jwt.FETCH_S_MAX", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert make_verifier(f"http://127.0.0.1:{silent.getsockname()[1]}/").read_keys() is None


def test_keys_of_one_id_are_all_trusted(tmp_path: Path) -> None:
    verifier = verifier_of_file(tmp_path)
    caller = Authenticator(
        allow_anonymous=False, jwt=verifier, failures=RateLimit("failed-logins", 0, "")
    ).authenticate(token(), "127.0.0.1")
    for kid in ({}, {"kid": "rsa"}):
        for keys in ([RSA_KEY, OTHER_KEY], [OTHER_KEY, RSA_KEY]):
            verifier.use_keys(parse_keys(jwks(*(entry(one, **kid) for one in keys))))
            assert verifier.trusts(caller.key_identity)
        verifier.use_keys(parse_keys(jwks(entry(OTHER_KEY, **kid))))
        assert not verifier.trusts(caller.key_identity)


def test_a_key_is_the_same_however_its_entry_is_written() -> None:
    one = entry(RSA_KEY)
    padded = {**one, "n": one["n"] + "=" * (-len(one["n"]) % 4), "x": "of another type", "kid": "new"}
    assert parse_keys(jwks(one)).identities == parse_keys(jwks(padded)).identities
