"""Which caller a credential names, and when it no longer counts."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

import protocol
from balance.access import authenticator as module
from balance.access.authenticator import Authenticator, read_bearer
from balance.access.tokens import digest, new_token
from balance.auth import ANONYMOUS, ANYONE, Caller, Operation, Role
from balance.rate_limit import BURST_S, RateLimit
from balance.storage.token_store import StoredToken
from tests.support.clock import Clock

IP = "192.0.2.7"
TOKEN, OTHER = new_token(Role.WRITER), new_token(Role.READER)
NOT_READY = "the tokens are not available yet"
JWT_CALLER = Caller(Role.READER, "x", "", 2e10)


class Verifier:
    """In place of a verifier of JWTs: returns or raises what a test sets, and counts."""

    def __init__(self) -> None:
        self.result: Caller | protocol.ServiceError = JWT_CALLER
        self.verified: list[str] = []
        self.keys: object = None

    def verify(self, token: str) -> Caller:
        self.verified.append(token)
        if isinstance(self.result, protocol.ServiceError):
            raise self.result
        return self.result

    def use_keys(self, keys: object) -> None:
        self.keys = keys


def stored(text: str = TOKEN, id_: str = "1", **more: Any) -> StoredToken:
    values = {"id": id_, "name": f"n{id_}", "role": "writer", "expires_at": None, "is_revoked": False}
    return StoredToken(**{**values, "sha256": digest(text), **more})


def make(*tokens: StoredToken, jwt: Any = None, per_s: int = 0, allow_anonymous: bool = False) -> Authenticator:
    """Make an authenticator that knows some tokens; without any it knows none yet."""
    failures = RateLimit("failed-logins", per_s, "failures", Clock())
    one = Authenticator(allow_anonymous=allow_anonymous, jwt=jwt, failures=failures)
    if tokens:
        one.replace_tokens(tokens)
    return one


def refusal(one: Authenticator, credential: str | None, ip: str = IP) -> str:
    with pytest.raises(protocol.ServiceError) as refused:
        one.authenticate(credential, ip)
    return f"{refused.value.code} {refused.value}"


# Tokens


def test_a_token_names_its_caller_by_role_name_id_and_expiry() -> None:
    one = make(stored(expires_at=2e10, role="reader"), stored(OTHER, "2"))
    assert one.authenticate(TOKEN, IP) == Caller(Role.READER, "n1", "1", 2e10)
    assert one.authenticate(OTHER, IP) == Caller(Role.WRITER, "n2", "2", None)
    assert one.authenticate(None, IP) is ANONYMOUS


def test_a_token_that_is_not_good_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(stored(expires_at=100.0), stored(OTHER, "2", is_revoked=True, expires_at=50.0))
    assert refusal(one, OTHER) == "unauthorized token: is revoked"
    for now in (100.0, 101.0):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda now=now: now))
        assert refusal(one, TOKEN) == "unauthorized token: has expired"
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: 99.9))
    assert one.authenticate(TOKEN, IP).name == "n1"
    assert refusal(one, new_token(Role.ADMIN)) == "unauthorized token: is not known"
    assert refusal(one, TOKEN[:-1]) == "unauthorized token: is not complete, or mistyped"
    assert refusal(one, "secret") == "unauthorized token: is not known"


def test_a_refused_token_was_not_used_and_an_accepted_one_is_noted_once() -> None:
    one = make(stored(), stored(OTHER, "2", is_revoked=True), stored("third", "3"))
    refusal(one, OTHER)
    caller = one.authenticate(TOKEN, IP)
    assert one.take_used() == ["1"]
    assert one.take_used() == []
    assert one.fault(caller) is None
    one.replace_tokens([stored(), stored("new", "4")])
    assert one.take_used() == ["1"], "a use is kept when the tokens are read again"
    one.replace_tokens([stored()])
    assert one.take_used() == []


def test_until_the_tokens_are_read_only_documents_are_served() -> None:
    one = make(per_s=1)
    for _ in range(BURST_S + 1):
        assert refusal(one, TOKEN) == f"unavailable {NOT_READY}", "it does not count as a failure"
    assert refusal(one, "secret") == f"unavailable {NOT_READY}"
    assert one.admit(None, Operation.READ_DOCUMENTS, IP) is ANONYMOUS
    with pytest.raises(protocol.Unavailable, match=rf"^{NOT_READY}$"):
        one.admit(None, Operation.READ, IP)
    one.replace_tokens([])
    assert one.admit(None, Operation.READ, IP) is ANYONE


def test_a_caller_is_admitted_for_what_its_role_may_do() -> None:
    one = make(stored(role="reader"))
    assert one.admit(TOKEN, Operation.READ, IP).name == "n1"
    with pytest.raises(protocol.Forbidden, match=r"^this role may not save snapshots$"):
        one.admit(TOKEN, Operation.SAVE, IP)
    with pytest.raises(protocol.Unauthorized):
        one.admit(None, Operation.READ, IP)
    with pytest.raises(protocol.Unauthorized, match="is not known"):
        one.admit("secret", Operation.READ, IP)


# Open and closed


def test_a_server_is_open_until_there_is_a_token_and_stays_closed_after_it() -> None:
    one = make()
    one.replace_tokens([])
    assert (one.anonymous, one.is_closed) == (ANYONE, False)
    assert (one.ignores_credentials, one.has_credentials) == (True, False)
    assert one.authenticate("secret", IP) is ANYONE, "it is not looked at"
    assert one.admit("secret", Operation.SAVE, IP) is ANYONE
    one.replace_tokens([stored(is_revoked=True)])
    assert (one.anonymous, one.ignores_credentials, one.is_closed, one.has_credentials) == (
        ANONYMOUS,
        False,
        True,
        True,
    )


def test_allowed_anonymous_callers_may_do_everything_and_bad_credentials_are_refused() -> None:
    one = make(allow_anonymous=True)
    assert (one.anonymous, one.is_closed) == (ANYONE, False)
    one.replace_tokens([stored(role="reader")])
    assert one.admit(None, Operation.SAVE, IP) is ANYONE
    assert (one.is_closed, one.ignores_credentials) == (False, False)
    assert refusal(one, "secret") == "unauthorized token: is not known"


def test_with_a_jwks_a_server_is_closed_without_any_token() -> None:
    one = make(jwt=Verifier())
    assert one.has_credentials
    assert one.is_closed
    one.replace_tokens([])
    assert (one.anonymous, one.ignores_credentials) == (ANONYMOUS, False)


# JWTs


def test_a_jwt_is_verified_once_while_its_keys_are_the_same() -> None:
    verifier = Verifier()
    one = make(jwt=verifier)
    assert one.authenticate("a.b.c", IP) is JWT_CALLER, "before the tokens are read too"
    assert one.authenticate("a.b.c", IP) is JWT_CALLER
    assert verifier.verified == ["a.b.c"]
    keys: Any = {"kid": 1}
    one.replace_keys(keys)
    assert verifier.keys is keys
    one.authenticate("a.b.c", IP)
    one.authenticate("d.e.f", IP)
    assert verifier.verified == ["a.b.c", "a.b.c", "d.e.f"]
    assert one.take_used() == []


def test_a_text_that_begins_as_a_token_is_never_verified_as_a_jwt() -> None:
    verifier = Verifier()
    one = make(stored(), jwt=verifier)
    assert refusal(one, OTHER) == "unauthorized token: is not known"
    assert refusal(one, "bal_a.b.c") == "unauthorized token: is not complete, or mistyped"
    assert verifier.verified == []


def test_the_jwts_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.JWTS_CACHED == 10_000
    monkeypatch.setattr(module, "JWTS_CACHED", 2)
    one = make(jwt=Verifier())
    for number, kept in enumerate((1, 2, 1, 2, 1)):
        one.authenticate(f"jwt {number}", IP)
        assert len(one._jwt_callers) == kept


def test_a_jwt_in_memory_is_refused_from_its_expiry_on(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier()
    verifier.result = Caller(Role.READER, "x", "", time.time() + 60)
    one = make(jwt=verifier)
    caller = one.authenticate("a.b.c", IP)
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: caller.expires_at))
    assert refusal(one, "a.b.c") == "unauthorized token: has expired"
    assert str(one.fault(caller)) == "token: has expired"
    assert verifier.verified == ["a.b.c"]


# Limits of failures


def test_after_too_many_failures_of_an_address_nothing_is_checked_for_it() -> None:
    verifier = Verifier()
    one = make(stored(), jwt=verifier, per_s=1)
    one.authenticate("good", IP)
    verifier.result = protocol.Unauthorized("is bad", "token")
    for number in range(BURST_S - 1):
        assert refusal(one, f"guess {number}") == "unauthorized token: is bad"
    verifier.result = protocol.Forbidden("has no scope", "token")
    assert refusal(one, "valid") == "forbidden token: has no scope", "it is valid"
    with pytest.raises(protocol.Unauthorized):
        one.use_ticket("guess", IP)
    checked = len(verifier.verified)
    assert refusal(one, "guess") == "rate_limited 1 failures"
    assert refusal(one, "good") == "rate_limited 1 failures"
    ticket = one.tickets.issue(JWT_CALLER)
    with pytest.raises(protocol.RateLimited):
        one.use_ticket(ticket, IP)
    assert len(verifier.verified) == checked
    assert one.tickets.is_valid(ticket), "it was not used"
    assert one.authenticate(TOKEN, IP).name == "n1"
    verifier.result = JWT_CALLER
    assert one.authenticate("valid", "192.0.2.8") is JWT_CALLER, "another address"
    assert one.use_ticket(ticket, "192.0.2.8") is JWT_CALLER


def test_the_failures_of_one_ipv6_network_are_counted_together() -> None:
    one = make(stored(), per_s=1)
    for number in range(BURST_S):
        refusal(one, "guess", f"2001:db8::{number:x}")
    assert refusal(one, "guess", "2001:db8::ffff") == "rate_limited 1 failures"
    assert refusal(one, "guess", "2001:db8:0:1::1") == "unauthorized token: is not known"


# What was opened for a caller


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ([stored()], None),
        ([stored(expires_at=2e10)], None),
        ([stored(expires_at=1.0)], "token: has expired"),
        ([stored(is_revoked=True, expires_at=1.0)], "token: is revoked"),
        ([stored(OTHER, "2")], "token: is revoked"),
    ],
)
def test_a_session_ends_when_its_token_is_revoked_or_has_expired(tokens: list[StoredToken], reason: str | None) -> None:
    one = make(stored())
    caller = one.authenticate(TOKEN, IP)
    one.replace_tokens(tokens)
    fault = one.fault(caller)
    assert (fault and str(fault)) == reason
    assert one.is_current(caller) is (reason is None)


def test_a_session_without_a_credential_ends_when_the_server_is_closed() -> None:
    one = make()
    one.replace_tokens([])
    assert one.fault(ANYONE) is None
    one.replace_tokens([stored()])
    assert str(one.fault(ANYONE)) == protocol.Unauthorized.message()
    assert str(make(allow_anonymous=True).fault(ANONYMOUS)) == protocol.Unauthorized.message()
    assert make(allow_anonymous=True).fault(ANYONE) is None


def test_a_server_that_had_a_token_stays_closed_when_all_rows_are_deleted() -> None:
    one = make()
    one.replace_tokens([])
    assert (one.is_closed, one.ignores_credentials, one.has_credentials) == (False, True, False)
    for tokens in ([stored()], []):
        one.replace_tokens(tokens)
        assert (one.is_closed, one.ignores_credentials, one.has_credentials) == (True, False, True)


def test_an_admitted_caller_is_admitted_again_while_it_is_permitted() -> None:
    one = make()
    one.replace_tokens([])
    one.admit_again(ANYONE, Operation.SAVE)
    one.replace_tokens([stored(), stored(OTHER, "2")])
    for caller in (ANYONE, ANONYMOUS):
        one.admit_again(caller, None)
        one.admit_again(caller, Operation.READ_DOCUMENTS)
        with pytest.raises(protocol.Unauthorized, match=r"^A token is required: "):
            one.admit_again(caller, Operation.SAVE)
    caller = one.authenticate(TOKEN, IP)
    one.replace_tokens([stored(is_revoked=True), stored(OTHER, "2")])
    one.admit_again(one.authenticate(OTHER, IP), None)
    for operation in (None, Operation.READ_DOCUMENTS, Operation.SAVE):
        with pytest.raises(protocol.Unauthorized, match=r"^token: is revoked$"):
            one.admit_again(caller, operation)


def test_an_expiry_that_was_moved_counts_for_what_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(stored(expires_at=2e10))
    caller = one.authenticate(TOKEN, IP)
    one.replace_tokens([stored(expires_at=3e10)])
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: 2.5e10))
    assert one.fault(caller) is None


# The header


@pytest.mark.parametrize(
    ("header", "credential"),
    [
        (None, None),
        ("Bearer abc", "abc"),
        ("bEARER  a b ", "a b"),
        ("Bearer", ""),
        ("Bearer ", ""),
        ("Basic abc", None),
        ("Bearerabc", None),
        ("", None),
        ("abc Bearer", None),
    ],
)
def test_the_credential_is_read_from_the_header(header: str | None, credential: str | None) -> None:
    assert read_bearer(header) == credential
