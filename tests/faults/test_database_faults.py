"""A failure of the database is answered with `unavailable` or `busy` in bounded time, and loses nothing acknowledged.

Whatever happens to PostgreSQL: every sender is answered in bounded time (REST 503 with Retry-After, on the socket
`balance:error` with retryAfter), `ping` is answered meanwhile, the service saves again by itself within one second
after the database is back, nothing acknowledged is lost, and watchers receive every committed snapshot in `seq` order
without gap or duplicate, also one whose sender received `unavailable`.

Each fault is tested twice: with bots that keep sending through it (`ride`), and by `check_rejected`, which looks at the
rejection itself. The tests have a PostgreSQL of their own, since they stop, freeze and restart it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo
from tornado.httpclient import HTTPClientError

from balance.storage import pool as pool_module
from balance.storage.database_session import DatabaseSession
from balance.storage.migrate import migrate
from balance.storage.pool import Pool
from tests.support.database_link import Link
from tests.support.outages import BACK_S_MAX, NEW_EPOCH, OUTAGE, check_back
from tests.support.payloads import updates
from tests.support.postgres import (
    LOCK_FEED,
    LOCK_TABLES,
    SESSIONS,
    Postgres,
    execute,
    is_waited_for,
    locked,
    part_of_url,
)
from tests.support.raw_clients import PollingClient, SocketClient
from tests.support.service import SNAPSHOTS, Database, MakeService, Service
from tests.support.waiting import until
from tests.support.workload import BOTS, Bot, SendLog, Watcher, check_seen, check_stored

SEED = 7
QUICK = {
    "save_ms_max": 400, "read_ms_max": 400, "pool_wait_ms_max": 200, "statement_ms_max": 300, "shutdown_ms_max": 2000,
}  # fmt: skip
REJECTED_S_MAX = 2.0  # with the settings above, on a machine that does other things too
PONG_S_MAX = 1.0


@pytest.fixture
def database(private_postgres: Postgres) -> Iterator[Database]:
    """A migrated database on a server of our own, of a role that is not a superuser."""
    name, role = (f"{kind}_{uuid.uuid4().hex}" for kind in ("faults", "bot"))
    execute(
        private_postgres.url, f"CREATE ROLE {role} LOGIN", f"CREATE DATABASE {name} OWNER {role} TEMPLATE template0"
    )
    url = make_conninfo(private_postgres.url, dbname=name, user=role)
    migrate(url)
    yield Database(url)
    execute(private_postgres.url, f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {role}")


# The assertions ---------------------------------------------------------------------------------------------


async def check_rejected(
    service: Service, client: SocketClient, codes: tuple[str, ...] = ("unavailable",), seconds: float = REJECTED_S_MAX
) -> None:
    """Check that a save is rejected on both transports, while `ping` is answered."""
    clock = asyncio.get_running_loop().time
    began = clock()
    by_post, by_event = next(updates(Random(began))), next(updates(Random(began + 1)))
    answering = asyncio.gather(service.post(by_post), client.call("balance:update", by_event, timeout=10))
    while not answering.done():
        asked = clock()
        assert (await client.call("ping"))[0].keys() == {"timestamp"}
        assert clock() - asked < PONG_S_MAX, "the event loop was blocked"
        await asyncio.wait([answering], timeout=0.02)
    answer, (rejection,) = await answering
    assert clock() - began < seconds
    assert answer.status == 503
    assert answer.body["code"] in codes
    assert answer.headers["Retry-After"] == "1"
    assert rejection["code"] in codes
    assert (rejection["success"], rejection["id"], rejection["retryAfter"]) == (False, by_event["id"], 1)


async def check_reads_rejected(service: Service, codes: tuple[str, ...] = ("unavailable",)) -> None:
    """Check that list and get are rejected in bounded time."""
    began = asyncio.get_running_loop().time()
    for answer in await asyncio.gather(service.get(), service.request("GET", f"{SNAPSHOTS}/{uuid.UUID(int=1)}")):
        assert (answer.status, answer.headers.get("Retry-After")) == (503, "1"), answer
        assert answer.body["code"] in codes
    assert asyncio.get_running_loop().time() - began < REJECTED_S_MAX


@dataclass
class Ride:
    """What bots sent and how fast pings were answered while a fault happened."""

    send_log: SendLog
    slowest_pong_s: float = 0.0


Fault = Callable[[SendLog], Awaitable[None]]


async def ride(service: Service, database: Database, fault: Fault, answer_s_max: float = REJECTED_S_MAX) -> Ride:
    """Keep bots sending while `fault` happens, and check all that the module promises.

    `fault` returns at the moment at which the database is back.
    """
    ridden, clock = Ride(SendLog()), asyncio.get_running_loop().time
    send_log = ridden.send_log
    watchers = [await Watcher.connect(service.url, kind) for kind in (SocketClient, SocketClient, PollingClient)]

    async def find_server() -> str:
        return service.url

    async def beat(client: SocketClient) -> None:
        while True:
            asked = clock()
            await client.call("ping", timeout=10)
            ridden.slowest_pong_s = max(ridden.slowest_pong_s, clock() - asked)
            await asyncio.sleep(0.01)

    pinger = await SocketClient.connect(service.url)
    beating = asyncio.create_task(beat(pinger))
    bots: list[Bot] = [kind(find_server, Random(SEED + n), send_log) for n, kind in enumerate(BOTS)]
    try:
        await send_log.more(20)
        await fault(send_log)
        await send_log.more(1, BACK_S_MAX)
        await send_log.more(30)
        for bot in bots:
            await bot.stop()
        assert not beating.done(), beating
    finally:
        beating.cancel()
        for bot in bots:
            await bot.kill()
        await pinger.close()
    assert send_log.slowest_s < answer_s_max
    assert ridden.slowest_pong_s < PONG_S_MAX
    assert len(send_log.acknowledged) == len(send_log.sent)
    check_stored(database, send_log.acknowledged, send_log.sent)
    last = len(send_log.sent)
    for watcher in watchers:
        await watcher.until(last)
        await watcher.close()
        check_seen(watcher, database)
    return ridden


# Backends terminated ---------------------------------------------------------------------------------------


@pytest.mark.expects_log(*OUTAGE)  # a poll of the feed may be in flight, or connect again
async def test_a_backend_terminated_between_saves_costs_no_rejection(
    private_postgres: Postgres, database: Database, make_service: MakeService
) -> None:
    service = await make_service()
    source = updates(Random(SEED))
    for _ in range(5):
        assert (await service.post(next(source))).status == 201
        assert (await service.get()).status == 200
        assert await asyncio.to_thread(private_postgres.terminate_sessions, database) >= 1
    assert (await service.get()).status == 200
    assert database.count() == 5


@pytest.mark.expects_log(*OUTAGE)
@pytest.mark.parametrize("settings", [QUICK, {}], ids=["quick", "defaults"])
async def test_backends_terminated_during_saves_cost_nothing_acknowledged(
    private_postgres: Postgres, database: Database, make_service: MakeService, settings: dict[str, Any]
) -> None:
    async def fault(send_log: SendLog) -> None:
        for _ in range(5):
            await send_log.more(8)
            await asyncio.to_thread(private_postgres.terminate_sessions, database)

    await ride(await make_service(**settings), database, fault)


@pytest.mark.expects_log(*OUTAGE)
async def test_a_save_whose_backend_is_terminated_in_its_statement_can_be_sent_again(
    private_postgres: Postgres, database: Database, make_service: MakeService
) -> None:
    service = await make_service()
    update = next(updates(Random(SEED)))
    with locked(database, LOCK_FEED) as session:
        saving = asyncio.ensure_future(service.post(update))
        await until(lambda: is_waited_for(database))
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        answer = await saving
        assert (answer.status, answer.body["code"]) == (503, "unavailable")
    assert (await service.post(update)).status == 201
    assert database.seqs() == [1]


# The server restarted, crashed, hung -----------------------------------------------------------------------


@pytest.mark.expects_log(*OUTAGE)
async def test_a_restart_of_the_database_is_survived(
    private_postgres: Postgres, database: Database, make_service: MakeService
) -> None:
    async def fault(send_log: SendLog) -> None:
        await asyncio.to_thread(private_postgres.restart)

    await ride(await make_service(**QUICK), database, fault)


@pytest.mark.expects_log(*OUTAGE)
async def test_a_crash_of_the_database_is_survived(
    private_postgres: Postgres, database: Database, make_service: MakeService
) -> None:
    async def fault(send_log: SendLog) -> None:
        await asyncio.to_thread(private_postgres.crash)

    await ride(await make_service(**QUICK), database, fault)


@pytest.mark.expects_log(*OUTAGE)
async def test_while_the_database_is_down_all_is_rejected_and_then_saved_again(
    private_postgres: Postgres, database: Database, make_service: MakeService
) -> None:
    service = await make_service(**QUICK)
    client = await SocketClient.connect(service.url)
    async with private_postgres.stopped():
        for _ in range(3):  # the first meets a connection that has just died, the others none
            await check_rejected(service, client)
            await check_reads_rejected(service)
        watcher = await Watcher.connect(service.url)  # the feed is known, so a watcher may come
    await check_back(service)
    await watcher.until(1)
    check_seen(watcher, database)
    await watcher.close()
    await client.close()


@pytest.mark.expects_log(*OUTAGE, *NEW_EPOCH)
async def test_a_hung_database_blocks_no_client_and_is_used_again_when_it_goes_on(
    private_postgres: Postgres, database: Database, make_service: MakeService
) -> None:
    service = await make_service(**QUICK)
    client = await SocketClient.connect(service.url)
    with private_postgres.frozen():
        for _ in range(2):
            await check_rejected(service, client)
            await check_reads_rejected(service)
    await check_back(service)
    await client.close()
    await service.stop()  # it would begin a new epoch for the counter that goes back

    async def fault(send_log: SendLog) -> None:
        with private_postgres.frozen():
            await send_log.until(lambda send_log: len(send_log.refused) >= 2 * len(BOTS))

    execute(database.url, "TRUNCATE balance_snapshot", "UPDATE balance_feed SET last_seq = 0")
    await ride(await make_service(**QUICK), database, fault)


@pytest.mark.expects_log(*OUTAGE)
async def test_with_the_defaults_a_hung_database_is_answered_within_six_seconds(
    private_postgres: Postgres, database: Database, make_service: MakeService
) -> None:
    service = await make_service()
    client = await SocketClient.connect(service.url)
    with private_postgres.frozen():
        await check_rejected(service, client, seconds=6)
    await check_back(service)
    await client.close()


# Locks and exhaustion --------------------------------------------------------------------------------------


@pytest.mark.expects_log(*OUTAGE, *NEW_EPOCH)
async def test_a_feed_that_another_session_locks_is_unavailable_until_it_is_released(
    database: Database, make_service: MakeService
) -> None:
    service = await make_service(**QUICK)
    client = await SocketClient.connect(service.url)
    with locked(database, LOCK_FEED):
        await check_rejected(service, client)
        assert (await service.get()).status == 200, "who only reads need not wait for it"
    await check_back(service)
    await client.close()
    await service.stop()  # it would begin a new epoch for the counter that goes back

    async def fault(send_log: SendLog) -> None:
        for _ in range(3):
            with locked(database, LOCK_FEED):
                before = len(send_log.refused)
                await send_log.until(lambda send_log, wanted=before + 6: len(send_log.refused) >= wanted)  # one per bot
            await send_log.more(5)

    execute(database.url, "TRUNCATE balance_snapshot", "UPDATE balance_feed SET last_seq = 0")
    await ride(await make_service(**QUICK), database, fault)


@pytest.mark.expects_log(*OUTAGE)
async def test_when_every_connection_is_blocked_saves_and_reads_are_rejected_in_time(
    database: Database, make_service: MakeService
) -> None:
    service = await make_service(**QUICK, pool_max=7)
    client = await SocketClient.connect(service.url)
    with locked(database, LOCK_TABLES):
        stuck = asyncio.gather(*(service.get() for _ in range(10)))
        await check_rejected(service, client)
        assert {answer.status for answer in await stuck} == {503}
        await check_reads_rejected(service)
    await check_back(service)
    await client.close()


@pytest.mark.expects_log(*OUTAGE)
async def test_a_machine_without_descriptors_costs_the_service_no_connection(
    private_postgres: Postgres, database: Database, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, source = await make_service(**QUICK, pool_max=6), updates(Random(SEED + 3))

    def dup(descriptor: int) -> int:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    with monkeypatch.context() as without:
        without.setattr(os, "dup", dup)
        private_postgres.terminate_sessions(database)  # so that new connections are needed
        for _ in range(3):
            answer = await service.post(next(source))
            assert (answer.status, answer.body["code"]) == (503, "unavailable")
    for _ in range(3):
        assert (await service.post(next(source))).status == 201
    assert database.count() == 3


async def test_over_the_limits_of_pending_saves_and_reads_there_is_busy_at_once(
    database: Database, make_service: MakeService
) -> None:
    service = await make_service(saves_pending_max=4, reads_in_flight_max=6)  # one address: 3
    client = await SocketClient.connect(service.url)
    source = updates(Random(SEED))
    with locked(database, LOCK_TABLES):
        waiting = [asyncio.ensure_future(service.post(next(source))) for _ in range(4)]
        reading = [asyncio.ensure_future(service.get()) for _ in range(3)]
        await until(lambda: is_waited_for(database))
        await until(lambda: service.app.service.read_limiter._in_use.total() == 3)
        await until(lambda: len(service.app.writer._pending) == 4)
        await check_rejected(service, client, ("busy",), seconds=0.5)
        await check_reads_rejected(service, ("busy",))
    assert {answer.status for answer in await asyncio.gather(*waiting)} == {201}
    assert {answer.status for answer in await asyncio.gather(*reading)} == {200}
    await client.close()


@pytest.mark.expects_log(*OUTAGE)
async def test_too_many_connections_are_temporary(
    private_postgres: Postgres, database: Database, make_service: MakeService
) -> None:
    service = await make_service(**QUICK)
    client = await SocketClient.connect(service.url)
    role = part_of_url(database, "user")
    execute(private_postgres.url, f"ALTER ROLE {role} CONNECTION LIMIT 0")
    private_postgres.terminate_sessions(database)
    await check_rejected(service, client)
    await check_reads_rejected(service)
    execute(private_postgres.url, f"ALTER ROLE {role} CONNECTION LIMIT -1")
    await check_back(service)
    await client.close()


@pytest.mark.expects_log(*OUTAGE)
async def test_a_database_that_became_read_only_is_unavailable_and_gets_new_connections(
    private_postgres: Postgres, database: Database, make_service: MakeService
) -> None:
    service = await make_service(**QUICK)
    client = await SocketClient.connect(service.url)
    sessions = {row["pid"] for row in database.rows(SESSIONS)}
    execute(
        database.url,
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'cannot execute INSERT in a read-only transaction' USING ERRCODE = '25006'; END $$
        """,
        "CREATE TRIGGER refuse BEFORE INSERT ON balance_snapshot EXECUTE FUNCTION refuse()",
    )
    for _ in range(3):
        await check_rejected(service, client)
    assert (await service.get()).status == 200
    assert not sessions & {row["pid"] for row in database.rows(SESSIONS)}
    execute(database.url, "DROP FUNCTION refuse CASCADE")
    await check_back(service)
    await client.close()


