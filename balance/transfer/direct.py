"""Export and import without a service, straight on the database, while services run or not.

What is imported is appended as a service does it: a running one follows the feed and sends it to its watchers.

Threads: each function blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import protocol
from balance.snapshot import Snapshot
from balance.storage.export import ExportStore, Selection, csv_header
from balance.storage.feed_store import FeedStore
from balance.storage.pool import Pool
from balance.storage.store import Store
from balance.transfer.importing import ImportResult, Line, Lines

BATCH = 500  # lines in one transaction: services that save wait for it


class Exported(NamedTuple):
    """The outcome of an export."""

    rows: int
    last_seq: int
    """That of the feed when the export began."""


def export_snapshots(
    pool: Pool, selection: Selection, write: Callable[[bytes], object], report: Callable[[int, int], object]
) -> Exported:
    """Write all selected snapshots; `report` gets the seq that was reached and the last one.

    Raises StoreUnavailable, and what `write` raises.
    """
    pages, head = ExportStore(pool), FeedStore(pool).head().position
    if selection.is_csv:
        write(csv_header(selection))
    rows = after = 0
    while after < head.seq:
        page = pages.page(selection, after, head)
        write(page.text)
        rows, after = rows + page.rows, page.last
        report(after, head.seq)
    return Exported(rows, head.seq)


def import_snapshots(store: Store, lines: Lines, blocks: Iterable[bytes], result: ImportResult) -> None:
    """Save the lines of a file, which comes in blocks; count them in `result`. Raises StoreUnavailable."""
    batch: list[tuple[int, Snapshot]] = []
    for block in blocks:
        for line in lines.feed(block):
            _add(lines, line, batch, result)
            if len(batch) >= BATCH:
                _append(store, batch, result)
    for line in lines.rest():
        _add(lines, line, batch, result)
    _append(store, batch, result)


def _add(lines: Lines, line: Line, batch: list[tuple[int, Snapshot]], result: ImportResult) -> None:
    result.lines += 1
    try:
        batch.append((line.number, Snapshot.from_update(lines.decode(line), datetime.now(UTC), "")))
    except protocol.ServiceError as error:
        result.refuse(line.number, error)


def _append(store: Store, batch: list[tuple[int, Snapshot]], result: ImportResult) -> None:
    """Save a batch, and empty it."""
    if not batch:
        return
    appended = store.append([snapshot for _, snapshot in batch])
    for (number, sent), saved in zip(batch, appended.saved, strict=True):
        try:
            saved.check(sent)
        except protocol.Conflict as error:
            result.refuse(number, error)
        else:
            result.count_saved(duplicate=saved.duplicate)
    batch.clear()
