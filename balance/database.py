"""The database of the service: the stores, and the threads that call them.

Saves, the tail of the feed, replays and series have threads and connections of their own, so that none of them waits
for another, and none for a list.

Life cycle: `start()`, `await open()`, `close()`; the opening may be repeated.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from balance.aio.threads import WorkerThread
from balance.config import Config
from balance.pruner import Pruner
from balance.storage.export import ExportStore
from balance.storage.feed_store import FeedStore, Head
from balance.storage.outage import Outage
from balance.storage.pool import Pool
from balance.storage.series_store import SeriesStore
from balance.storage.store import Store
from balance.storage.token_store import StoredToken, TokenStore

REPLAY_THREADS = 2
SERIES_THREADS = 1
OTHER_CONNECTIONS = 1 + 1 + REPLAY_THREADS + SERIES_THREADS  # to save, to follow the feed, to replay it, and for series


class Database:
    """The stores of one process and their threads."""

    def __init__(self, config: Config, url: str, outage: Outage) -> None:
        """Open nothing yet. Raises DatabaseError for an invalid `url`."""
        self.outage = outage
        self.pool = pool = Pool(
            url,
            pool_max=config.pool_max,
            pool_wait_ms_max=config.pool_wait_ms_max,
            statement_ms_max=config.statement_ms_max,
            outage=outage,
        )
        self.store, self.feed_store, self.token_store = Store(pool), FeedStore(pool), TokenStore(pool)
        self.export_store = ExportStore(pool)
        self.series_store = SeriesStore(pool)
        self.write_thread = WorkerThread("balance-write")
        self.tail_thread = WorkerThread("balance-tail")
        self.read_executor = ThreadPoolExecutor(config.pool_max - OTHER_CONNECTIONS, "balance-read")
        self.series_executor = ThreadPoolExecutor(SERIES_THREADS, "balance-series")
        self.replay_executor = ThreadPoolExecutor(REPLAY_THREADS, "balance-replay")
        self._threads = self.write_thread, self.tail_thread
        self._executors = self.read_executor, self.series_executor, self.replay_executor
        self.pruner = Pruner(url, config.keep_time) if config.keep_time is not None else None

    @property
    def threads_are_alive(self) -> bool:
        """Whether the threads that save and follow the feed run."""
        return all(thread.is_alive for thread in self._threads)

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        if self.pruner is not None:
            self.pruner.start()

    async def open(self) -> tuple[Head, list[StoredToken]]:
        """Connect; return where the feed ends, and the tokens.

        Raises StoreUnavailable, DatabaseError and SchemaError.
        """
        return await self.write_thread.run(self._open)

    def _open(self) -> tuple[Head, list[StoredToken]]:
        self.store.open()
        return self.feed_store.head(), self.token_store.read()

    async def close(self) -> None:
        """End every call and every thread, and close the connections."""
        await asyncio.to_thread(self._close)
        for thread in self._threads:
            thread.close()

    def _close(self) -> None:
        if self.pruner is not None:
            self.pruner.stop()
        for thread in self._threads:
            thread.stop()
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)
        self.store.close()  # ends the calls in which threads still wait
        for thread in self._threads:
            thread.join()
        for executor in self._executors:
            executor.shutdown(wait=True)
        if self.pruner is not None:
            self.pruner.join()