# At the start ----------------------------------------------------------------------------------------------


@pytest.mark.expects_log(*OUTAGE)
async def test_a_database_that_is_down_at_the_start_is_awaited_while_all_are_answered(
    private_postgres: Postgres, database: Database, make_service: MakeService
) -> None:
    async with private_postgres.stopped():
        service = await make_service(**QUICK)
        answer = await service.post(next(updates(Random(SEED))))
        assert (answer.status, answer.body["code"], answer.headers["Retry-After"]) == (503, "unavailable", "1")
        await check_reads_rejected(service)
        for transport in (SocketClient, PollingClient):
            with pytest.raises(HTTPClientError) as refused:
                await transport.connect(service.url)
            assert refused.value.code == 503
            assert refused.value.response is not None
            assert refused.value.response.headers["Retry-After"] == "1"
    await check_back(service)
    client = await SocketClient.connect(service.url)
    await client.close()


@pytest.mark.expects_log(*OUTAGE)
async def test_a_service_can_be_stopped_while_it_waits_for_its_database(
    private_postgres: Postgres, database: Database, make_service: MakeService
) -> None:
    async with private_postgres.stopped():
        service = await make_service(**QUICK)
        async with asyncio.timeout(1):
            await service.stop()


@pytest.mark.expects_log(*OUTAGE)
async def test_a_role_over_its_connection_limit_at_the_start_is_awaited(
    private_postgres: Postgres, database: Database, make_service: MakeService
) -> None:
    role = part_of_url(database, "user")
    execute(private_postgres.url, f"ALTER ROLE {role} CONNECTION LIMIT 0")
    service = await make_service(**QUICK)
    assert (await service.get()).status == 503
    execute(private_postgres.url, f"ALTER ROLE {role} CONNECTION LIMIT -1")
    await check_back(service)


