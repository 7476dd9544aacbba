"""REST handlers of the feed: the part after a position, which may be waited for, and the newest snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import protocol
from balance.access.authenticator import Authenticator
from balance.aio.limiter import CapacityLimiter, LimitExceeded
from balance.auth import Operation
from balance.feed.feed_slice import FeedSlice
from balance.position import ClaimedPosition
from balance.service import LIMIT_DEFAULT
from balance.web.query import read_query, to_claimed
from balance.web.snapshots import RestHandler
from balance.web.watcher_limit import WatcherLimit

FEED_INTEGERS = frozenset(("after", "limit", "wait"))  # of schemas/feed_query.json
NOW = "now"  # in place of an `after`: the head
LATEST_INTEGERS = frozenset(("limit", "heard_s"))  # of schemas/latest_query.json


class LongPolls:
    """The requests that wait for the next snapshot."""

    def __init__(self, limiter: CapacityLimiter) -> None:
        """Hold a slot of the limiter for each."""
        self.limiter = limiter
        self._held: set[FeedHandler] = set()

    @contextmanager
    def hold(self, handler: FeedHandler) -> Iterator[None]:
        """Count a request as waiting within the block. Raises LimitExceeded."""
        with self.limiter.slot(str(handler.request.remote_ip)):
            self._held.add(handler)
            try:
                yield
            finally:
                self._held.discard(handler)

    def end_unauthorized(self, authenticator: Authenticator) -> None:
        """End the wait of callers whose credential is revoked or has expired."""
        for handler in list(self._held):
            if not authenticator.is_current(handler.context.caller):
                handler.end_wait()


class FeedHandler(RestHandler):
    """`/api/balance/feed`: the snapshots after a position."""

    operation = Operation.READ
    may_wait = True

    def initialize(  # type: ignore[override]  # Tornado passes the arguments of the route
        self, *, long_polls: LongPolls, watcher_limit: WatcherLimit, **common: Any
    ) -> None:
        super().initialize(**common)
        self._long_polls = long_polls
        self._watcher_limit = watcher_limit
        self._reading: asyncio.Task[FeedSlice] | None = None

    async def on_get(self, *_path: str) -> None:
        """Answer at once if there is something to return, otherwise wait for it as a watcher.

        Only an answer at once that may have snapshots takes one of the slots of the reads.
        """
        query = read_query(self.request, FEED_INTEGERS, words={"after": NOW})
        protocol.check("feed_query", query)
        position, limit, wait_s = _position(query), query.get("limit", LIMIT_DEFAULT), query.get("wait", 0)
        feed, found = self.service.feed, None
        if position is None:
            found = await feed.read_end(self.context.client)
        elif wait_s:
            found = feed.read_at_head(position)
        if found is None:
            assert position is not None
            with self.read_slot():
                found = await feed.read(position, limit)
                if found.last > found.after or not wait_s:
                    await self.finish_in_time(self._write(found))
                    return
        if wait_s:
            found = await self._wait(found, limit, wait_s)
        await self.finish_in_time(self._write(found))

    async def _wait(self, found: FeedSlice, limit: int, wait_s: int) -> FeedSlice:
        """Wait for what comes after a part; return the part itself if the client goes away.

        Raises Busy, and Unauthorized if the credential is revoked or expires meanwhile.
        """
        after = ClaimedPosition(found.epoch, found.last)
        self._watcher_limit.check()
        try:
            with self._long_polls.hold(self):
                self._reading = asyncio.ensure_future(
                    self.service.feed.read_next(after, limit, wait_s, self.context.client)
                )
                if self.stream.closed():
                    self._reading.cancel()
                await asyncio.wait([self._reading])
        except LimitExceeded as error:
            raise protocol.Busy(str(error)) from error
        self.authenticator.admit_again(self.context.caller, self.operation)
        return found if self._reading.cancelled() else self._reading.result()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.end_wait()

    def end_wait(self) -> None:
        """Wait no more."""
        if self._reading is not None:
            self._reading.cancel()

    def _write(self, found: FeedSlice) -> asyncio.Future[None]:
        part = {"epoch": found.epoch, "after": found.after, "last": found.last, "head": found.head}
        return self.write_json({"success": True, "data": found.data, "feed": part})


class LatestHandler(RestHandler):
    """`/api/balance/latest`: the newest snapshot, and the last one of each process id."""

    operation = Operation.READ

    async def read(self, *_path: str) -> dict[str, Any]:
        query = read_query(self.request, LATEST_INTEGERS)
        protocol.check("latest_query", query)
        latest = await self.service.feed.latest(query.get("limit", LIMIT_DEFAULT), query.get("heard_s"))
        newest = None if latest.newest is None else protocol.Encoded(latest.newest)
        pids = protocol.Encoded(b"[" + b",".join(latest.of_pids) + b"]")
        return {
            "success": True,
            "data": {"newest": newest, "pids": pids},
            "feed": {"epoch": latest.position.epoch, "head": latest.position.seq},
        }


def _position(query: dict[str, Any]) -> ClaimedPosition | None:
    """Return the position of a query; None is the head."""
    after = query.get("after", 0)
    return None if after == NOW else to_claimed(after, query)
