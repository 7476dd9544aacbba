"""Restart the embedded PostgreSQL when it ends.

A thread waits for the lock that the server's processes hold, so that the kernel reports the end without delay. Of
several processes on one data directory, one restarts the server and the others find it running. Until then every save
gets `unavailable`; the pool reconnects by itself.

The supervisor gives up after STARTS_MAX failed starts without SERVICE_S_MIN of service between them.

Threads: `start` and `stop` belong to one thread; `failure` may be awaited in any.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Literal

from balance.storage.embedded.files import EmbeddedError
from balance.storage.embedded.locks import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from balance.storage.embedded.cluster import EmbeddedPostgres

STARTS_MAX = 5
SERVICE_S_MIN = 60.0  # after this time earlier failed starts no longer count
PAUSE_S_MAX = 8.0  # between failed attempts: 1, 2, 4 and 8 s
RESTART_S_MIN = 1.0  # between two restarts, however often it ends
TRIM_S = 1.0  # between two checks of the size of the log


class Supervisor:
    """Keeps one server running until `stop`."""

    def __init__(self, postgres: EmbeddedPostgres, report: Callable[[str], None]) -> None:
        """Start nothing yet. `report` gets a line for the log at each end of the server, in the supervisor's thread."""
        self._postgres = postgres
        self._report = report
        self._events: SimpleQueue[Literal["ended", "stop"]] = SimpleQueue()
        self._failures: list[float] = []
        self._restarted = float("-inf")
        self._thread = threading.Thread(target=self._run, name="balance-postgres")
        self.failure: Future[None] = Future()
        """Fails with EmbeddedError when the server cannot be restarted."""

    def start(self) -> None:
        """Begin to supervise."""
        self._thread.start()

    def stop(self) -> None:
        """End, also in the middle of a restart; the server is left as it is."""
        self._postgres.interrupt()
        self._events.put("stop")
        self._thread.join()

    def _run(self) -> None:
        try:
            self._watch()
            while (event := self._next(TRIM_S)) != "stop":
                if event == "ended":
                    self._restart()
                    self._watch()
                else:
                    with suppress(OSError, EmbeddedError):  # the server itself reports a missing folder
                        self._postgres.trim_log()
        except Interrupted:
            pass
        except Exception as error:
            self.failure.set_exception(error)

    def _watch(self) -> None:
        """Wait for the end in a thread that nothing can interrupt: it lives as long as the server."""
        threading.Thread(target=self._wait_for_end, name="balance-postgres-lock", daemon=True).start()

    def _wait_for_end(self) -> None:
        with suppress(OSError, EmbeddedError):
            self._postgres.wait_for_end()
        self._events.put("ended")

    def _restart(self) -> None:
        """Restart the server. Raises EmbeddedError after the last failed attempt, Interrupted by `stop`."""
        ended = time.monotonic()
        self._report(f"the embedded PostgreSQL is restarted: {self._postgres.how_it_ended()}")
        if self._failures and ended - self._failures[-1] > SERVICE_S_MIN:
            self._failures.clear()
        self._sleep(self._restarted + RESTART_S_MIN - ended)
        while True:
            try:
                self._postgres.restart()
            except EmbeddedError as error:
                self._failures.append(time.monotonic())
                if len(self._failures) >= STARTS_MAX:
                    raise EmbeddedError(f"{error} (gave up after {STARTS_MAX} attempts to restart it)") from error
                self._sleep(min(2.0 ** (len(self._failures) - 1), PAUSE_S_MAX))
            else:
                self._restarted = time.monotonic()
                return

    def _sleep(self, seconds: float) -> None:
        if seconds > 0 and self._next(seconds) == "stop":
            raise Interrupted

    def _next(self, seconds: float) -> Literal["ended", "stop"] | None:
        with suppress(Empty):
            return self._events.get(timeout=seconds)
        return None
