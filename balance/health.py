"""Whether this process can serve: what `/livez` and `/readyz` answer.

A process is live unless only a restart can repair it. It is ready if a request that comes now is likely to be served. A
failed save makes it unready for FAILED_S only: without requests, no save could show that saving works again.

Threads: event loop only; one read of the database runs in a thread.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import NamedTuple

from balance.aio.single_flight import SingleFlight
from balance.aio.threads import run_in_thread
from balance.database import Database
from balance.feed.tail import Tail
from balance.feed.writer import Writer
from balance.service import Life, Service
from balance.storage.errors import StoreUnavailable
from balance.storage.outage import CONNECTION, READ, SAVE

WAIT_S_MAX = 2.0  # of a save or a poll for the database, while the process is ready
FAILED_S = 10.0
STANDBY_S_MAX = 0.5  # to find out whether a commit waits for a standby
HANG_S = 60.0  # of a batch, beyond the time after which the watchdog has aborted its connection twice

STOPPING = "the server is stopping"
NO_ANSWER = "the database does not answer"
WRITER_WAITS = f"an update has waited for over {WAIT_S_MAX:g} s"
STANDBY_WAITS = "a commit waits for a standby"
THREAD_HANGS = "the write thread does not answer"


class Problem(NamedTuple):
    """Why a process is not live or not ready (schemas/health_problem.json)."""

    check: str
    """`database`, `migrations`, `writer`, `standby` or `stopping`."""
    reason: str


class Health:
    """The state of one process."""

    def __init__(
        self, service: Service, writer: Writer, tail: Tail, database: Database, *, statement_ms_max: int
    ) -> None:
        self._service = service
        self._writer = writer
        self._tail = tail
        self._database = database
        self._executor: Executor = database.read_executor
        self._hang_s = HANG_S + 2 * statement_ms_max / 1000
        self._standby_reads: SingleFlight[bool] = SingleFlight()
        self.is_stopping = False

    @property
    def database_is_up(self) -> bool:
        """Whether the database has been opened, and can be reached and read as far as is known."""
        return self._service.life is not Life.STARTING and not self._database_problems()

    def stop(self) -> None:
        """Be not ready from now on."""
        self.is_stopping = True

    def check_live(self) -> list[Problem]:
        """Return why only a restart would help; nothing while the process is live."""
        is_hung = self._writer.append_s > self._hang_s or not self._database.threads_are_alive
        return [Problem("writer", THREAD_HANGS)] if is_hung else []

    def problems(self) -> list[Problem]:
        """Return why the process is not ready; nothing if it is. It does not ask the database."""
        if self.is_stopping or self._service.life is Life.DRAINING:
            return [Problem("stopping", STOPPING)]
        if self._service.life is Life.STARTING:
            return [Problem("database", self._service.life.value), Problem("migrations", "not checked yet")]
        return self._database_problems() + self._writer_problems()

    async def check_ready(self) -> list[Problem]:
        """Return why the process is not ready; a writer that waits for a standby is distinguished from a stuck one."""
        problems = self.problems()
        if [problem.check for problem in problems] == ["writer"] and await self._waits_for_standby():
            return [Problem("standby", STANDBY_WAITS)]
        return problems

    def _database_problems(self) -> list[Problem]:
        kind = next((kind for kind in (CONNECTION, READ) if self._database.outage.fails(kind)), None)
        if kind is not None:
            return [Problem("database", kind.value)]
        return [Problem("database", NO_ANSWER)] if self._tail.poll_s > WAIT_S_MAX else []

    def _writer_problems(self) -> list[Problem]:
        failed_s = self._writer.failed_s
        has_failed = failed_s is not None and failed_s < FAILED_S
        if not has_failed and self._writer.waiting_s <= WAIT_S_MAX:
            return []
        if self._database.pool.lacks_standby:
            return [Problem("standby", STANDBY_WAITS)]
        return [Problem("writer", SAVE.value if has_failed else WRITER_WAITS)]

    async def _waits_for_standby(self) -> bool:
        async def read() -> bool:
            return await run_in_thread(self._executor, self._database.store.waits_for_standby)

        try:
            async with asyncio.timeout(STANDBY_S_MAX):
                return await self._standby_reads.run("standby", read)
        except (TimeoutError, StoreUnavailable):
            return False
