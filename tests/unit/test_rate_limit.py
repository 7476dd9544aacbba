"""Limits in time: a token bucket for each key, at and over its edge, by a clock that the test sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import protocol
from balance.config import Config
from balance.rate_limit import BURST_S, ENTRIES_MIN, RateLimit, RateLimits
from tests.support.clock import Clock

SETTINGS = ("saves_per_s_max", "accepts_per_s_max", "handshakes_per_s_max", "failed_logins_per_s_max")
REASON = "updates a second are allowed"


def limit(per_s: int) -> tuple[RateLimit, Clock]:
    clock = Clock()
    return RateLimit("saves", per_s, REASON, clock), clock


def spend(one: RateLimit, key: str = "a") -> int:
    """Acquire until the limit is reached; return how often that succeeded."""
    for count in range(1_000_000):
        try:
            one.acquire(key)
        except protocol.RateLimited:
            return count
    raise AssertionError("there is no limit")


@pytest.mark.parametrize("per_s", [1, 3, 7, 100, 999])
def test_the_burst_is_ten_seconds_of_the_rate_and_no_more(per_s: int) -> None:
    one, _ = limit(per_s)
    assert spend(one) == per_s * BURST_S


@pytest.mark.parametrize("per_s", [1, 3, 7, 100, 999])
def test_an_empty_bucket_fills_at_the_rate(per_s: int) -> None:
    one, clock = limit(per_s)
    spend(one)
    clock.advance(1)
    assert spend(one) == per_s
    clock.advance(1 / per_s - 0.0001)
    assert spend(one) == 0
    clock.advance(0.0002)
    assert spend(one) == 1
    clock.advance(1_000)
    assert spend(one) == per_s * BURST_S, "it holds no more than the burst"


def test_a_refusal_states_the_limit_and_after_its_wait_one_more_is_accepted() -> None:
    one, clock = limit(2)
    spend(one)
    with pytest.raises(protocol.RateLimited) as refused:
        one.acquire("a")
    assert str(refused.value) == f"2 {REASON}"
    assert refused.value.retry_after_s == 1
    assert refused.value.headers == {"RateLimit-Policy": '"saves";q=20;w=10', "RateLimit": '"saves";r=0;t=10'}
    clock.advance(refused.value.retry_after_s)
    one.acquire("a")


def test_what_is_left_is_stated_before_and_after_each_use() -> None:
    one, clock = limit(2)
    assert one.headers("a")["RateLimit"] == '"saves";r=20;t=0'
    one.acquire("a")
    assert one.headers("a")["RateLimit"] == '"saves";r=19;t=1'
    clock.advance(0.25)
    assert one.headers("a")["RateLimit"] == '"saves";r=19;t=1'
    clock.advance(0.25)
    assert one.headers("a")["RateLimit"] == '"saves";r=20;t=0'


def test_a_check_raises_when_the_next_use_would_and_uses_nothing() -> None:
    one, clock = limit(1)
    for _ in range(BURST_S):
        one.check("a")
        one.check("a")
        one.acquire("a")
    with pytest.raises(protocol.RateLimited):
        one.check("a")
    clock.advance(1)
    one.check("a")


def test_keys_have_nothing_in_common() -> None:
    one, _ = limit(1)
    assert spend(one, "a") == BURST_S
    assert spend(one, "b") == BURST_S


def test_memory_is_bounded_by_the_keys_that_were_active_in_the_last_seconds() -> None:
    one, clock = limit(1)
    for number in range(20 * ENTRIES_MIN):
        one.acquire(f"address {number}")
        clock.advance(1 / ENTRIES_MIN)  # each bucket is full again after a second
    assert len(one) <= 2 * ENTRIES_MIN + 1


def test_full_buckets_are_searched_for_when_the_entries_have_doubled() -> None:
    one, clock = limit(1)
    for number in range(ENTRIES_MIN):
        one.acquire(f"first {number}")
    clock.advance(1)  # they are full again
    assert len(one) == ENTRIES_MIN
    for number in range(ENTRIES_MIN + 1):
        one.acquire(f"second {number}")
    assert len(one) == ENTRIES_MIN + 1
    one.acquire("first 0")
    clock.advance(1)
    for number in range(ENTRIES_MIN):
        one.acquire(f"third {number}")
    assert len(one) == 2 * (ENTRIES_MIN + 1)
    one.acquire("another")
    assert len(one) == ENTRIES_MIN + 1


def test_a_bucket_that_is_not_full_is_kept() -> None:
    one, _ = limit(1)
    spend(one, "a")
    for number in range(3 * ENTRIES_MIN):
        one.acquire(f"address {number}")
    assert spend(one, "a") == 0


def test_a_limit_of_zero_is_off() -> None:
    assert not limit(0)[0].is_on


def test_each_setting_has_a_limit_of_its_own() -> None:
    limits = RateLimits.make(Config(**{name: number for number, name in enumerate(SETTINGS, 1)}))
    found = []
    for one in limits:
        one.clock = Clock()
        spend(one)
        with pytest.raises(protocol.RateLimited) as refused:
            one.acquire("a")
        found.append((refused.value.headers["RateLimit-Policy"], str(refused.value)))
    assert found == [
        ('"saves";q=10;w=10', "1 updates a second are allowed for one token or address"),
        ('"accepts";q=20;w=10', "2 new connections a second are allowed for one address"),
        ('"handshakes";q=30;w=10', "3 handshakes a second are allowed for one address"),
        ('"failed-logins";q=40;w=10', "4 invalid tokens a second are allowed for one address"),
    ]
    assert not any(one.is_on for one in RateLimits.make(Config(**dict.fromkeys(SETTINGS, 0))))


@given(st.integers(1, 50), st.lists(st.floats(0, 3), max_size=200))
def test_in_no_time_more_is_accepted_than_the_burst_and_the_rate(per_s: int, pauses: list[float]) -> None:
    one, clock = limit(per_s)
    began, accepted = clock.now, 0
    for pause in pauses:
        clock.advance(pause)
        accepted += spend(one)
    assert accepted <= per_s * (BURST_S + clock.now - began) + 0.001
