"""Calls that are repeated in a thread while a block runs."""

from __future__ import annotations

import pytest

from tests.support.waiting import repeating, wait_until


class Call:
    """A call that counts itself, and raises its number from a certain one on."""

    def __init__(self, good: float = float("inf")) -> None:
        self.count = 0
        self._good = good

    def __call__(self) -> None:
        self.count += 1
        if self.count > self._good:
            raise ValueError(self.count)


def test_a_call_is_repeated_until_the_block_ends() -> None:
    call = Call()
    with repeating(call, 0.001):
        wait_until(lambda: call.count >= 3)


def test_a_call_that_raises_is_the_last_one_and_fails_the_block_at_its_end() -> None:
    call = Call(good=2)
    with pytest.raises(ValueError, match=r"^3$"), repeating(call, 0):
        wait_until(lambda: call.count == 3)
    assert call.count == 3


def test_an_error_of_the_block_itself_is_raised_instead_of_that_of_a_call() -> None:
    call = Call(good=0)

    def fail() -> None:
        wait_until(lambda: call.count == 1)
        raise KeyError

    with pytest.raises(KeyError), repeating(call, 0):
        fail()
