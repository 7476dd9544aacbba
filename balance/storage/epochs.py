"""Epochs of the feed: when the server has taken rows back, a new one begins after the last row that is left.

A position is good if and only if no later epoch began before it (`balance_epoch.after_seq`). PostgreSQL counts up its
timeline at each promotion of a standby and each point-in-time restore. A new epoch begins when the timeline or the
system is another than the recorded one, when a process finds the feed in an epoch that was over or its counter lower
than before, and by hand.

Threads: `KnownFeed` may be used by any number of threads; the functions block.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import Connection
from psycopg.rows import class_row

from balance.position import Position
from balance.storage.command_connection import connected
from balance.storage.connect import is_lost
from balance.storage.errors import NO_FEED, DatabaseFault
from balance.storage.server_probe import Server, ServerProbe

log = logging.getLogger("balance.epochs")

COMMAND_MS_MAX = 10_000  # of a statement of the command; it waits for the batch that locks the feed


class Feed(NamedTuple):
    """The row of balance_feed."""

    epoch: str
    last_seq: int
    timeline: str | None
    system_id: str | None

    def is_of(self, server: Server) -> bool:
        """Return whether all that is known of the server is recorded with the epoch."""
        return server.timeline in (None, self.timeline) and server.system_id in (None, self.system_id)


class KnownFeed:
    """What a process knows of the feed: where it ends, and the epochs that are over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards both
        self._past: set[str] = set()
        self.end: Position | None = None
        """Where the feed ended at the last append or read of its end: in this epoch it never ends before that."""

    def is_past(self, epoch: str) -> bool:
        """Return whether an epoch is over: a feed in it was put back."""
        return epoch in self._past

    def went_back(self, position: Position) -> bool:
        """Return whether a feed that ends at this position was put back."""
        end = self.end
        return self.is_past(position.epoch) or (
            end is not None and end.epoch == position.epoch and end.seq > position.seq
        )

    def note(self, position: Position, past: Iterable[str] = ()) -> None:
        """Note where the feed ends, and epochs that are over. A position before the known one is ignored.

        Another thread may have noted a newer one since it was read. If the feed was put back, it is left to
        `renew_epoch`: an append would continue the feed from there in the same epoch.
        """
        with self._lock:
            if not self.went_back(position):
                if self.end is not None and self.end.epoch != position.epoch:
                    self._past.add(self.end.epoch)
                self._past.update(past)
                self.end = position


def check_server(connection: Connection[Any], probe: ServerProbe, known: KnownFeed) -> Server:
    """Return the server of a new session; if the epoch of the feed is not of it, renew the epoch.

    If the server, its tables or grants do not allow that now, a save fails with the reason, and reads may work. Raises
    psycopg.Error if the session is lost, or its server too old.
    """
    server = probe.read(connection)
    try:
        feed = _read_feed(connection, FEED)
        if feed is not None and not feed.is_of(server):
            renew_epoch(connection, probe, known)
    except psycopg.Error as error:
        if connection.closed or is_lost(error):
            raise
    return server


def note_end(connection: Connection[Any], probe: ServerProbe, known: KnownFeed, position: Position) -> Position:
    """Note where the feed ends, as a session has read it; if it is in an epoch that is over, renew the epoch.

    Returns where the feed ends. Raises psycopg.Error and DatabaseFault.
    """
    if known.is_past(position.epoch):
        return renew_epoch(connection, probe, known)
    is_same = known.end is not None and known.end.epoch == position.epoch
    known.note(position, () if is_same else _read_past(connection, position.epoch))
    return position


def renew_epoch(connection: Connection[Any], probe: ServerProbe, known: KnownFeed) -> Position:
    """Begin a new epoch if the feed is not the one of before; return its position, and note it.

    It is another one if its timeline or system is, if its epoch is over, or if it ends before its known end. Processes
    that notice this at once begin one epoch, since each checks it under the lock of the feed. What was not recorded
    is recorded. Raises psycopg.Error and DatabaseFault.
    """
    server = probe.read(connection)
    with connection.transaction():
        connection.execute(COMMIT_LOCALLY)
        feed = _one(_read_feed(connection, LOCK))
        went_back = known.went_back(Position(feed.epoch, feed.last_seq))
        if went_back or _is_other(feed.timeline, server.timeline) or _is_other(feed.system_id, server.system_id):
            before, feed = feed, _begin(connection, server)
            log.warning(
                "a new epoch of the feed begins after seq %d: timeline %s, system %s; before: seq %d, timeline %s, "
                "system %s",
                feed.last_seq, feed.timeline, feed.system_id,
                known.end.seq if known.end else before.last_seq, before.timeline, before.system_id,
            )  # fmt: skip
        elif not feed.is_of(server):
            feed = _one(_read_feed(connection, RECORD, {"timeline": server.timeline, "system_id": server.system_id}))
        past = _read_past(connection, feed.epoch)
    position = Position(feed.epoch, feed.last_seq)
    known.note(position, past)
    return position


def begin_epoch(url: str) -> Position:
    """Begin a new epoch by hand, as is due after a dump or a copy of a volume was restored; return its position.

    PostgreSQL does not count up its timeline for those. Raises DatabaseError and SchemaError.
    """
    failure = "the database cannot begin a new epoch"
    with connected(url, failure, statement_ms_max=COMMAND_MS_MAX) as connection:
        server = ServerProbe().read(connection)
        with connection.transaction():
            connection.execute(COMMIT_LOCALLY)
            return begin_next_epoch(connection, server)


def begin_next_epoch(connection: Connection[Any], server: Server) -> Position:
    """Begin a new epoch in the transaction of the caller; return its position. Raises psycopg.Error, DatabaseFault."""
    _one(_read_feed(connection, LOCK))
    feed = _begin(connection, server)
    return Position(feed.epoch, feed.last_seq)


def _begin(connection: Connection[Any], server: Server) -> Feed:
    return _one(_read_feed(connection, BEGIN, {"timeline": server.timeline, "system_id": server.system_id}))


def _read_past(connection: Connection[Any], epoch: str) -> list[str]:
    return [past for (past,) in connection.execute(PAST, (epoch,)).fetchall()]


def _is_other(recorded: str | None, current: str | None) -> bool:
    return None not in (recorded, current) and recorded != current


def _read_feed(connection: Connection[Any], sql: LiteralString, parameters: Any = None) -> Feed | None:
    return connection.cursor(row_factory=class_row(Feed)).execute(sql, parameters).fetchone()


def _one(feed: Feed | None) -> Feed:
    if feed is None:
        raise DatabaseFault(NO_FEED)
    return feed


# A new epoch must not wait for a standby, which may be what was lost. A save in it waits for its own commit.
COMMIT_LOCALLY: LiteralString = "SET LOCAL synchronous_commit = local"

FEED: LiteralString = "SELECT epoch::text, last_seq, timeline, system_id FROM balance_feed WHERE only_row"

LOCK: LiteralString = f"{FEED} FOR UPDATE"

PAST: LiteralString = """
SELECT epoch::text FROM balance_epoch WHERE number < (SELECT number FROM balance_epoch WHERE epoch = %s)
"""

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
