"""`GET /api/balance/connections` and `server.py connections`: which clients are connected to a running server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from balance.auth import Role
from balance.commands.connections import to_lines
from balance.realtime.send_queue import EncodedPackets
from balance.realtime.session import Session
from balance.web.connections import CONNECTIONS
from tests.support.http_client import Connection
from tests.support.payloads import UPDATE
from tests.support.raw_clients import PollingClient, SocketClient
from tests.support.refusals import check_refused
from tests.support.service import Database, Processes, Service
from tests.support.waiting import until

BAD_URLS = ("nonsense", "http://[", "http://a:x", "http://a:99999999", "http://a:0", "http://a b", "http:// :3000")
STREAM = b"GET /api/balance/stream HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: the-stream\r\n\r\n"


async def test_each_transport_is_listed_with_what_an_operator_needs(service: Service) -> None:
    socket, polling = await SocketClient.connect(service.url), await PollingClient.connect(service.url)
    async with Connection.to(service.port) as stream:
        await stream.send(STREAM)
        await until(lambda: len(service.app.streams) == 1)
        await until(lambda: all(one.replaying is None for one in service.app.streams._streams))
        data = (await service.request("GET", CONNECTIONS)).body["data"]
        assert data["total"] == {"socketIo": 2, "sse": 1, "longPolls": 0}
        by_transport = {one["transport"]: one for one in data["connections"]}
        assert by_transport.keys() == {"websocket", "polling", "sse"}
        for one in by_transport.values():
            assert one["address"] == "127.0.0.1"
            assert one["connectedSince"].endswith("Z")
            assert (one["position"], one["replaying"]) == (0, False), "the feed is empty"
            assert one["backlogBytes"] >= 0
        assert by_transport["sse"]["requestId"] == "the-stream"
    await socket.close()
    await polling.close()


@pytest.mark.parametrize("kind", [SocketClient, PollingClient])
async def test_a_client_that_is_sent_what_it_missed_has_a_position_that_advances(
    service: Service, kind: type[SocketClient | PollingClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(7):
        await service.post(UPDATE)
    monkeypatch.setattr("balance.feed.replay.PAGE_ROWS_MAX", 1)  # a page has one snapshot
    sent, may_go_on = service.app.watchers.send_missed, [asyncio.Event() for _ in range(8)]

    async def send_when_allowed(session: Session, packets: EncodedPackets, last: int) -> None:
        await sent(session, packets, last)
        await may_go_on[last].wait()

    monkeypatch.setattr(service.app.watchers, "send_missed", send_when_allowed)
    client = await kind.connect(service.url, {"after": 0})
    for position in range(1, 8):
        await until(lambda at=position: next(iter(service.app.server.eio.sessions.values())).replayed == at)
        (one,) = (await service.request("GET", CONNECTIONS)).body["data"]["connections"]
        assert (one["position"], one["behind"], one["replaying"]) == (position, 7 - position, True)
        may_go_on[position].set()
    await until(lambda: next(iter(service.app.server.eio.sessions.values())).live_group is not None)
    (one,) = (await service.request("GET", CONNECTIONS)).body["data"]["connections"]
    assert (one["position"], one["behind"], one["replaying"]) == (7, 0, False)
    await client.close()


def test_the_table_shows_how_far_a_replay_is() -> None:
    one = {
        "address": "127.0.0.1",
        "transport": "polling",
        "connectedSince": "2026-01-01T00:00:00.000Z",
        "role": "anyone",
        "name": "",
        "backlogBytes": 7,
        "requestId": "1",
    }
    rows = [
        {**one, "position": 1_000, "behind": 500, "replaying": True},
        {**one, "position": None, "behind": None, "replaying": True},
        {**one, "position": 1_500, "behind": 0, "replaying": False},
    ]
    lines = to_lines({"connections": rows, "total": {"socketIo": 3, "longPolls": 0}})
    assert [line.partition("7 bytes")[2].strip() for line in lines[1:4]] == [
        "1000, replaying, 500 behind",
        "replaying",
        "1500, live",
    ]


async def test_the_largest_backlogs_come_first_and_the_list_is_bounded(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [await SocketClient.connect(service.url) for _ in range(3)]
    sessions = list(service.app.server.eio.sessions.values())
    monkeypatch.setattr(type(sessions[0].send_queue), "unsent_bytes", 0)
    sizes = dict(zip((id(one.send_queue) for one in sessions), (5, 70, 3), strict=True))
    monkeypatch.setattr(type(sessions[0].send_queue), "unsent_bytes", property(lambda self: sizes[id(self)]))
    data = (await service.request("GET", f"{CONNECTIONS}?limit=2")).body["data"]
    assert [one["backlogBytes"] for one in data["connections"]] == [70, 5]
    assert data["total"]["socketIo"] == 3
    monkeypatch.undo()
    for client in clients:
        await client.close()


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "other=1", "limit=1&limit=2"])
async def test_a_bad_query_is_refused(service: Service, query: str) -> None:
    reply = await service.request("GET", f"{CONNECTIONS}?{query}")
    assert (reply.status, reply.body["code"]) == (400, "invalid_payload")


async def test_the_list_needs_a_permission(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balance.auth.PERMISSIONS", dict.fromkeys(Role, frozenset()))
    check_refused(await service.request("GET", CONNECTIONS), "forbidden", "this role may not read connections")


async def test_the_command_prints_a_table_or_json(processes: Processes, database: Database) -> None:
    server = processes("--port=0", DATABASE_URL=database.url)
    url = await asyncio.to_thread(server.url)
    client = await SocketClient.connect(url)
    table, as_json = processes("connections", f"--url={url}"), processes("connections", f"--url={url}", "--json")
    assert await asyncio.to_thread(table.wait) == 0
    assert table.stdout[0].split()[:2] == ["address", "transport"]
    assert table.stdout[1].split()[:2] == ["127.0.0.1", "websocket"]
    assert table.stdout[1].endswith("0, live")
    assert table.stdout[2:] == ["1 socketIo, 0 sse, 0 longPolls"]
    assert await asyncio.to_thread(as_json.wait) == 0
    assert json.loads("\n".join(as_json.stdout))["connections"][0]["transport"] == "websocket"
    await client.close()
    assert await asyncio.to_thread(server.terminate) == 0


def test_the_command_ends_with_one_line_and_status_1(processes: Processes, tmp_path: Path) -> None:
    for arguments, fault in (
        (["--port=1"], "no server answers at http://127.0.0.1:1: Connection refused"),
        *(([f"--url={url}"], "--url: must be like http://127.0.0.1:3000") for url in BAD_URLS),
        (["--host=a]b"], "--host: must be like 127.0.0.1 or balance.example.com"),
        ([f"--token-file={tmp_path / 'no'}"], f"--token-file: {tmp_path / 'no'}: No such file or directory"),
    ):
        process = processes("connections", *arguments)
        assert process.wait() == 1
        assert process.stderr == [f"server.py: {fault}"]
