"""Saves that were lost and may still be committed.

A backend notices a lost client only after its current statement. So until the session of a lost save is gone, the
outcome is unknown.

Threads: `add` from any, `check` from one.
"""

from __future__ import annotations

import time
from typing import LiteralString

import psycopg

from balance.storage.database_session import DatabaseSession


class InDoubt:
    """The backends whose session was lost during a save, and when."""

    def __init__(self) -> None:
        self._lost: dict[int, float] = {}

    def __bool__(self) -> bool:
        return bool(self._lost)

    def add(self, backend: int, lost_at: float) -> None:
        """Note that the session of a backend was lost at that time of the monotonic clock."""
        self._lost[backend] = lost_at

    def check(self, session: DatabaseSession) -> None:
        """Forget the backends that are done with what they were sent. Raises psycopg.Error."""
        for backend, lost_at in list(self._lost.items()):
            parameters = {"pid": backend, "seconds": time.monotonic() - lost_at}
            try:
                is_alive = session.execute(IS_ALIVE, parameters).fetchone() is not None
            except psycopg.errors.InsufficientPrivilege:  # then it stays unknown
                continue
            if not is_alive:
                del self._lost[backend]


# A backend in doubt may read what it was sent only later, and commit it then. It is done with it when it has ended,
# or, where a pooler has lent it to another client, when it is idle after a statement that began later. A backend that
# began later is another one, which has got the same number.
IS_ALIVE: LiteralString = """
SELECT 1 FROM pg_stat_activity, (SELECT clock_timestamp() - make_interval(secs => %(seconds)s) AS at) AS lost
WHERE pid = %(pid)s AND backend_start < lost.at AND (state = 'idle' AND query_start > lost.at) IS NOT TRUE
"""
