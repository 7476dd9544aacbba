"""The texts of tokens, and tickets."""

from __future__ import annotations

import hashlib
import re
import zlib
from types import SimpleNamespace

import pytest

import protocol
from balance.access import tickets as tickets_module
from balance.access import tokens as tokens_module
from balance.access.tickets import TICKET_S, TICKETS_MAX, Tickets
from balance.access.tokens import digest, is_token, new_token
from balance.auth import ANYONE, TOKEN_ROLES, Caller, Role
from tests.support.clock import Clock

CALLER = Caller(Role.READER, "x", "", 2e10)
TICKET_REFUSED = "ticket: is unknown, was used, or is older than 60 s: get another"


def test_a_token_has_its_role_128_random_bits_and_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({new_token(Role.READER) for _ in range(100)}) == 100
    bits: list[int] = []
    largest = 2**128 - 1
    monkeypatch.setattr(tokens_module.secrets, "randbits", lambda count: bits.append(count) or largest)
    body = "bal_admin_7n42DGM5Tflk9n8mt7Fhc7"
    assert new_token(Role.ADMIN).startswith(f"{body}_")
    assert bits == [128]
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    check = new_token(Role.ADMIN).removeprefix(f"{body}_")
    assert sum(alphabet.index(one) * 62**power for power, one in enumerate(reversed(check))) == zlib.crc32(
        body.encode()
    )
    assert len(check) == 6


@pytest.mark.parametrize("role", TOKEN_ROLES)
def test_a_text_is_a_token_only_without_any_change(role: Role) -> None:
    token = new_token(role)
    assert re.fullmatch(rf"bal_{role}_[0-9A-Za-z]{{22}}_[0-9A-Za-z]{{6}}", token)
    assert is_token(token)
    for at in range(len(token)):
        assert not is_token(token[:at] + token[at + 1 :])
        assert not is_token(token[:at] + ("0" if token[at] != "0" else "1") + token[at + 1 :])
    for text in ("", f" {token}", f"{token}\n", f"{token}0", token.replace(role, "anyone"), token.upper()):
        assert not is_token(text)


def test_what_is_stored_of_a_credential_is_its_sha256() -> None:
    assert digest("aé") == hashlib.sha256("aé".encode()).digest()
    assert digest("\ud800") == hashlib.sha256(b"?").digest()


# Tickets


def test_a_ticket_is_good_once_and_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(tickets_module, "time", SimpleNamespace(monotonic=clock))
    tickets = Tickets()
    used, late = tickets.issue(CALLER), tickets.issue(ANYONE)
    assert tickets.is_valid(used)
    assert not tickets.is_valid(used + "x")
    assert tickets.use(used) is CALLER
    assert not tickets.is_valid(used)
    clock.advance(TICKET_S - 0.01)
    assert tickets.is_valid(late)
    clock.advance(0.01)
    assert not tickets.is_valid(late)
    for ticket in (used, late, "unknown"):
        with pytest.raises(protocol.Unauthorized) as refused:
            tickets.use(ticket)
        assert str(refused.value) == TICKET_REFUSED


def test_tickets_are_random_and_only_their_digests_are_kept() -> None:
    tickets = Tickets()
    issued = [tickets.issue(ANYONE) for _ in range(100)]
    assert len(set(issued)) == 100
    assert all(re.fullmatch(r"[0-9A-Za-z_-]{32}", one) for one in issued), "192 bits"
    assert list(tickets._issued) == [hashlib.sha256(one.encode()).digest() for one in issued]


def test_the_tickets_in_memory_are_bounded_and_expired_ones_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(tickets_module, "time", SimpleNamespace(monotonic=clock))
    tickets = Tickets()
    tickets.issue(ANYONE)
    clock.advance(1)
    assert TICKETS_MAX == 10_000
    newer = [tickets.issue(ANYONE) for _ in range(TICKETS_MAX - 1)][-1]
    with pytest.raises(protocol.Busy, match=rf"^{TICKETS_MAX} tickets wait to be used$"):
        tickets.issue(ANYONE)
    clock.advance(TICKET_S - 1)
    tickets.issue(ANYONE)
    assert len(tickets._issued) == TICKETS_MAX, "the first one is removed when it has expired, and no other"
    assert tickets.is_valid(newer)
    clock.advance(1)
    tickets.issue(ANYONE)
    assert len(tickets._issued) == 2
