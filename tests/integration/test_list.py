"""The list: the newest moment first, of equal moments the last saved. Pages neither skip nor repeat a snapshot while
new ones arrive. Each page is read from an index, and the total is known without counting.
"""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import pytest

from balance.storage import store
from balance.web.compression import compress
from tests.support.http_client import Connection
from tests.support.service import SNAPSHOTS, Database, Service
from tests.support.shared_service import SharedService, shared_service


def update(ts: str | None = None, pid: int | None = None, **more: Any) -> dict[str, Any]:
    """Return a small update."""
    return {"ts": ts, "pid": pid, "onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}, **more}


def second(number: int) -> str:
    return f"2025-11-07T00:00:{number:02}.000Z"


async def save_all(service: Service, updates: list[dict[str, Any]]) -> None:
    for one in updates:
        assert (await service.post(one)).status == 201


async def test_the_newest_moment_is_first_and_of_equal_ones_the_last_saved(service: Service) -> None:
    await save_all(service, [update(second(moment)) for moment in (5, 1, 9, 5, 3, 9, 5)])
    page = (await service.get()).body
    listed = [(one["ts"], one["seq"]) for one in page["data"]]
    assert listed == sorted(listed, reverse=True)
    assert [seq for _, seq in listed] == [6, 3, 7, 4, 1, 5, 2]
    assert page["pagination"] == {"limit": 100, "offset": 0, "total": 7, "hasMore": False, "next": None}


async def test_limit_and_offset_select_a_part_of_the_list(service: Service) -> None:
    await save_all(service, [update(second(moment)) for moment in (5, 1, 9, 5, 3)])
    whole = (await service.get()).body["data"]
    for limit in (1, 2, 5, 6):
        for offset in (0, 1, 4, 5, 1_000_000):
            page = (await service.get(f"?limit={limit}&offset={offset}")).body
            assert page["data"] == whole[offset : offset + limit]
            pagination = page["pagination"]
            assert (pagination["limit"], pagination["offset"], pagination["total"]) == (limit, offset, 5)
            assert pagination["hasMore"] == (offset + limit < 5) == (pagination["next"] is not None)
            if pagination["next"]:
                rest = (await service.get(f"?cursor={pagination['next']}")).body["data"]
                assert rest == whole[offset + limit :]


async def test_an_empty_list_is_a_list(service: Service) -> None:
    nothing = {"limit": 100, "offset": 0, "total": 0, "hasMore": False, "next": None}
    assert (await service.get()).body == {"success": True, "data": [], "pagination": nothing}


@pytest.mark.parametrize("moments", ["equal", "rising", "falling"])
async def test_pages_have_each_snapshot_once_while_new_ones_arrive(service: Service, moments: str) -> None:
    numbers = {"equal": [30] * 30, "rising": [*range(30)], "falling": [*range(59, 29, -1)]}[moments]
    await save_all(service, [update(second(number)) for number in numbers])
    cursor, met = "", []
    while True:
        page = (await service.get(f"?limit=7{cursor}")).body
        met += [one["seq"] for one in page["data"]]
        if page["pagination"]["next"] is None:
            break
        cursor = f"&cursor={page['pagination']['next']}"
        await save_all(service, [update(second(59)), update(second(numbers[0]))])
    assert len(met) == len(set(met))
    assert set(met) >= set(range(1, 31))


async def test_an_offset_counts_from_the_cursor_if_there_is_one(service: Service) -> None:
    await save_all(service, [update(second(number)) for number in range(6)])
    cursor = (await service.get("?limit=2")).body["pagination"]["next"]
    page = (await service.get(f"?limit=2&offset=1&cursor={cursor}")).body
    assert [one["ts"] for one in page["data"]] == [second(2), second(1)]
    assert page["pagination"]["offset"] == 1


async def test_from_is_inclusive_to_is_not_and_pid_is_exact(service: Service) -> None:
    await save_all(service, [update(second(number), pid=number % 3) for number in range(10)])
    await save_all(service, [update(second(30))])

    async def seconds(query: str) -> list[int]:
        body = (await service.get(query)).body
        assert body["pagination"]["total"] is None, "to count what a filter selects would read all of it"
        return [int(one["ts"][17:19]) for one in body["data"]]

    assert await seconds(f"?from={second(8)}") == [30, 9, 8]
    assert await seconds(f"?to={second(2)}") == [1, 0]
    assert await seconds(f"?from={second(2)}&to={second(5)}") == [4, 3, 2]
    assert await seconds(f"?from={quote('2025-11-07T01:00:08+01:00')}&to=2025-11-07t00:00:09z") == [8]
    assert await seconds(f"?from={second(5)}&to={second(5)}") == []
    assert await seconds("?pid=0") == [9, 6, 3, 0]
    assert await seconds(f"?pid=2&from={second(3)}") == [8, 5]
    assert await seconds("?pid=3") == []
    page = (await service.get("?pid=1&limit=2")).body["pagination"]
    assert page["hasMore"]
    assert await seconds(f"?pid=1&limit=2&cursor={page['next']}") == [1]


async def test_the_total_is_known_and_not_counted(service: Service, database: Database) -> None:
    await service.post(update())
    database.rows("UPDATE balance_feed SET last_seq = 123456")
    assert (await service.get()).body["pagination"]["total"] == 123456


async def test_a_bot_with_a_fast_clock_is_not_first_in_a_list_by_seq(service: Service) -> None:
    ahead = {**update(), "ts": "2999-01-01T00:00:00Z", "pid": 1}
    await save_all(service, [update(second(1), pid=2), ahead, update(second(5), pid=1), update(second(3), pid=2)])

    async def seqs(query: str) -> list[int]:
        return [one["seq"] for one in (await service.get(query)).body["data"]]

    assert await seqs("") == await seqs("?order=ts") == [2, 3, 4, 1]
    assert await seqs("?order=seq") == [4, 3, 2, 1]
    assert await seqs("?order=seq&limit=2&offset=1") == [3, 2]
    assert await seqs("?order=seq&pid=1") == [3, 2]
    assert await seqs(f"?order=seq&to={second(5)}") == [4, 1]
    assert await seqs(f"?order=seq&from={second(3)}&limit=2") == [4, 3]
    page = (await service.get("?order=seq&limit=1")).body["pagination"]
    assert (page["total"], page["hasMore"]) == (4, True)
    assert (await service.get("?order=seq&pid=1")).body["pagination"]["total"] is None


@pytest.mark.parametrize("order", ["ts", "seq"])
async def test_a_cursor_keeps_the_order_of_its_page(service: Service, order: str) -> None:
    await save_all(service, [update(second(number)) for number in (5, 1, 9, 5, 3)])
    whole = (await service.get(f"?order={order}")).body["data"]
    cursor = (await service.get(f"?order={order}&limit=2")).body["pagination"]["next"]
    for query in (f"?cursor={cursor}", f"?cursor={cursor}&order=ts", f"?cursor={cursor}&order=seq"):
        assert (await service.get(query)).body["data"] == whole[2:]


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("from=2025-11-07T00:00:00+00:00", "from: holds a space, which a + in a query means: write + as %2B"),
        ("to=2025-11-07T00:00:00+01:00&limit=1", "to: holds a space, which a + in a query means: write + as %2B"),
        ("cursor=1+2", "cursor: holds a space, which a + in a query means: write + as %2B"),
        ("order=s+q", "order: holds a space, which a + in a query means: write + as %2B"),
        ("order=pid", "order: must be one of ts, seq"),
        ("order=", "order: must be one of ts, seq"),
        ("order=SEQ", "order: must be one of ts, seq"),
    ],
)
async def test_a_misleading_query_is_rejected_with_a_reason(service: Service, query: str, error: str) -> None:
    assert (await service.get(f"?{query}")).body == {"success": False, "error": error, "code": "invalid_payload"}
    assert (await service.get("?from=2025-11-07T00:00:00%2B01:00")).status == 200


