"""Load tables without their indexes, and create these afterwards: rows in any order then cost the same.

An index that is there while rows are loaded is changed for each row, at another page for each random id. Created
afterwards, it is written once, in its order, by several processes.

Threads: the function blocks, and works in the transaction of the caller, which has all of it or nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import LiteralString

from psycopg import Connection, Cursor
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composed

from balance.storage.backup_file import Report

# For the sort of one index, of all its processes: what the server has, but at least 256 MB. Returns what it has.
MEMORY: LiteralString = """
SELECT before, set_config('maintenance_work_mem', CASE WHEN pg_size_bytes(before) < pg_size_bytes('256MB')
                                                       THEN '256MB' ELSE before END, true)
FROM current_setting('maintenance_work_mem') AS before
"""
MEMORY_AS_BEFORE: LiteralString = "SELECT set_config('maintenance_work_mem', %(before)s, true)"


@contextmanager
def without_indexes(session: Connection[TupleRow], tables: Sequence[str], report: Report) -> Iterator[None]:
    """Drop the indexes of tables for the block, with the constraints that need them, and create the same at its end.

    `report` gets the number of indexes that were created, and of all.
    """
    found = session.execute(INDEXES, {"names": list(tables)}).fetchall()
    for drop, _create in found:
        run_sql(session, SQL(drop))
    yield
    ((before, _set),) = session.execute(MEMORY).fetchall()
    for done, (_drop, create) in enumerate(found):
        report(done, len(found))
        run_sql(session, SQL(create))
    session.execute(MEMORY_AS_BEFORE, {"before": before})
    report(len(found), len(found))


def run_sql(session: Connection[TupleRow], statement: SQL | Composed) -> Cursor[TupleRow]:
    """Run a statement that has names in it, which cannot be parameters, or that PostgreSQL has written."""
    return session.cursor().execute(statement)


# PostgreSQL writes each definition itself, so that what is created is what was dropped.
INDEXES: LiteralString = """
SELECT CASE WHEN conname IS NULL THEN format('DROP INDEX %%s', indexrelid::regclass)
            ELSE format('ALTER TABLE %%s DROP CONSTRAINT %%I', indrelid::regclass, conname) END,
       CASE WHEN conname IS NULL THEN pg_get_indexdef(indexrelid)
            ELSE format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', indrelid::regclass, conname,
                        pg_get_constraintdef(pg_constraint.oid)) END
FROM unnest(%(names)s::text[]) AS name
JOIN pg_index ON indrelid = to_regclass(name)
LEFT JOIN pg_constraint ON conindid = indexrelid
ORDER BY indexrelid
"""
