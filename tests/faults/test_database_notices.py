"""What the log and the clients get when the database stops serving: one line at the start and one at the end.

Each fault is one that PostgreSQL itself reports while the service runs; the service is not restarted.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from balance.position import ClaimedPosition
from balance.snapshot import Snapshot
from balance.storage.feed_store import FeedStore
from balance.storage.migrate import migrate
from balance.storage.outage import CONNECTION, READ, SAVE, Outage
from balance.storage.pool import Pool
from balance.storage.store import Store
from tests.support.http_client import Reply, request
from tests.support.outages import NEW_EPOCH, OUTAGE, check_back
from tests.support.payloads import snapshot, updates
from tests.support.postgres import Postgres, execute
from tests.support.service import SNAPSHOTS, Database, MakeService, Processes, Service
from tests.support.waiting import until
from tests.support.workload import BOTS, SendLog

LOG = "balance.outage"
SEED = 7


@pytest.fixture
def database(private_postgres: Postgres) -> Iterator[Database]:
    """Make a migrated database on the private server."""
    name = f"noticed_{uuid.uuid4().hex}"
    execute(private_postgres.url, f"CREATE DATABASE {name} TEMPLATE template0")
    url = make_conninfo(private_postgres.url, dbname=name)
    migrate(url)
    yield Database(url)
    execute(private_postgres.url, f"DROP DATABASE {name} WITH (FORCE)")


def notices(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log lines of the service about its database; there must be no others."""
    lines = [record for record in caplog.records if record.name.startswith("balance") and record.levelno > logging.INFO]
    assert {record.name for record in lines} <= {LOG, "balance.epochs", "balance.feed"}, lines
    return [record.getMessage() for record in lines if record.name == LOG]


# Without requests


