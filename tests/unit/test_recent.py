"""The newest published snapshots: what they are, and when they are not all there."""

from __future__ import annotations

from balance.feed.recent import BYTES_MAX, SNAPSHOTS_MAX, Recent
from balance.snapshot import EncodedSnapshot


def encoded(first: int, last: int, size: int = 100) -> list[EncodedSnapshot]:
    return [EncodedSnapshot(seq, b"x" * size) for seq in range(first, last + 1)]


def seqs(recent: Recent, after: int) -> list[int] | None:
    found = recent.after(after)
    return None if found is None else [one.seq for one in found]


def test_it_begins_empty_at_a_position() -> None:
    recent = Recent()
    recent.restart(7)
    assert [seqs(recent, seq) for seq in (6, 7, 8)] == [None, [], None]
    assert recent.find(7) is None


def test_it_returns_all_after_a_position_or_nothing() -> None:
    recent = Recent()
    recent.restart(7)
    recent.extend(encoded(8, 9))
    recent.extend(encoded(10, 10))
    assert [seqs(recent, seq) for seq in (6, 7, 8, 9, 10, 11)] == [None, [8, 9, 10], [9, 10], [10], [], None]
    assert [recent.find(seq) and recent.find(seq).seq for seq in (7, 8, 10, 11)] == [None, 8, 10, None]  # type: ignore[union-attr]


def test_the_oldest_are_discarded_over_the_limit_of_snapshots() -> None:
    recent = Recent()
    recent.extend(encoded(1, SNAPSHOTS_MAX + 3))
    assert seqs(recent, 2) is None
    assert seqs(recent, 3) == list(range(4, SNAPSHOTS_MAX + 4))


def test_the_oldest_are_discarded_over_the_limit_of_bytes() -> None:
    recent = Recent()
    for seq in range(1, 100):
        recent.extend(encoded(seq, seq, BYTES_MAX // 4))
    assert seqs(recent, 94) is None
    assert seqs(recent, 95) == [96, 97, 98, 99]
    recent.restart(99)
    recent.extend(encoded(100, 103, BYTES_MAX // 4))
    assert seqs(recent, 99) == [100, 101, 102, 103]
