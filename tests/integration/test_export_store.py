"""The pages of an export: where each ends, and which states of the database they refuse."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

import protocol
from balance.position import Position
from balance.storage import export as module
from balance.storage.errors import NO_FEED, UNABLE, StoreUnavailable
from balance.storage.export import PAGE_BYTES_MAX, PAGE_ROWS_MAX, SEQS_MAX, ExportStore, Selection, csv_header
from balance.storage.pool import Pool
from tests.support.outages import OUTAGE
from tests.support.postgres import execute, query
from tests.support.service import Database

pytestmark = pytest.mark.usefixtures("shared_database")

START = datetime(2025, 11, 7, tzinfo=UTC)
FILL = """
INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
SELECT n, gen_random_uuid(), '2025-11-07T00:00:00Z'::timestamptz + n * interval '1 s', n % 3, {onchain},
       '{{"rlb": 1, "usd": 1}}', now()
FROM generate_series({first}, {last}) AS n
"""
SMALL = """'{"rlb": 1, "usdt": 1}'"""
# About 100 KB in each row.
LARGE = """(SELECT jsonb_object_agg(name, 1.5) FROM (
    SELECT 'rlb' AS name UNION SELECT 'usdt' UNION SELECT repeat('x', 60) || n FROM generate_series(1, 1500) AS n
) AS names)"""


@pytest.fixture
def pool(database: Database) -> Iterator[Pool]:
    one = Pool(database.url, pool_max=1, pool_wait_ms_max=5000, statement_ms_max=5000)
    one.open()
    yield one
    one.close()


def fill(database: Database, first: int, last: int, onchain: str = SMALL) -> Position:
    """Add snapshots; return the end of the feed."""
    execute(
        database.url, FILL.format(onchain=onchain, first=first, last=last), f"UPDATE balance_feed SET last_seq = {last}"
    )
    ((epoch,),) = query(database.url, "SELECT epoch::text FROM balance_feed")
    return Position(epoch, last)


def seqs(text: bytes) -> list[int]:
    return [protocol.loads(line)["seq"] for line in text.splitlines()]


# Where a page ends


def test_a_page_ends_at_the_largest_number_of_rows(pool: Pool, database: Database) -> None:
    head = fill(database, 1, PAGE_ROWS_MAX + 1)
    store = ExportStore(pool)
    first = store.page(Selection(), 0, head)
    assert (first.last, first.rows, seqs(first.text)) == (PAGE_ROWS_MAX, PAGE_ROWS_MAX, [*range(1, PAGE_ROWS_MAX + 1)])
    second = store.page(Selection(), PAGE_ROWS_MAX, head)
    assert (second.last, second.rows, seqs(second.text)) == (PAGE_ROWS_MAX + 1, 1, [PAGE_ROWS_MAX + 1])


def test_a_page_ends_after_the_rows_that_fill_it_and_has_at_least_one(pool: Pool, database: Database) -> None:
    head = fill(database, 1, 7, LARGE)
    store = ExportStore(pool)
    written = "SELECT octet_length(balance_snapshot_json(id, seq, ts, pid, onchain, onsite)) FROM balance_snapshot"
    size, *_ = [size for (size,) in query(database.url, written)]
    assert PAGE_BYTES_MAX / 3 < size + 1 < PAGE_BYTES_MAX / 2
    pages = []
    while not pages or pages[-1].last < head.seq:
        pages.append(store.page(Selection(), pages[-1].last if pages else 0, head))
    assert [(page.last, page.rows, seqs(page.text)) for page in pages] == [
        (3, 3, [1, 2, 3]), (6, 3, [4, 5, 6]), (7, 1, [7])
    ]  # fmt: skip


def test_a_row_that_is_larger_than_a_page_is_one(pool: Pool, database: Database) -> None:
    head = fill(database, 1, 3, LARGE.replace("1500", "4500"))
    pages = [ExportStore(pool).page(Selection(), after, head) for after in range(3)]
    assert [(page.last, seqs(page.text)) for page in pages] == [(1, [1]), (2, [2]), (3, [3])]
    assert min(len(page.text) for page in pages) > PAGE_BYTES_MAX


def test_a_page_without_a_row_that_is_selected_ends_where_it_looked(
    pool: Pool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SEQS_MAX == 65_536
    monkeypatch.setattr(module, "SEQS_MAX", 10)
    head = fill(database, 1, 24)
    store = ExportStore(pool)
    none = Selection(pids=[7])
    assert [store.page(none, after, head) for after in (0, 10, 20)] == [(10, 0, b""), (20, 0, b""), (24, 0, b"")]
    some = store.page(Selection(pids=[0, 2]), 10, head)
    assert (some.last, some.rows, seqs(some.text)) == (20, 7, [11, 12, 14, 15, 17, 18, 20])
    assert store.page(Selection(), 20, Position(head.epoch, 22)).last == 22, "not beyond the head"


def test_a_selection_is_half_open_in_time(pool: Pool, database: Database) -> None:
    head = fill(database, 1, 9)
    store = ExportStore(pool)
    from_, to = START + timedelta(seconds=3), START + timedelta(seconds=6)
    for selection, expected in {
        Selection(from_, to): [3, 4, 5],
        Selection(from_=to): [6, 7, 8, 9],
        Selection(to=from_): [1, 2],
    }.items():
        assert seqs(store.page(selection, 0, head).text) == expected


def test_a_page_of_csv_has_the_same_rows(pool: Pool, database: Database) -> None:
    head = fill(database, 1, 2)
    selection = Selection(is_csv=True, columns=("onchain.a.b", "onsite.eur"))
    assert csv_header(selection) == (
        b"id,seq,ts,pid,onchain.rlb,onchain.usdt,onsite.rlb,onsite.usd,onchain.a.b,onsite.eur,further\r\n"
    )
    ids = [one for (one,) in query(database.url, "SELECT id::text FROM balance_snapshot ORDER BY seq")]
    for digits_are_text, amount in ((False, "1"), (True, '"=""1"""')):
        page = ExportStore(pool).page(selection._replace(digits_are_text=digits_are_text), 0, head)
        row = f",2025-11-07T00:00:0{{0}}.000Z,{{0}},{','.join([amount] * 4)},,,\r\n"
        assert page == (2, 2, "".join(f"{id_},{n}{row.format(n)}" for n, id_ in enumerate(ids, 1)).encode())


