"""GET /api/balance/feed: what comes after a position, at once or when it is saved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from balance.storage.epochs import begin_epoch
from protocol.operations import FEED
from tests.support.http_client import Connection, Reply
from tests.support.payloads import UPDATE
from tests.support.service import Database, MakeService, Service
from tests.support.shared_service import SharedService, shared_service
from tests.support.sse import StreamClient
from tests.support.waiting import until

OTHER_EPOCH = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    """One service for requests that change nothing."""
    with shared_service(postgres, template) as one:
        yield one


async def save(service: Service, count: int) -> list[dict[str, Any]]:
    """Save this many snapshots; return them, the first saved first."""
    for _ in range(count):
        assert (await service.post(UPDATE)).status == 201
    return list(reversed((await service.get(f"?order=seq&limit={count}")).body["data"]))


async def ask(service: Service, query: str = "") -> Reply:
    """Send one request."""
    return await service.request("GET", FEED + query)


async def start_poll(service: Service, query: str) -> asyncio.Task[Reply]:
    """Start a long poll; return when the service holds it."""
    held = len(service.app._poll_limiter)
    poll = asyncio.create_task(ask(service, query))
    await until(lambda: len(service.app._poll_limiter) == held + 1)
    return poll


async def test_the_feed_is_read_from_its_beginning_to_its_end_in_parts(service: Service) -> None:
    saved = await save(service, 5)
    first = await ask(service, "?limit=2")
    epoch = first.body["feed"]["epoch"]
    assert first.status == 200
    assert first.headers["Cache-Control"] == "no-store"
    assert first.body == {
        "success": True,
        "data": saved[:2],
        "feed": {"epoch": epoch, "after": 0, "last": 2, "head": 5},
    }
    rest = (await ask(service, f"?after=2&epoch={epoch.upper()}&id={saved[1]['id']}")).body
    assert rest["data"] == saved[2:]
    assert rest["feed"] == {"epoch": epoch, "after": 2, "last": 5, "head": 5}
    end = (await ask(service, f"?after=5&epoch={epoch}")).body
    assert (end["data"], end["feed"]) == ([], {"epoch": epoch, "after": 5, "last": 5, "head": 5})


async def test_now_is_the_end_of_the_feed(service: Service) -> None:
    await save(service, 3)
    reply = (await ask(service, "?after=now")).body
    assert (reply["data"], reply["feed"]["after"], reply["feed"]["last"]) == ([], 3, 3)


@pytest.mark.parametrize("after", ["now", "0"])
async def test_a_poll_is_answered_as_soon_as_something_is_saved(service: Service, after: str) -> None:
    poll = await start_poll(service, f"?after={after}&wait=55")
    began = time.monotonic()
    (saved,) = await save(service, 1)
    reply = (await poll).body
    assert time.monotonic() - began < 5
    assert reply["data"] == [saved]
    assert reply["feed"] == {"epoch": reply["feed"]["epoch"], "after": 0, "last": 1, "head": 1}
    assert not len(service.app._poll_limiter)


async def test_polls_that_follow_each_other_miss_nothing_and_get_nothing_twice(service: Service) -> None:
    seen: list[int] = []
    saving = asyncio.create_task(save(service, 40))
    query = "?after=0&wait=10&limit=3"
    while len(seen) < 40:
        reply = (await ask(service, query)).body
        assert reply["data"], "a poll that waits returns something"
        seen += [one["seq"] for one in reply["data"]]
        query = f"?after={reply['feed']['last']}&epoch={reply['feed']['epoch']}&wait=10&limit=3"
    await saving
    assert seen == list(range(1, 41))


async def test_a_poll_without_news_gets_an_empty_list_in_time(service: Service) -> None:
    began = time.monotonic()
    reply = await ask(service, "?wait=1")
    assert 1 <= time.monotonic() - began < 5
    assert (reply.status, reply.body["data"], reply.body["feed"]["last"]) == (200, [], 0)


async def test_a_stop_answers_every_poll_with_an_empty_list(service: Service) -> None:
    polls = [await start_poll(service, "?after=now&wait=55") for _ in range(3)]
    await service.stop()
    for poll in polls:
        reply = await poll
        assert (reply.status, reply.body["data"]) == (200, [])


@pytest.mark.expects_log("every watcher has to resume")
async def test_a_new_epoch_ends_a_poll_and_a_good_position_goes_on_in_it(service: Service, database: Database) -> None:
    await save(service, 2)
    old = (await ask(service)).body["feed"]["epoch"]
    poll = await start_poll(service, f"?after=2&epoch={old}&wait=55")
    new = begin_epoch(database.url).epoch
    assert (await poll).body["feed"] == {"epoch": new, "after": 2, "last": 2, "head": 2}


async def test_a_client_that_goes_away_frees_its_poll(service: Service) -> None:
    http = await Connection.open(service.port)
    await http.send(f"GET {FEED}?wait=55 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await until(lambda: len(service.app._poll_limiter) == 1)
    await http.close()
    await until(lambda: not len(service.app._poll_limiter))


async def test_polls_that_wait_hold_no_slot_of_the_reads_and_count_as_watchers(make_service: MakeService) -> None:
    service = await make_service(reads_in_flight_max=1, watchers_max=8)
    polls = [await start_poll(service, "?wait=55") for _ in range(3)]
    assert (await service.get()).status == 200
    async with StreamClient.to(service.port) as one, StreamClient.to(service.port) as another:
        await one.expect("connected")
        await another.expect("connected")
        polls.append(await start_poll(service, "?wait=55"))
        refused = await ask(service, "?wait=55")
        assert (refused.status, refused.body["code"]) == (503, "busy")
        assert (await ask(service)).status == 200, "a read that does not wait"
    await save(service, 1)
    assert [len((await poll).body["data"]) for poll in polls] == [1] * 4


async def test_many_clients_that_poll_need_no_slot_of_the_reads(make_service: MakeService) -> None:
    """Each poll begins at the end of the feed, or where the newest snapshots in memory begin."""
    service = await make_service(reads_in_flight_max=1)
    first = (await save(service, 1))[0]
    epoch = (await ask(service)).body["feed"]["epoch"]

    async def poll(id_: str = "") -> list[int]:
        seqs = [1]
        while seqs[-1] < 10:
            reply = await ask(service, f"?after={seqs[-1]}&epoch={epoch}&wait=55" + (id_ and f"&id={id_}"))
            assert reply.status == 200, reply
            seqs += [one["seq"] for one in reply.body["data"]]
            id_ = id_ and reply.body["data"][-1]["id"]
        return seqs

    polling = [asyncio.ensure_future(poll()) for _ in range(20)]
    await until(lambda: len(service.app._poll_limiter) == len(polling))
    polling += [asyncio.ensure_future(poll(first["id"]))]  # its id is looked up
    await until(lambda: len(service.app._poll_limiter) == len(polling))
    for _ in range(9):
        await service.post(UPDATE)
    assert await asyncio.gather(*polling) == [list(range(1, 11))] * len(polling)


async def test_many_clients_that_begin_now_need_no_slot_of_the_reads(make_service: MakeService) -> None:
    service = await make_service(reads_in_flight_max=1)
    await save(service, 2)
    replies = await asyncio.gather(*(ask(service, "?after=now") for _ in range(20)))
    assert [(reply.status, reply.body["feed"]["last"]) for reply in replies] == 20 * [(200, 2)]
    polls = [asyncio.create_task(ask(service, "?after=now&wait=55")) for _ in range(20)]
    await until(lambda: len(service.app._poll_limiter) == len(polls))
    await save(service, 1)
    assert [[one["seq"] for one in (await poll).body["data"]] for poll in polls] == 20 * [[3]]


async def test_a_position_that_is_not_good_gets_the_reason_and_where_the_feed_is(service: Service) -> None:
    await save(service, 3)
    epoch = (await ask(service)).body["feed"]["epoch"]
    for query, reason, path in (
        (f"?after=1&epoch={OTHER_EPOCH}", "other_feed", "epoch"),
        (f"?after=4&epoch={epoch}&wait=55", "ahead", "after"),
        (f"?after=2&epoch={epoch}&id={OTHER_EPOCH}", "diverged", "after"),
    ):
        reply = await ask(service, query)
        assert reply.status == 409
        assert (reply.body["code"], reply.body["reason"]) == ("position_unknown", reason)
        assert (reply.body["epoch"], reply.body["head"]) == (epoch, 3)
        assert reply.body["error"].startswith(f"{path}: ")


async def test_a_position_of_rows_that_are_gone_is_pruned(make_service: MakeService, database: Database) -> None:
    await save(await make_service(), 3)
    database.rows("DELETE FROM balance_snapshot WHERE seq <= 2 RETURNING seq")
    service = await make_service()
    (feed,) = database.rows("SELECT epoch FROM balance_feed")
    reply = await ask(service, f"?after=1&epoch={feed['epoch']}")
    assert (reply.status, reply.body["code"], reply.body["first"]) == (410, "position_pruned", 3)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("?after=1", "epoch: is required"),
        ("?after=NOW", "after: must be an integer or now"),
        ("?after=", "after: must be an integer or now"),
        ("?limit=0", "limit: must be at least 1"),
        ("?limit=1001", "limit: must be at most 1000"),
        ("?limit=x", "limit: must be an integer"),
        ("?wait=-1", "wait: must be at least 0"),
        ("?wait=56", "wait: must be at most 55"),
        ("?wait=0.5", "wait: must be an integer"),
        ("?wait=", "wait: must be an integer"),
        ("?epoch=x", "epoch: must be a UUID"),
        ("?id=x", "id: must be a UUID"),
        ("?pid=7", "pid: is not a known field"),
        ("?wait=1&wait=2", "wait: is given more than once"),
    ],
)
def test_a_query_that_is_not_valid_is_refused_by_the_name_of_its_field(
    shared: SharedService, query: str, error: str
) -> None:
    reply = shared.ask("GET", FEED + query)
    assert (reply.status, reply.body["code"]) == (400, "invalid_payload")
    assert reply.body["error"].startswith(error)


@pytest.mark.expects_log("the database cannot be reached")
async def test_without_its_database_the_service_is_unavailable(make_service: MakeService) -> None:
    service = await make_service(database_url="postgresql://127.0.0.1:1/nothing")
    reply = await ask(service, "?wait=55")
    assert (reply.status, reply.body["code"], reply.headers["Retry-After"]) == (503, "unavailable", "1")
