"""GET /api/balance/stream: server-sent events from a running service, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.httputil import HTTPServerRequest

from balance.storage.epochs import begin_epoch
from balance.web import stream_hub
from balance.web.http_connection import Exchange, ServerConnection
from balance.web.stream import StreamHandler
from protocol.operations import FEED, STREAM
from tests.support.http_client import Connection, request_bytes
from tests.support.payloads import UPDATE
from tests.support.raw_clients import SocketClient
from tests.support.refusals import check_refused
from tests.support.service import SNAPSHOTS, Database, MakeService, Processes, Service
from tests.support.shared_service import SharedService, shared_service
from tests.support.sse import StreamClient
from tests.support.waiting import until

OTHER_EPOCH = "00000000-0000-4000-8000-000000000000"
LAST_EVENT_ID = b"Last-Event-ID: %b\r\n"
NOT_A_POSITION = "must be a position as the server sends it: epoch, seq and eight hex digits, with colons between"


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    """One service for requests that change nothing."""
    with shared_service(postgres, template) as one:
        yield one


async def save(service: Service, count: int, **fields: Any) -> list[dict[str, Any]]:
    """Save this many snapshots; return them, the first saved first."""
    for _ in range(count):
        assert (await service.post({**UPDATE, **fields})).status == 201
    return list(reversed((await service.get(f"?order=seq&limit={count}")).body["data"]))


async def epoch_of(service: Service) -> str:
    """Return the epoch of the feed."""
    async with StreamClient.to(service.port) as client:
        epoch: str = (await client.next()).data["epoch"]
        return epoch


def token(epoch: str, snapshot: dict[str, Any]) -> str:
    """Return the position after a snapshot."""
    return f"{epoch}:{snapshot['seq']}:{snapshot['id'][-8:]}"


async def test_a_stream_begins_with_its_position_and_has_what_is_saved_from_then_on(service: Service) -> None:
    (before,) = await save(service, 1)
    async with StreamClient.to(service.port) as client:
        assert client.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert client.headers["Cache-Control"] == "no-store, no-transform"
        assert client.headers["X-Accel-Buffering"] == "no"
        assert client.headers["Connection"] == "close"
        assert "Content-Length" not in client.headers
        assert "Transfer-Encoding" not in client.headers
        connected = await client.expect("connected")
        epoch = connected.data["epoch"]
        assert connected.data == {"seq": 1, "epoch": epoch, "recovered": False}
        assert connected.id == token(epoch, before)
        assert connected.retry is not None
        assert 1_000 <= connected.retry <= 3_000
        (saved,) = await save(service, 1, pid=7)
        event = await client.expect("balance:snapshot")
        assert (event.id, event.data) == (token(epoch, saved), saved)


async def test_the_first_position_of_an_empty_feed_is_good_to_resume_from(service: Service) -> None:
    async with StreamClient.to(service.port) as client:
        first = await client.expect("connected")
        assert first.id == f"{first.data['epoch']}:0:00000000"
    await save(service, 2)
    async with StreamClient.to(service.port, Last_Event_ID=first.id) as client:
        assert (await client.next()).data["recovered"] is True
        assert await client.snapshots(2) == [1, 2]


async def test_the_bytes_of_a_snapshot_are_those_of_a_list_replayed_or_live(make_service: MakeService) -> None:
    service = await make_service()
    exact = b'{"onchain":{"rlb":1.50,"usdt":1e-9},"onsite":{"rlb":0.1234567890123456789012345,"usd":4},"pid":7}'
    async with StreamClient.to(service.port) as live:
        await live.next()
        assert (await service.request("POST", SNAPSHOTS, exact)).status == 201
        listed = re.search(rb'"data":\[(.*?)\],"pagination"', (await service.get()).raw)
        assert listed is not None
        restarted = await make_service()  # whose memory has nothing, so that it reads the table
        async with StreamClient.to(restarted.port, "?after=0") as replayed:
            await replayed.next()
            for client in (live, replayed):
                block = await client._reader.readuntil(b"\n\n")
                assert block.split(b"\ndata: ")[1] == listed[1] + b"\n\n"


async def test_retry_is_drawn_for_each_stream(service: Service) -> None:
    drawn = set()
    for _ in range(10):
        async with StreamClient.to(service.port) as client:
            drawn.add((await client.next()).retry)
    assert len(drawn) > 3


# Positions ----------------------------------------------------------------------------------------------------------


async def test_the_header_counts_before_last_event_id_and_that_before_after(service: Service) -> None:
    saved = await save(service, 4)
    epoch = await epoch_of(service)
    by_id, by_after = f"last_event_id={token(epoch, saved[1])}", f"after=1&epoch={epoch}"
    for query, header, first in (
        (f"?{by_after}", "", 2),
        (f"?{by_after}&id={saved[0]['id'].upper()}", "", 2),
        (f"?{by_id}", "", 3),
        (f"?{by_after}&{by_id}", "", 3),
        (f"?{by_after}&{by_id}", token(epoch, saved[2]), 4),
        ("?after=0", "", 1),
    ):
        async with StreamClient.to(service.port, query, Last_Event_ID=header) as client:
            connected = await client.expect("connected")
            assert (connected.data["seq"], connected.data["recovered"]) == (4, True)
            assert str(connected.id).startswith(f"{epoch}:{first - 1}:")
            assert await client.snapshots(5 - first) == list(range(first, 5))


async def test_a_position_that_is_not_good_gets_the_reason_and_what_is_live(service: Service) -> None:
    saved = await save(service, 3)
    epoch = await epoch_of(service)
    for position, reason in (
        (f"{OTHER_EPOCH}:1:{saved[0]['id'][-8:]}", "other_feed"),
        (f"{epoch}:9:00000001", "ahead"),
        (f"{epoch}:2:00000001", "diverged"),
    ):
        async with StreamClient.to(service.port, Last_Event_ID=position) as client:
            connected = await client.expect("connected")
            assert (connected.data["recovered"], connected.data["reason"]) == (False, reason)
            assert connected.id == token(epoch, saved[-1])
            saved = await save(service, 1)
            assert await client.snapshots(1) == [saved[-1]["seq"]]


async def test_a_position_of_rows_that_are_gone_is_pruned(make_service: MakeService, database: Database) -> None:
    await save(await make_service(), 3)
    database.rows("DELETE FROM balance_snapshot WHERE seq <= 2 RETURNING seq")
    service = await make_service()
    async with StreamClient.to(service.port, "?after=0") as client:
        connected = await client.expect("connected")
        assert connected.data["reason"] == "pruned"
    epoch = connected.data["epoch"]
    async with StreamClient.to(service.port, f"?after=2&epoch={epoch}") as client:
        assert (await client.next()).data["recovered"] is True
        assert await client.snapshots(1) == [3]


async def test_a_client_that_comes_back_often_misses_nothing_and_gets_nothing_twice(service: Service) -> None:
    position, seen = "", []
    saving = asyncio.create_task(save(service, 60))
    while len(seen) < 60:
        query = f"?last_event_id={position}" if position else "?after=0"
        async with StreamClient.to(service.port, query) as client:
            assert (await client.expect("connected")).data["recovered"] is True
            for _ in range(min(7, 60 - len(seen))):
                event = await client.expect("balance:snapshot")
                seen.append(event.data["seq"])
                position = str(event.id)
    await saving
    assert seen == list(range(1, 61))


async def test_a_long_replay_from_the_table_joins_what_is_live(make_service: MakeService, database: Database) -> None:
    first = await make_service()
    await save(first, 1)
    database.rows(MORE_ROWS)
    service = await make_service()
    async with StreamClient.to(service.port, "?after=0") as client:
        assert (await client.expect("connected")).data["seq"] == 5_000
        saving = asyncio.create_task(save(service, 20))
        assert await client.snapshots(5_020) == list(range(1, 5_021))
        await saving


MORE_ROWS = """
WITH rows AS (
    INSERT INTO balance_snapshot (seq, id, ts, onchain, onsite, received_at)
    SELECT seq, gen_random_uuid(), now(), '{"rlb": 1, "usdt": 2}', '{"rlb": 3, "usd": 4}', now()
    FROM generate_series(2, 5000) AS seq RETURNING seq
)
UPDATE balance_feed SET last_seq = (SELECT max(seq) FROM rows) RETURNING last_seq
"""


# Filters ------------------------------------------------------------------------------------------------------------


async def test_a_filter_holds_for_what_was_missed_and_for_what_is_live(service: Service) -> None:
    for pid in (7, 8, 9, 7):
        await save(service, 1, pid=pid)
    async with StreamClient.to(service.port, "?after=0&pid=7&pid=9&pid=7") as client:
        await client.expect("connected")
        assert await client.snapshots(3) == [1, 3, 4]
        for pid in (8, 9, 7):
            await save(service, 1, pid=pid)
        assert await client.snapshots(2) == [6, 7]


async def test_the_end_of_a_live_stream_has_the_position_of_its_head(make_service: MakeService) -> None:
    service = await make_service(stream_s_max=1)
    async with StreamClient.to(service.port, "?pid=7") as client:
        await client.expect("connected")
        (saved,) = await save(service, 1, pid=8)
        (bye,) = await client.read_to_end()
        assert (bye.name, bye.data) == ("bye", {"reason": "expired"})
        assert bye.id == token(client.events[0].data["epoch"], saved)


# Requests that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("?after=1", "epoch: is required"),
        ("?after=now", "after: must be an integer"),
        ("?after=1&epoch=x", "epoch: must be a UUID, such as 019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51"),
        ("?after=0&id=x", "id: must be a UUID, such as 019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51"),
        ("?pid=x", "pid.0: must be an integer"),
        ("?pid=-1", "pid.0: must be at least 0"),
        ("?last_event_id=", "last_event_id: must be a position"),
        (f"?last_event_id={OTHER_EPOCH}:1", "last_event_id: must be a position"),
        ("?lastEventId=1", "lastEventId: is not a known field"),
        ("?after=%ff", "after: is not valid UTF-8"),
        ("?" + "&".join(f"pid={number}" for number in range(101)), "pid: "),
    ],
)
def test_a_query_that_is_not_valid_is_refused_by_the_name_of_its_field(
    shared: SharedService, query: str, error: str
) -> None:
    assert shared.ask("HEAD", STREAM + query).status == 400
    reply = shared.ask("GET", STREAM + query)
    assert (reply.status, reply.body["code"]) == (400, "invalid_payload")
    assert reply.body["error"].startswith(error)
    assert not len(shared.service.app.streams)


@pytest.mark.parametrize(
    "value",
    ["x", "5", "a" * 10_000, f"{OTHER_EPOCH}:1:00000001,{OTHER_EPOCH}:1:00000001", f"{OTHER_EPOCH}:01:00000001",
     f"{OTHER_EPOCH}:-1:00000001", f"{OTHER_EPOCH.upper()}:1:0000000G", "ä"],
    ids=["word", "number", "long", "two", "zeros", "negative", "digits", "letter"],
)  # fmt: skip
def test_a_last_event_id_that_is_not_a_position_is_refused(shared: SharedService, value: str) -> None:
    reply = shared.exchange(request_bytes("GET", STREAM)[:-2] + LAST_EVENT_ID % value.encode() + b"\r\n")
    check_refused(reply, "invalid_payload", f"Last-Event-ID: {NOT_A_POSITION}")


def test_two_last_event_ids_are_refused(shared: SharedService) -> None:
    line = LAST_EVENT_ID % f"{OTHER_EPOCH}:1:00000001".encode()
    reply = shared.exchange(request_bytes("GET", STREAM)[:-2] + line + line + b"\r\n")
    check_refused(reply, "invalid_payload", "Last-Event-ID: is given more than once")


async def test_a_page_of_another_origin_is_refused_and_a_trusted_one_may_read(make_service: MakeService) -> None:
    service = await make_service(cors_origins=("https://dashboard.example",), watchers_max=1)
    refused = await service.request("GET", STREAM, Origin="https://elsewhere.example")
    assert (refused.status, refused.body["code"]) == (403, "forbidden")
    async with StreamClient.to(service.port, Origin="https://dashboard.example") as client:
        await client.next()
        async with StreamClient.to(service.port, Origin="https://dashboard.example") as late:
            (bye,) = await late.read_to_end()
            assert bye.data == {"reason": "busy"}
        for one in (client, late):
            assert one.headers["Access-Control-Allow-Origin"] == "https://dashboard.example"
            assert one.headers["Vary"] == "Origin"
    allowed = await service.request(
        "OPTIONS", STREAM, Origin="https://elsewhere.example", Access_Control_Request_Method="GET"
    )
    assert allowed.status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods_are_refused(shared: SharedService, method: str) -> None:
    reply = shared.ask(method, STREAM, None if method == "DELETE" else b"{}")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_head_does_not_open_a_stream(service: Service) -> None:
    client = await StreamClient.open(service.port, method="HEAD")
    assert client.status == 200
    assert client.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert await client.read_body() == b""
    assert not len(service.app.streams)
    await client.close()


# Streams that end ---------------------------------------------------------------------------------------------------


async def test_a_server_that_is_busy_answers_with_a_stream_that_ends(make_service: MakeService) -> None:
    service = await make_service(watchers_max=2)
    watcher = await SocketClient.connect(service.url)
    async with StreamClient.to(service.port) as client:
        await client.next()
        async with StreamClient.to(service.port, Last_Event_ID=f"{OTHER_EPOCH}:1:00000001") as late:
            (bye,) = await late.read_to_end()
            assert (bye.name, bye.id, bye.data) == ("bye", None, {"reason": "busy"})
            assert bye.retry is not None
            assert late.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        refused = await service.request("GET", f"{FEED}?after=now&wait=1")
        assert refused.body["error"] == "2 clients are connected already"
    await watcher.close()
    await until(lambda: not len(service.app.streams))
    async with StreamClient.to(service.port) as client:
        await client.expect("connected")


@pytest.mark.expects_log("the database cannot be reached")
async def test_a_server_without_its_database_answers_with_a_stream_that_ends(make_service: MakeService) -> None:
    service = await make_service(database_url="postgresql://127.0.0.1:1/nothing")
    async with StreamClient.to(service.port, "?after=0") as client:
        (bye,) = await client.read_to_end()
        assert (bye.data, bye.retry is not None) == ({"reason": "unavailable"}, True)


async def test_a_stop_ends_every_stream_after_what_was_saved(service: Service) -> None:
    async with StreamClient.to(service.port) as client, Connection.to(service.port) as http:
        await client.expect("connected")
        assert (await http.ask("GET", f"{STREAM}?zzz=1")).status == 400, "a connection that stays open"
        await save(service, 2)
        stopping = asyncio.create_task(service.stop())
        *snapshots, bye = await client.read_to_end()
        await stopping
        assert [event.data["seq"] for event in snapshots] == [1, 2]
        assert (bye.data, bye.id) == ({"reason": "stopping"}, snapshots[-1].id)


async def test_a_quiet_stream_gets_pings_that_do_not_move_its_position(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_hub, "PING_S", 0.1)
    monkeypatch.setattr(stream_hub, "SWEEP_S", 0.02)
    async with StreamClient.to(service.port) as client:
        await client.expect("connected")
        for _ in range(2):
            ping = await client.expect("ping")
            assert (ping.id, ping.data["seq"]) == (None, 0)


async def test_an_open_stream_keeps_neither_its_request_nor_its_connection(service: Service) -> None:
    kept = (StreamHandler, HTTPServerRequest, Exchange, ServerConnection)
    before = [one for one in gc.get_objects() if isinstance(one, kept)]  # an error of another test may refer to some
    async with StreamClient.to(service.port) as client:
        await client.expect("connected")
        await asyncio.sleep(0.05)
        gc.collect()
        assert [one for one in gc.get_objects() if isinstance(one, kept) and one not in before] == []
        assert not service.app._http._connections
        assert not service.app._http._awaited
        assert len(service.app.streams) == 1


async def test_a_second_request_on_a_stream_is_ignored(service: Service) -> None:
    async with StreamClient.to(service.port) as client:
        await client.send(f"GET {SNAPSHOTS} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        await client.expect("connected")
        await save(service, 1)
        assert await client.snapshots(1) == [1]


async def test_a_client_that_accepts_gzip_gets_no_compression(service: Service) -> None:
    async with StreamClient.to(service.port, Accept_Encoding="gzip, br") as client:
        assert "Content-Encoding" not in client.headers
        await client.expect("connected")


async def test_a_client_of_an_older_http_gets_the_same_stream(service: Service) -> None:
    async with Connection.to(service.port) as http:
        await http.send(f"GET {STREAM} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode())
        await until(lambda: len(service.app.streams) == 1)
        service.app.streams.end_all()
        head, _, events = (await http.read_rest()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\nevent: connected\n" in events
        assert b"\nevent: bye\n" in events


@pytest.mark.expects_log("every watcher has to resume")
async def test_a_new_epoch_ends_the_stream_and_its_position_is_explained(service: Service, database: Database) -> None:
    saved = await save(service, 2)
    async with StreamClient.to(service.port) as client:
        epoch = (await client.expect("connected")).data["epoch"]
        begin_epoch(database.url)
        (bye,) = await client.read_to_end()
        assert (bye.name, bye.id, bye.data) == ("bye", None, {"reason": "reset"})
    async with StreamClient.to(service.port, Last_Event_ID=token(epoch, saved[-1])) as client:
        connected = await client.expect("connected")
        assert connected.data["recovered"] is True, "nothing was lost"
        assert connected.data["epoch"] != epoch
        assert connected.id == token(connected.data["epoch"], saved[-1])


def test_curl_shows_a_stream(processes: Processes, database: Database) -> None:
    server = processes("--port=0", DATABASE_URL=database.url)
    url = server.url()
    shown = subprocess.run(
        ["curl", "--noproxy", "*", "-sNi", "--max-time", "1", url + STREAM],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert shown.returncode == 28, "the stream is open until curl has waited long enough"
    head, _, events = shown.stdout.replace("\r", "").partition("\n\n")
    assert head.startswith("HTTP/1.1 200 OK\n")
    assert re.match(r"retry: [123]\d{3}\nid: [0-9a-f-]{36}:0:0{8}\nevent: connected\ndata: {\"seq\":0,", events)
    assert server.terminate() == 0
    assert not server.complaints
