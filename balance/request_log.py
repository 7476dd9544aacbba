"""Logs each request, event and connection in one line, and at most a number of lines a second.

The lines of a second are shared: a request that succeeded in time gets a line among the first half of them, one that
failed or was slow among all. The requests without a line are counted, and one more line a second has their numbers. So
the log never is the load, and a failure is in it although thousands succeed.

docs/logs.md has the fields of a line.

Threads: event loop only. Life cycle: `close` writes the last numbers.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

from balance.request_context import OK, RequestContext

log = logging.getLogger("balance.request")

SECOND = 1.0
SLOW_S = 0.5  # of a request that does not wait for something to be saved
SAMPLED = "sampled"
"""The attribute of a log record that is within the limit of this module, and needs no other."""


class RequestLog:
    """The log of the requests of one process."""

    def __init__(self, lines_per_s: int) -> None:
        """Log at most `lines_per_s` lines a second, and one with the number of the others; 0 logs none."""
        self._lines_max = lines_per_s
        self._ordinary_max = (lines_per_s + 1) // 2
        self._lines = 0  # in this second
        self._omitted = 0
        self._omitted_notable = 0
        self._timer: asyncio.TimerHandle | None = None

    def write(
        self,
        context: RequestContext,
        operation: str,
        code: str,
        started: float,
        status: int = 0,
        *,
        may_wait: bool = False,
    ) -> None:
        """Log how an operation ended that began at `started` (`time.monotonic`), if there is a line left for it.

        `code` is OK or that of an error. `status` is that of HTTP, if there is one. An operation that `may_wait` is not
        slow because it lasts long.
        """
        if not self._lines_max:
            return
        seconds = monotonic() - started
        is_notable = code != OK or (seconds > SLOW_S and not may_wait)
        if self._lines >= (self._lines_max if is_notable else self._ordinary_max):
            self._omitted += 1
            self._omitted_notable += is_notable
            return
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SECOND, self._end_second)
        self._lines += 1
        result = OK if not status and code == OK else " ".join([str(status)] * bool(status) + [code] * (code != OK))
        took = f"after {seconds:.1f} s" if may_wait else f"in {seconds * 1000:.1f} ms"
        caller = f"{context.caller} at " if context.caller else ""
        log.info(
            "%s: %s %s, from %s%s, request %s", operation, result, took, caller, context.client, context.request_id,
            extra={SAMPLED: {
                "operation": operation, "status": status, "code": code, "duration_ms": round(seconds * 1000, 3),
                "client": context.client, "caller": context.caller, "request_id": context.request_id,
                "trace_id": context.trace_id, "span_id": context.span_id,
            }},
        )  # fmt: skip

    def close(self) -> None:
        """Write how many requests of the last second have no line."""
        if self._timer is not None:
            self._timer.cancel()
            self._end_second()

    def _end_second(self) -> None:
        omitted, notable = self._omitted, self._omitted_notable
        self._lines = self._omitted = self._omitted_notable = 0
        self._timer = None
        if omitted:
            fields = {"operation": "omitted", "omitted": omitted, "omitted_notable": notable}
            which = f", of which {notable} failed or were slow" if notable else ""
            log.info("%d more requests in the last second%s", omitted, which, extra={SAMPLED: fields})
