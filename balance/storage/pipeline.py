"""Batches that are sent to PostgreSQL one behind the other, each before the answer to the one before.

PostgreSQL begins with a batch as soon as it has committed the one before, without a turn of this program in between.
Each batch is one statement and one transaction. It is stored only right behind the batch that was sent before it, or at
the known end of the feed. Otherwise nothing of it is stored, and nothing of what was sent behind it: the caller appends
these by `Store.append`, in their order.

Threads: event loop only, and no method blocks. Meanwhile the write thread does not use the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import psycopg
from psycopg import errors, pq

from balance.position import Position
from balance.snapshot import Snapshot
from balance.storage.append import Appended, Expected
from balance.storage.database_session import DatabaseSession, to_error
from balance.storage.errors import UNREACHABLE, StoreUnavailable
from balance.storage.outage import SAVE
from balance.storage.pool import Pool

Outcome = Appended | StoreUnavailable | None
"""Of a batch; None if it is not stored and has to be appended by `Store.append`. With an error it may be stored."""


class _Sent(NamedTuple):
    """A batch that was sent."""

    before: Position
    """Where the feed ends before it, if it is stored."""
    snapshots: Sequence[Snapshot]


class _NotStored(Exception):
    """The batch has to be appended by `Store.append`; the database is not at fault."""


class Pipeline:
    """The batches that were sent on the connection of the write thread and are not answered."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sent: deque[_Sent] = deque()
        # For all that is in flight together:
        self._session: DatabaseSession
        self._has_timeline: bool  # as in Expected
        self._end: Position  # of the feed, once all of it is stored

    @property
    def connection(self) -> DatabaseSession | None:
        """The connection on which a batch would be sent now."""
        session = self._pool.write_session
        return None if session is None or session.closed else session

    def send(self, snapshots: Sequence[Snapshot]) -> bool:
        """Send snapshots with different ids on `connection`, without waiting; return whether they were sent.

        They are not sent if no connection works, if another one has to be used from now on, if its statement is not
        prepared, or if the end of the feed is not known.
        """
        if not (self._may_continue() if self._sent else self._begin()):
            return False
        last_id = self._sent[-1].snapshots[-1].id if self._sent else None
        expected = Expected(self._end, self._session.server.system_id, self._has_timeline)
        try:
            self._session.send_prepared(expected.name, *expected.insert_parameters(snapshots, last_id))
        except Exception as error:  # a part of it may have been sent
            if self._sent:
                self._session.abort()  # `receive` has the error of those before
            else:
                self._end_use(psycopg.OperationalError(str(error)))
            return False
        self._sent.append(_Sent(self._end, snapshots))
        self._end = Position(self._end.epoch, self._end.seq + len(snapshots))
        return True

    def flush(self) -> bool:
        """Send what was not sent yet, as far as it fits into the buffers in between; return whether that is all."""
        return self._session.flush()

    def receive(self) -> list[Outcome]:
        """Return the outcomes of the batches whose answers have come, oldest first."""
        outcomes: list[Outcome] = []
        try:
            while self._sent and not self._session.closed and (result := self._session.receive()) is not None:
                outcomes.append(self._outcome(self._sent.popleft(), result))
        except psycopg.Error as error:  # the connection is lost
            self._sent.popleft()
            outcomes.append(self._end_use(error))
        if self._session.closed:
            outcomes += [StoreUnavailable(UNREACHABLE) for _ in self._sent]
            self._sent.clear()
        return outcomes

    def _begin(self) -> bool:
        """Use the connection of the write thread from now on, if a batch can be sent on it; return whether it can."""
        session, end, probe = self._pool.idle_write_session(), self._pool.known.end, self._pool.probe
        has_timeline = probe.can_read_timeline
        if session is None or end is None or not session.is_prepared(Expected(None, None, has_timeline).name):
            return False
        try:
            self._pool.begin_use(session)
        except StoreUnavailable:
            return False
        self._session, self._end, self._has_timeline = session, end, has_timeline
        try:
            session.begin_pipeline()
        except psycopg.Error as error:
            self._end_use(error)
            return False
        return True

    def _may_continue(self) -> bool:
        """Return whether a batch may be sent behind others: not if the server may be a former primary, for example."""
        known = self._pool.known.end
        is_same = known is not None and known.epoch == self._end.epoch
        return is_same and not self._session.closed and not self._pool.write_session_is_suspect

    def _outcome(self, sent: _Sent, result: pq.abc.PGresult) -> Outcome:
        error: Exception | None = None
        if result.status != pq.ExecStatus.COMMAND_OK:
            error = to_error(result)
        elif not result.command_tuples:
            error = _NotStored()
        failure = self._end_use(error)
        if failure is not None or error is not None:
            return failure
        appended = Appended.behind(sent.before, sent.snapshots)
        self._pool.known.note(appended.position)
        return appended

    def _end_use(self, error: Exception | None) -> StoreUnavailable | None:
        """End the use of the connection for a batch; return the error for its senders, unless it is not stored.

        What PostgreSQL refuses is left to `Store.append`, which finds out what it refuses: a row, or a function.
        """
        if isinstance(error, errors.InsufficientPrivilege):  # for the pool, which knows refused rows, it is a fault
            error = _NotStored()
        try:
            self._pool.end_use(self._session, SAVE, error, is_continued=bool(self._sent))
        except StoreUnavailable as failure:
            return failure
        finally:
            if not self._sent:
                self._session.end_pipeline()
        return None
