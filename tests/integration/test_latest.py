"""GET /api/balance/latest: the newest snapshot, the last one of each process id, and the position of both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from protocol.operations import LATEST
from tests.support.http_client import Reply
from tests.support.payloads import UPDATE
from tests.support.service import Database, MakeService, Service
from tests.support.shared_service import SharedService, shared_service
from tests.support.sse import StreamClient


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    """One service for requests that change nothing."""
    with shared_service(postgres, template) as one:
        yield one


async def ask(service: Service, query: str = "") -> Reply:
    """Send one request."""
    return await service.request("GET", LATEST + query)


async def save(service: Service, *pids: int | None) -> None:
    """Save a snapshot of each pid, in this order."""
    for pid in pids:
        update: dict[str, Any] = {name: value for name, value in UPDATE.items() if name != "pid"}
        assert (await service.post(update if pid is None else {**update, "pid": pid})).status == 201


def seqs(reply: Reply) -> list[tuple[int | None, int]]:
    return [(one["pid"], one["seq"]) for one in reply.body["data"]["pids"]]


async def test_an_empty_feed_has_no_newest_snapshot(service: Service) -> None:
    reply = await ask(service)
    assert (reply.status, reply.headers["Cache-Control"]) == (200, "no-store")
    assert reply.body["data"] == {"newest": None, "pids": []}
    assert reply.body["feed"]["head"] == 0


async def test_each_process_is_there_once_and_the_last_saved_comes_first(service: Service) -> None:
    await save(service, 7, 8, 7, 9, 8, None)
    reply = await ask(service)
    listed = (await service.get("?order=seq")).body["data"]
    assert reply.body["data"]["newest"] == listed[0]
    assert reply.body["data"]["pids"] == [listed[1], listed[2], listed[3]]
    assert seqs(reply) == [(8, 5), (9, 4), (7, 3)]
    assert seqs(await ask(service, "?limit=2")) == [(8, 5), (9, 4)]
    assert reply.body["feed"]["head"] == 6


async def test_processes_that_were_silent_for_too_long_are_left_out(service: Service, database: Database) -> None:
    await save(service, 7, 8)
    database.rows("UPDATE balance_snapshot SET received_at = now() - interval '1 hour' WHERE pid = 7 RETURNING seq")
    assert seqs(await ask(service, "?heard_s=60")) == [(8, 2)]
    assert seqs(await ask(service, "?heard_s=7200")) == [(8, 2), (7, 1)]


async def test_the_position_is_one_to_go_on_from(service: Service) -> None:
    await save(service, 7)
    feed = (await ask(service)).body["feed"]
    async with StreamClient.to(service.port, f"?after={feed['head']}&epoch={feed['epoch']}") as client:
        assert (await client.expect("connected")).data["recovered"] is True
        await save(service, 8)
        assert await client.snapshots(1) == [2]


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("?limit=0", "limit: must be at least 1"),
        ("?limit=1001", "limit: must be at most 1000"),
        ("?heard_s=0", "heard_s: must be at least 1"),
        ("?heard_s=31536001", "heard_s: must be at most 31536000"),
        ("?heard_s=x", "heard_s: must be an integer"),
        ("?limit=1&limit=1", "limit: is given more than once"),
        ("?pid=7", "pid: is not a known field"),
    ],
)
def test_a_query_that_is_not_valid_is_refused_by_the_name_of_its_field(
    shared: SharedService, query: str, error: str
) -> None:
    reply = shared.ask("GET", LATEST + query)
    assert (reply.status, reply.body["code"]) == (400, "invalid_payload")
    assert reply.body["error"].startswith(error)


@pytest.mark.expects_log("the database cannot be reached")
async def test_without_its_database_the_service_is_unavailable(make_service: MakeService) -> None:
    reply = await ask(await make_service(database_url="postgresql://127.0.0.1:1/nothing"))
    assert (reply.status, reply.body["code"]) == (503, "unavailable")
