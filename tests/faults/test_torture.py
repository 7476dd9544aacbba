"""Every watcher gets every snapshot exactly once and in order, whatever fails, and nothing acknowledged is lost.

Bots save over REST, WebSocket and polling. Watchers follow the feed over WebSocket, polling, native recovery,
server-sent events and long polls. All reach two server processes on one database by TCP proxies that close connections
at random. Meanwhile servers are killed and started again, and the database is restarted and crashes. Random values are
seeded.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import chain
from random import Random

import pytest
from psycopg.conninfo import make_conninfo

from balance.storage.migrate import migrate
from tests.support.cutting_proxy import CuttingProxy
from tests.support.native_recovery import native_recovery
from tests.support.postgres import Postgres, execute
from tests.support.restarted_server import Server
from tests.support.resuming_clients import check_holds_all, watching
from tests.support.service import Database, Processes
from tests.support.workload import Bot, FindServer, PollingBot, RestBot, SendLog, SocketBot, check_stored, sending

SEED = 20251107
BOTS = (RestBot, SocketBot, PollingBot)
CUT_BYTES_MEAN = 30_000  # of one direction of a connection
PROGRESS_S_MAX = 60.0  # until a fault is over and saves are acknowledged again
CATCH_UP_S_MAX = 60.0


class Node:
    """A server behind its proxy, which keeps its address."""

    def __init__(self, processes: Processes, database: Database, proxy: CuttingProxy) -> None:
        self.proxy = proxy
        self.stderr: list[str] = []
        self._server = Server(lambda: processes("--port=0", DATABASE_URL=database.url))

    async def start(self) -> None:
        self.proxy.connect_to(await self._server.start())

    async def kill_and_start(self) -> None:
        await self._server.kill()
        self.stderr += self._server.process.stderr
        await self.start()

    async def stop(self) -> None:
        assert await asyncio.to_thread(self._server.process.terminate) == 0
        self.stderr += self._server.process.stderr


async def torture(processes: Processes, postgres: Postgres, database: Database, rounds: int) -> None:
    """Let each kind of fault happen once a round, in another order each time; check the promises of the module."""
    random, send_log = Random(SEED), SendLog()
    async with AsyncExitStack() as stack:
        nodes = [
            Node(processes, database, await stack.enter_async_context(CuttingProxy(random, CUT_BYTES_MEAN)))
            for _ in range(2)
        ]
        await asyncio.gather(*(node.start() for node in nodes))

        async def find_server() -> str:
            return random.choice(nodes).proxy.url

        native = await stack.enter_async_context(native_recovery(nodes[0].proxy.url))
        watchers = await stack.enter_async_context(watching(find_server))
        faults = (
            *(node.kill_and_start for node in nodes),
            partial(kill_and_start_all, nodes),
            partial(asyncio.to_thread, postgres.restart),
            partial(asyncio.to_thread, postgres.crash),
        )
        bots = bots_of(find_server, random, send_log)
        async with sending(bots):
            for fault in chain.from_iterable(random.sample(faults, len(faults)) for _ in range(rounds)):
                await send_log.more(random.randrange(30, 150), PROGRESS_S_MAX)
                await fault()
            await send_log.more(100, PROGRESS_S_MAX)
            for node in nodes:
                assert node.proxy.cuts
                node.proxy.stop_cutting()
        last = database.count()
        for watcher in (*watchers, native):
            await watcher.until(last, CATCH_UP_S_MAX)
        for watcher in watchers:
            check_holds_all(watcher, database)
            assert watcher.resets == []
            assert watcher.recovered > 1, type(watcher).__name__
        native.check_holds_all(database)
        assert all(recovered for recovered, _ in native.connections[1:]), native.connections
        for node in nodes:
            await node.stop()
            assert not [line for line in node.stderr if "Traceback" in line], node.stderr
    check_stored(database, send_log.acknowledged, send_log.sent)
    assert len(send_log.acknowledged) == len(send_log.sent), "each was resent until it was acknowledged"


@pytest.fixture
def database(private_postgres: Postgres) -> Database:
    """Make a migrated database on a server that the tests may restart."""
    name = f"torture_{uuid.uuid4().hex}"
    execute(private_postgres.url, f"CREATE DATABASE {name} TEMPLATE template0")
    one = Database(make_conninfo(private_postgres.url, dbname=name))
    migrate(one.url)
    return one


@pytest.mark.gen_test(timeout=240)
async def test_every_watcher_has_everything_once_whatever_fails(
    processes: Processes, private_postgres: Postgres, database: Database
) -> None:
    await torture(processes, private_postgres, database, 3)


@pytest.mark.slow
@pytest.mark.gen_test(timeout=3600)
async def test_every_watcher_has_everything_once_after_half_an_hour_of_faults(
    processes: Processes, private_postgres: Postgres, database: Database
) -> None:
    await torture(processes, private_postgres, database, 220)


def bots_of(find_server: FindServer, random: Random, send_log: SendLog) -> list[Bot]:
    return [kind(find_server, Random(random.random()), send_log) for kind in BOTS]


async def kill_and_start_all(nodes: Sequence[Node]) -> None:
    """Kill all servers at once, and start them again."""
    await asyncio.gather(*(node.kill_and_start() for node in nodes))
