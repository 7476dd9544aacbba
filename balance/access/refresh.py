"""Keeps the tokens and keys in memory current, and ends what was opened for a caller whose credential no longer counts.

Threads: event loop; the database and the keys are read in threads.

Life cycle: `start()`, `stop()`, each once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from balance.access.authenticator import Authenticator
from balance.aio.threads import WorkerThread, run_in_thread
from balance.storage.errors import StoreUnavailable
from balance.storage.token_store import StoredToken, TokenStore

if TYPE_CHECKING:
    from balance.access.jwt import JwtVerifier

log = logging.getLogger("balance.access")

REFRESH_S = 1.0
NOTE_USED_S = 60.0  # between two updates of when a token was used last


class Watched(Protocol):
    """What serves callers for a long time."""

    def end_unauthorized(self, authenticator: Authenticator) -> None:
        """End what was opened for a caller that is no longer current, and send the reason."""


class AccessRefresh:
    """The timer that reads tokens and keys."""

    def __init__(
        self,
        authenticator: Authenticator,
        store: TokenStore,
        worker: WorkerThread,
        watched: Sequence[Watched],
    ) -> None:
        """Read the tokens in the thread of `worker`, and end what `watched` serve."""
        self._authenticator = authenticator
        self._store = store
        self._worker = worker
        self._watched = watched
        self._key_thread = ThreadPoolExecutor(1, "balance-keys")
        self._noted_at = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start to read."""
        create = asyncio.get_running_loop().create_task
        self._tasks = [create(self._repeat_tokens())]
        if self._authenticator.jwt is not None:
            self._tasks.append(create(self._repeat_keys(self._authenticator.jwt)))

    def stop(self) -> None:
        """Read no more."""
        for task in self._tasks:
            task.cancel()
        self._key_thread.shutdown(wait=False)  # a provider may be slow

    async def _repeat_tokens(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                self._authenticator.replace_tokens(await self._worker.run(self._read, self._used()))
            except StoreUnavailable:
                pass  # `outage` has logged it; the tokens that are known stay
            except Exception:
                log.exception("the tokens could not be read")
            for one in () if self._authenticator.ignores_credentials else self._watched:
                one.end_unauthorized(self._authenticator)

    def _used(self) -> list[str]:
        """Return the tokens whose use is to be stored now."""
        now = time.monotonic()
        if now - self._noted_at < NOTE_USED_S:
            return []
        self._noted_at = now
        return self._authenticator.take_used()

    def _read(self, used: list[str]) -> list[StoredToken]:
        if used:
            self._store.note_used(used)
        return self._store.read()

    async def _repeat_keys(self, jwt: JwtVerifier) -> None:
        while True:
            try:
                keys = await run_in_thread(self._key_thread, jwt.read_keys)
            except Exception:
                log.exception("the keys could not be read")
                keys = None
            if keys is not None:
                self._authenticator.replace_keys(keys)
            await asyncio.sleep(REFRESH_S)
