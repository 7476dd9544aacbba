"""The tables: appends snapshots to the feed and reads them back.

Threads: every method blocks and is called from a worker thread; any number may call at once. A connection is
borrowed for one call.

Promises: when `append` returns, the rows are committed and flushed to disk. When it raises StoreUnavailable,
they may or may not be there; appending them again is safe, since an `id` is stored once. `seq` is contiguous
from 1 and in commit order, also with several processes on one database.

Not promised: that a call ends by itself while the database hangs. The event loop bounds its wait, and then calls
`cut_dead`.

Life: `open()` connects and checks the schema, `close()` ends everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, NamedTuple, TypeVar

from psycopg import Connection, Cursor
from psycopg.rows import TupleRow, args_row, class_row

import protocol
from balance.snapshot import Snapshot
from balance.storage.pool import DatabaseFault, Pool

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a feed: `epoch` names the feed, `seq` the last snapshot in it."""

    epoch: str
    seq: int


class Entry(NamedTuple):
    """A snapshot as it stands in a list: read by the hundred, and only to be shown."""

    ts: datetime
    seq: int
    shown: protocol.Encoded  # what `Snapshot.to_wire` gives, as JSON
    total: int  # how many snapshots there are: `seq` counts from 1 without a gap, and nothing is ever deleted


@dataclass(frozen=True, slots=True)
class Appended:
    """The outcome of one `append`: per snapshot what now stands under its id, and which of them are new."""

    epoch: str
    snapshots: list[Snapshot]
    fresh: set[int]  # the seq of each snapshot that this call stored


