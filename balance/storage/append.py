"""Append a batch to the feed: the statements, and what they expect of the feed.

Threads: the functions block, and are for the write thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from psycopg import Connection, RawCursor
from psycopg.rows import TupleRow, class_row, tuple_row

import protocol
from balance.position import Position
from balance.snapshot import Saved, Snapshot
from balance.storage.database_session import DatabaseSession
from balance.storage.errors import NO_FEED, DatabaseFault
from balance.storage.server_probe import TIMELINE


class Expected(NamedTuple):
    """The feed to which a batch is appended."""

    known: Position | None
    """Where it ended once: it has the same epoch, and never ends before that."""
    system_id: str | None
    """The system of the session's server; None if it may not be read."""
    has_timeline: bool
    """Whether the timeline of the server may be read."""

    @property
    def parameters(self) -> tuple[str | None, int | None, str | None]:
        """The parameters of IS_EXPECTED."""
        epoch, seq = self.known or (None, None)
        return epoch, seq, self.system_id

    @property
    def name(self) -> bytes:
        """The name of the prepared INSERT."""
        return b"insert" if self.has_timeline else b"insert_without_timeline"

    def statement(self, sql: LiteralString) -> LiteralString:
        """Complete a statement that has TIMELINE_IS_SAME in it."""
        return sql if self.has_timeline else sql.replace(TIMELINE_IS_SAME, "true")


def insert(session: DatabaseSession, snapshots: Sequence[Snapshot], expected: Expected) -> Position | None:
    """Store snapshots with different ids at the end of the feed, in one statement; return the position before them.

    Returns None if it stored nothing: an id is stored already, the feed is not the expected one, or another process has
    committed since the statement began, and may have stored an id that the statement cannot see.
    """
    epoch, seq, system_id = expected.parameters
    result = session.execute_prepared(
        expected.name,
        expected.statement(INSERT),
        None if epoch is None else epoch.encode(),
        None if seq is None else b"%d" % seq,
        None if system_id is None else system_id.encode(),
        protocol.encode(list(snapshots)),
        b"%d" % len(snapshots),
    )
    if not result.ntuples:
        return None
    before, seq_before = result.get_value(0, 0) or b"", result.get_value(0, 1) or b""
    return Position(before.decode(), int(seq_before))


def insert_locked(session: DatabaseSession, snapshots: Sequence[Snapshot], expected: Expected) -> Position | None:
    """Do the same in a transaction that waits for other processes first; return None if it stored nothing.

    The lock comes in a statement of its own, since a statement does not see what is committed while it waits. Both go
    out together: between two syncs PostgreSQL makes one transaction of them. If it stores nothing, its commit does not
    wait for the disk and the standby: what is done instead has a commit of its own.
    """
    with session.pipeline():
        session.execute(LOCK_FEED)
        inserted = RawCursor(session, row_factory=tuple_row)
        rows = protocol.dumps(list(snapshots))
        inserted.execute(expected.statement(INSERT_OR_COMMIT_AT_ONCE), (*expected.parameters, rows, len(snapshots)))
    epoch, seq, _ = inserted.fetchall()[0]
    return None if epoch is None else Position(epoch, seq)


def append_deduplicated(
    session: DatabaseSession, snapshots: Sequence[Snapshot], ids: Sequence[str], expected: Expected
) -> tuple[str, int, list[Saved]] | None:
    """Store of `snapshots` those whose id is not stored yet; the others are duplicates.

    Returns the epoch, the end of the feed and the result for each; returns None and stores nothing if the feed is not
    the expected one.
    """
    with session.transaction():
        # The lock makes the commit of a transaction that stores nothing wait for a standby too.
        feed = RawCursor(session, row_factory=tuple_row)
        feed.execute(expected.statement(LOCK_EXPECTED), expected.parameters)
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
        if new and insert(session, new, expected) is None:
            raise DatabaseFault(NO_FEED)
    return epoch, seq + len(new), saved


def find(session: Connection[TupleRow], ids: Sequence[str]) -> list[Snapshot]:
    """Read the snapshots of these ids that are stored."""
    return session.cursor(row_factory=class_row(Snapshot)).execute(FIND, (ids,)).fetchall()


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

INSERT_ROWS: LiteralString = f"""
WITH row AS MATERIALIZED (
    SELECT id, ts, pid, onchain, onsite, received_at, number
    FROM ROWS FROM (
        jsonb_to_recordset($4::jsonb)
        AS (id uuid, ts timestamptz, pid bigint, onchain jsonb, onsite jsonb, received_at timestamptz)
    ) WITH ORDINALITY AS row(id, ts, pid, onchain, onsite, received_at, number)
), feed AS (
    UPDATE balance_feed SET last_seq = last_seq + $5
    WHERE only_row
      -- If another process commits while this statement waits for the row, the row that it made is compared here.
      AND last_seq = (SELECT last_seq FROM balance_feed WHERE only_row)
      AND {IS_EXPECTED}
      AND NOT EXISTS (SELECT FROM balance_snapshot WHERE id = ANY (ARRAY(SELECT id FROM row)))
    RETURNING epoch, last_seq - $5 AS seq
), stored AS (
    INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
    SELECT feed.seq + number, id, ts, pid, onchain, onsite, received_at FROM feed, row
)
"""

INSERT: LiteralString = f"{INSERT_ROWS} SELECT epoch, seq FROM feed"

INSERT_OR_COMMIT_AT_ONCE: LiteralString = f"""
{INSERT_ROWS}
SELECT epoch, seq, CASE WHEN epoch IS NULL THEN set_config('synchronous_commit', 'off', true) END
FROM (SELECT) AS one_row LEFT JOIN feed ON true
"""
