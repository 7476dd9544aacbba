"""The tables: appends snapshots to the feed and reads them back. The only run-time psycopg.

Threads: every method blocks and is called from a worker thread; any number may call at once. One connection
is used by one thread at a time, taken from the pool for one call.

Promises: when `append` returns, the rows are committed and flushed to disk. When it raises StoreUnavailable,
they may or may not be there; appending them again is safe, since an `id` is stored once. `seq` is contiguous
from 1 and in commit order, also with several processes on one database.

Not promised: that a call ends while the database hangs. Whoever waits on the event loop bounds his wait.

Life: `Store(url)` checks the URL, `open()` connects and checks the schema, `close()` ends everything.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, TypeVar
from uuid import UUID

import psycopg
import psycopg_pool
from psycopg import Connection, conninfo
from psycopg.rows import TupleRow, class_row
from psycopg.types.json import set_json_loads

import protocol
from balance.migrate import check_schema
from balance.snapshot import Snapshot, format_ts

T = TypeVar("T")

# What libpq says of a database that can be expected to come (back); everything else that it says at the first
# connection (no such role, no such database, wrong password) needs a person.
TEMPORARY = (
    "refused", "timeout", "timed out", "No such file", "starting up", "shutting down", "recovery mode", "too many",
    "reserved", "closed the connection", "unreachable", "reset by peer", "not yet accepting",
)  # fmt: skip


class DatabaseError(Exception):
    """The database named by DATABASE_URL can not be used."""


class StoreUnavailable(Exception):
    """The database can not be reached, or did not answer; try again."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a feed: `epoch` names the feed, `seq` the last snapshot in it."""

    epoch: UUID
    seq: int


@dataclass(frozen=True, slots=True)
class Appended:
    """The outcome of one `append`: per snapshot what now stands under its id, and how many of them are new."""

    epoch: UUID
    snapshots: list[Snapshot]
    fresh: set[int]  # the seq of each snapshot that this call stored