EACH = {"Date": "", "X-Request-Id": ""}  # of headers, whose values differ from response to response
FIRST = {"limit": 101, "offset": 0, "before_ts": None, "before_seq": None, "from": None, "to": None, "pid": None}
NEWEST, NEWEST_OF_PID = "balance_snapshot_newest", "balance_snapshot_newest_of_pid"


@pytest.fixture(scope="module")
def large(postgres: str, template: str) -> Iterator[SharedService]:
    """A service with 20,000 snapshots of 20 processes."""
    with shared_service(postgres, template) as one:
        one.rows(
            """
            WITH rows AS (
                INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
                SELECT n, gen_random_uuid(), timestamptz '2025-11-07 00:00:00+00' + n / 2 * interval '1 second', n % 20,
                       '{"rlb": 1, "usdt": 2}', '{"rlb": 3, "usd": 4}', now()
                FROM generate_series(1, 20000) AS n RETURNING seq
            )
            UPDATE balance_feed SET last_seq = (SELECT max(seq) FROM rows) RETURNING last_seq
            """
        )
        one.database.rows("ANALYZE balance_snapshot")
        yield one


@pytest.mark.parametrize(
    ("parameters", "index"),
    [
        ({}, NEWEST),
        ({"before_ts": "2025-11-07 01:00:00+00", "before_seq": 7200}, NEWEST),
        ({"from": "2025-11-07 01:00:00+00", "to": "2025-11-07 01:00:10+00"}, NEWEST),
        ({"to": "2025-11-07 01:00:00+00"}, NEWEST),
        ({"pid": 3}, NEWEST_OF_PID),
        ({"pid": 3, "before_ts": "2025-11-07 02:30:00+00", "before_seq": 18000}, NEWEST_OF_PID),
        ({"pid": 12345}, NEWEST_OF_PID),
    ],
    ids=lambda value: "+".join(value) or "first" if isinstance(value, dict) else value,
)
def test_a_page_is_read_from_its_index(large: SharedService, parameters: dict[str, Any], index: str) -> None:
    rows = large.rows("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) " + store.PAGE, FIRST | parameters)
    plan = "\n".join(row["QUERY PLAN"] for row in rows)
    assert f"using {index} " in plan, plan
    assert "Seq Scan on balance_snapshot" not in plan, plan
    assert "Sort" not in plan, plan
    assert "Rows Removed" not in plan, plan


