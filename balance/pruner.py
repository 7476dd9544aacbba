"""Deletes old snapshots in the background while the service runs (`--keep`).

Of several processes on one database, the one that comes first prunes; the others find that it does and do nothing.
What could not be deleted now is deleted an hour later. After a jump of the clock forwards, nothing is deleted at once:
what is deleted is gone, and the clock may be wrong.

Threads: the runs are in a thread of their own. Life cycle: `start`, `stop`, `join`, each once.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from balance.storage.connect import DatabaseError
from balance.storage.migrate import SchemaError
from balance.storage.retention import Pruning, PruningElsewhere

log = logging.getLogger("balance.retention")

FIRST_S = 60.0  # from the start of the service: the database may start at the same time
PAUSE_S = 3600.0
JUMP_S_MAX = 600.0  # of the clock against the monotonic clock, between two runs
JOIN_S_MAX = 1.0  # a batch takes a few milliseconds; one that hangs must not hold up the end of the service


class Pruner:
    """Prunes the database at intervals."""

    def __init__(self, url: str, keep: timedelta, *, first_s: float = FIRST_S, pause_s: float = PAUSE_S) -> None:
        """Keep what was received within `keep`; begin after `first_s` and repeat after `pause_s`."""
        self._url = url
        self._keep = keep
        self._first_s, self._pause_s = first_s, pause_s
        self._stopping = threading.Event()
        self._pruning: Pruning | None = None  # the run in work
        self._thread = threading.Thread(target=self._run, name="balance-prune", daemon=True)

    def start(self) -> None:
        """Begin the runs."""
        self._thread.start()

    def stop(self) -> None:
        """End the run in work after its batch, and begin no other; return at once."""
        self._stopping.set()
        if self._pruning is not None:
            self._pruning.stop()

    def join(self) -> None:
        """Wait for the end of the thread, for a second at most."""
        if self._thread.ident is not None:
            self._thread.join(JOIN_S_MAX)

    def _run(self) -> None:
        seconds, ahead = self._first_s, _clocks()
        while not self._stopping.wait(seconds):
            before, ahead = ahead, _clocks()
            if (jump := ahead - before) > JUMP_S_MAX:
                log.warning("the clock was set forward by %d s: old snapshots are deleted in an hour, not now", jump)
            else:
                with suppress(PruningElsewhere):
                    self._prune(datetime.now(UTC) - self._keep)
            seconds = self._pause_s

    def _prune(self, before: datetime) -> None:
        try:
            self._pruning = Pruning(self._url, before)
            if self._stopping.is_set():  # `stop` may have been called before it could see this run
                return
            pruned = self._pruning.run()
        except PruningElsewhere:
            raise
        except (DatabaseError, SchemaError) as error:
            log.warning("old snapshots are not deleted now: %s", error)
            return
        if pruned.pruned:
            log.info(
                "deleted %d of %d snapshots, which were received before %s; the feed begins at seq %d",
                pruned.pruned, pruned.total, before.isoformat(timespec="seconds"), pruned.first,
            )  # fmt: skip


def _clocks() -> float:
    """Return by how many seconds the clock is ahead of the monotonic clock."""
    return time.time() - time.monotonic()
