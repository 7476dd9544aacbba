"""The list: newest moment first and of equal ones the last saved, in pages that neither skip nor repeat while new
snapshots arrive; each page is read off an index and the total is known, however long the list is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from balance import store
from tests.running import SNAPSHOTS, Database, Service
from tests.standing import Connection, Standing, standing


def update(ts: str | None = None, pid: int | None = None, **more: Any) -> dict[str, Any]:
    """A small update."""
    return {"ts": ts, "pid": pid, "onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}, **more}


def second(number: int) -> str:
    return f"2025-11-07T00:00:{number:02}.000Z"


async def save_all(service: Service, updates: list[dict[str, Any]]) -> None:
    for one in updates:
        assert (await service.post(one)).status == 201


@pytest.mark.gen_test
async def test_the_newest_moment_is_first_and_of_equal_ones_the_last_saved(service: Service) -> None:
    await save_all(service, [update(second(moment)) for moment in (5, 1, 9, 5, 3, 9, 5)])
    page = (await service.get()).body
    listed = [(one["ts"], one["seq"]) for one in page["data"]]
    assert listed == sorted(listed, reverse=True)
    assert [seq for _, seq in listed] == [6, 3, 7, 4, 1, 5, 2]
    assert page["pagination"] == {"limit": 100, "offset": 0, "total": 7, "hasMore": False, "next": None}


@pytest.mark.gen_test
async def test_limit_and_offset_cut_the_same_list(service: Service) -> None:
    await save_all(service, [update(second(moment)) for moment in (5, 1, 9, 5, 3)])
    whole = (await service.get()).body["data"]
    for limit in (1, 2, 5, 6):
        for offset in (0, 1, 4, 5, 1_000_000):
            page = (await service.get(f"?limit={limit}&offset={offset}")).body
            assert page["data"] == whole[offset : offset + limit]
            told = page["pagination"]
            assert (told["limit"], told["offset"], told["total"]) == (limit, offset, 5)
            assert told["hasMore"] == (offset + limit < 5) == (told["next"] is not None)
            if told["next"]:
                rest = (await service.get(f"?cursor={told['next']}")).body["data"]
                assert rest == whole[offset + limit :]


@pytest.mark.gen_test
async def test_an_empty_list_is_a_list(service: Service) -> None:
    nothing = {"limit": 100, "offset": 0, "total": 0, "hasMore": False, "next": None}
    assert (await service.get()).body == {"success": True, "data": [], "pagination": nothing}


@pytest.mark.gen_test
@pytest.mark.parametrize("moments", ["equal", "rising", "falling"])
async def test_who_walks_the_pages_meets_each_snapshot_once_while_new_ones_arrive(
    service: Service, moments: str
) -> None:
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


@pytest.mark.gen_test
async def test_an_offset_counts_from_the_cursor_where_there_is_one(service: Service) -> None:
    await save_all(service, [update(second(number)) for number in range(6)])
    cursor = (await service.get("?limit=2")).body["pagination"]["next"]
    page = (await service.get(f"?limit=2&offset=1&cursor={cursor}")).body
    assert [one["ts"] for one in page["data"]] == [second(2), second(1)]
    assert page["pagination"]["offset"] == 1


@pytest.mark.gen_test
async def test_from_is_inclusive_to_is_not_and_pid_is_exact(service: Service) -> None:
    await save_all(service, [update(second(number), pid=number % 3) for number in range(10)])
    await save_all(service, [update(second(30))])

    async def seconds(query: str) -> list[int]:
        body = (await service.get(query)).body
        assert body["pagination"]["total"] is None, "counting what a filter leaves would read all of it"
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


@pytest.mark.gen_test
async def test_the_total_is_known_and_not_counted(service: Service, database: Database) -> None:
    await service.post(update())
    database.rows("UPDATE balance_feed SET last_seq = 123456")
    assert (await service.get()).body["pagination"]["total"] == 123456


FIRST = {"limit": 101, "offset": 0, "before_ts": None, "before_seq": None, "from": None, "to": None, "pid": None}
NEWEST, NEWEST_OF_PID = "balance_snapshot_newest", "balance_snapshot_newest_of_pid"


@pytest.fixture(scope="module")
def large(postgres: str, template: str) -> Iterator[Standing]:
    """A service with 20,000 snapshots of 20 processes."""
    with standing(postgres, template) as one:
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
def test_a_page_is_read_off_its_index(large: Standing, parameters: dict[str, Any], index: str) -> None:
    rows = large.rows("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) " + store.PAGE, FIRST | parameters)
    plan = "\n".join(row["QUERY PLAN"] for row in rows)
    assert f"using {index} " in plan, plan
    assert "Seq Scan on balance_snapshot" not in plan, plan
    assert "Sort" not in plan, plan
    assert "Rows Removed" not in plan, plan


def test_a_large_list_is_walked_to_its_end_without_a_double(large: Standing) -> None:
    async def scene() -> list[int]:
        seqs: list[int] = []
        async with Connection.to(large.service.port) as one:
            target = f"{SNAPSHOTS}?limit=1000"
            while True:
                page = (await one.ask("GET", target)).body
                seqs += [snapshot["seq"] for snapshot in page["data"]]
                assert page["pagination"]["total"] == 20_000
                if not page["pagination"]["hasMore"]:
                    return seqs
                target = f"{SNAPSHOTS}?limit=1000&cursor={page['pagination']['next']}"

    assert large.run(scene()) == [*range(20_000, 0, -1)]
