"""Retention: delete the snapshots that are older than a limit, while the service saves.

Rows are deleted from the beginning of the feed, up to the first one that was received at the limit or later. The last
snapshot of each pid and the last one of the feed are kept, however old. `balance_feed.first_seq` is where the feed is
complete from then on; a row that is kept before it is deleted as soon as its pid has another one.

Each batch is one statement in a transaction of its own. It acquires the lock of the feed, for which saves wait, as its
last action, and its commit does not wait for the disk: if it is lost in a crash, its rows are there again. After each
batch the session rests for four times as long as it took, so that saves have most of the time of processor and disk.

Threads: every function blocks; `Pruning.stop` may be called from any thread.

Promises: one process prunes a database at a time. Every read sees a batch completely or not at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow, class_row

from balance.storage.connect import DatabaseError, error_text, to_conninfo
from balance.storage.migrate import check_schema
from balance.storage.session_settings import configure_session
from balance.storage.startup_check import check_prune_grants

BATCH_ROWS = 100
REST = 4  # times as long as a batch took, before the next one
STATEMENT_MS_MAX = 60_000  # the first statement may have to read over the rows of an interrupted run

_ADVISORY_KEY = int.from_bytes(b"pruning", "big")  # advisory locks are per database, so this name is enough


class PruningElsewhere(DatabaseError):
    """Another process prunes this database."""


class Batch(NamedTuple):
    """The outcome of one batch."""

    last: int | None
    """The last seq that was looked at; None if there was no further row."""
    is_end: bool
    """Whether a row was found that is not old, or that ends the feed."""
    pruned: int
    """The number of rows that were deleted, or would be."""


class Pruned(NamedTuple):
    """The outcome of a run."""

    pruned: int
    """The number of snapshots that were deleted, or would be."""
    total: int
    """The number of snapshots before that."""
    first: int
    """The seq from which on the feed is complete now."""


class Progress(NamedTuple):
    """How far a run has come."""

    looked_at: int
    """The last seq that was looked at."""
    last: int
    """The last seq of the feed."""


class Pruning:
    """One run on a database, on a connection of its own."""

    def __init__(self, url: str, before: datetime, *, dry_run: bool = False) -> None:
        """Delete what was received before a moment; with `dry_run`, only count it. Raises DatabaseError."""
        self._conninfo = to_conninfo(url)
        self._parameters: dict[str, Any] = {"before": before, "rows": BATCH_ROWS}
        self._dry_run = dry_run
        self._stop = threading.Event()

    def stop(self) -> None:
        """End the run after the batch that is in work."""
        self._stop.set()

    def run(self, report: Callable[[Progress], None] = lambda _: None) -> Pruned:
        """Delete batch by batch; call `report` after each. Raises DatabaseError, SchemaError and PruningElsewhere."""
        with one_line_errors("the database cannot be pruned"), self._session() as session:
            before = _read_feed(session)
            pruned, after = 0, 0
            while not self._stop.is_set():
                began = time.monotonic()
                batch = self._prune_batch(session, after)
                pruned += batch.pruned
                if batch.last is None or batch.is_end:
                    break
                after = batch.last
                report(Progress(after, before.last_seq))
                self._stop.wait(REST * (time.monotonic() - began))
            return Pruned(pruned, before.last_seq - before.pruned, _read_feed(session).first_seq)

    @contextmanager
    def _session(self) -> Iterator[Connection[TupleRow]]:
        """Connect, check that the role may prune, and be the only process that does, to the end of the block."""
        with psycopg.connect(self._conninfo, autocommit=True) as session:
            configure_session(session, statement_ms_max=STATEMENT_MS_MAX)
            check_schema(session)
            if not self._dry_run:
                check_prune_grants(session)
                if session.execute(LOCK, {"key": _ADVISORY_KEY}).fetchone() != (True,):
                    raise PruningElsewhere("another process prunes this database")
                session.execute(COMMIT_WITHOUT_WAIT)
            yield session

    def _prune_batch(self, session: Connection[TupleRow], after: int) -> Batch:
        return _read_batch(session, COUNT if self._dry_run else PRUNE, self._parameters | {"after": after})


class FeedRow(NamedTuple):
    """What balance_feed counts."""

    last_seq: int
    first_seq: int
    pruned: int


def _read_feed(session: Connection[TupleRow]) -> FeedRow:
    found = session.cursor(row_factory=class_row(FeedRow)).execute(FEED).fetchone()
    if found is None:
        raise DatabaseError("the database cannot be pruned: table balance_feed has lost its row")
    return found


def _read_batch(session: Connection[TupleRow], sql: LiteralString, parameters: dict[str, Any]) -> Batch:
    found = session.cursor(row_factory=class_row(Batch)).execute(sql, parameters).fetchone()
    assert found is not None, "an aggregate has one row"
    return found


@contextmanager
def one_line_errors(what: str) -> Iterator[None]:
    """Convert psycopg.Error in the block to DatabaseError: one line that begins with `what`."""
    try:
        yield
    except psycopg.Error as error:
        raise DatabaseError(f"{what}: {error_text(error)}") from error


FEED: LiteralString = "SELECT last_seq, first_seq, pruned FROM balance_feed WHERE only_row"

LOCK: LiteralString = "SELECT pg_catalog.pg_try_advisory_lock(%(key)s)"

COMMIT_WITHOUT_WAIT: LiteralString = "SET synchronous_commit = off"

# The rows that are old, of the next ones behind seq `after`. A newer row of a pid is never deleted before an older one
# in the order of seq, so that one of the pid is always left.
OLD: LiteralString = """
WITH looked_at AS MATERIALIZED (
    SELECT seq, pid, received_at FROM balance_snapshot WHERE seq > %(after)s ORDER BY seq LIMIT %(rows)s
), newest AS MATERIALIZED (
    SELECT max(seq) AS seq FROM balance_snapshot
), ending AS MATERIALIZED (
    SELECT min(looked_at.seq) AS seq FROM looked_at, newest
    WHERE received_at >= %(before)s OR looked_at.seq = newest.seq
), old AS (
    SELECT looked_at.seq FROM looked_at, ending
    WHERE (ending.seq IS NULL OR looked_at.seq < ending.seq)
      AND (pid IS NULL OR EXISTS (
          SELECT FROM balance_snapshot AS newer WHERE newer.pid = looked_at.pid AND newer.seq > looked_at.seq))
)
"""

COUNT: LiteralString = f"""{OLD}
SELECT (SELECT max(seq) FROM looked_at) AS last, (SELECT seq IS NOT NULL FROM ending) AS is_end, count(*) AS pruned
FROM old
"""

# The row of the feed is written last, when all rows are deleted: its lock is held until the end of the statement, which
# is that of the transaction.
PRUNE: LiteralString = f"""{OLD}, deleted AS (
    DELETE FROM balance_snapshot USING old WHERE balance_snapshot.seq = old.seq RETURNING balance_snapshot.seq
), counted AS MATERIALIZED (
    SELECT count(*) AS rows, max(seq) AS last FROM deleted
), feed AS (
    UPDATE balance_feed
    SET pruned = pruned + counted.rows, first_seq = greatest(first_seq, counted.last + 1)
    FROM counted WHERE only_row AND counted.rows > 0
)
SELECT (SELECT max(seq) FROM looked_at) AS last, (SELECT seq IS NOT NULL FROM ending) AS is_end, rows AS pruned
FROM counted
"""
