"""Send the same bytes to many sockets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def send_to_each(
    receivers: Sequence[T], sends: Sequence[Callable[[bytes], int] | None], data: bytes
) -> list[tuple[T, int]]:
    """Send bytes by the `send` of each receiver's socket, which does not block.

    Return the receivers that were not sent all of it, each with the count of bytes that the operating system has
    accepted: 0 for one whose `send` is None or fails.
    """
    # The loop body is `send` alone. The system call leaves the caches of the processor cold, so that each further
    # object of a receiver that is touched here comes from memory.
    unfinished, size = [], len(data)
    for receiver, send in zip(receivers, sends, strict=True):
        try:
            sent = send(data) if send is not None else 0
        except OSError:
            sent = 0
        if sent != size:
            unfinished.append((receiver, sent))
    return unfinished