class Store:
    """Snapshots in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._end: int | None = None  # where the feed ended after the last append
        self._is_shared = False  # whether another process has appended between the last two

    def open(self) -> Position:
        """Connect and say where the feed ends. Raises StoreUnavailable, DatabaseError and SchemaError."""
        self._pool.open()
        return self.position()

    def close(self) -> None:
        """Close every connection; a call that still runs gets StoreUnavailable."""
        self._pool.close()

    def cut_dead(self) -> None:
        """End the calls that the database should long have answered. Never waits; from any thread."""
        self._pool.cut_dead()

    def position(self) -> Position:
        """Say where the feed ends now. Raises StoreUnavailable."""
        with self._pool.connection() as connection:
            return _only(connection.cursor(row_factory=class_row(Position)).execute(POSITION).fetchone())

    def is_settled(self) -> bool:
        """Tell whether no call that has raised StoreUnavailable can commit any more. Raises it too."""
        return self._pool.is_settled()

    def append(self, snapshots: Sequence[Snapshot]) -> Appended:
        """Store all of `snapshots` in one transaction, in their order, and return when it is committed.

        One whose id is stored already, by an earlier call or earlier in this one, is not stored again; that is no error
        in the database, whose log it would fill. Raises StoreUnavailable, and psycopg's DataError or IntegrityError for
        rows that the table refuses.
        """
        ids = [snapshot.id for snapshot in snapshots]
        feed = None
        with self._pool.connection(stores=True) as connection:
            if len(set(ids)) == len(ids):
                feed = None if self._is_shared else _insert(connection, snapshots)
                feed = feed or _insert_locked(connection, snapshots)
            if feed is None:
                return _append_checked(connection, snapshots, ids)
        self._is_shared = feed.seq != self._end
        stored = [snapshot.at(feed.seq + place) for place, snapshot in enumerate(snapshots, 1)]
        self._end = stored[-1].seq
        return Appended(feed.epoch, stored, {snapshot.seq for snapshot in stored})

    def feed(self, after: int, up_to: int, limit: int) -> list[Snapshot]:
        """Read the snapshots with after < seq ≤ up_to, in order, at most `limit`. Raises StoreUnavailable."""
        return self._read(FEED, {"after": after, "up_to": up_to, "limit": limit})

    def find(self, id_: str) -> Snapshot | None:
        """Read the snapshot of that id, if there is one. Raises StoreUnavailable."""
        found = self._read(FIND, ([id_],))
        return found[0] if found else None

    def page(self, *, before: tuple[datetime | None, int] | None = None, **wanted: Any) -> list[Entry]:
        """Read snapshots newest `ts` first (the later saved first where equal), at most `limit` after `offset`.

        `before` goes on after the snapshot of that ts and seq; from_ ≤ ts < to; `pid`. Raises StoreUnavailable.
        """
        return self._page(PAGE, before, **wanted)

    def page_by_seq(self, *, before: tuple[datetime | None, int] | None = None, **wanted: Any) -> list[Entry]:
        """Read snapshots last saved first, otherwise as `page` does.

        A filter is applied to the newest rows until there are enough, unless its own index promises fewer rows: it
        reads all rows that were saved after the last one that fits. Raises StoreUnavailable.
        """
        return self._page(PAGE_BY_SEQ, before, **wanted)

    def _page(
        self,
        sql: LiteralString,
        before: tuple[datetime | None, int] | None,
        *,
        limit: int,
        offset: int = 0,
        from_: datetime | None = None,
        to: datetime | None = None,
        pid: int | None = None,
    ) -> list[Entry]:
        before_ts, before_seq = before or (None, None)
        parameters = {
            "limit": limit, "offset": offset, "before_ts": before_ts, "before_seq": before_seq,
            "from": from_, "to": to, "pid": pid,
        }  # fmt: skip
        with self._pool.connection() as connection:
            # Never prepared: a plan for any parameters cannot use the index that these parameters allow.
            cursor = connection.cursor(row_factory=args_row(Entry))
            found = cursor.execute(sql, parameters, prepare=False).fetchall()
            if found and found[0].total is None:
                raise DatabaseFault(NO_FEED)
            return found

    def _read(self, sql: LiteralString, parameters: Any) -> list[Snapshot]:
        with self._pool.connection() as connection:
            return connection.cursor(row_factory=class_row(Snapshot)).execute(sql, parameters).fetchall()


def _insert(connection: Connection[TupleRow], snapshots: Sequence[Snapshot]) -> Position | None:
    """Store snapshots, of different ids, in one statement, at the end of the feed; return where that was before.

    None if it stored nothing: an id is stored already, or another process has committed since the statement began, and
    may have stored one that the statement cannot see.
    """
    return _send_insert(connection, snapshots).fetchone()


def _insert_locked(connection: Connection[TupleRow], snapshots: Sequence[Snapshot]) -> Position | None:
    """Do the same in a transaction that waits for other processes first; None if an id is stored already.

    The lock comes in a statement of its own, since a statement does not see what is committed while it waits. Both go
    out together: between two syncs PostgreSQL makes one transaction of them.
    """
    with connection.pipeline():
        connection.execute(LOCK_FEED)
        inserted = _send_insert(connection, snapshots)
    return inserted.fetchone()


def _send_insert(connection: Connection[TupleRow], snapshots: Sequence[Snapshot]) -> Cursor[Position]:
    parameters = {"rows": protocol.dumps(list(snapshots)), "count": len(snapshots)}
    return connection.cursor(row_factory=class_row(Position)).execute(INSERT, parameters)


def _append_checked(connection: Connection[TupleRow], snapshots: Sequence[Snapshot], ids: Sequence[str]) -> Appended:
    """Store of `snapshots` those whose id is not stored yet, and say what stands under the others."""
    with connection.transaction():
        feed = _only(connection.cursor(row_factory=class_row(Position)).execute(LOCK_FEED).fetchone())
        known = {one.id: one for one in connection.cursor(row_factory=class_row(Snapshot)).execute(FIND, (ids,))}
        new: list[Snapshot] = []
        for snapshot in snapshots:
            if snapshot.id not in known:
                known[snapshot.id] = snapshot.at(feed.seq + len(new) + 1)
                new.append(known[snapshot.id])
        if new:
            _only(_insert(connection, new))
    return Appended(feed.epoch, [known[id_] for id_ in ids], {snapshot.seq for snapshot in new})


def _only(row: T | None) -> T:
    if row is None:
        raise DatabaseFault(NO_FEED)
    return row


NO_FEED = "table balance_feed has lost its row"

POSITION: LiteralString = "SELECT epoch, last_seq AS seq FROM balance_feed WHERE only_row"

LOCK_FEED: LiteralString = "SELECT epoch, last_seq AS seq FROM balance_feed WHERE only_row FOR UPDATE"

FIND: LiteralString = """
SELECT id, ts, pid, onchain, onsite, received_at, seq FROM balance_snapshot WHERE id = ANY(%s::uuid[])
"""

INSERT: LiteralString = """
WITH row AS MATERIALIZED (
    SELECT id, ts, pid, onchain, onsite, received_at, place
    FROM ROWS FROM (
        jsonb_to_recordset(%(rows)s::jsonb)
        AS (id uuid, ts timestamptz, pid bigint, onchain jsonb, onsite jsonb, received_at timestamptz)
    ) WITH ORDINALITY AS row(id, ts, pid, onchain, onsite, received_at, place)
), feed AS (
    UPDATE balance_feed SET last_seq = last_seq + %(count)s
    WHERE only_row
      -- If another process commits while this statement waits for the row, the row that it made is compared here.
      AND last_seq = (SELECT last_seq FROM balance_feed WHERE only_row)
      AND NOT EXISTS (SELECT FROM balance_snapshot WHERE id = ANY (ARRAY(SELECT id FROM row)))
    RETURNING epoch, last_seq - %(count)s AS seq
), stored AS (
    INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
    SELECT feed.seq + place, id, ts, pid, onchain, onsite, received_at FROM feed, row
)
SELECT epoch, seq FROM feed
"""

FEED: LiteralString = """
SELECT id, ts, pid, onchain, onsite, received_at, seq FROM balance_snapshot
WHERE seq > %(after)s AND seq <= %(up_to)s ORDER BY seq LIMIT %(limit)s
"""

PAGE: LiteralString = """
SELECT ts, seq,
       json_build_object(
           'id', id, 'seq', seq,
           'ts', regexp_replace(to_char(ts, 'YYYY-MM-DD"T"HH24:MI:SS.US'), '000$', '') || 'Z',
           'pid', pid, 'onchain', onchain, 'onsite', onsite
       ),
       (SELECT last_seq FROM balance_feed WHERE only_row)
