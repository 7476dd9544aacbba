"""The history of rows that a server has: its timeline and its system, as far as the role may read them.

PostgreSQL counts up its timeline at each promotion of a standby and each point-in-time restore.

Threads: any number of them may use a `ServerProbe`; its method blocks.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import Connection, errors

log = logging.getLogger("balance.epochs")

# What a service of PostgreSQL answers that does not have a function.
UNSUPPORTED = (errors.UndefinedFunction, errors.FeatureNotSupported)

NO_TIMELINE = (
    "the timeline of the database may not be read any more: a failover that loses rows is noticed only when the feed "
    "ends before a position that was known"
)


class Server(NamedTuple):
    """Which history of rows a session reads and writes; None: not known."""

    timeline: str | None
    system_id: str | None


class ServerProbe:
    """Reads the timeline and the system of servers, as far as they allow it, and rejects a server that is too old."""

    def __init__(self) -> None:
        self.can_read_timeline = True
        """Whether the statements may have TIMELINE in them, as the last `read` found."""
        self._unsupported: set[str] = set()  # the statements that the service does not have
        self._lock = threading.Lock()  # guards the changes of `can_read_timeline` and `_newest`
        self._newest: dict[str | None, str] = {}  # of each system, the newest timeline that was seen
        self._refused: set[Server] = set()

    def read(self, connection: Connection[Any]) -> Server:
        """Read the server of a session; in recovery the timeline is not known.

        Raises psycopg.OperationalError for a server with an older timeline than one of the same system before: it was
        the primary until a standby was promoted.
        """
        timeline = self._read(connection, MAY_READ_TIMELINE, READ_TIMELINE)
        self._note_timeline(can_read=timeline is not None)
        server = Server(timeline or None, self._read(connection, MAY_READ_SYSTEM_ID, READ_SYSTEM_ID))
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

    def _read(self, connection: Connection[Any], may_read: LiteralString, read: LiteralString) -> str | None:
        """Return a value; None if it is not allowed or not supported.

        The grant is asked for first, since a statement that is refused is an error in the log of the database.
        """
        if read in self._unsupported or connection.execute(may_read).fetchall() != [(True,)]:
            return None
        try:
            (value,) = connection.execute(read).fetchall()[0]
        except errors.InsufficientPrivilege:
            return None
        except UNSUPPORTED:
            self._unsupported.add(read)
            return None
        return str(value)

    def _note_timeline(self, *, can_read: bool) -> None:
        with self._lock:
            could_read, self.can_read_timeline = self.can_read_timeline, can_read
        if self._newest and could_read and not can_read:
            log.warning(NO_TIMELINE)


# The timeline of a server that is not in recovery. It is right at once after a promotion, other than that of
# pg_control_checkpoint().
TIMELINE: LiteralString = "left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"

READ_TIMELINE: LiteralString = f"SELECT CASE WHEN pg_is_in_recovery() THEN '' ELSE {TIMELINE} END"

MAY_READ_TIMELINE: LiteralString = """
SELECT has_function_privilege(to_regprocedure('pg_catalog.pg_walfile_name(pg_lsn)'), 'EXECUTE')
   AND has_function_privilege(to_regprocedure('pg_catalog.pg_current_wal_insert_lsn()'), 'EXECUTE')
"""

READ_SYSTEM_ID: LiteralString = "SELECT system_identifier::text FROM pg_control_system()"

MAY_READ_SYSTEM_ID: LiteralString = """
SELECT has_function_privilege(to_regprocedure('pg_catalog.pg_control_system()'), 'EXECUTE')
"""