@pytest.mark.expects_log(*OUTAGE)
async def test_without_requests_a_stop_and_a_return_of_the_database_are_one_line_each(
    private_postgres: Postgres,
    database: Database,
    make_service: MakeService,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await make_service()
    await asyncio.to_thread(private_postgres.stop)
    await until(lambda: len(notices(caplog)) == 1)
    await asyncio.sleep(1.2)  # further checks, each of which could write another line
    await asyncio.to_thread(private_postgres.start)
    await until(lambda: len(notices(caplog)) == 2)
    gone, back = notices(caplog)
    assert gone.startswith("the database cannot be reached")
    assert "connection" in gone.partition("`unavailable`: ")[2]
    assert back.startswith("the database is available again, after ")


@pytest.mark.expects_log(*OUTAGE)
async def test_short_losses_of_the_database_are_logged_at_most_once_a_second(
    private_postgres: Postgres, database: Database, make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = await make_service()

    async def find_server() -> str:
        return service.url

    send_log = SendLog()
    bots = [kind(find_server, Random(SEED + n), send_log) for n, kind in enumerate(BOTS)]
    sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    name = database.rows("SELECT current_database() AS name")[0]["name"]
    began = asyncio.get_running_loop().time()
    with psycopg.connect(private_postgres.url, autocommit=True) as admin:
        for _ in range(15):
            await send_log.more(4)
            await asyncio.to_thread(admin.execute, sessions, (name,))
    for bot in bots:
        await bot.stop()
    assert len(notices(caplog)) <= asyncio.get_running_loop().time() - began + 1
    await until(lambda: "is available again" in notices(caplog)[-1])


@pytest.mark.expects_log(*OUTAGE, "started again")
@pytest.mark.parametrize("is_reported", [False, True])
def test_a_loss_that_no_supervisor_reports_is_logged_at_the_return(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_reported: bool
) -> None:
    monkeypatch.setattr("balance.storage.outage.LINE_S", 0.0)
    outage = Outage(report_s_max=60)
    outage.failed(CONNECTION, "a crash")
    assert notices(caplog) == []
    if is_reported:
        outage.report("started again")
    outage.worked(READ)
    outage.worked(SAVE)
    if is_reported:
        assert notices(caplog) == ["started again", "the database is available again, after 0.0 s"]
    else:
        assert notices(caplog) == ["the database is available again, after 0.0 s; its connections were lost: a crash"]


# Faults of the content of the database

REASON = 'could not extend file "base/16384/2619": No space left on device'
FAULT = """
CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file "base/16384/2619": No space left on device' USING ERRCODE = '{}'; END $$;
CREATE TRIGGER fault BEFORE INSERT ON balance_snapshot FOR EACH ROW EXECUTE FUNCTION fault();
"""
NO_FAULT = "DROP FUNCTION fault CASCADE"
FAULTS = {
    "the feed lost its row": ("TRUNCATE balance_feed", "balance_feed has lost its row", None),
    "both tables were truncated": ("TRUNCATE balance_feed, balance_snapshot", "balance_feed has lost its row", None),
    "a table is gone": (
        "ALTER TABLE balance_snapshot RENAME TO gone",
        'relation "balance_snapshot" does not exist',
        "ALTER TABLE gone RENAME TO balance_snapshot",
    ),
    "the counter is behind the table": (
        "UPDATE balance_feed SET last_seq = 0",
        "duplicate key value violates unique constraint",
        "UPDATE balance_feed SET last_seq = (SELECT max(seq) FROM balance_snapshot)",
    ),
    "a grant was taken": (
        "REVOKE INSERT ON balance_snapshot FROM {role}",
        "permission denied for table balance_snapshot",
        "GRANT INSERT ON balance_snapshot TO {role}",
    ),
    **{code: (FAULT.replace("{}", code), REASON, NO_FAULT) for code in ("53100", "53200", "40P01", "XX001", "P0001")},
}  # fmt: skip
NEW_FEED = "INSERT INTO balance_feed (epoch, last_seq) VALUES (gen_random_uuid(), 100)"


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """Make a role that may do all that the service does and is not a superuser."""
    name = f"bot_{uuid.uuid4().hex}"
    execute(database.url, f"CREATE ROLE {name} LOGIN", f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
    yield name
    execute(database.url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


async def save(service: Service, count: int) -> list[Reply]:
    return await asyncio.gather(*(service.post(one) for one in islice(updates(Random(count)), count)))


@pytest.mark.expects_log(*OUTAGE, *NEW_EPOCH)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_in_the_database_is_unavailable_and_logged_once(
    database: Database,
    role: str,
    make_service: MakeService,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setattr("balance.storage.outage.LINE_S", 0.0)
    service = await make_service(database_url=make_conninfo(database.url, user=role))
    assert {answer.status for answer in await save(service, 3)} == {201}
    harm, reason, cure = FAULTS[fault]
    execute(database.url, harm.replace("{role}", role))
    for count in (40, 41, 42):
        for answer in await save(service, count):
            assert (answer.status, answer.body["code"]) == (503, "unavailable")
            assert answer.body["error"] in ("the database cannot do this now", "the database cannot be reached")
    (gone,) = notices(caplog)
    assert reason in gone
    execute(database.url, NEW_FEED if cure is None else cure.replace("{role}", role))
    await check_back(service)
    await until(lambda: any("available again" in record.getMessage() for record in caplog.records))
    lines = [record.getMessage() for record in caplog.records if record.name == LOG]
    assert len(lines) == 2, lines
    await service.stop()


@pytest.mark.expects_log("POST /api/balance/snapshot")
async def test_rows_that_the_table_refuses_are_an_internal_error_and_delay_no_others(
    database: Database, make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = await make_service()
    execute(database.url, "ALTER TABLE balance_snapshot ADD CONSTRAINT no_seven CHECK (pid IS DISTINCT FROM 7)")
    good, bad = ({**update, "pid": pid} for pid, update in zip((8, 7), updates(Random(SEED)), strict=False))
    answers = await asyncio.gather(*(service.post(one) for one in (good, bad)))
    assert [answer.status for answer in answers] == [201, 500]
    assert answers[1].body == {
        "success": False,
        "error": "An unexpected error occurred in the server",
        "code": "internal_error",
    }
    assert not [record for record in caplog.records if record.name == LOG]


async def test_under_load_a_lasting_fault_is_two_lines_in_all(
    private_postgres: Postgres, database: Database, processes: Processes
) -> None:
    process = processes("--port=0", DATABASE_URL=database.url)
    url = await asyncio.to_thread(process.url)
    is_over, statuses = False, []

    async def send(seed: int) -> None:
        for update in updates(Random(seed)):
            if is_over:
                return
            statuses.append((await request(url, "POST", SNAPSHOTS, update)).status)

    senders = [asyncio.create_task(send(seed)) for seed in range(8)]
    await until(lambda: len(statuses) > 20)
    execute(database.url, "TRUNCATE balance_feed, balance_snapshot")
    await until(lambda: statuses.count(503) > 300)
    execute(database.url, NEW_FEED)
    await until(lambda: any("available again" in line for line in process.stderr))
    is_over = True
    await asyncio.gather(*senders)
    assert set(statuses) == {201, 503}
    assert await asyncio.to_thread(process.terminate) == 0
    lines = [line for line in process.stderr if LOG in line]
    others = [line for line in process.stderr if LOG not in line]
    assert len(lines) == 2, lines
    assert all("the feed goes on in epoch" in line for line in others), others
    assert len(others) <= 1


# The log of the database


def errors(private_postgres: Postgres) -> int:
    """Return how many errors are in the log of the server."""
    return (private_postgres.folder / "postgresql.log").read_text(errors="replace").count("ERROR:")


async def test_an_id_that_is_sent_again_causes_no_error_in_the_database(
    private_postgres: Postgres, database: Database, make_service: MakeService
) -> None:
    service, before = await make_service(), errors(private_postgres)
    one, other = islice(updates(Random(SEED)), 2)
    assert (await service.post(one)).status == 201
    conflict: dict[str, Any] = {**one, "pid": 1}
    several = [one] * 60 + [conflict] * 60 + [other] * 60
    answers = [*await asyncio.gather(*(service.post(update) for update in several))]
    answers += [await service.post(update) for update in (one, conflict, other)]
    assert sorted({answer.status for answer in answers}) == [200, 201, 409]
    assert [answer.status for answer in answers].count(201) == 1
    assert database.seqs() == [1, 2]
    assert errors(private_postgres) == before


def test_processes_that_save_the_same_ids_at_once_store_each_once_without_an_error(
    private_postgres: Postgres, database: Database
) -> None:
    before, random = errors(private_postgres), Random(SEED)
    shared = [[snapshot() for _ in range(random.randrange(1, 9))] for _ in range(60)]
    stores = [Store(Pool(database.url, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000)) for _ in range(3)]

    def work(store: Store) -> dict[int, str]:
        store.open()
        fresh = {}
        for batch in shared:
            mine: list[Snapshot] = [*batch, snapshot(), batch[0]] if random.random() < 0.5 else [*batch, snapshot()]
            appended = store.append(mine)
            assert [one.snapshot.id for one in appended.saved] == [one.id for one in mine]
            fresh.update({one.snapshot.seq: one.snapshot.id for one in appended.saved if not one.duplicate})
        store.close()
        return fresh

    with ThreadPoolExecutor(len(stores)) as threads:
        outcomes = list(threads.map(work, stores))
    rows = {row["seq"]: str(row["id"]) for row in database.rows()}
    assert sorted(rows) == list(range(1, len(rows) + 1))
    assert len(set(rows.values())) == len(rows) == 3 * len(shared) + sum(map(len, shared))
    assert sum(map(len, outcomes)) == len(rows), "two processes have stored the same id"
    assert {seq: id_ for fresh in outcomes for seq, id_ in fresh.items()} == rows
    assert database.rows("SELECT last_seq FROM balance_feed") == [{"last_seq": len(rows)}]
    assert errors(private_postgres) == before


def test_a_save_finds_its_ids_by_the_index_also_if_the_table_was_empty(database: Database) -> None:
    """A plan that was made for an empty table is kept while the table grows."""
    tables = "FROM pg_stat_user_tables WHERE relname IN ('balance_snapshot', 'balance_feed')"
    before = database.rows(f"SELECT relname, seq_scan {tables} ORDER BY relname")
    store = Store(Pool(database.url, pool_max=2, pool_wait_ms_max=1000, statement_ms_max=5000))
    store.open()
    for _ in range(10):  # psycopg prepares it from the sixth on
        store.append([snapshot() for _ in range(3)])
    store.find(snapshot().id)
    store.page(limit=2)
    feed = FeedStore(store._pool)
    feed.head()
    feed.page(0, 5)
    feed.look_up(ClaimedPosition(None, 0))
    feed.latest(5)
    store.close()
    deadline = time.monotonic() + 10
    while database.rows(f"SELECT sum(idx_scan)::int AS n {tables}")[0]["n"] < 30:  # a session is counted at its end
        assert time.monotonic() < deadline
    assert database.rows(f"SELECT relname, seq_scan {tables} ORDER BY relname") == before
