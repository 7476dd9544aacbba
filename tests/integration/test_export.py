"""GET /api/balance/export: all snapshots as one file, with every digit, whatever the format."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import socket
import struct
from random import Random
from typing import Any

import pytest

import protocol
from balance.auth import Role
from balance.snapshot import parse_ts
from balance.storage import export as export_module
from balance.storage.retention import Pruning
from protocol.operation import NDJSON
from protocol.operations import EXPORT, IMPORT
from tests.support.access import add_token, bearer
from tests.support.history import append_history
from tests.support.http_client import Connection, request_bytes
from tests.support.payloads import DIGITS_40, LARGE_ROWS, LINE, UPDATE, updates
from tests.support.refusals import check_refused
from tests.support.service import Database, MakeService, Service
from tests.support.transfer import export

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def table(text: bytes) -> list[dict[str, str]]:
    """Read a CSV as a program does; check that each row ends in CR LF."""
    assert text.endswith(b"\r\n")
    assert text.count(b"\n") == text.count(b"\r\n")
    return list(csv.DictReader(io.StringIO(text.decode(), newline=""), strict=True))


async def save(service: Service, **changed: Any) -> str:
    reply = await service.post({**UPDATE, **changed})
    assert reply.status == 201, reply.body
    return str(reply.body["data"]["id"])


async def test_an_export_has_every_snapshot_as_the_list_has_it(service: Service) -> None:
    made = updates(Random(3))
    for _ in range(30):
        assert (await service.post(next(made))).status == 201
    listed = (await service.get("?order=seq&limit=1000")).raw
    _, rows = listed.split(b'"data":[', 1)
    lines = (await export(service)).splitlines()
    assert [protocol.loads(line)["seq"] for line in lines] == [*range(1, 31)]
    assert rows.startswith(b",".join(reversed(lines)))


async def test_the_pages_of_an_export_follow_without_a_gap(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "SEQS_MAX", 700)  # so that some pages end at this number, others at the rows
    append_history(database, 2_345)
    append_history(database, 10, pid=7)
    append_history(database, 3_000)
    whole = (await export(service)).splitlines()
    assert [protocol.loads(line)["seq"] for line in whole] == [*range(1, 5_356)]
    some = (await export(service, "?pid=7&pid=8")).splitlines()
    assert [protocol.loads(line)["seq"] for line in some] == [*range(2_346, 2_356)]
    assert await export(service, "?pid=8") == b""


async def test_large_rows_come_in_pages_of_bounded_size(service: Service, database: Database) -> None:
    database.rows(LARGE_ROWS)
    database.rows("UPDATE balance_feed SET last_seq = 1000")
    exports = service.app._served().exports
    one = await exports.begin(export_module.Selection())
    seqs, sizes = [], []
    while text := await one.next_text():
        sizes.append(len(text))
        seqs += [protocol.loads(line)["seq"] for line in text.splitlines()]
    assert seqs == [*range(1, 1001)]
    assert len(sizes) > 30
    assert max(sizes) < export_module.PAGE_BYTES_MAX + 16_384


async def test_from_and_to_select_by_ts_half_open(service: Service) -> None:
    for second in range(5):
        await save(service, ts=f"2025-11-07T00:00:0{second}Z", pid=second)
    for query, wanted in {
        "?from=2025-11-07T00:00:01Z&to=2025-11-07T00:00:03Z": [1, 2],
        "?from=2025-11-07T01:00:03%2B01:00": [3, 4],
        "?to=2025-11-07T00:00:01Z": [0],
        "?from=2026-01-01T00:00:00Z": [],
        "?pid=4&pid=0&to=2025-11-07T00:00:04Z": [0],
    }.items():
        assert [protocol.loads(line)["pid"] for line in (await export(service, query)).splitlines()] == wanted, query


async def test_forty_digits_are_the_same_in_json_and_in_csv(service: Service) -> None:
    await save(service, onchain=protocol.Encoded(b'{"rlb":%s,"usdt":1e-30}' % DIGITS_40.encode()))
    assert f'"rlb":{DIGITS_40},'.encode() in await export(service)
    (row,) = table(await export(service, "?format=csv"))
    assert (row["onchain.rlb"], row["onchain.usdt"]) == (DIGITS_40, "0." + 29 * "0" + "1")
    (row,) = table(await export(service, "?format=csv&digits=text"))
    assert row["onchain.rlb"] == f'="{DIGITS_40}"'


async def test_csv_has_a_column_for_each_wanted_asset_and_one_for_the_others(service: Service) -> None:
    id_ = await save(
        service,
        pid=None,
        ts="2025-11-07T00:45:08.603001Z",
        onchain={"rlb": 1, "usdt": 2, "USDT.e": 3, "BTC/USDT:USDT": 4, "$wif": 5},
        onsite={"rlb": 6, "usd": 7, "eur": 8},
    )
    await save(service, pid=7)
    query = "?format=csv&asset=onsite.eur&asset=onchain.USDT.e&asset=onsite.eur&asset=onchain.rlb"
    text = await export(service, query)
    assert text.splitlines()[0] == (
        b"id,seq,ts,pid,onchain.rlb,onchain.usdt,onsite.rlb,onsite.usd,onsite.eur,onchain.USDT.e,further"
    )
    first, second = table(text)
    assert list(first.values())[:4] == [id_, "1", "2025-11-07T00:45:08.603001Z", ""]
    assert list(first.values())[4:10] == ["1", "2", "6", "7", "8", "3"]
    assert first["further"] == '{"onchain":{"$wif":5,"BTC/USDT:USDT":4}}'
    assert list(second.values())[3:] == ["7", "100074", "7656", "101132", "7646", "", "", ""]


@pytest.mark.parametrize("digits", ["number", "text"])
async def test_no_cell_of_a_csv_can_be_read_as_a_formula(service: Service, digits: str) -> None:
    names = ["$A$1", "0-1", "a-b", "A1:B2", "cmd.exe"]  # an asset cannot begin with any character that begins a formula
    await save(service, onchain={"rlb": 0, "usdt": 0, **dict.fromkeys(names, 1)})
    made = updates(Random(5))
    for _ in range(20):
        await service.post(next(made))
    for asset in ("=1", "+1", "-1", "@x", "\t1"):
        refused = await service.post({**UPDATE, "onchain": {"rlb": 0, "usdt": 0, asset: 1}})
        assert refused.body["code"] == "invalid_payload"
    asked = "".join(f"&asset=onchain.{name}" for name in names[1:])
    text = (await export(service, f"?format=csv&digits={digits}{asked}")).decode()
    for row in csv.reader(io.StringIO(text, newline="")):
        for cell in row:
            if digits == "text" and re.fullmatch(r'="[0-9]+(\.[0-9]+)?"', cell):
                continue  # a text of digits
            assert not cell.startswith(FORMULA), cell


async def test_an_empty_feed_is_an_empty_file_or_a_header(service: Service) -> None:
    assert await export(service) == b""
    assert table(await export(service, "?format=csv")) == []
    assert (await export(service, "?format=csv")).count(b"\r\n") == 1


async def test_the_head_names_the_file_and_head_sends_no_body(service: Service) -> None:
    await save(service)
    for query, media_type, ending in (
        ("", "application/x-ndjson", "ndjson"),
        ("?format=csv", "text/csv; charset=utf-8; header=present", "csv"),
    ):
        for method in ("GET", "HEAD"):
            reply = await service.request(method, EXPORT + query)
            assert reply.headers["Content-Type"] == media_type
            name = rf'attachment; filename="balance-\d{{8}}T\d{{6}}Z\.{ending}"'
            assert re.fullmatch(name, reply.headers["Content-Disposition"])
            assert bool(reply.raw) == (method == "GET")


async def test_head_names_no_length_of_an_export(service: Service) -> None:
    await save(service)
    async with Connection.to(service.port) as one:
        reply = await one.ask("HEAD", EXPORT)
        assert reply.status == 200
        assert "Content-Length" not in reply.headers, "GET is chunked"
        assert (await one.ask("HEAD", "/livez")).status == 200, "the connection stays open"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_end_of_a_file_over_http_1_0_is_that_of_the_connection(service: Service, method: str) -> None:
    await save(service)
    request = f"{method} {EXPORT} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode()
    last = request_bytes("HEAD", "/livez", Connection="close")
    async with Connection.to(service.port) as one:
        await one.send(request + last)
        head, _, body = (await one.read_rest()).partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding:" not in head
    if method == "GET":
        assert b"\r\nConnection: close\r\n" in head + b"\r\n"
        assert body == await export(service)
    else:
        assert b"\r\nConnection: Keep-Alive\r\n" in head + b"\r\n", "a response to HEAD ends with its head"
        assert body.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("format=xls", "format: must be one of ndjson, csv"),
        ("from=2025-11-08T00:00:00Z&to=2025-11-07T00:00:00Z", "from: must be earlier than to"),
        ("from=2025-11-08T00:00:00Z&to=2025-11-08T00:00:00Z", "from: must be earlier than to"),
        ("points=0", "points: is not a known field"),
        (
            "from=yesterday",
            "from: must be an RFC 3339 date and time with a time zone, of the years 1000 to 2999, with at most 9 "
            "fraction digits and without a leap second, such as 2025-11-07T00:45:08.603Z",
        ),
        ("pid=-1", "pid.0: must be at least 0"),
        (
            "asset=usdt&format=csv",
            "asset.0: is not the name of an asset after onchain. or onsite.",
        ),
        ("asset=onchain.usdt", "asset: is for format=csv only"),
        ("format=ndjson&digits=text", "digits: is for format=csv only"),
        (
            "format=csv" + "".join(f"&asset=onchain.a{n}" for n in range(65)),
            "asset: must have at most 64 items, not 65",
        ),
        ("format=csv&format=csv", "format: is given more than once"),
    ],
)
async def test_a_bad_query_is_refused_with_its_field(service: Service, query: str, error: str) -> None:
    check_refused(await service.request("GET", f"{EXPORT}?{query}"), "invalid_payload", error)


async def test_rows_that_are_saved_meanwhile_are_not_in_an_export(service: Service, database: Database) -> None:
    append_history(database, 1_500)
    one = await service.app._served().exports.begin(export_module.Selection())
    first = await one.next_text()
    append_history(database, 10)
    assert (first + await one.next_text()).count(b"\n") == 1_500
    assert await one.next_text() == b""


async def test_a_pruned_feed_is_exported_from_what_is_left(service: Service, database: Database) -> None:
    append_history(database, 1_200)
    Pruning(database.url, parse_ts("2999-01-01T00:00:00Z")).run()
    append_history(database, 3)
    assert [protocol.loads(line)["seq"] for line in (await export(service)).splitlines()] == [*range(1_200, 1_204)]


async def test_several_exports_at_once_are_bounded(service: Service, database: Database) -> None:
    database.rows(LARGE_ROWS)
    database.rows("UPDATE balance_feed SET last_seq = 1000")
    async with Connection.to(service.port) as first, Connection.to(service.port) as second:
        for client in (first, second):  # they do not read: the operating system accepts less than the export
            await client.send(request_bytes("GET", EXPORT))
            await client._reader.readuntil(b"\r\n\r\n")
        check_refused(await service.request("GET", EXPORT), "busy", "2 exports of this address wait already")
        assert (await service.get("?limit=1")).status == 200
    async with asyncio.timeout(15):  # both clients are gone
        while (await service.request("HEAD", EXPORT)).status != 200:
            await asyncio.sleep(0.01)


async def test_a_reader_may_export_and_not_import(make_service: MakeService) -> None:
    service = await make_service()
    token = await add_token(service, Role.READER)
    assert (await service.request("GET", EXPORT, **bearer(token))).status == 200
    refused = await service.request("POST", IMPORT, LINE, Content_Type=NDJSON, **bearer(token))
    check_refused(refused, "forbidden", "this role may not import snapshots")
    assert (await service.request("GET", EXPORT)).status == 401


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_client_that_leaves_before_the_head_of_an_export_is_not_logged(service: Service, method: str) -> None:
    assert (await service.post(UPDATE)).status == 201
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(request_bytes(method, EXPORT))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    while (await service.request("HEAD", EXPORT)).status != 200:
        await asyncio.sleep(0)  # the exports that were left hold their slots for a moment
