"""Epochs of the feed: when the server has taken rows back, a new one begins after the last row that is left.

A position is good if and only if no later epoch began before it (`balance_epoch.after_seq`). PostgreSQL counts up its
timeline at each promotion of a standby and each point-in-time restore. A new epoch begins when the timeline or the
system is another than the recorded one, when the counter of the feed went back, and by hand.

Threads: `ServerProbe` may be used by any number of threads; the functions block.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import Connection, errors
from psycopg.rows import class_row

from balance.position import Position
from balance.storage.connect import DatabaseError, error_text, is_lost, to_conninfo
from balance.storage.errors import NO_FEED, DatabaseFault
from balance.storage.migrate import check_schema
from balance.storage.session_settings import configure_session

log = logging.getLogger("balance.epochs")

COMMAND_MS_MAX = 10_000  # of a statement of the command; it waits for the batch that locks the feed

# What a service of PostgreSQL answers that does not have a function, or does not allow it.
FORBIDDEN = (errors.InsufficientPrivilege, errors.UndefinedFunction, errors.FeatureNotSupported)


class Server(NamedTuple):
    """Which history of rows a session reads and writes; None: not known."""

    timeline: str | None
    system_id: str | None


class Feed(NamedTuple):
    """The row of balance_feed."""

    epoch: str
    last_seq: int
    timeline: str | None
    system_id: str | None

    def is_of(self, server: Server) -> bool:
        """Return whether all that is known of the server is recorded with the epoch."""
        return server.timeline in (None, self.timeline) and server.system_id in (None, self.system_id)


class ServerProbe:
    """Reads the timeline and the system of servers, as far as they allow it, and rejects a server that is too old."""

    def __init__(self) -> None:
        self._forbidden: set[str] = set()
        self._lock = threading.Lock()  # guards `_newest`
        self._newest: dict[str | None, str] = {}  # of each system, the newest timeline that was seen
        self._refused: set[Server] = set()

    @property
    def can_read_timeline(self) -> bool:
        """Whether the statements may have TIMELINE in them, as far as it is known."""
        return READ_TIMELINE not in self._forbidden

    def read(self, connection: Connection[Any]) -> Server:
        """Read the server of a session; in recovery the timeline is not known.

        Raises psycopg.OperationalError for a server with an older timeline than one of the same system before: it was
        the primary until a standby was promoted.
        """
        server = Server(self._read(connection, READ_TIMELINE), self._read(connection, READ_SYSTEM_ID))
        if server.timeline is not None:
            with self._lock:
                newest = self._newest.setdefault(server.system_id, server.timeline)
                self._newest[server.system_id] = max(newest, server.timeline)
            if server.timeline < newest:
                raise psycopg.OperationalError(self._refuse(server, newest))
        return server

    def _refuse(self, server: Server, newest: str) -> str:
        """Return why a server is refused. It is logged once, since a log of outages may have another reason already."""
        reason = f"this server is a former primary: it has timeline {server.timeline}, and the database is at {newest}"
        if server not in self._refused:
            self._refused.add(server)
            log.warning("a session is refused: %s", reason)
        return reason

    def _read(self, connection: Connection[Any], sql: LiteralString) -> str | None:
        if sql in self._forbidden:
            return None
        try:
            (value,) = connection.execute(sql).fetchall()[0]
        except FORBIDDEN:
            self._forbidden.add(sql)
            return None
        return None if value is None else str(value)


def check_server(connection: Connection[Any], probe: ServerProbe) -> Server:
    """Return the server of a new session; if the epoch of the feed is not of it, renew the epoch.

    If the server, its tables or grants do not allow that now, a save fails with the reason, and reads may work. Raises
    psycopg.Error if the session is lost, or its server too old.
    """
    server = probe.read(connection)
    try:
        feed = _read_feed(connection, FEED)
        if feed is not None and not feed.is_of(server):
            renew_epoch(connection, probe)
    except psycopg.Error as error:
        if connection.closed or is_lost(error):
            raise
    return server


def renew_epoch(connection: Connection[Any], probe: ServerProbe, known: Position | None = None) -> Position:
    """Begin a new epoch if the feed is not the one of before; return its position.

    It is another one if its timeline or system is, or if it ends before `known`, which was its end once. Processes
    that notice this at once begin one epoch, since each checks it under the lock of the feed. What was not recorded
    is recorded. Raises psycopg.Error and DatabaseFault.
    """
    server = probe.read(connection)
    with connection.transaction():
        connection.execute(COMMIT_LOCALLY)
        feed = _one(_read_feed(connection, LOCK))
        is_shorter = known is not None and known.epoch == feed.epoch and known.seq > feed.last_seq
        if is_shorter or _is_other(feed.timeline, server.timeline) or _is_other(feed.system_id, server.system_id):
            before, feed = feed, _begin(connection, server)
            log.warning(
                "a new epoch of the feed begins after seq %d: timeline %s, system %s; before: seq %d, timeline %s, "
                "system %s",
                feed.last_seq, feed.timeline, feed.system_id,
                known.seq if known else before.last_seq, before.timeline, before.system_id,
            )  # fmt: skip
        elif not feed.is_of(server):
            feed = _one(_read_feed(connection, RECORD, {"timeline": server.timeline, "system_id": server.system_id}))
    return Position(feed.epoch, feed.last_seq)


def begin_epoch(url: str) -> Position:
    """Begin a new epoch by hand, as is due after a dump or a copy of a volume was restored; return its position.

    PostgreSQL does not count up its timeline for those. Raises DatabaseError and SchemaError.
    """
    try:
        connection = psycopg.connect(to_conninfo(url), autocommit=True)
    except psycopg.Error as error:
        raise DatabaseError(f"the database cannot be reached: {error_text(error)}") from error
    try:
        with connection:
            configure_session(connection, statement_ms_max=COMMAND_MS_MAX)
            check_schema(connection)
            server = ServerProbe().read(connection)
            with connection.transaction():
                connection.execute(COMMIT_LOCALLY)
                position = begin_next_epoch(connection, server)
    except (psycopg.Error, DatabaseFault) as error:
        raise DatabaseError(f"the database cannot begin a new epoch: {error_text(error)}") from error
    return position


def begin_next_epoch(connection: Connection[Any], server: Server) -> Position:
    """Begin a new epoch in the transaction of the caller; return its position. Raises psycopg.Error, DatabaseFault."""
    _one(_read_feed(connection, LOCK))
    feed = _begin(connection, server)
    return Position(feed.epoch, feed.last_seq)


def _begin(connection: Connection[Any], server: Server) -> Feed:
    return _one(_read_feed(connection, BEGIN, {"timeline": server.timeline, "system_id": server.system_id}))


def _is_other(recorded: str | None, current: str | None) -> bool:
    return None not in (recorded, current) and recorded != current


def _read_feed(connection: Connection[Any], sql: LiteralString, parameters: Any = None) -> Feed | None:
    return connection.cursor(row_factory=class_row(Feed)).execute(sql, parameters).fetchone()


def _one(feed: Feed | None) -> Feed:
    if feed is None:
        raise DatabaseFault(NO_FEED)
    return feed


# The timeline of a server that is not in recovery. It is right at once after a promotion, other than that of
# pg_control_checkpoint().
TIMELINE: LiteralString = "left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"

READ_TIMELINE: LiteralString = f"SELECT CASE WHEN NOT pg_is_in_recovery() THEN {TIMELINE} END"

READ_SYSTEM_ID: LiteralString = "SELECT system_identifier::text FROM pg_control_system()"

# A new epoch must not wait for a standby, which may be what was lost. A save in it waits for its own commit.
COMMIT_LOCALLY: LiteralString = "SET LOCAL synchronous_commit = local"

FEED: LiteralString = "SELECT epoch::text, last_seq, timeline, system_id FROM balance_feed WHERE only_row"

LOCK: LiteralString = f"{FEED} FOR UPDATE"

RECORD: LiteralString = """
UPDATE balance_feed
SET timeline = coalesce(timeline, %(timeline)s), system_id = coalesce(system_id, %(system_id)s)
WHERE only_row RETURNING epoch::text, last_seq, timeline, system_id
"""

BEGIN: LiteralString = """
WITH begun AS (
    INSERT INTO balance_epoch (epoch, number, after_seq, timeline, system_id)
    SELECT gen_random_uuid(), coalesce((SELECT max(number) FROM balance_epoch), 0) + 1, last_seq,
           %(timeline)s, %(system_id)s
    FROM balance_feed WHERE only_row
    RETURNING epoch, timeline, system_id
)
UPDATE balance_feed SET epoch = begun.epoch, timeline = begun.timeline, system_id = begun.system_id
FROM begun WHERE only_row
RETURNING begun.epoch::text, last_seq, begun.timeline, begun.system_id
"""