@pytest.mark.expects_log(*OUTAGE)
async def test_a_database_that_hangs_during_the_checks_of_the_start_blocks_no_request(
    private_postgres: Postgres, database: Database, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "OPEN_S_MAX", 0.2)
    link = Link(database)

    def go_silent(*arguments: Any) -> None:
        link.go_silent()
        check_session(*arguments)

    check_session = pool_module.check_session
    monkeypatch.setattr(pool_module, "check_session", go_silent)
    async with link as url:
        async with asyncio.timeout(10):
            service = await make_service(**QUICK, database_url=url)
        answer = await service.post(next(updates(Random(SEED))))
        assert (answer.status, answer.body["code"]) == (503, "unavailable")
        monkeypatch.setattr(pool_module, "check_session", check_session)
        await check_back(service)
        await service.stop()


# A commit whose answer is lost -----------------------------------------------------------------------------


@pytest.mark.expects_log(*OUTAGE)
async def test_a_snapshot_committed_without_an_answer_reaches_every_watcher(
    database: Database, make_service: MakeService
) -> None:
    link, source = Link(database), updates(Random(SEED))
    async with link as url:
        service = await make_service(**QUICK, database_url=url)
        watchers = [await Watcher.connect(service.url, kind) for kind in (SocketClient, PollingClient)]
        assert (await service.post(next(source))).status == 201
        for seq in (2, 4):
            link.swallows_next_answer_to_save = True
            unknown = next(source)
            answer = await service.post(unknown)
            assert (answer.status, answer.body["code"]) == (503, "unavailable")
            (row,) = database.rows("SELECT id FROM balance_snapshot WHERE seq = %s", seq)
            assert str(row["id"]) == unknown["id"]
            if seq == 2:
                assert (await service.post(next(source))).status == 201  # another save fills the gap
            again = await service.post(unknown)
            assert (again.status, again.body["duplicate"]) == (200, True)  # and so does the resend itself
        for watcher in watchers:
            await watcher.until(4)
            await watcher.close()
            check_seen(watcher, database)
        await service.stop()


