"""What one client has not read yet has a limit, from which its largest batch is exempt."""

from __future__ import annotations

from balance.aio.backlog import Backlog


class Waiting(Backlog):
    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    @property
    def unsent_bytes(self) -> int:
        return self.waiting

    def send(self, size: int, bytes_max: int = 10) -> bool:
        fits = self.admit(size, bytes_max)
        self.waiting += size
        return fits


def test_a_batch_is_admitted_while_what_waits_is_within_the_limit() -> None:
    backlog = Waiting()
    assert [backlog.send(4) for _ in range(6)] == [True, True, True, True, False, False]


def test_a_large_batch_does_not_fill_the_backlog_of_a_client_that_reads() -> None:
    backlog = Waiting()
    assert [backlog.send(size) for size in (100, 5, 5, 1, 1)] == [True, True, True, True, False]


def test_the_largest_batch_counts_until_all_is_sent() -> None:
    backlog = Waiting()
    backlog.send(100)
    backlog.send(1)
    backlog.waiting = 110
    assert backlog.send(1)
    backlog.waiting = 0
    assert backlog.send(2)
    backlog.waiting = 12
    assert backlog.send(1)
    backlog.waiting = 13
    assert not backlog.send(1)


def test_a_batch_that_is_not_asked_for_counts_too() -> None:
    backlog = Waiting()
    backlog.note_batch(50)
    backlog.waiting = 60
    assert backlog.send(1)
    backlog.waiting = 61
    assert not backlog.send(1)


def test_without_a_batch_nothing_is_exempt() -> None:
    backlog = Waiting()
    backlog.waiting = 11
    assert not backlog.send(1)
