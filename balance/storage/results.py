"""Results of libpq whose row begins with epoch, last_seq and whether the server is in recovery."""

from __future__ import annotations

from psycopg import errors, pq

from balance.position import Position
from balance.storage.errors import NO_FEED, DatabaseFault


def checked(result: pq.abc.PGresult) -> pq.abc.PGresult:
    """Return a result whose row begins with epoch, last_seq and whether the server is in recovery.

    Raises psycopg.Error for a server in recovery, which gives the session up, and DatabaseFault if there is no row.
    """
    if not result.ntuples:
        raise DatabaseFault(NO_FEED)
    if text(result, 2) == "t":
        raise errors.ReadOnlySqlTransaction("the server is in recovery")
    return result


def text(result: pq.abc.PGresult, column: int) -> str:
    value = result.get_value(0, column)
    assert value is not None
    return value.decode()


def position(result: pq.abc.PGresult) -> Position:
    return Position(text(result, 0), int(text(result, 1)))


def parts(result: pq.abc.PGresult, column: int, separator: bytes) -> list[bytes]:
    """Split what string_agg has joined: no part if there were no rows."""
    value = result.get_value(0, column)
    return [] if value is None else value.split(separator)
