"""`POST /api/balance/import`: save the lines of a body of any length while it arrives.

A body whose request is refused, or whose import has failed, is read on and discarded as that of any other request, up
to DRAIN_BYTES_MAX: most clients read a response only after they have sent everything.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable
from contextlib import ExitStack
from typing import Any

from tornado.httputil import HTTPHeaders

import protocol
from balance.aio.limiter import CapacityLimiter
from balance.auth import Operation
from balance.transfer.importing import Lines
from balance.web.base import DRAIN_BYTES_MAX
from balance.web.http_connection import Exchange
from balance.web.import_body import ImportBody
from balance.web.snapshots import RestHandler
from protocol.operation import NDJSON

IMPORTS_MAX = 2  # at once, one of each address: more would only share the same commits
MEDIA_TYPES = (NDJSON, "application/jsonl")


class ImportHandler(RestHandler):
    """One import."""

    operation = Operation.IMPORT
    methods = ("POST", "OPTIONS")
    may_wait = True

    def initialize(  # type: ignore[override]  # Tornado passes the arguments of the route
        self, *, import_limiter: CapacityLimiter, **common: Any
    ) -> None:
        super().initialize(**common)
        self.limiter = import_limiter
        self._slot = ExitStack()
        self._import = ImportBody(self.service, Lines(self.body_bytes_max))
        self._refusal: protocol.ServiceError | None = None
        self._discarded = 0

    def prepare(self) -> None:
        """Decide about the request before its body is read, which is not kept."""
        if self.request.method != "POST":
            super().prepare()
            return
        self._exchange.set_max_body_size(sys.maxsize)
        try:
            self.check_request()
            check_import_type(self.request.headers)
            self._slot.enter_context(self.read_slot())
        except protocol.ServiceError as error:
            if self.request_head.expects_continue:
                raise
            self._refusal = error

    @property
    def _exchange(self) -> Exchange:
        connection = self.request.connection
        assert isinstance(connection, Exchange)
        return connection

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:  # type: ignore[override]
        """Save the lines that a part of the body completes; what is returned is done when there is room for more."""
        if self.request.method != "POST":
            super().data_received(chunk)
            return None
        if self._failure is None:
            return self._receive(chunk)
        self._discarded += len(chunk)
        if self._discarded > DRAIN_BYTES_MAX:
            raise self._failure  # the last response on this connection
        return None

    async def _receive(self, chunk: bytes) -> None:
        await self._import.receive(chunk)
        self._exchange.continued_at = time.monotonic()
        if (fault := self.authenticator.fault(self.context.caller)) is not None:
            self._refusal = fault

    @property
    def _failure(self) -> protocol.ServiceError | None:
        """Why the rest of the body is discarded; None while it is saved."""
        return self._refusal or self._import.failure

    async def on_post(self) -> None:
        if self._failure is None:
            await self._import.receive_end()
        await self._import.wait()
        if self._import.failure is not None:
            self._import.failure.fields = {"data": self._import.result.to_wire()}
        if self._failure is not None:
            raise self._failure
        await self.finish_in_time(self.write_json({"success": True, "data": self._import.result.to_wire()}))

    def post(self, *_path: str) -> Awaitable[None]:  # type: ignore[override]
        """Answer POST, which `prepare` has checked."""
        return self.on_post()

    def on_finish(self) -> None:
        """Release the slot."""
        self._slot.close()

    def on_connection_close(self) -> None:
        """Release the slot; what was saved stays."""
        super().on_connection_close()
        self._slot.close()


def check_import_type(headers: HTTPHeaders) -> None:
    """Check that a body is declared as lines of JSON, not compressed. Raises UnsupportedMediaType."""
    media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise protocol.UnsupportedMediaType(f"must be {' or '.join(MEDIA_TYPES)}", "Content-Type")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise protocol.UnsupportedMediaType("must not be compressed", "Content-Encoding")
