"""Load tables without their indexes, and create these afterwards: rows in any order then cost the same.

An index that is there while rows are loaded is changed for each row, at another page for each random id. Created
afterwards, it is written once, in its order, by several processes.

Threads: the function blocks, and works in the transaction of the caller, which has all of it or nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import LiteralString

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.sql import SQL

from balance.storage.backup_file import Report

MEMORY: LiteralString = "SET LOCAL maintenance_work_mem = '256MB'"  # for the sort of one index, of all its processes


@contextmanager
def without_indexes(session: Connection[TupleRow], tables: Sequence[str], report: Report) -> Iterator[None]:
    """Drop the indexes of tables for the block, with the constraints that need them, and create the same at its end.

    `report` gets the number of indexes that were created, and of all.
    """
    found = session.execute(INDEXES, {"names": list(tables)}).fetchall()
    for drop, _create in found:
        _run(session, drop)
    yield
    session.execute(MEMORY)
    for done, (_drop, create) in enumerate(found):
        report(done, len(found))
        _run(session, create)
    report(len(found), len(found))


def _run(session: Connection[TupleRow], definition: LiteralString) -> None:
    """Run a statement that PostgreSQL has written."""
    session.cursor().execute(SQL(definition))


# PostgreSQL writes each definition itself, so that what is created is what was dropped.
INDEXES: LiteralString = """
SELECT CASE WHEN conname IS NULL THEN format('DROP INDEX %%s', indexrelid::regclass)
            ELSE format('ALTER TABLE %%s DROP CONSTRAINT %%I', indrelid::regclass, conname) END,
       CASE WHEN conname IS NULL THEN pg_get_indexdef(indexrelid)
            ELSE format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', indrelid::regclass, conname,
                        pg_get_constraintdef(pg_constraint.oid)) END
FROM unnest(%(names)s::text[]) AS name
JOIN pg_index ON indrelid = to_regclass(name)
LEFT JOIN pg_constraint ON conindid = indexrelid AND contype IN ('p', 'u', 'x')
ORDER BY indexrelid
"""
