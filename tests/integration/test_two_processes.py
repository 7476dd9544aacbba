"""Two servers on one database keep one feed: `seq` is contiguous and in commit order, an id is stored once.

Both save at once, over REST, WebSocket and polling. A third connection reads all the time, and finds at every moment
max(seq) = count(*) = last_seq: a number that became visible before a smaller one would show as a gap. Watchers of each
server receive the whole feed in order, also what the other one saved. A server that is killed or frozen, even in the
middle of a save, does not keep the other from saving.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from random import Random
from statistics import median

import psycopg

from tests.support.http_client import Reply, request
from tests.support.payloads import updates
from tests.support.raw_clients import PollingClient, SocketClient
from tests.support.service import SNAPSHOTS, Database, Process, Processes
from tests.support.workload import (
    Bot,
    FindServer,
    PollingBot,
    RestBot,
    SendLog,
    SocketBot,
    Watcher,
    check_seen,
    check_stored,
    sending,
)

SEED = 11
POLL_S_MAX = 0.15  # a pause of 0.1 s between two polls, and the time of one
BOTS = (RestBot, SocketBot, SocketBot, PollingBot)
MOMENT = """
SELECT (SELECT count(*) FROM balance_snapshot), (SELECT coalesce(max(seq), 0) FROM balance_snapshot),
       (SELECT last_seq FROM balance_feed)
