"""Saves the lines of the body of an import while it arrives.

The saves go through the service, as every other update: group commit, order of the feed, broadcast. WINDOW of them are
in flight at most, and then the body is not read, so that TCP holds the client back. A bot that saves meanwhile waits
for the batches before its own, at most that number of rows.

Threads: event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from time import perf_counter

import protocol
from balance.feed.pending import PendingSave
from balance.service import Service
from balance.transfer.importing import ImportResult, Line, Lines

log = logging.getLogger("balance.web")

WINDOW = 512  # saves in flight: a batch is committed while the next one is parsed
RESUME = WINDOW // 2  # of them, at which the body is read on
SLICE_S = 0.001  # of the event loop's time, after which everything else that is ready runs
BUSY_S = 0.02  # until the next attempt to save, while other clients use all of `saves_pending_max`


class ImportBody:
    """One body."""

    def __init__(self, service: Service, lines: Lines) -> None:
        """Save by `service` what `lines` splits."""
        self._service = service
        self._lines = lines
        self.result = ImportResult()
        self.failure: protocol.Unavailable | None = None
        """Why nothing more is saved; None while lines are."""
        self._in_flight = 0
        self._wanted = 0  # the number of saves in flight that `_wait` waits for
        self._waiter: asyncio.Future[None] | None = None
        self._slice_began = 0.0

    async def receive(self, chunk: bytes) -> None:
        """Save the lines that a part of the body completes; return when there is room for more."""
        self._slice_began = perf_counter()
        for line in self._lines.feed(chunk):
            await self._save(line)

    async def finish(self) -> None:
        """Save the last line, and wait for all saves."""
        for line in self._lines.rest():
            await self._save(line)
        await self._wait(0)

    async def _save(self, line: Line) -> None:
        if self.failure is not None:
            return
        self.result.lines += 1
        try:
            pending = await self._begin(self._lines.decode(line))
        except protocol.Unavailable as error:
            self._fail(error)
        except protocol.ServiceError as error:
            self.result.refuse(line.number, error)
        else:
            self._in_flight += 1
            pending.add_done_callback(partial(self._note, line.number))
        if self._in_flight >= WINDOW:
            await self._wait(RESUME)
        elif perf_counter() - self._slice_began > SLICE_S:
            await asyncio.sleep(0)
            self._slice_began = perf_counter()

    async def _begin(self, update: object) -> PendingSave:
        """Begin to save an update, as soon as it may. Raises ServiceError."""
        while True:
            try:
                return self._service.begin_save(update)
            except protocol.Busy:
                await asyncio.sleep(BUSY_S)

    def _note(self, number: int, pending: PendingSave) -> None:
        """Count a save that is done."""
        self._in_flight -= 1
        try:
            saved = self._service.finish_save(pending)
        except protocol.Unavailable as error:
            self._fail(error)
        except protocol.ServiceError as error:
            self.result.refuse(number, error)
        except Exception as error:
            log.error("a line of an import could not be saved", exc_info=error)
            self.result.refuse(number, protocol.InternalError())
        else:
            self.result.count_saved(duplicate=saved.duplicate)
        if self._waiter is not None and self._in_flight <= self._wanted and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: protocol.Unavailable) -> None:
        """Save nothing more. A line without an outcome may be saved: it is a duplicate when it is sent again."""
        if self.failure is None:
            self.failure = error

    async def _wait(self, in_flight: int) -> None:
        """Wait until at most this number of saves are in flight."""
        while self._in_flight > in_flight:
            self._wanted, self._waiter = in_flight, asyncio.get_running_loop().create_future()
            await self._waiter
        self._slice_began = perf_counter()
