"""Saves the lines of the body of an import while it arrives.

The saves go through the service, as every other update: group commit, order of the feed, broadcast. The lines of one
part of the body are decoded in slices of the event loop's time, and then submitted together, while those of the part
before it are committed. Nothing more is read until few saves are in flight, so that TCP holds the client back, and a
bot that saves meanwhile waits for that number of rows at most.

Threads: event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import protocol
from balance.aio.slices import Slices
from balance.feed.pending import PendingSave
from balance.service import Service
from balance.transfer.importing import ImportResult, Line, Lines

log = logging.getLogger("balance.web")

IN_FLIGHT = 512  # saves, at most, when those of the next part of the body are added: about as many again
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

    async def receive(self, part: bytes) -> None:
        """Save the lines that a part of the body completes; return when they are submitted."""
        updates: list[tuple[int, Any]] = []
        slices = Slices()
        for line in self._lines.feed(part):
            self._decode(line, updates)
            if slices.is_over():
                await slices.next()
        await self._wait(IN_FLIGHT)
        await self._submit(updates)

    async def receive_end(self) -> None:
        """Save the last line, if it has no line end."""
        updates: list[tuple[int, Any]] = []
        for line in self._lines.rest():
            self._decode(line, updates)
        await self._submit(updates)

    async def wait(self) -> None:
        """Wait until every save is done."""
        await self._wait(0)

    def _decode(self, line: Line, updates: list[tuple[int, Any]]) -> None:
        """Add the number and the update of a line, or count it as refused."""
        self.result.lines += 1
        try:
            updates.append((line.number, self._lines.decode(line)))
        except protocol.ServiceError as error:
            self.result.refuse(line.number, error)

    async def _submit(self, updates: list[tuple[int, Any]]) -> None:
        for number, update in updates:
            while self.failure is None:
                try:
                    pending = self._service.begin_save(update)
                except protocol.Busy:
                    await asyncio.sleep(BUSY_S)
                    continue
                except protocol.Unavailable as error:
                    self._fail(error)
                except protocol.ServiceError as error:
                    self.result.refuse(number, error)
                else:
                    self._in_flight += 1
                    pending.add_done_callback(partial(self._note, number))
                break

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
