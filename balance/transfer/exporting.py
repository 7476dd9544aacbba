"""Exports: what a query selects, and the pages of it one after the other.

Threads: event loop only; pages are read in threads.

Promises: an export holds a connection to the database for one page only, and the text of one page in memory. It has
every selected snapshot that was saved when it began and was not pruned since, once, in the order of `seq`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import protocol
from balance.aio.limiter import CapacityLimiter
from balance.aio.threads import run_in_thread
from balance.feed.feed import unavailable_after
from balance.position import Position
from balance.snapshot import parse_ts
from balance.storage.export import FIXED_COLUMNS, ExportPage, Selection, csv_header
from balance.storage.feed_store import Head

EXPORTS_MAX = 4  # at once, of one address at most half of them: each keeps a session of PostgreSQL busy

RETRY_WAITS_S = (0.1, 0.4, 1.0)  # after a page that could not be read, but for the first one: a client can wait

T = TypeVar("T")


class HeadStore(Protocol):
    """Where the feed ends; the method blocks."""

    def head(self) -> Head: ...


class PageStore(Protocol):
    """The pages of a selection; the method blocks."""

    def page(self, selection: Selection, after: int, head: Position) -> ExportPage: ...


class Export:
    """One export."""

    def __init__(self, exports: Exports, selection: Selection, head: Position) -> None:
        """Export up to `head`; use `Exports.begin`."""
        self._exports = exports
        self._selection = selection
        self._head = head
        self.is_csv = selection.is_csv
        self._begun = csv_header(selection) if selection.is_csv else b""
        self._after = 0

    async def next_text(self) -> bytes:
        """Return the text of the next snapshots; empty at the end. Raises Unavailable."""
        begun, self._begun = self._begun, b""
        while self._after < self._head.seq:
            page = await self._read_page()
            self._after = page.last
            if page.text:
                return begun + page.text
        return begun

    async def _read_page(self) -> ExportPage:
        """Read the next page, which may be read again: a fault of a moment does not end a long export."""
        for wait_s in RETRY_WAITS_S if self._after else ():
            with suppress(protocol.Unavailable):
                return await self._exports.call(self._exports.pages.page, self._selection, self._after, self._head)
            await asyncio.sleep(wait_s)
        return await self._exports.call(self._exports.pages.page, self._selection, self._after, self._head)


class Exports:
    """The exports of one process."""

    def __init__(self, feed: HeadStore, pages: PageStore, executor: Executor, *, read_ms_max: int) -> None:
        """Read with the threads of `executor`; a page that takes longer than `read_ms_max` is Unavailable."""
        self._feed = feed
        self.pages = pages
        self._executor = executor
        self._read_s_max = read_ms_max / 1000
        self.limiter = CapacityLimiter(EXPORTS_MAX, "exports")
        """Each export holds a slot, from the request to the last byte of the reply."""

    async def begin(self, selection: Selection) -> Export:
        """Begin an export of what is saved now. Raises Unavailable."""
        head = await self.call(self._feed.head)
        return Export(self, selection, head.position)

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call the store in a thread. Raises Unavailable."""
        async with unavailable_after(self._read_s_max):
            return await run_in_thread(self._executor, function, *arguments)


def to_selection(query: Mapping[str, Any]) -> Selection:
    """Return what a query selects (schemas/export_query.json). Raises InvalidPayload."""
    protocol.check("export_query", query)
    is_csv = query.get("format") == "csv"
    for name in ("asset", "digits"):
        if name in query and not is_csv:
            raise protocol.InvalidPayload("is for format=csv only", name)
    from_, to = (parse_ts(query[name]) if name in query else None for name in ("from", "to"))
    if from_ is not None and to is not None and from_ >= to:
        raise protocol.InvalidPayload("must be earlier than to", "from")
    columns = tuple(column for column in dict.fromkeys(query.get("asset", ())) if column not in FIXED_COLUMNS)
    pids = tuple(sorted({int(pid) for pid in query["pid"]})) if "pid" in query else None
    return Selection(from_, to, pids, is_csv, columns, query.get("digits") == "text")
