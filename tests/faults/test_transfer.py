"""Exports and imports whose client, database or server fails in the middle, and what they cost the others."""

from __future__ import annotations

import asyncio
import gc

import pytest

from balance.auth import Role
from balance.storage import export as export_module
from balance.storage.errors import UNREACHABLE, StoreUnavailable
from balance.transfer.exporting import Export
from balance.web.export import ExportHandler
from balance.web.imports import ImportHandler
from protocol.operation import NDJSON
from protocol.operations import EXPORT, IMPORT
from tests.support.access import add_token, bearer
from tests.support.history import begin_epoch
from tests.support.http_client import Connection, request_bytes
from tests.support.outages import NEW_EPOCH, OUTAGE
from tests.support.payloads import LARGE_ROWS
from tests.support.postgres import locked
from tests.support.service import Database, MakeService, Processes, Service, memory_kb
from tests.support.transfer import export, import_, lines
from tests.support.waiting import until

LAST_CHUNK = b"\r\n0\r\n\r\n"
RSS_MAX_KB = 150 * 1024


@pytest.fixture
def large(database: Database) -> None:
    """Store 12 MB of snapshots: more than the operating system accepts from a server whose client does not read."""
    database.rows(LARGE_ROWS)
    database.rows("UPDATE balance_feed SET last_seq = 1000")


def alive(*kinds: type) -> list[object]:
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, kinds)]


async def begin_export(client: Connection, **headers: str) -> None:
    """Request an export, and read the head of its response only."""
    await client.send(request_bytes("GET", EXPORT, **headers))
    assert b" 200 OK" in await client._reader.readuntil(b"\r\n\r\n")


@pytest.mark.usefixtures("large")
async def test_a_client_that_vanishes_during_an_export_frees_everything(service: Service) -> None:
    client = await Connection.open(service.port)
    await begin_export(client)
    await until(lambda: len(alive(Export)) == 1)
    assert service.app.database.pool.counts().in_use <= 1, "no connection is held while the client does not read"
    client._writer.transport.abort()
    await until(lambda: not alive(ExportHandler, Export))
    assert len((await export(service)).splitlines()) == 1_000