"""


async def start_both(processes: Processes, database: Database, *arguments: str) -> tuple[list[Process], list[str]]:
    """Start two servers on the database; return them and where they are."""
    both = [processes("--port=0", *arguments, DATABASE_URL=database.url) for _ in range(2)]
    return both, [await asyncio.to_thread(process.url) for process in both]


async def stop_both(both: list[Process]) -> None:
    for process in both:
        assert await asyncio.to_thread(process.terminate) == 0
        assert not process.stderr


def bots_of(urls: list[str], send_log: SendLog) -> list[Bot]:
    """Let bots of each kind send to each server."""

    def at(url: str) -> FindServer:
        async def find_server() -> str:
            return url

        return find_server

    pairs = [(url, kind) for url in urls for kind in BOTS]
    return [kind(at(url), Random(SEED * 100 + n), send_log) for n, (url, kind) in enumerate(pairs)]


@contextmanager
def watched(database: Database) -> Iterator[list[tuple[int, int, int]]]:
    """Look at the feed all the while from a third connection; the list holds every different moment seen."""
    moments: list[tuple[int, int, int]] = []
    stop = threading.Event()

    def look() -> None:
        with psycopg.connect(database.url, autocommit=True) as connection:
            while not stop.is_set():
                (moment,) = connection.execute(MOMENT).fetchall()
                if not moments or moments[-1] != moment:
                    moments.append(moment)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield moments
    finally:
        stop.set()
        thread.join()


async def test_two_servers_under_load_keep_one_feed_without_gaps_in_commit_order(
    processes: Processes, database: Database
) -> None:
    both, urls = await start_both(processes, database)
    watchers = [await Watcher.connect(url, kind) for url in urls for kind in (SocketClient, PollingClient)]
    send_log = SendLog()
    with watched(database) as moments:
        bots = bots_of(urls, send_log)
        async with sending(bots):
            await send_log.more(500, 30)
    assert not send_log.refused
    assert len(moments) > 20, "it was looked at under load"
    for count, highest, last in moments:
        assert count == highest == last
    check_stored(database, send_log.acknowledged, send_log.sent)
    for watcher in watchers:
        await watcher.until(len(send_log.sent))
        await watcher.close()
        check_seen(watcher, database)
    await stop_both(both)


async def test_watchers_of_an_idle_server_have_what_the_other_one_saves_at_once(
    processes: Processes, database: Database
) -> None:
    both, urls = await start_both(processes, database)
    watcher, source = await Watcher.connect(urls[1]), updates(Random(SEED))
    delays = []
    for seq, update in enumerate(islice(source, 20), 1):
        await asyncio.sleep(0.05 * (seq % 5))  # so that the polls are frequent at some saves and rare at others
        assert (await request(urls[0], "POST", SNAPSHOTS, update)).status == 201
        acknowledged_at = time.monotonic()
        await watcher.until(seq)
        delays.append(time.monotonic() - acknowledged_at)
    assert median(delays) < POLL_S_MAX, delays
    await watcher.close()
    check_seen(watcher, database)
    await stop_both(both)


async def test_a_watcher_that_connects_later_has_what_the_other_one_saved_before(
    processes: Processes, database: Database
) -> None:
    """A server without watchers looks at the feed once a second, but not when a watcher has come."""
    both, urls = await start_both(processes, database)
    first, second = islice(updates(Random(SEED)), 2)
    await asyncio.sleep(1)
    assert (await request(urls[0], "POST", SNAPSHOTS, first)).status == 201
    watcher = await Watcher.connect(urls[1])
    assert (await request(urls[0], "POST", SNAPSHOTS, second)).status == 201
    await watcher.until(2)
    await watcher.close()
    check_seen(watcher, database)
    await stop_both(both)


async def test_an_id_sent_to_both_at_once_is_stored_once_and_is_a_duplicate_for_one(
    processes: Processes, database: Database
) -> None:
    both, urls = await start_both(processes, database)
    clients = [await SocketClient.connect(url) for url in urls]
    some = list(islice(updates(Random(SEED)), 100))
    pairs = await asyncio.gather(
        *(asyncio.gather(*(client.call("balance:update", update) for client in clients)) for update in some)
    )
    for update, pair in zip(some, pairs, strict=True):
        answers = [answer for (answer,) in pair]
        assert [answer["id"] for answer in answers] == [update["id"]] * 2
        assert [answer["success"] for answer in answers] == [True] * 2
        assert sorted("duplicate" in answer for answer in answers) == [False, True]
    check_stored(database, some, {update["id"]: update for update in some})
    for client in clients:
        await client.close()
    await stop_both(both)


async def test_an_id_sent_to_both_at_once_with_different_amounts_is_a_conflict_for_one(
    processes: Processes, database: Database
) -> None:
    both, urls = await start_both(processes, database)
    some = list(islice(updates(Random(SEED)), 20))
    others = [{**update, "pid": (update["pid"] + 1) % 2**53} for update in some]
    pairs: list[tuple[Reply, Reply]] = await asyncio.gather(
        *(
            asyncio.gather(request(urls[0], "POST", SNAPSHOTS, one), request(urls[1], "POST", SNAPSHOTS, other))
            for one, other in zip(some, others, strict=True)
        )
    )
    sent = {}
    for one, other, (first, second) in zip(some, others, pairs, strict=True):
        assert sorted((first.status, second.status)) == [201, 409]
        assert {first.body.get("code"), second.body.get("code")} == {None, "conflict"}
        sent[one["id"]] = one if first.status == 201 else other
    check_stored(database, list(sent.values()), sent)
    await stop_both(both)


async def test_when_one_is_killed_under_load_the_other_goes_on(processes: Processes, database: Database) -> None:
    both, urls = await start_both(processes, database)
    watcher = await Watcher.connect(urls[1])
    kept, lost = SendLog(), SendLog()
    bots, doomed = bots_of(urls[1:], kept), bots_of(urls[:1], lost)
    try:
        await lost.more(50)
        await asyncio.to_thread(both[0].kill)
        await kept.more(50)
        for bot in bots:
            await bot.stop()
    finally:
        for bot in (*bots, *doomed):
            await bot.kill()
    assert not kept.refused
    check_stored(database, kept.acknowledged + lost.acknowledged, kept.sent | lost.sent)
    await watcher.until(database.count())
    await watcher.close()
    check_seen(watcher, database)
    await stop_both(both[1:])


async def test_one_that_is_frozen_in_the_middle_of_a_save_does_not_hold_up_the_other(
    processes: Processes, database: Database
) -> None:
    """A paused container, a laptop put to sleep: what it has begun ends without it, since it is one statement."""
    both, urls = await start_both(processes, database)
    one, other, third = islice(updates(Random(SEED)), 3)
    assert (await request(urls[0], "POST", SNAPSHOTS, third)).status == 201
    with psycopg.connect(database.url) as session:
        session.execute("SELECT last_seq FROM balance_feed FOR UPDATE")
        saving = asyncio.ensure_future(request(urls[0], "POST", SNAPSHOTS, one))
        await asyncio.to_thread(wait_for, database, "wait_event_type = 'Lock'")
        os.kill(both[0].pid, signal.SIGSTOP)
    try:
        assert (await request(urls[1], "POST", SNAPSHOTS, other)).status == 201
    finally:
        os.kill(both[0].pid, signal.SIGCONT)
    assert (await saving).status == 201
    check_stored(database, [one, other, third], {update["id"]: update for update in (one, other, third)})
    for process in both:
        assert await asyncio.to_thread(process.terminate) == 0
        assert not [line for line in process.stderr if "Traceback" in line], process.stderr


def wait_for(database: Database, condition: str) -> None:
    """Wait until a session of the service is in that state."""
    ours = "datname = current_database() AND application_name = 'balance'"
    query = f"SELECT FROM pg_stat_activity WHERE {ours} AND {condition}"
    with psycopg.connect(database.url, autocommit=True) as connection:
        for _ in range(5000):
            if connection.execute(query.encode()).rowcount:
                return
            connection.execute("SELECT pg_sleep(0.001)")
    raise AssertionError(f"no session became so: {condition}")
