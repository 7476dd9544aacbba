"""`GET /api/balance/export`: all snapshots, or some of them, as one response of any length.

Each page is read when the operating system has accepted the one before it, so that a client that reads slowly slows
its own export down and nothing else. A response that cannot be completed ends without its last chunk (RFC 9112,
section 8): its status was sent long before, and a client must not believe that it has everything.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Any

from tornado.iostream import StreamClosedError

import protocol
from balance.auth import Operation
from balance.feed.replay import READ_S_MAX
from balance.service import Life, now
from balance.transfer.exporting import Export, Exports, to_selection
from balance.web.query import read_query
from balance.web.snapshots import RestHandler
from protocol.operation import NDJSON
from protocol.operations import CSV

log = logging.getLogger("balance.web")

SLOW = "slow"  # in the log, of a client that does not read
CLOSED = "closed"  # in the log, of a client that went away


class ExportHandler(RestHandler):
    """One export."""

    operation = Operation.READ
    may_wait = True

    def initialize(self, *, exports: Exports, **common: Any) -> None:  # type: ignore[override]  # Tornado passes the arguments of the route
        super().initialize(**common)
        self._exports = exports
        self.limiter = exports.limiter

    async def on_get(self, *_path: str) -> None:
        selection = to_selection(read_query(self.request, ("pid",), repeatable=("pid", "asset")))
        with self.read_slot():
            export = await self._exports.begin(selection)
            first = await export.next_text()  # an error is still a response
            self._set_headers(is_csv=export.is_csv)
            if self.request.method == "HEAD":
                self.flush()  # Tornado would add the length of an empty body (RFC 9110, section 8.6)
                await self.finish_in_time(self.finish())
                return
            try:
                await self._send(export, first)
            except Exception as error:
                self._abort(error)
            else:
                await self.finish_in_time(self.finish())

    def _set_headers(self, *, is_csv: bool) -> None:
        media_type, ending = (f"{CSV}; charset=utf-8; header=present", "csv") if is_csv else (NDJSON, "ndjson")
        self._headers["Content-Type"] = media_type
        self._headers["Content-Disposition"] = f'attachment; filename="balance-{file_time(now())}.{ending}"'

    async def _send(self, export: Export, text: bytes) -> None:
        """Send an export that begins with a text. Raises what ends it before."""
        while text:
            self.write(text)
            await asyncio.wait_for(self.flush(), READ_S_MAX)
            if self.service.life is not Life.RUNNING:
                raise protocol.Unavailable(self.service.life.value)
            if (fault := self.authenticator.fault(self.context.caller)) is not None:
                raise fault
            text = await export.next_text()

    def _abort(self, error: Exception) -> None:
        """Close the connection of a response that cannot be completed."""
        if isinstance(error, StreamClosedError):
            self.context.code = CLOSED
        elif isinstance(error, TimeoutError):
            self.context.code = SLOW
        elif isinstance(error, protocol.ServiceError):
            self.context.code = error.code
        else:
            self.context.code = protocol.InternalError.code
            log.error("an export could not be completed", exc_info=error)
        self.stream.close()


def file_time(moment: datetime) -> str:
    """Write a moment for the name of a file: 20251107T004508Z."""
    return f"{moment:%Y%m%dT%H%M%SZ}"