class Store:
    """Snapshots in PostgreSQL."""

    def __init__(self, url: str, *, pool_max: int, pool_wait_ms_max: int, statement_ms_max: int) -> None:
        """Open nothing yet. Raises DatabaseError when `url` is not one."""
        self._wait_ms_max = pool_wait_ms_max
        self._statement_ms_max = statement_ms_max
        self._conninfo = to_conninfo(url)
        self._in_use: set[Connection[TupleRow]] = set()
        self._pool = psycopg_pool.ConnectionPool(
            self._conninfo,
            min_size=1,
            max_size=pool_max,
            open=False,
            configure=self._configure,
            kwargs={"autocommit": True},  # transactions are opened where they are meant
            timeout=pool_wait_ms_max / 1000,
            max_lifetime=3600,
            reconnect_timeout=0,  # no back-off of its own: whoever asks next makes the next attempt
            name="balance",
        )

    def open(self) -> Position:
        """Connect, check the schema and say where the feed ends.

        Raises StoreUnavailable while the database is away, DatabaseError when it will not come by itself, and
        SchemaError when its tables are not those of this version.
        """
        try:
            with psycopg.connect(self._conninfo, autocommit=True) as connection:
                check_schema(connection)
        except psycopg.OperationalError as error:
            text = _one_line(error)
            if any(sign in text for sign in TEMPORARY):
                raise StoreUnavailable(text) from error
            raise DatabaseError(f"DATABASE_URL: {text}") from error
        # Its warnings are one per attempt and connection; `_connection` says it once, to whoever asked.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        self._pool.open()
        return self.position()

    def close(self) -> None:
        """Close every connection, also one that a thread still waits on: that thread gets StoreUnavailable."""
        for connection in list(self._in_use):
            with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as handle:
                handle.shutdown(socket.SHUT_RDWR)
        self._pool.close(timeout=1)

    def position(self) -> Position:
        """Say where the feed ends now. Raises StoreUnavailable."""
        with self._connection() as connection:
            return _only(connection.cursor(row_factory=class_row(Position)).execute(POSITION).fetchone())

    def append(self, snapshots: Sequence[Snapshot]) -> Appended:
        """Store all of `snapshots` in one transaction, in their order, and return when it is committed.

        One whose id is stored already, by an earlier call or earlier in this one, is not stored again.
        Raises StoreUnavailable.
        """
        with self._connection() as connection, connection.transaction():
            # The lock comes in a statement of its own: what another process commits while we wait for it
            # would be invisible to the statement that waits.
            feed = _only(connection.cursor(row_factory=class_row(Position)).execute(LOCK_FEED).fetchone())
            ids = [snapshot.id for snapshot in snapshots]
            known = {one.id: one for one in connection.cursor(row_factory=class_row(Snapshot)).execute(FIND, (ids,))}
            new: list[Snapshot] = []
            for snapshot in snapshots:
                if snapshot.id not in known:
                    known[snapshot.id] = snapshot.at(feed.seq + len(new) + 1)
                    new.append(known[snapshot.id])
            if new:
                rows = protocol.dumps([_to_row(snapshot) for snapshot in new])
                connection.execute(INSERT, {"rows": rows, "count": len(new)})
        return Appended(feed.epoch, [known[id_] for id_ in ids], {snapshot.seq for snapshot in new})

    def feed(self, after: int, up_to: int, limit: int) -> list[Snapshot]:
        """Read the snapshots with after < seq ≤ up_to, in order, at most `limit`. Raises StoreUnavailable."""
        return self._read(FEED, {"after": after, "up_to": up_to, "limit": limit})

    def find(self, id_: UUID) -> Snapshot | None:
        """Read the snapshot of that id, if there is one. Raises StoreUnavailable."""
        found = self._read(FIND, ([id_],))
        return found[0] if found else None

    def page(
        self,
        *,
        limit: int,
        offset: int = 0,
        before: tuple[datetime, int] | None = None,
        from_: datetime | None = None,
        to: datetime | None = None,
        pid: int | None = None,
    ) -> list[Snapshot]:
        """Read snapshots newest `ts` first (the later saved first where equal), at most `limit`.

        `before` goes on after the snapshot of that ts and seq; from_ ≤ ts < to. Raises StoreUnavailable.
        """
        before_ts, before_seq = before or (None, None)
        return self._read(
            PAGE,
            {
                "limit": limit, "offset": offset, "before_ts": before_ts, "before_seq": before_seq,
                "from": from_, "to": to, "pid": pid,
            },
        )  # fmt: skip

    def _read(self, sql: LiteralString, parameters: Any) -> list[Snapshot]:
        with self._connection() as connection:
            # Never prepared: a plan for any parameters can not use the index that these parameters allow.
            cursor = connection.cursor(row_factory=class_row(Snapshot))
            return cursor.execute(sql, parameters, prepare=False).fetchall()

    @contextmanager
    def _connection(self) -> Iterator[Connection[TupleRow]]:
        """Lend a working connection; psycopg's errors of a database that is away end here."""
        connection = self._take()
        self._in_use.add(connection)
        try:
            yield connection
        except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction) as error:
            connection.close()
            raise StoreUnavailable(_one_line(error)) from error
        finally:
            self._in_use.discard(connection)
            self._pool.putconn(connection)

    def _take(self) -> Connection[TupleRow]:
        """Take a connection that works, or raise StoreUnavailable within the pool's wait.

        A restart of the database leaves every pooled connection dead, and each would fail one call. The first
        that is found dead has all of them thrown out at once: the pool's own check would throw out one, pause,
        and double the pause. The wait is cut in slices because the pool attempts to connect when it is asked,
        not while it is waited for.
        """
        slices = 4
        for last in (False, False, False, True):
            try:
                connection = self._pool.getconn(timeout=self._wait_ms_max / 1000 / slices)
            except psycopg.OperationalError as error:
                if last or isinstance(error, psycopg_pool.PoolClosed):
                    raise StoreUnavailable("no connection to the database") from error
                continue
            if _answers(connection):
                return connection
            self._pool.putconn(connection)
            self._pool.check()
        raise StoreUnavailable("no working connection to the database")

    def _configure(self, connection: Connection[Any]) -> None:
        set_json_loads(protocol.loads, connection)
        connection.execute(SESSION, {"statement_ms_max": str(self._statement_ms_max)})


