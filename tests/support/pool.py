"""Pools: one without a database, whose fakes note what is done with them, and what a test asks a real one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import psycopg_pool

from balance.storage.outage import Kind, Outage
from balance.storage.pool import Pool
from balance.storage.server_probe import Server

URL = "postgresql://nobody@localhost/none"


class FakeSession:
    """A session that notes what is done with it."""

    def __init__(self) -> None:
        self.closed = False
        self.warning: str | None = None
        self.server = Server(None, None)
        self.is_lost = self.is_aborted = self.is_answered = False
        self.aborts = 0
        self.aborted_at = 0.0

    def take_warning(self) -> str | None:
        return self.warning

    def close(self) -> None:
        self.closed = True

    def is_alive(self) -> bool:
        return not self.closed and not self.is_lost

    def has_input(self) -> bool:
        return self.is_answered

    def abort(self) -> None:
        self.aborted_at = time.monotonic()
        self.aborts += 1


class FakeConnectionPool:
    """In place of psycopg's pool: lends what a test gives it, or raises it, and notes each call."""

    def __init__(self, results: Iterable[FakeSession | Exception] = ()) -> None:
        self.results = deque(results)
        self.calls: list[tuple[Any, ...]] = []
        self._is_closed = False

    def open(self) -> None:
        self.calls.append(("open",))

    def close(self, timeout: float) -> None:
        self.calls.append(("close", timeout))
        self._is_closed = True

    def getconn(self, timeout: float) -> FakeSession:
        if self._is_closed:
            raise psycopg_pool.PoolClosed
        self.calls.append(("getconn", timeout))
        result = self.results.popleft()
        if isinstance(result, Exception):
            raise result
        return result

    def putconn(self, session: FakeSession) -> None:
        self.calls.append(("putconn", session))

    def drain(self) -> None:
        self.calls.append(("drain",))


class NotedOutage(Outage):
    """An outage that keeps what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[tuple[Kind, str]] = []
        self.successes: list[Kind] = []

    def failed(self, kind: Kind, reason: str) -> None:
        self.failures.append((kind, reason))

    def worked(self, kind: Kind) -> None:
        self.successes.append(kind)


class PoolRig(NamedTuple):
    """A pool that is not opened, and the fakes that it uses."""

    pool: Pool
    outage: NotedOutage
    sessions: FakeConnectionPool


def make_pool(*results: FakeSession | Exception, wait_ms_max: int = 10, statement_ms_max: int = 10) -> PoolRig:
    """Make a pool whose requests for a session have these results, in their order."""
    outage, sessions = NotedOutage(), FakeConnectionPool(results)
    pool = Pool(URL, pool_max=2, pool_wait_ms_max=wait_ms_max, statement_ms_max=statement_ms_max, outage=outage)
    pool._pool = sessions  # type: ignore[assignment]
    return PoolRig(pool, outage, sessions)


def is_at_rest(pool: Pool) -> bool:
    """Return whether a real pool opens no session in the background; one is that of the write thread."""
    stats = pool._pool.get_stats()
    return stats["pool_size"] == stats["pool_available"] + 1
