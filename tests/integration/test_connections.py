"""`GET /api/balance/connections` and `server.py connections`: which clients are connected to a running server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from balance.auth import Role
from balance.web.connections import CONNECTIONS
from tests.support.http_client import Connection
from tests.support.raw_clients import PollingClient, SocketClient
from tests.support.refusals import check_refused
from tests.support.service import Database, Processes, Service
from tests.support.waiting import until

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
        (["--url=nonsense"], "--url: must be like http://127.0.0.1:3000"),
        ([f"--token-file={tmp_path / 'no'}"], f"--token-file: {tmp_path / 'no'}: No such file or directory"),
    ):
        process = processes("connections", *arguments)
        assert process.wait() == 1
        assert process.stderr == [f"server.py: {fault}"]
