"""Ids that grow with time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import lru_cache

VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))  # for each digit one whose first bits are 10


def uuid7() -> str:
    """Return a new UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then random ones.

    Ids that grow with time keep the index of a large table dense.
    """
    digits = next(_random_digits)
    time_digits = _format_time(time.time_ns() // 1_000_000)
    return f"{time_digits}{digits[:3]}-{VARIANT[digits[3]]}{digits[4:7]}-{digits[7:19]}"


@lru_cache(1)  # many ids are made within one millisecond
def _format_time(milliseconds: int) -> str:
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}-7"


def _make_random_digits() -> Iterator[str]:
    """Yield twenty random hexadecimal digits at a time, of 2,560 that were made at once: each call would cost more."""
    while True:
        digits = os.urandom(1_280).hex()
        yield from [digits[start : start + 20] for start in range(0, 2_560, 20)]


_random_digits = _make_random_digits()
