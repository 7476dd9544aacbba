"""Append a batch to the feed: the statements, and what they expect of the feed.

Threads: the functions block, and are for the write thread. `pipeline.py` sends INSERT without waiting for the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from psycopg import Connection, RawCursor
from psycopg.rows import TupleRow, class_row

import protocol
from balance.position import Position
from balance.snapshot import Saved, Snapshot
from balance.storage.database_session import DatabaseSession
from balance.storage.errors import NO_FEED, DatabaseFault
from balance.storage.server_probe import TIMELINE


class Expected(NamedTuple):
    """The feed to which a batch is appended."""

    known: Position | None
    """For INSERT, exactly where it ends; for the others, a position that it has reached in this epoch."""
    system_id: str | None
    """The system of the session's server; None if it may not be read."""
    has_timeline: bool
    """Whether the timeline of the server may be read."""

    @property
    def feed_parameters(self) -> tuple[str | None, int | None, str | None]:
        """The parameters of IS_EXPECTED."""
        epoch, seq = self.known or (None, None)
        return epoch, seq, self.system_id

    def insert_parameters(self, snapshots: Sequence[Snapshot], last_id: str | None = None) -> list[bytes | None]:
        """Return the parameters of INSERT; `last_id` is that of the last row, if it is not known to be stored."""
        assert self.known is not None
        ids = ",".join([snapshot.id for snapshot in snapshots])
        return [
            self.known.epoch.encode(),
            b"%d" % self.known.seq,
            None if self.system_id is None else self.system_id.encode(),
            protocol.encode(list(snapshots)),
            b"%d" % len(snapshots),
            b"{%s}" % ids.encode(),
            None if last_id is None else last_id.encode(),
        ]

    @property
    def name(self) -> bytes:
        """The name of the prepared INSERT."""
        return b"insert" if self.has_timeline else b"insert_without_timeline"

    @property
    def insert(self) -> LiteralString:
        """The statement of that name."""
        return self.statement(INSERT)

    def statement(self, sql: LiteralString) -> LiteralString:
        """Complete a statement that has TIMELINE_IS_SAME in it."""
        return sql if self.has_timeline else sql.replace(TIMELINE_IS_SAME, "true")


class Appended(NamedTuple):
    """The outcome of one `append`: for each snapshot, in order, what is stored under its id now."""

    epoch: str
    end: int
    """The last seq of the feed after it; the new ones of `saved` are the last of the feed."""
    saved: list[Saved]

    @property
    def position(self) -> Position:
        """Where the feed ends after it."""
        return Position(self.epoch, self.end)

    @classmethod
    def behind(cls, before: Position, snapshots: Sequence[Snapshot]) -> Appended:
        """Return the outcome for snapshots that were all stored, the first one at the seq after `before`."""
        saved = [Saved(snapshot.with_seq(seq), False) for seq, snapshot in enumerate(snapshots, before.seq + 1)]
        return cls(before.epoch, before.seq + len(saved), saved)


def insert(session: DatabaseSession, snapshots: Sequence[Snapshot], expected: Expected) -> bool:
    """Store snapshots with different ids where the feed is expected to end, in one statement; return whether it did.

    It stores nothing if an id is stored already, or the feed is another one or ends elsewhere.
    """
    if expected.known is None:
        return False
    result = session.execute_prepared(expected.name, expected.insert, *expected.insert_parameters(snapshots))
    return bool(result.command_tuples)


def insert_locked(session: DatabaseSession, snapshots: Sequence[Snapshot], expected: Expected) -> Position | None:
    """Store snapshots with different ids at the end of the feed, after the batches of other processes.

    Returns the position before them; None if it stored nothing: an id is stored already, or the feed is not the
    expected one.

    The lock comes in a statement of its own, since a statement does not see what is committed while it waits. Both go
    out together: between two syncs PostgreSQL makes one transaction of them. If it stores nothing, its commit does not
    wait for the disk and the standby: what is done instead has a commit of its own.
    """
    with session.pipeline():
        session.execute(LOCK_FEED)
        inserted = RawCursor(session)
        rows = protocol.dumps(list(snapshots))
        inserted.execute(
            expected.statement(INSERT_OR_COMMIT_AT_ONCE), (*expected.feed_parameters, rows, len(snapshots))
        )
    epoch, seq, _ = inserted.fetchall()[0]
    return None if epoch is None else Position(epoch, seq)