@pytest.mark.expects_log(*OUTAGE)
async def test_a_snapshot_committed_long_after_its_rejection_reaches_every_watcher(
    database: Database, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = updates(Random(SEED + 2))
    service = await make_service(**QUICK)
    watcher = await Watcher.connect(service.url, SocketClient)
    assert (await service.post(next(source))).status == 201
    sessions = [row["pid"] for row in database.rows(SESSIONS)]
    for pid in sessions:
        os.kill(pid, signal.SIGSTOP)
    try:
        answer = await service.post(next(source))
        assert (answer.status, answer.body["code"]) == (503, "unavailable")
    finally:
        for pid in sessions:
            os.kill(pid, signal.SIGCONT)
    await watcher.until(2)
    await watcher.close()
    check_seen(watcher, database)


@pytest.mark.expects_log(*OUTAGE)
async def test_a_connection_that_went_silent_is_replaced(database: Database, make_service: MakeService) -> None:
    """A firewall forgot the connection: what is sent on it is never answered, while a new one would work."""
    link = Link(database)
    async with link as url:
        service = await make_service(**QUICK, database_url=url)
        client = await SocketClient.connect(service.url)
        assert (await service.post(next(updates(Random(SEED + 1))))).status == 201
        link.go_silent()
        async with asyncio.timeout(REJECTED_S_MAX):
            # A poll of the tail may have found another connection silent before, so that the save has a new one.
            assert (await service.post(next(updates(Random(SEED + 2))))).status in (503, 201)
        await check_back(service)
        await client.close()
        await service.stop()


async def test_a_dead_connection_among_silent_ones_delays_no_read(database: Database) -> None:
    """A load balancer that fails over resets some connections, and forgets the others."""
    link = Link(database)
    async with link as url:
        pool = Pool(url, pool_max=3, pool_wait_ms_max=1000, statement_ms_max=300)
        await asyncio.to_thread(pool.open)

        def check_out_all() -> list[DatabaseSession]:
            with pool.connection() as first, pool.connection() as second, pool.connection() as third:
                return [first, second, third]

        idle = await asyncio.to_thread(check_out_all)
        link.go_silent()
        idle[-1].abort()  # the one that was given back first, which is the next one

        def read() -> Any:
            with pool.connection() as session:
                return session.execute("SELECT 1").fetchone()

        reading = asyncio.create_task(asyncio.to_thread(read))
        finished, _ = await asyncio.wait([reading], timeout=REJECTED_S_MAX)
        for session in idle:
            session.abort()
        assert await reading == (1,)
        assert finished
        await asyncio.to_thread(pool.close)
        await until(lambda: not link._carrying)
        await asyncio.sleep(0)  # the last sockets are closed in a turn of their own
