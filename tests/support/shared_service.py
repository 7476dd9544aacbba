"""One service for all tests of a module.

`SharedService` owns an event loop, so that plain tests (many cases, many generated examples) share one service. The
loop runs only inside `run`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.rows import dict_row

from tests.support.http_client import Connection, Reply, request_bytes
from tests.support.postgres import temporary_database
from tests.support.service import Database, Service

T = TypeVar("T")


@contextmanager
def shared_service(postgres: str, template: str, **settings: Any) -> Iterator[SharedService]:
    """Run a service on a database of its own until the end of the block."""
    with temporary_database(postgres, template) as database:
        one = SharedService(database, settings)
        try:
            yield one
        finally:
            one.close()


class SharedService:
    """A service, its database and the event loop they run on."""

    def __init__(self, database: Database, settings: dict[str, Any]) -> None:
        # With a factory the runner does not replace the thread's current loop, which is pytest-tornado's.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._sql = psycopg.connect(database.url, autocommit=True, row_factory=dict_row)
        self.database = database
        self.noise = Noise()
        logging.getLogger().addHandler(self.noise)
        self.service = self.run(Service.start(database_url=database.url, **settings))

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 20) -> T:
        """Run the loop until `work` is done. Raises TimeoutError."""
        return self._runner.run(asyncio.wait_for(work, seconds))

    def rows(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Run one statement, planned again each time, on a connection that stays open."""
        return self._sql.execute(sql, parameters, prepare=False).fetchall()

    def stored(self) -> tuple[int, int]:
        """Return how many snapshots are stored, and the last `seq` that was assigned."""
        (row,) = self.rows("SELECT last_seq, (SELECT count(*) FROM balance_snapshot) AS n FROM balance_feed")
        return row["n"], row["last_seq"]

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Reply:
        """Send one request on a connection of its own."""
        return self.exchange(request_bytes(method, target, body, **headers), method)

    def exchange(self, data: bytes, method: str = "GET") -> Reply:
        """Send bytes on a connection of its own, and read one reply."""

        async def scene() -> Reply:
            async with Connection.to(self.service.port) as one:
                await one.send(data)
                return await one.read_reply(method)

        return self.run(scene())

    def close(self) -> None:
        self._sql.close()
        self.run(self.service.stop())
        self._runner.close()
        logging.getLogger().removeHandler(self.noise)


class Noise(logging.Handler):
    """Collects the records from WARNING on, so that a test can check them after each step."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(f"{record.name}: {record.getMessage()} {record.exc_info or ''}")
