"""The tables: appends snapshots to the feed and reads them back.

Threads: `send`, `flush` and `receive` do not block, and are for the event loop. Until all that was sent is received,
no other thread may call them or `append`. The others block. `open` and `append` use the connection of the write thread
and are for it alone; the others borrow a connection for one call, from any number of threads.

Promises: when `append` returns, the rows are committed and flushed to disk. When it raises StoreUnavailable, they may
or may not be stored; appending them again is safe, since an `id` is stored once. `seq` is contiguous from 1 and in
commit order, also with several processes on one database.

Not promised: that a call ends by itself while the database hangs; the pool aborts its connection.

Life cycle: `open()` connects and checks the schema, `close()` ends everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple, TypeVar

from psycopg import Connection, errors
from psycopg.rows import TupleRow, args_row, class_row

import protocol
from balance.position import Position
from balance.snapshot import Snapshot
from balance.storage.append import Appended, Expected, append_deduplicated, find, insert, insert_locked
from balance.storage.database_session import DatabaseSession
from balance.storage.epochs import note_end, renew_epoch
from balance.storage.errors import NO_FEED, DatabaseFault
from balance.storage.outage import READ
from balance.storage.pipeline import Outcome, Pipeline
from balance.storage.pool import Pool

T = TypeVar("T")


class ListRow(NamedTuple):
    """A snapshot of a list, as the JSON that is sent: lists are read by the hundred rows."""

    ts: datetime
    seq: int
    json: protocol.Encoded  # the same text as that of `Snapshot.to_wire`
    total: int  # the number of all snapshots, of any list


class Store:
    """Snapshots in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._pipeline = Pipeline(pool)
        self._end = 0  # where the feed ended after the last append
        self._is_shared = False  # whether another process has appended between the last two appends of this one

    def open(self) -> Position:
        """Connect and return where the feed ends. Raises StoreUnavailable, DatabaseError and SchemaError."""
        self._pool.open()
        with self._pool.write_connection(READ) as session:
            position = note_end(session, self._pool.probe, self._pool.known, _read_position(session))
        self._end = position.seq
        return position

    def close(self) -> None:
        """Close every connection; a call that still runs gets StoreUnavailable."""
        self._pool.close()

    def total(self) -> int:
        """Return the number of all snapshots. Raises StoreUnavailable."""
        with self._pool.connection() as connection:
            (total,) = _one_row(connection.execute(TOTAL).fetchone())
        return int(total)

    @property
    def connection(self) -> DatabaseSession | None:
        """The connection on which `send` would send now. It can be read when `receive` has something to return."""
        return self._pipeline.connection

    def send(self, snapshots: Sequence[Snapshot]) -> bool:
        """Send snapshots, to be appended behind those that were sent before; return whether they were: then `flush`.

        Otherwise they have to be appended by `append`, when everything is received: an id is among them twice, another
        process appends too, or no connection works.
        """
        if self._is_shared or len({snapshot.id for snapshot in snapshots}) < len(snapshots):
            return False
        return self._pipeline.send(snapshots)

    def flush(self) -> bool:
        """Send what is left of what was sent, as far as it fits into the buffers; return whether that is all."""
        return self._pipeline.flush()

    def receive(self) -> list[Outcome]:
        """Return the outcomes of what was sent and is answered, oldest first."""
        outcomes = self._pipeline.receive()
        for outcome in outcomes:
            if isinstance(outcome, Appended):
                self._end = outcome.end
        return outcomes

    def append(self, snapshots: Sequence[Snapshot]) -> Appended:
        """Store all of `snapshots` in one transaction, in their order, and return when it is committed.

        One whose id is stored already, by an earlier call or earlier in this one, is a duplicate and not stored again.
        It causes no error in the database, whose log would fill. Raises StoreUnavailable, and psycopg's DataError or
        IntegrityError for rows that the table rejects.
        """
        with self._pool.write_connection() as session:
            appended = self._append(session, snapshots)
            if appended is None:
                renew_epoch(session, self._pool.probe, self._pool.known)
                appended = self._append(session, snapshots)
            if appended is None:
                raise DatabaseFault(FEED_CHANGED)
        return appended

    def _append(self, session: DatabaseSession, snapshots: Sequence[Snapshot]) -> Appended | None:
        """Store the snapshots; return None and store nothing if the feed is not the one of before."""
        probe = self._pool.probe
        has_timeline = probe.can_read_timeline
        try:
            return self._append_checked(session, snapshots)
        except errors.InsufficientPrivilege:  # perhaps of the functions in TIMELINE, since a moment ago
            probe.read(session)
            if probe.can_read_timeline == has_timeline:
                raise
            return self._append_checked(session, snapshots)

    def _append_checked(self, session: DatabaseSession, snapshots: Sequence[Snapshot]) -> Appended | None:
        ids = [snapshot.id for snapshot in snapshots]
        known = self._pool.known.end
        expected = Expected(known, session.server.system_id, self._pool.probe.can_read_timeline)
        before = None
        if len(set(ids)) == len(ids):
            is_stored = not self._is_shared and insert(session, snapshots, expected)
            before = known if is_stored else insert_locked(session, snapshots, expected)
        if before is None:
            return append_deduplicated(session, snapshots, ids, expected)
        self._is_shared = before.seq != self._end
        appended = Appended.behind(before, snapshots)
        self._end = appended.end
        self._pool.known.note(appended.position)
        return appended

    def waits_for_standby(self) -> bool:
        """Return whether a commit of this service waits for a standby. Raises StoreUnavailable."""
        with self._pool.connection() as connection:
            return connection.execute(WAITS_FOR_STANDBY).fetchone() is not None

    def find(self, id_: str) -> Snapshot | None:
        """Read the snapshot of that id, if there is one. Raises StoreUnavailable."""
        with self._pool.connection() as connection:
            found = find(connection, [id_])
        return found[0] if found else None

    def page(self, *, before: tuple[datetime | None, int] | None = None, **wanted: Any) -> list[ListRow]:
        """Read snapshots newest `ts` first (the later saved first where equal), at most `limit` after `offset`.

        `before` is the ts and seq of the last snapshot of the previous page. Of the others, those with from_ ≤ ts < to
        and with `pid` are read. Raises StoreUnavailable.
        """
        return self._page(PAGE, before, **wanted)

    def page_by_seq(self, *, before: tuple[datetime | None, int] | None = None, **wanted: Any) -> list[ListRow]:
        """Read snapshots last saved first, otherwise as `page` does.

        With a filter, rows are read from the last saved one on until enough of them fit, unless PostgreSQL expects
        fewer rows in an index of the filter. Raises StoreUnavailable.
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
    ) -> list[ListRow]:
        before_ts, before_seq = before or (None, None)
        parameters = {
            "limit": limit, "offset": offset, "before_ts": before_ts, "before_seq": before_seq,
            "from": from_, "to": to, "pid": pid,
        }  # fmt: skip
        with self._pool.connection() as connection:
            # Never prepared: a plan for any parameters cannot use the index that these parameters allow.
            cursor = connection.cursor(row_factory=args_row(_to_list_row))
            found = cursor.execute(sql, parameters, prepare=False).fetchall()
            if found and found[0].total is None:
                raise DatabaseFault(NO_FEED)
            return found


def _to_list_row(ts: datetime, seq: int, json: str, total: int) -> ListRow:
    return ListRow(ts, seq, protocol.Encoded(json), total)


def _read_position(connection: Connection[TupleRow]) -> Position:
    return _one_row(connection.cursor(row_factory=class_row(Position)).execute(POSITION).fetchone())


def _one_row(row: T | None) -> T:
    if row is None:
        raise DatabaseFault(NO_FEED)
    return row


FEED_CHANGED = "the feed has changed twice during a save"

# The wait is shown to the role of the session itself, without a further grant (PostgreSQL, pg_stat_activity).
WAITS_FOR_STANDBY: LiteralString = """
SELECT 1 FROM pg_stat_activity
WHERE wait_event = 'SyncRep' AND datname = current_database() AND usename = current_user LIMIT 1
"""

POSITION: LiteralString = "SELECT epoch, last_seq AS seq FROM balance_feed WHERE only_row"

# `seq` counts from 1 without a gap, and each pruned row is counted.
TOTAL: LiteralString = "SELECT last_seq - pruned FROM balance_feed WHERE only_row"

PAGE: LiteralString = f"""
SELECT ts, seq, balance_snapshot_json(id, seq, ts, pid, onchain, onsite), ({TOTAL})
FROM (
SELECT id, ts, pid, onchain, onsite, seq FROM balance_snapshot
WHERE (%(before_ts)s::timestamptz IS NULL OR (ts, seq) < (%(before_ts)s::timestamptz, %(before_seq)s::bigint))
  AND (%(from)s::timestamptz IS NULL OR ts >= %(from)s::timestamptz)
  AND (%(to)s::timestamptz IS NULL OR ts < %(to)s::timestamptz)
  AND (%(pid)s::bigint IS NULL OR pid = %(pid)s::bigint)
ORDER BY ts DESC, seq DESC LIMIT %(limit)s OFFSET %(offset)s
) AS page ORDER BY ts DESC, seq DESC
"""

PAGE_BY_SEQ: LiteralString = f"""
SELECT ts, seq, balance_snapshot_json(id, seq, ts, pid, onchain, onsite), ({TOTAL})
FROM (
SELECT id, ts, pid, onchain, onsite, seq FROM balance_snapshot
WHERE (%(before_seq)s::bigint IS NULL OR seq < %(before_seq)s::bigint)
  AND (%(from)s::timestamptz IS NULL OR ts >= %(from)s::timestamptz)
  AND (%(to)s::timestamptz IS NULL OR ts < %(to)s::timestamptz)
  AND (%(pid)s::bigint IS NULL OR pid = %(pid)s::bigint)
ORDER BY seq DESC LIMIT %(limit)s OFFSET %(offset)s
) AS page ORDER BY seq DESC
"""
