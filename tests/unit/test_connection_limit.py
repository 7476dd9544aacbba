"""How many connections an address may have, and how many more are answered."""

from __future__ import annotations

import pytest

import protocol
from balance.web.connection_limit import ANSWERED_MAX, ConnectionLimit


def test_connections_over_the_limit_are_counted_and_more_are_refused() -> None:
    limit = ConnectionLimit(2)
    slots = [limit.acquire("a") for _ in range(2 + ANSWERED_MAX)]
    assert [slot and slot.is_over for slot in slots] == [False] * 2 + [True] * ANSWERED_MAX
    assert ANSWERED_MAX == 16
    assert limit.acquire("a") is None
    other = limit.acquire("b")
    assert other is not None
    assert not other.is_over
    assert len(limit) == 2


def test_a_slot_is_released_once_and_an_address_without_slots_is_forgotten() -> None:
    limit = ConnectionLimit(1)
    first, second = limit.acquire("a"), limit.acquire("a")
    assert first is not None
    assert second is not None
    first.release()
    first.release()
    third = limit.acquire("a")
    assert third is not None
    assert third.is_over, "the second one is still there"
    for slot in (second, third, third):
        slot.release()
    assert len(limit) == 0
    again = limit.acquire("a")
    assert again is not None
    assert not again.is_over


def test_a_connection_that_was_refused_counts_nothing() -> None:
    limit = ConnectionLimit(1)
    slots = [slot for _ in range(100) if (slot := limit.acquire("a"))]
    slots[0].release()
    assert limit.acquire("a") is not None
    assert limit.acquire("a") is None


@pytest.mark.parametrize(("maximum", "is_on"), [(0, False), (1, True), (1_000, True)])
def test_a_limit_of_zero_is_off(maximum: int, is_on: bool) -> None:
    assert ConnectionLimit(maximum).is_on is is_on


def test_the_refusal_states_the_limit() -> None:
    refusal = ConnectionLimit(7).refusal()
    assert str(refusal) == "7 connections are allowed for one address"
    assert isinstance(refusal, protocol.RateLimited)
    assert refusal.headers == {
        "RateLimit-Policy": '"connections";q=7;qu="concurrent-requests"', "RateLimit": '"connections";r=0'
    }  # fmt: skip
