"""A server that is killed loses no acknowledged update.

The server is killed (SIGKILL) again and again while bots send over REST, WebSocket and polling, each resending
under the same id until it is acknowledged. After each restart and at the end, every acknowledged snapshot is stored
with exactly the values sent, `seq` is 1 … n without a gap, and each id is stored once although it was sent again.

The embedded PostgreSQL survives the kill, and the next start uses it; if it is killed too, it recovers everything.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from balance.storage.embedded import EmbeddedPostgres
from tests.support.embedded import is_running, postmaster
from tests.support.restarted_server import Server
from tests.support.service import Database, Processes
from tests.support.workload import (
    Bot,
    PollingBot,
    RestBot,
    SendLog,
    SocketBot,
    Watcher,
    check_seen,
    check_stored,
    sending,
)

SEED = 20251107
BOTS = (RestBot, RestBot, RestBot, SocketBot, SocketBot, SocketBot, SocketBot, PollingBot)


async def kill_again_and_again(
    server: Server, random: Random, rounds: int, after_kill: Callable[[int], None]
) -> SendLog:
    """Kill the server under load this number of times, at random moments; return what the bots did meanwhile.

    `after_kill(round)` is called while no server runs.
    """
    send_log = SendLog()
    await server.start()
    bots: list[Bot] = [kind(server.find_server, Random(random.random()), send_log) for kind in BOTS]
    async with sending(bots):
        for number in range(rounds):
            await send_log.more(random.randrange(20, 100))
            await asyncio.sleep(random.random() / 50)  # at any point of a commit, not always right after an answer
            await server.kill()
            assert server.process.complaints == []
            await asyncio.to_thread(after_kill, number)
            await server.start()
        await send_log.more(50)
    return send_log


async def check_kills(processes: Processes, database: Database, rounds: int) -> None:
    """Run that many rounds and check what is stored after each."""
    server = Server(lambda: processes("--port=0", DATABASE_URL=database.url))

    def check(_round: int) -> None:
        seqs = database.seqs()
        assert seqs == list(range(1, len(seqs) + 1))

    send_log = await kill_again_and_again(server, Random(SEED), rounds, check)
    assert send_log.resent, "the server was not under load when it was killed"
    check_stored(database, send_log.acknowledged, send_log.sent)
    assert len(send_log.acknowledged) == len(send_log.sent), "each was resent until it was acknowledged"
    url = await server.find_server()
    watcher = await Watcher.connect(url)
    last = SendLog()
    bot = SocketBot(server.find_server, Random(SEED + 1), last)
    await last.more(1)
    await bot.stop()
    await watcher.until(watcher.began + len(last.acknowledged))
    check_seen(watcher, database)
    await watcher.close()
    assert await asyncio.to_thread(server.process.terminate) == 0


async def test_each_acknowledged_update_is_stored_once_after_repeated_kills(
    processes: Processes, database: Database
) -> None:
    await check_kills(processes, database, rounds=3)


@pytest.mark.slow
@pytest.mark.gen_test(timeout=600)
async def test_thirty_kills(processes: Processes, database: Database) -> None:
    await check_kills(processes, database, rounds=30)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """Return a data directory; its PostgreSQL is stopped at the end, also after kills."""
    yield tmp_path / "data"
    EmbeddedPostgres.start(tmp_path / "data").stop()


async def test_the_embedded_database_survives_a_kill_of_the_server_and_its_own(
    processes: Processes, data: Path
) -> None:
    seen: list[int] = []

    def look(number: int) -> None:
        assert is_running(data)
        seen.append(postmaster(data))
        if number == 1:
            os.kill(seen[-1], signal.SIGKILL)

    server = Server(lambda: processes("--port=0", f"--data-dir={data}"))
    send_log = await kill_again_and_again(server, Random(SEED), 2, look)
    assert seen[0] == seen[1] != postmaster(data), "still running after the first kill, recovered after the second"
    with EmbeddedPostgres.start(data) as postgres:
        check_stored(Database(postgres.url), send_log.acknowledged, send_log.sent)
        assert await asyncio.to_thread(server.process.terminate) == 0
    assert not is_running(data)
