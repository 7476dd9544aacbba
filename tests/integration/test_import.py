"""POST /api/balance/import: a body of any length is saved line by line, once, and nothing else is disturbed."""

from __future__ import annotations

import asyncio
import gzip
import uuid
from collections.abc import Iterator

import pytest

import protocol
from balance.auth import Role
from balance.web.base import DRAIN_BYTES_MAX
from protocol.operation import NDJSON
from protocol.operations import IMPORT
from tests.support.access import add_token, bearer
from tests.support.history import append_history
from tests.support.http_client import Connection, request_bytes
from tests.support.payloads import CASES, DIGITS_40, LINE, UPDATE, body_of
from tests.support.postgres import temporary_database
from tests.support.refusals import check_refused
from tests.support.service import Database, MakeService, Service
from tests.support.sse import StreamClient
from tests.support.transfer import counts, export, import_, line, lines
from tests.support.waiting import until


@pytest.fixture
def other(postgres: str, template: str) -> Iterator[Database]:
    """Return a second empty database."""
    with temporary_database(postgres, template) as one:
        yield one


async def test_export_import_into_an_empty_database_and_export_give_the_same_bytes(
    make_service: MakeService, database: Database, other: Database
) -> None:
    source, target = await make_service(), await make_service(database_url=other.url)
    for case in CASES:  # every update that is accepted, with all forms of numbers, names and times
        await source.request("POST", "/api/balance/snapshot", body_of(case))
    for row in lines(40):
        await source.request("POST", "/api/balance/snapshot", row)
    append_history(database, 2_500)
    exported = await export(source)
    count = exported.count(b"\n")
    assert count > 2_550
    reply = await import_(target, exported)
    assert (reply.status, reply.body["data"]) == (200, counts(count, count))
    assert await export(target) == exported
    reply = await import_(target, exported)
    assert reply.body["data"] == counts(count, 0, count), "to send it again is safe"
    assert other.count() == count


async def test_forty_digits_go_in_and_out_unchanged(service: Service) -> None:
    body = LINE.replace(b'"rlb":1', b'"rlb":' + DIGITS_40.encode()).replace(b'{"id"', b'{"seq":5,"id"')
    assert (await import_(service, body + b"\n")).body["data"] == counts(1, 1)
    assert b'"onchain":{"rlb":%s,' % DIGITS_40.encode() in await export(service)


async def test_bad_lines_are_refused_by_number_and_the_others_are_saved(service: Service, database: Database) -> None:
    assets = {f"a{number}": 1 for number in range(63)}
    body = b"\n".join(
        [
            line(),
            b"",
            line(onchain={"rlb": 1, "usdt": 2, **assets}),  # 65 assets
            line(pid=-1),
            b"x" * 65_536,
            b"\r",
            line(pid=7) + b"\r",
            b"\xff\xfe",
            line()[:40],  # a half line at the end
        ]
    )
    reply = await import_(service, body)
    assert reply.status == 200
    assert reply.body["data"] == counts(
        7,
        2,
        0,
        (3, "invalid_payload", "onchain: must have at most 64 fields, not 65"),
        (4, "invalid_payload", "pid: must be at least 0"),
        (5, "payload_too_large", "payload: is larger than 24576 bytes"),
        (8, "malformed_json", "payload: is not valid JSON"),
        (9, "malformed_json", "payload: is not valid JSON"),
    )
    assert database.count() == 2


async def test_a_last_line_without_an_end_is_saved_if_it_is_whole(service: Service) -> None:
    assert (await import_(service, LINE)).body["data"] == counts(1, 1)
    assert (await import_(service, b"")).body["data"] == counts(0, 0)
    assert (await import_(service, b"\n\n \n")).body["data"] == counts(0, 0)


async def test_a_line_with_the_id_of_another_snapshot_is_a_conflict(service: Service) -> None:
    id_ = str(uuid.uuid4())
    first, second = line(id=id_, pid=1), line(id=id_, pid=2)
    reply = await import_(service, b"\n".join([first, second, first, line()]))
    conflict = (2, "conflict", "id: another snapshot has this id")
    assert reply.body["data"] == counts(4, 2, 1, conflict)
    assert (await service.post(protocol.loads(first))).status == 200


async def test_only_the_first_twenty_errors_are_reported(service: Service) -> None:
    data = (await import_(service, b"x\n" * 1_000)).body["data"]
    assert (data["lines"], data["refused"], len(data["errors"])) == (1_000, 1_000, 20)
    assert [error["line"] for error in data["errors"]] == [*range(1, 21)]


async def test_imported_snapshots_reach_the_watchers_in_order(service: Service) -> None:
    async with StreamClient.to(service.port) as watcher:
        await watcher.expect("connected")
        await import_(service, b"\n".join(line(pid=number) for number in range(600)))
        assert await watcher.snapshots(600) == [*range(1, 601)]


