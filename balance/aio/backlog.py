"""The limit on what one client has not read yet."""

from __future__ import annotations


class Backlog:
    """What waits to be sent to one client; a subclass counts it."""

    __slots__ = ("_largest_batch",)

    def __init__(self) -> None:
        self._largest_batch = 0

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait."""
        raise NotImplementedError

    def admit(self, size: int, bytes_max: int) -> bool:
        """Admit a batch of `size` bytes if the backlog is within the limit.

        The largest batch in the backlog is exempt, so that a client that reads is not disconnected by a large batch. So
        a backlog is at most the limit and two batches.
        """
        fits = self.unsent_bytes <= bytes_max + self._largest_batch
        self.note_batch(size)
        return fits

    def note_batch(self, size: int) -> None:
        """Note that a batch of `size` bytes is added."""
        self._largest_batch = max(size, self._largest_batch) if self.unsent_bytes else size
