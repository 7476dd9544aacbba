"""The errors of the store, and which errors of psycopg are the caller's own.

Decisions are made by class and SQLSTATE, never by the text of a message, which depends on the server's language.
"""

from __future__ import annotations

import psycopg

from balance.storage.outage import SAVE, Kind

# What a client gets. PostgreSQL's own words name paths, tables and addresses; they go to the log.
UNREACHABLE = "the database cannot be reached"
TIMED_OUT = "the database did not answer in time"
UNABLE = "the database cannot do this now"
STOPPING = "the server is stopping"

NO_FEED = "table balance_feed has lost its row"  # for the log


class StoreUnavailable(Exception):
    """The database cannot be reached, did not answer, or cannot do its work; try again. The text is for clients."""


class DatabaseFault(Exception):
    """The database is not as it was at the start; raised while a connection is in use, the text is for the log."""


def is_of_caller(error: Exception, kind: Kind) -> bool:
    """Return whether the caller is at fault: psycopg itself refused, or PostgreSQL refused the rows to be saved.

    PostgreSQL refuses rows for a value (SQLSTATE class 22) or a rule of the table (23). A `seq` or an id that is stored
    already is not a fault of the rows: the feed does not fit the table, or another program writes to it.
    """
    if not isinstance(error, psycopg.Error) or isinstance(error, psycopg.OperationalError):
        return False
    if error.sqlstate is None:
        return True
    refused = isinstance(error, psycopg.DataError | psycopg.IntegrityError)
    return kind is SAVE and refused and not isinstance(error, psycopg.errors.UniqueViolation)