# What is refused


def test_a_new_epoch_ends_an_export(pool: Pool, database: Database) -> None:
    head = fill(database, 1, 2)
    with pytest.raises(StoreUnavailable, match=r"^the feed has a new epoch$"):
        ExportStore(pool).page(Selection(), 0, Position(str(uuid.UUID(int=7)), head.seq))


@pytest.mark.expects_log(*OUTAGE)
def test_an_export_is_not_made_without_the_row_of_the_feed(pool: Pool, database: Database) -> None:
    head = fill(database, 1, 2)
    execute(database.url, "DELETE FROM balance_feed")
    for selection in (Selection(), Selection(is_csv=True)):
        with pytest.raises(StoreUnavailable, match=f"^{UNABLE}$"):
            ExportStore(pool).page(selection, 0, head)
    assert set(pool.outage._failures.values()) == {NO_FEED}


@pytest.mark.expects_log(*OUTAGE)
def test_an_export_is_not_made_by_a_server_in_recovery(database: Database) -> None:
    """A function of the database simulates it."""
    head = fill(database, 1, 2)
    pool = Pool(
        make_conninfo(database.url, options="-c search_path=public,pg_catalog"),
        pool_max=1, pool_wait_ms_max=5000, statement_ms_max=5000,
    )  # fmt: skip
    pool.open()
    execute(database.url, "CREATE FUNCTION public.pg_is_in_recovery() RETURNS boolean RETURN true")
    try:
        with pytest.raises(StoreUnavailable, match=f"^{UNABLE}$"):
            ExportStore(pool).page(Selection(), 0, head)
    finally:
        execute(database.url, "DROP FUNCTION public.pg_is_in_recovery")
    assert set(pool.outage._failures.values()) == {"the server is in recovery"}
    pool.close()


def test_each_form_is_a_statement_that_is_prepared_once(pool: Pool, database: Database) -> None:
    head = fill(database, 1, 2)
    store: Any = ExportStore(pool)
    for _ in range(2):
        store.page(Selection(), 0, head)
        store.page(Selection(is_csv=True), 0, head)
    with pool.connection() as session:
        prepared = session.execute(
            "SELECT name FROM pg_prepared_statements WHERE NOT from_sql AND name LIKE 'export%' ORDER BY name"
        ).fetchall()
    assert prepared == [("export_csv",), ("export_ndjson",)]
