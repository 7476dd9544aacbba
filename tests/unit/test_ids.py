"""UUIDv7: version, variant, growth with time, and no id twice."""

from __future__ import annotations

import time
from uuid import RFC_4122, UUID

import pytest

from balance import ids
from balance.ids import uuid7


def test_new_ids_are_of_version_7_and_grow_with_time() -> None:
    made = [UUID(uuid7()) for _ in range(1_000)]
    assert {id_.version for id_ in made} == {7}
    assert {id_.variant for id_ in made} == {RFC_4122}
    assert [id_.int >> 80 for id_ in made] == sorted(id_.int >> 80 for id_ in made)
    assert len(set(made)) == len(made)


def test_the_first_48_bits_are_the_time_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    made = UUID(uuid7()).int >> 80
    assert before <= made <= time.time_ns() // 1_000_000


def test_an_id_is_written_in_lower_case_with_hyphens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_random_digits", iter(["abcdef0123456789abcd"]))
    monkeypatch.setattr(ids.time, "time_ns", lambda: 0x019A5BB24A1B * 1_000_000 + 999_999)
    assert uuid7() == "019a5bb2-4a1b-7abc-9ef0-123456789abc"


@pytest.mark.parametrize("digit", range(16))
def test_the_variant_is_right_for_any_random_bits(monkeypatch: pytest.MonkeyPatch, digit: int) -> None:
    monkeypatch.setattr(ids, "_random_digits", iter([f"000{digit:x}0000000000000000"]))
    assert UUID(uuid7()).variant == RFC_4122


def test_each_id_has_random_digits_of_its_own() -> None:
    taken = [next(ids._random_digits) for _ in range(300)]
    assert {len(one) for one in taken} == {20}
    assert len(set(taken)) == 300


def test_no_random_digits_are_used_in_two_ids() -> None:
    taken = [next(ids._random_digits) for _ in range(300)]
    parts = [one[start : start + 16] for one in taken for start in range(5)]
    assert len(set(parts)) == len(parts)
