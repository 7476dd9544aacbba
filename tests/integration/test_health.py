"""/livez, /readyz, /healthz, /version and /: what a supervisor, a balancer and a person get in each state."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

import balance
import protocol
from balance import health
from balance.storage.migrate import migrate
from protocol.operations import DOCS, HEALTHZ, LIVEZ, READYZ, VERSION_PATH
from tests.support.http_client import Connection, Reply
from tests.support.outages import OUTAGE
from tests.support.payloads import UPDATE
from tests.support.postgres import LOCK_FEED, Postgres, locked
from tests.support.replication import Cluster
from tests.support.service import SNAPSHOTS, Database, MakeService, Processes, Service

UNUSED_URL = "postgresql://postgres@127.0.0.1:1/nothing"


async def reasons(service: Service, path: str = READYZ) -> dict[str, str]:
    """Return the reason of each check that failed; check the form of the answer."""
    reply = await service.request("GET", path)
    if reply.status == 200:
        assert reply.body["success"]
        return {}
    assert (reply.status, reply.body["code"], reply.headers["Retry-After"]) == (503, "unavailable", "1")
    assert reply.body["error"] == "; ".join(one["reason"] for one in reply.body["reasons"])
    return {one["check"]: one["reason"] for one in reply.body["reasons"]}


async def until_ready(service: Service, *checks: str, seconds: float = 15) -> dict[str, str]:
    """Wait until exactly these checks fail, and return their reasons."""
    async with asyncio.timeout(seconds):
        while (found := await reasons(service)).keys() != set(checks):
            await asyncio.sleep(0.02)
    return found


async def test_a_service_that_works_is_live_and_ready(service: Service) -> None:
    for path, status in ((LIVEZ, "live"), (READYZ, "ready"), (HEALTHZ, "ready")):
        reply = await service.request("GET", path)
        assert (reply.status, reply.body) == (200, {"success": True, "data": {"status": status}})
        assert reply.headers["Cache-Control"] == "no-store"
        head = await service.request("HEAD", path)
        assert (head.status, head.raw) == (200, b"")


async def test_the_version_is_that_of_the_service_and_of_the_contract(service: Service) -> None:
    reply = await service.request("GET", VERSION_PATH)
    assert reply.body == {"success": True, "data": {"version": balance.__version__, "contract": "v1"}}


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "text/html;q=0"])
async def test_the_root_leads_a_program_to_the_documentation(service: Service, accept: str | None) -> None:
    reply = await service.request("GET", "/", **({} if accept is None else {"Accept": accept}))
    assert (reply.status, reply.headers["Location"], reply.headers["Vary"]) == (302, DOCS, "Accept, Origin")
    for address in (address for name, address in reply.body["data"].items() if name != "version"):
        assert (await service.request("GET", address)).status == 200, address


@pytest.mark.expects_log(*OUTAGE)
async def test_before_the_database_is_there_it_is_live_and_not_ready(make_service: MakeService) -> None:
    service = await make_service(database_url=UNUSED_URL)
    assert await reasons(service) == {"database": "the database is not there yet", "migrations": "not checked yet"}
    assert await reasons(service, LIVEZ) == {}


@pytest.mark.expects_log(*OUTAGE)
async def test_it_is_not_ready_while_the_database_is_away_or_hangs(
    make_service: MakeService, private_postgres: Postgres
) -> None:
    migrate(private_postgres.url)
    service = await make_service(database_url=private_postgres.url, statement_ms_max=8_000)
    await until_ready(service)
    async with private_postgres.stopped():
        assert await until_ready(service, "database") == {"database": "the database cannot be reached"}
        assert await reasons(service, LIVEZ) == {}
    await until_ready(service)
    with private_postgres.frozen():  # no request comes that would show it
        assert await until_ready(service, "database") == {"database": "the database does not answer"}
    await until_ready(service)
    await service.stop()


async def test_it_is_not_ready_while_an_update_waits_for_long(
    make_service: MakeService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "WAIT_S_MAX", 0.3)
    service = await make_service()
    with locked(database, LOCK_FEED):
        saving = asyncio.create_task(service.post(UPDATE))
        found = await until_ready(service, "writer")
        assert found == {"writer": "an update has waited for over 2 s"}
    assert (await saving).status == 201
    assert await reasons(service) == {}


@pytest.mark.expects_log(*OUTAGE)
async def test_a_save_that_fails_makes_it_unready_for_some_seconds(
    make_service: MakeService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FAILED_S", 1.0)
    service = await make_service(statement_ms_max=100)
    with locked(database, LOCK_FEED):
        assert (await service.post(UPDATE)).status == 503
        assert await reasons(service) == {"writer": "the database cannot save"}
        began = time.monotonic()
        await until_ready(service)  # although nothing was saved: a balancer that sends nothing could not learn it
        assert time.monotonic() - began > 0.5
    assert (await service.post(UPDATE)).status == 201


@pytest.mark.expects_log(*OUTAGE)
async def test_a_commit_that_waits_for_a_standby_is_named(
    make_service: MakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "WAIT_S_MAX", 0.3)
    cluster = Cluster(tmp_path / "one")
    cluster.create()
    cluster.start()
    try:
        migrate(cluster.url())
        service = await make_service(database_url=cluster.url(), statement_ms_max=2_000)
        await asyncio.to_thread(cluster.let_commits_wait)
        saving = asyncio.create_task(service.post(UPDATE))
        assert await until_ready(service, "standby") == {"standby": "a commit waits for a standby"}
        assert not saving.done(), "its wait is seen while it lasts"
        assert (await saving).status == 503
        await until_ready(service, "standby")  # the connection was aborted, and is back after a moment
        await asyncio.to_thread(cluster.let_commits_wait, False)
        while (await service.post(UPDATE)).status != 201:
            await asyncio.sleep(0.05)
        assert await reasons(service) == {}
        await service.stop()
    finally:
        cluster.kill()


async def test_it_is_not_live_once_the_write_thread_has_ended(service: Service) -> None:
    service.app.database.write_thread.stop()
    service.app.database.write_thread.join()
    assert await reasons(service, LIVEZ) == {"writer": "the write thread does not answer"}


async def test_it_is_not_live_while_a_batch_outlasts_every_limit(
    make_service: MakeService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "HANG_S", -8.0)  # beyond twice the limit of a statement, which is 4 s
    service = await make_service()
    assert await reasons(service, LIVEZ) == {}
    with locked(database, LOCK_FEED):
        saving = asyncio.create_task(service.post(UPDATE))
        async with asyncio.timeout(10):
            while not await reasons(service, LIVEZ):
                await asyncio.sleep(0.02)
    assert (await saving).status == 201
    assert await reasons(service, LIVEZ) == {}


async def test_at_a_stop_it_is_unready_first_and_serves_for_the_delay(make_service: MakeService) -> None:
    service = await make_service(shutdown_delay_ms=700)
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(0)
    assert await reasons(service) == {"stopping": "the server is stopping"}
    assert await reasons(service, LIVEZ) == {}
    assert (await service.post(UPDATE)).status == 201, "a new connection is served"
    assert not stopping.done()
    await stopping
    with pytest.raises(ConnectionRefusedError):
        await Connection.open(service.port)


def test_a_stop_by_signal_answers_what_came_within_the_delay(processes: Processes, database: Database) -> None:
    process = processes("--port=0", "--shutdown-delay-ms=1500", DATABASE_URL=database.url)
    port = int(process.url().rpartition(":")[2])
    process.send_signal(15)

    async def scene() -> list[Reply]:
        async with Connection.to(port) as one:
            while (ready := await one.ask("GET", READYZ)).status == 200:  # the signal has not been handled yet
                await asyncio.sleep(0.01)
            return [ready, await one.ask("POST", SNAPSHOTS, protocol.dumps(UPDATE).encode())]

    ready, saved = asyncio.run(scene())
    assert (ready.status, saved.status) == (503, 201)
    assert process.wait() == 0
    assert database.count() == 1
