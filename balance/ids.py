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
    digits = next(_ten_bytes).hex()
    time_digits = _format_time(time.time_ns() // 1_000_000)
    return f"{time_digits}{digits[:3]}-{VARIANT[digits[3]]}{digits[4:7]}-{digits[7:19]}"


@lru_cache(1)  # many ids are made within one millisecond
def _format_time(milliseconds: int) -> str:
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}-7"


def _random_bytes() -> Iterator[bytes]:
    """Yield ten random bytes at a time, of a kilobyte that was read at once: a system call for each would cost more."""
    while True:
        block = os.urandom(1_280)
        yield from (block[start : start + 10] for start in range(0, 1_280, 10))


_ten_bytes = _random_bytes()