FROM (
SELECT id, ts, pid, onchain, onsite, seq FROM balance_snapshot
WHERE (%(before_ts)s::timestamptz IS NULL OR (ts, seq) < (%(before_ts)s::timestamptz, %(before_seq)s::bigint))
  AND (%(from)s::timestamptz IS NULL OR ts >= %(from)s::timestamptz)
  AND (%(to)s::timestamptz IS NULL OR ts < %(to)s::timestamptz)
  AND (%(pid)s::bigint IS NULL OR pid = %(pid)s::bigint)
ORDER BY ts DESC, seq DESC LIMIT %(limit)s OFFSET %(offset)s
) AS page ORDER BY ts DESC, seq DESC
"""

PAGE_BY_SEQ: LiteralString = """
SELECT ts, seq,
       json_build_object(
           'id', id, 'seq', seq,
           'ts', regexp_replace(to_char(ts, 'YYYY-MM-DD"T"HH24:MI:SS.US'), '000$', '') || 'Z',
           'pid', pid, 'onchain', onchain, 'onsite', onsite
       ),
       (SELECT last_seq FROM balance_feed WHERE only_row)
FROM (
SELECT id, ts, pid, onchain, onsite, seq FROM balance_snapshot
WHERE (%(before_seq)s::bigint IS NULL OR seq < %(before_seq)s::bigint)
  AND (%(from)s::timestamptz IS NULL OR ts >= %(from)s::timestamptz)
  AND (%(to)s::timestamptz IS NULL OR ts < %(to)s::timestamptz)
  AND (%(pid)s::bigint IS NULL OR pid = %(pid)s::bigint)
ORDER BY seq DESC LIMIT %(limit)s OFFSET %(offset)s
) AS page ORDER BY seq DESC
"""