def to_conninfo(url: str) -> str:
    """Complete a database URL with what we ask of every connection. Raises DatabaseError when it is not one."""
    try:
        # A dead peer is given up after seconds, not after the two hours of TCP's default.
        return conninfo.make_conninfo(
            url, connect_timeout=3, keepalives_idle=10, keepalives_interval=5, keepalives_count=2,
            tcp_user_timeout=15_000, application_name="balance",
        )  # fmt: skip
    except psycopg.Error as error:
        raise DatabaseError(f"DATABASE_URL: {_one_line(error)}") from error


def _answers(connection: Connection[TupleRow]) -> bool:
    """Tell whether the connection still stands, without a round trip: a closed one has its end to be read."""
    if connection.closed:
        return False
    with suppress(psycopg.Error, OSError):
        connection.pgconn.consume_input()  # the server's last words, when there are any
        connection.pgconn.consume_input()  # the end itself
        return connection.pgconn.status == psycopg.pq.ConnStatus.OK
    return False


def _to_row(snapshot: Snapshot) -> dict[str, Any]:
    return {**snapshot.to_wire(), "received_at": format_ts(snapshot.received_at)}


def _only(row: T | None) -> T:
    assert row is not None, "balance_feed has exactly one row"
    return row


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


SESSION: LiteralString = """
SELECT set_config('timezone', 'UTC', false),
       set_config('statement_timeout', %(statement_ms_max)s, false),
       -- a transaction that lost its client must not keep the feed locked
       set_config('idle_in_transaction_session_timeout', %(statement_ms_max)s, false),
       -- the default of a server may be off, and then "saved" would not mean saved
       set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
                  ELSE current_setting('synchronous_commit') END, false)
"""

POSITION: LiteralString = "SELECT epoch, last_seq AS seq FROM balance_feed"

LOCK_FEED: LiteralString = "SELECT epoch, last_seq AS seq FROM balance_feed FOR UPDATE"

FIND: LiteralString = """
SELECT id, ts, pid, onchain, onsite, received_at, seq FROM balance_snapshot WHERE id = ANY(%s)
"""

INSERT: LiteralString = """
WITH feed AS (UPDATE balance_feed SET last_seq = last_seq + %(count)s)
INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
SELECT seq, id, ts, pid, onchain, onsite, received_at
FROM jsonb_to_recordset(%(rows)s::jsonb)
     AS row(seq bigint, id uuid, ts timestamptz, pid bigint, onchain jsonb, onsite jsonb, received_at timestamptz)
"""

FEED: LiteralString = """
SELECT id, ts, pid, onchain, onsite, received_at, seq FROM balance_snapshot
WHERE seq > %(after)s AND seq <= %(up_to)s ORDER BY seq LIMIT %(limit)s
"""

PAGE: LiteralString = """
SELECT id, ts, pid, onchain, onsite, received_at, seq FROM balance_snapshot
WHERE (%(before_ts)s::timestamptz IS NULL OR (ts, seq) < (%(before_ts)s::timestamptz, %(before_seq)s::bigint))
  AND (%(from)s::timestamptz IS NULL OR ts >= %(from)s::timestamptz)
  AND (%(to)s::timestamptz IS NULL OR ts < %(to)s::timestamptz)
  AND (%(pid)s::bigint IS NULL OR pid = %(pid)s::bigint)
ORDER BY ts DESC, seq DESC LIMIT %(limit)s OFFSET %(offset)s
"""