async def test_a_chunked_body_of_both_media_types_is_imported(service: Service) -> None:
    for media_type in (NDJSON, "application/jsonl; charset=utf-8"):
        async with Connection.to(service.port) as client:
            await client.send(
                request_bytes("POST", IMPORT, Transfer_Encoding="chunked", Content_Type=media_type)
                + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (LINE[:30], LINE[30:], b"\n", line()))
                + b"0\r\n\r\n"
            )
            assert (await client.read_reply()).body["data"]["lines"] == 2
            assert (await client.ask("GET", "/livez")).status == 200, "the connection stays"


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"Content_Type": "application/json"}, "Content-Type: must be application/x-ndjson or application/jsonl"),
        ({"Content_Type": "application/gzip"}, "Content-Type: must be application/x-ndjson or application/jsonl"),
        ({"Content_Encoding": "gzip"}, "Content-Encoding: must not be compressed"),
        ({"Content_Encoding": "deflate, gzip"}, "Content-Encoding: must not be compressed"),
    ],
)
async def test_a_compressed_body_is_refused_unread(service: Service, headers: dict[str, str], error: str) -> None:
    bomb = gzip.compress((LINE + b"\n") * 200_000)
    check_refused(await import_(service, bomb, **headers), "unsupported_media_type", error)


async def test_a_compressed_body_that_is_declared_as_lines_is_bad_lines(service: Service, database: Database) -> None:
    bomb = gzip.compress(b"0" * 30_000_000)
    data = (await import_(service, bomb)).body["data"]
    assert data["lines"] == data["refused"] > 0
    assert database.count() == 0


async def test_a_caller_without_the_role_is_refused_whatever_it_sends(make_service: MakeService) -> None:
    service = await make_service()
    tokens = {role: await add_token(service, role) for role in (Role.WRITER, Role.ADMIN)}
    reply = await import_(service, LINE, **bearer(tokens[Role.WRITER]))
    check_refused(reply, "forbidden", "this role may not import snapshots")
    async with Connection.to(service.port) as client:  # the answer comes before a body that is too large to discard
        await client.send(request_bytes("POST", IMPORT, Content_Length=str(10 * DRAIN_BYTES_MAX), Content_Type=NDJSON))
        part = bytes(1_048_576)
        for _ in range(DRAIN_BYTES_MAX // len(part) + 1):
            await client.send(part)
        check_refused(await client.read_reply(), "unauthorized", str(protocol.Unauthorized()))
    assert (await import_(service, LINE, **bearer(tokens[Role.ADMIN]))).body["data"] == counts(1, 1)


async def test_one_import_of_an_address_runs_at_once(service: Service) -> None:
    async with Connection.to(service.port) as first:
        head = request_bytes("POST", IMPORT, Content_Length=str(len(LINE) + 1), Content_Type=NDJSON)
        await first.send(head + LINE[:10])
        await asyncio.sleep(0.05)
        check_refused(await import_(service, LINE), "busy", "1 imports of this address wait already")
        await first.send(LINE[10:] + b"\n")
        assert (await first.read_reply()).body["data"] == counts(1, 1)
    assert (await import_(service, LINE)).body["data"] == counts(1, 0, 1)


async def test_what_arrived_before_a_client_vanished_is_saved_and_its_slot_free(
    service: Service, database: Database
) -> None:
    whole = lines(300)
    async with Connection.to(service.port) as client:
        head = request_bytes("POST", IMPORT, Content_Length="1000000", Content_Type=NDJSON)
        await client.send(head + b"\n".join(whole)[:-20])
        await until(lambda: database.count() == 299)
    body = b"\n".join(whole)

    async def is_free() -> bool:
        return (await import_(service, body)).status == 200

    async with asyncio.timeout(10):
        while not await is_free():
            await asyncio.sleep(0.01)
    assert database.count() == 300


async def test_an_import_waits_while_other_clients_use_all_pending_saves(
    make_service: MakeService, database: Database
) -> None:
    service = await make_service(saves_pending_max=50)
    body = b"\n".join(lines(1_000))
    assert (await import_(service, body)).body["data"] == counts(1_000, 1_000)
    assert database.count() == 1_000


async def test_a_bot_saves_during_an_import(service: Service) -> None:
    importing = asyncio.ensure_future(import_(service, b"\n".join(lines(3_000))))
    saved = 0
    while not importing.done():
        reply = await service.post({**UPDATE, "pid": saved})
        assert reply.status == 201
        saved += 1
    assert (await importing).body["data"] == counts(3_000, 3_000)
    assert saved > 1