def append_deduplicated(
    session: DatabaseSession, snapshots: Sequence[Snapshot], ids: Sequence[str], expected: Expected
) -> Appended | None:
    """Store of `snapshots` those whose id is not stored yet; the others are duplicates.

    Returns None and stores nothing if the feed is not the expected one.
    """
    with session.transaction():
        # The lock makes the commit of a transaction that stores nothing wait for a standby too.
        feed = RawCursor(session)
        feed.execute(expected.statement(LOCK_EXPECTED), expected.feed_parameters)
        row = feed.fetchone()
        if row is None:
            raise DatabaseFault(NO_FEED)
        epoch, seq, is_expected = row
        if not is_expected:
            return None
        stored = {one.id: one for one in find(session, ids)}
        new: list[Snapshot] = []
        saved: list[Saved] = []
        for snapshot in snapshots:
            duplicate = snapshot.id in stored
            if not duplicate:
                stored[snapshot.id] = snapshot.with_seq(seq + len(new) + 1)
                new.append(stored[snapshot.id])
            saved.append(Saved(stored[snapshot.id], duplicate))
        if new and not insert(session, new, expected._replace(known=Position(epoch, seq))):
            raise DatabaseFault(NOTHING_STORED)
    return Appended(epoch, seq + len(new), saved)


def find(session: Connection[TupleRow], ids: Sequence[str]) -> list[Snapshot]:
    """Read the snapshots of these ids that are stored."""
    return session.cursor(row_factory=class_row(Snapshot)).execute(FIND, (ids,)).fetchall()


NOTHING_STORED = "a save under the lock of table balance_feed has stored nothing"  # for the log

LOCK_FEED: LiteralString = "SELECT FROM balance_feed WHERE only_row FOR UPDATE"

TIMELINE_IS_SAME: LiteralString = f"timeline = {TIMELINE}"

# $1 and $2: the epoch, and a seq at which it ended once; $3: the system, or NULL if it is not known. Not true in any
# other epoch, since `renew_epoch` finds out whether it is over, and not if no timeline or system is recorded yet.
IS_EXPECTED: LiteralString = f"""
({TIMELINE_IS_SAME}
 AND ($3::text IS NULL OR system_id = $3)
 AND epoch = $1::uuid AND last_seq >= $2::bigint) IS TRUE
"""

LOCK_EXPECTED: LiteralString = f"SELECT epoch, last_seq, {IS_EXPECTED} FROM balance_feed WHERE only_row FOR UPDATE"

FIND: LiteralString = """
SELECT id, ts, pid, onchain, onsite, received_at, seq FROM balance_snapshot WHERE id = ANY(%s::uuid[])
"""

ROWS: LiteralString = """ROWS FROM (
    jsonb_to_recordset($4::jsonb)
    AS (id uuid, ts timestamptz, pid bigint, onchain jsonb, onsite jsonb, received_at timestamptz)
) WITH ORDINALITY AS row(id, ts, pid, onchain, onsite, received_at, number)"""

# $5: the number of the rows; $6: their ids; $7: the id of the row at $2, or NULL. The statement does not see the rows
# that another process commits while it waits for the row of the feed. It then compares the new `last_seq`, which is
# another, and stores nothing.
INSERT: LiteralString = f"""
WITH feed AS (
    UPDATE balance_feed SET last_seq = last_seq + $5::bigint
    WHERE only_row AND last_seq = $2::bigint AND epoch = $1::uuid
      AND {TIMELINE_IS_SAME} AND ($3::text IS NULL OR system_id = $3)
      AND NOT EXISTS (SELECT FROM balance_snapshot WHERE id = ANY ($6::uuid[]))
      AND ($7::uuid IS NULL OR EXISTS (SELECT FROM balance_snapshot WHERE seq = $2 AND id = $7))
    RETURNING only_row
)
INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
SELECT $2 + number, id, ts, pid, onchain, onsite, received_at FROM feed, {ROWS}
"""

INSERT_OR_COMMIT_AT_ONCE: LiteralString = f"""
WITH row AS MATERIALIZED (
    SELECT id, ts, pid, onchain, onsite, received_at, number FROM {ROWS}
), feed AS (
    UPDATE balance_feed SET last_seq = last_seq + $5
    WHERE only_row
      AND {IS_EXPECTED}
      AND NOT EXISTS (SELECT FROM balance_snapshot WHERE id = ANY (ARRAY(SELECT id FROM row)))
    RETURNING epoch, last_seq - $5 AS seq
), stored AS (
    INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
    SELECT feed.seq + number, id, ts, pid, onchain, onsite, received_at FROM feed, row
)
SELECT epoch, seq, CASE WHEN epoch IS NULL THEN set_config('synchronous_commit', 'off', true) END
FROM (SELECT) AS one_row LEFT JOIN feed ON true
"""