@pytest.mark.parametrize("before", [None, 7200])
def test_a_page_by_seq_is_read_from_the_primary_key(large: SharedService, before: int | None) -> None:
    sql = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) " + store.PAGE_BY_SEQ
    plan = "\n".join(row["QUERY PLAN"] for row in large.rows(sql, FIRST | {"before_seq": before}))
    assert "Index Scan Backward using balance_snapshot_pkey on balance_snapshot (actual rows=101" in plan, plan
    assert "Sort" not in plan, plan


@pytest.mark.parametrize("order", ["ts", "seq"])
def test_the_pages_of_a_large_list_have_no_duplicate(large: SharedService, order: str) -> None:
    async def scene() -> list[int]:
        seqs: list[int] = []
        async with Connection.to(large.service.port) as one:
            target = f"{SNAPSHOTS}?limit=1000&order={order}"
            while True:
                page = (await one.ask("GET", target)).body
                seqs += [snapshot["seq"] for snapshot in page["data"]]
                assert page["pagination"]["total"] == 20_000
                if not page["pagination"]["hasMore"]:
                    return seqs
                target = f"{SNAPSHOTS}?limit=1000&cursor={page['pagination']['next']}"

    assert large.run(scene()) == [*range(20_000, 0, -1)]


def test_a_large_list_is_compressed_for_a_client_that_accepts_gzip(large: SharedService) -> None:
    target = f"{SNAPSHOTS}?limit=1000"
    plain = large.ask("GET", target)
    for accepted in ("gzip", "gzip, deflate, br, zstd", "*", "identity;q=0.5, gzip", "x-gzip", "br,\tGZIP ; Q=0.1"):
        reply = large.ask("GET", target, Accept_Encoding=accepted)
        assert reply.headers["Content-Encoding"] == "gzip", accepted
        assert gzip.decompress(reply.raw) == plain.raw
        assert len(reply.raw) < len(plain.raw) / 2
        assert reply.headers["Content-Type"] == "application/json"
        head = large.ask("HEAD", target, Accept_Encoding=accepted)
        assert {**head.headers, **EACH} == {**reply.headers, **EACH}
    for accepted in (
        "",
        "identity",
        "gzip;q=0",
        "*;q=0",
        "gzip;q=0, *",
        "gzip;q=x",
        "identity, gzip;q=0.5",
        "br",
        "xgzip",
    ):
        reply = large.ask("GET", target, Accept_Encoding=accepted)
        assert "Content-Encoding" not in reply.headers, accepted
        assert reply.raw == plain.raw
    assert plain.headers["Vary"] == reply.headers["Vary"] == "Origin, Accept-Encoding"
    assert "ETag" not in plain.headers


def test_a_small_list_and_an_error_are_not_compressed(large: SharedService) -> None:
    small = large.ask("GET", f"{SNAPSHOTS}?limit=10", Accept_Encoding="gzip")
    assert "Content-Encoding" not in small.headers
    assert small.headers["Vary"] == "Origin, Accept-Encoding", "a cache must not use it for a client without gzip"
    assert large.ask("GET", f"{SNAPSHOTS}?limit=x", Accept_Encoding="gzip").body["code"] == "invalid_payload"


def test_clients_that_share_a_read_share_its_compression(large: SharedService, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def noted(body: bytes) -> bytes:
        threads.append(threading.current_thread().name)
        return compress(body)

    monkeypatch.setattr("balance.web.compression.compress", noted)

    async def scene() -> set[bytes]:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Connection.to(large.service.port)) for _ in range(30)]
            target = f"{SNAPSHOTS}?limit=1000"
            return {reply.raw for reply in await asyncio.gather(
                *(one.ask("GET", target, Accept_Encoding="gzip") for one in clients)
            )}  # fmt: skip

    assert len(large.run(scene())) == 1
    assert len(threads) <= 4
    assert all(name.startswith("balance-read") for name in threads), "not on the event loop"