@pytest.mark.expects_log(*NEW_EPOCH)
@pytest.mark.usefixtures("large")
async def test_an_export_that_cannot_be_completed_has_no_last_chunk(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = export_module.ExportStore.page

    def fail_later(self: export_module.ExportStore, *arguments: object) -> export_module.ExportPage:
        page = read(self, *arguments)  # type: ignore[arg-type]
        if page.last > 500:
            raise StoreUnavailable(UNREACHABLE)
        return page

    with monkeypatch.context() as patch:
        patch.setattr(export_module.ExportStore, "page", fail_later)
        async with Connection.to(service.port) as client:
            await begin_export(client)
            cut = await client.read_rest()
    assert cut.count(b"\n") > 100
    assert not cut.endswith(LAST_CHUNK)
    faults = [StoreUnavailable(UNREACHABLE)]

    def fail_once(self: export_module.ExportStore, *arguments: object) -> export_module.ExportPage:
        page = read(self, *arguments)  # type: ignore[arg-type]
        if page.last > 500 and faults:
            raise faults.pop()
        return page

    with monkeypatch.context() as patch:
        patch.setattr(export_module.ExportStore, "page", fail_once)
        assert (await export(service)).count(b"\n") == 1_000, "a fault of a moment is not noticed"
    assert not faults
    async with Connection.to(service.port) as client:  # the database was replaced by one with another history
        await begin_export(client)
        begin_epoch(database, 990)
        assert not (await client.read_rest()).endswith(LAST_CHUNK)
    assert len((await export(service)).splitlines()) == 990


@pytest.mark.usefixtures("large")
async def test_a_token_that_is_revoked_ends_its_export(make_service: MakeService, database: Database) -> None:
    service = await make_service()
    token = await add_token(service, Role.READER)
    async with Connection.to(service.port) as client:
        await begin_export(client, **bearer(token))
        authenticator = service.app.authenticator
        caller = authenticator.authenticate(token, "127.0.0.1")
        database.rows("UPDATE balance_token SET revoked_at = now()")
        await until(lambda: not authenticator.is_current(caller))
        assert not (await client.read_rest()).endswith(LAST_CHUNK)


@pytest.mark.expects_log(*OUTAGE)
async def test_an_outage_in_an_import_is_503_with_the_counts_and_nothing_is_lost(
    make_service: MakeService, database: Database
) -> None:
    service = await make_service(save_ms_max=500)
    body = b"\n".join(lines(2_000))
    assert (await import_(service, body[:20_000])).body["data"]["saved"] > 10
    before = database.count()
    with locked(database, "LOCK balance_feed IN EXCLUSIVE MODE"):
        reply = await import_(service, body)
    assert (reply.status, reply.body["code"]) == (503, "unavailable")
    assert reply.headers["Retry-After"] == "1"
    assert reply.body["data"]["saved"] == reply.body["data"]["refused"] == 0
    assert reply.body["data"]["lines"] > 0
    reply = await import_(service, body)
    assert reply.status == 200
    assert reply.body["data"]["saved"] + reply.body["data"]["duplicates"] == 2_000
    assert reply.body["data"]["duplicates"] >= before
    assert database.count() == 2_000


async def test_a_stopping_service_ends_an_import_with_503(service: Service, database: Database) -> None:
    whole = lines(500)
    async with Connection.to(service.port) as client:
        body = b"\n".join(whole)
        await client.send(request_bytes("POST", IMPORT, Content_Length=str(len(body)), Content_Type=NDJSON))
        await client.send(body[: len(body) // 2])
        await until(lambda: database.count() > 100)
        stopping = asyncio.ensure_future(service.app.service.drain(5))
        await asyncio.sleep(0)
        await client.send(body[len(body) // 2 :])
        reply = await client.read_reply()
        await stopping
    assert (reply.status, reply.body["error"]) == (503, "the server is stopping")
    assert reply.body["data"]["saved"] == database.count()
    await until(lambda: not alive(ImportHandler))


async def test_memory_stays_bounded_however_long_an_import_and_an_export_are(
    processes: Processes, database: Database
) -> None:
    server = processes("--port=0", DATABASE_URL=database.url, script="server.py")
    port = int(server.url().rpartition(":")[2])
    count = 20_000
    parts = [b"\n".join(lines(100, seed)) + b"\n" for seed in range(1, count // 100 + 1)]
    async with Connection.to(port) as client:
        size = sum(map(len, parts))
        await client.send(request_bytes("POST", IMPORT, Content_Length=str(size), Content_Type=NDJSON))
        for part in parts:
            client._writer.write(part)
            await client._writer.drain()
        async with asyncio.timeout(300):
            head = await client._reader.readuntil(b"\r\n\r\n")
        assert b" 200 OK" in head
    assert database.count() > 0
    assert memory_kb(server.pid, "VmHWM") < RSS_MAX_KB
    assert server.terminate() == 0


async def test_an_import_may_last_longer_than_other_bodies_as_long_as_it_goes_on(service: Service) -> None:
    service.app._http.body_s_max = 0.8
    whole = lines(8)
    body = b"\n".join(whole) + b"\n"
    head = request_bytes("POST", IMPORT, Content_Length=str(len(body)), Content_Type=NDJSON)
    async with Connection.to(service.port) as client:
        await client.send(head)
        for one in whole:
            await asyncio.sleep(0.2)
            await client.send(one + b"\n")
        assert (await client.read_reply()).body["data"]["saved"] == 8
    async with Connection.to(service.port) as client:
        await client.send(head + body[:100])
        assert (await client.read_reply()).status == 408
