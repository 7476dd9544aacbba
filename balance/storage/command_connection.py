"""The connection of a command that changes something by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from balance.storage.connect import DatabaseError, error_text, to_conninfo
from balance.storage.errors import DatabaseFault
from balance.storage.migrate import check_schema
from balance.storage.session_settings import configure_session


@contextmanager
def connected(url: str, failure: str, *, statement_ms_max: int) -> Iterator[Connection[TupleRow]]:
    """Connect in autocommit to a database of this version.

    Raises SchemaError, and DatabaseError for a database that cannot be reached; that of an error in the block begins
    with `failure`.
    """
    try:
        connection = psycopg.connect(to_conninfo(url), autocommit=True)
    except psycopg.Error as error:
        raise DatabaseError(f"the database cannot be reached: {error_text(error)}") from error
    try:
        with connection:
            configure_session(connection, statement_ms_max=statement_ms_max)
            check_schema(connection)
            yield connection
    except (psycopg.Error, DatabaseFault) as error:
        raise DatabaseError(f"{failure}: {error_text(error)}") from error
