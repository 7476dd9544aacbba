"""The requests, replies and events of docs/spec.md, with its exact values and shapes.

Where digits matter, the text on the wire is compared: 100074.99978 must come back as these digits, which a parsed float
would not show. The code of docs/spec.md runs in test_spec_code.py.
"""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.support.raw_clients import PollingClient, SocketClient
from tests.support.service import SNAPSHOTS, Database, Service
from tests.support.spec_examples import AMOUNTS, FOUR_AMOUNTS, LEDGERS, REQUEST, RESPONSE, UPDATE, check_timestamp

WAIT_S = 10.0

each_transport = pytest.mark.parametrize("client_class", [SocketClient, PollingClient], ids=["websocket", "polling"])


def compact(text: str) -> str:
    """Remove the white space between the tokens of JSON."""
    return re.sub(r'("[^"]*")|\s+', lambda found: found[1] or "", text)


def snapshot_text(id_: object, seq: int, ts: str = "2025-11-07T00:45:08.603Z", pid: str = "1132978") -> str:
    """Return the snapshot of docs/spec.md as its text on the wire."""
    return f'{{"id":"{id_}","seq":{seq},"ts":"{ts}","pid":{pid},{LEDGERS}}}'


# REST


async def test_post_answers_as_written_key_for_key_and_digit_for_digit(service: Service, database: Database) -> None:
    answer = await service.request("POST", SNAPSHOTS, REQUEST.encode())
    assert answer.status == 201
    id_ = answer.body["data"]["id"]
    assert str(UUID(id_)) == id_
    assert answer.raw.decode() == compact(RESPONSE).replace('"uuid"', f'"{id_}"')
    assert answer.headers["Content-Type"] == "application/json"
    (row,) = database.rows()
    assert (str(row["id"]), row["ts"], row["pid"]) == (id_, datetime.fromisoformat(UPDATE["ts"]), 1132978)


async def test_get_lists_what_was_saved_digit_for_digit(service: Service) -> None:
    id_ = (await service.request("POST", SNAPSHOTS, REQUEST.encode())).body["data"]["id"]
    answer = await service.get()
    assert answer.status == 200
    assert answer.raw.decode() == (
        f'{{"success":true,"data":[{snapshot_text(id_, 1)}],'
        '"pagination":{"limit":100,"offset":0,"total":1,"hasMore":false,"next":null}}'
    )


async def test_get_returns_the_latest_hundred_by_default(service: Service) -> None:
    start = datetime(2025, 11, 7, tzinfo=UTC)
    times = [(start + timedelta(seconds=n)).isoformat() for n in range(102)]
    await asyncio.gather(*(service.post({**AMOUNTS, "ts": ts, "pid": n}) for n, ts in enumerate(times)))

    async def pids(query: str) -> list[int]:
        return [snapshot["pid"] for snapshot in (await service.get(query)).body["data"]]

    assert await pids("") == list(range(101, 1, -1))
    assert await pids("?limit=3") == [101, 100, 99]
    assert await pids("?limit=3&offset=2") == [99, 98, 97]
    assert await pids("?offset=100") == [1, 0]


async def test_ts_and_pid_are_optional_and_the_server_adds_its_time(service: Service) -> None:
    answer = await service.request("POST", SNAPSHOTS, f"{{{LEDGERS}}}".encode())
    assert answer.status == 201
    check_timestamp(answer.body["data"]["timestamp"])
    (snapshot,) = (await service.get()).body["data"]
    assert (snapshot["pid"], snapshot["ts"]) == (None, answer.body["data"]["timestamp"])


@pytest.mark.parametrize(("ledger", "asset"), FOUR_AMOUNTS)
async def test_a_balance_may_be_zero_but_not_negative_and_must_be_a_number(
    ledger: str, asset: str, service: Service, database: Database
) -> None:
    def with_amount(text: str) -> bytes:
        update = json.loads(REQUEST)
        update[ledger][asset] = "?"
        return json.dumps(update).replace('"?"', text).encode()

    for bad in ("-0.01", "-1", "-1e-20", '"5"', "true", "null"):
        answer = await service.request("POST", SNAPSHOTS, with_amount(bad))
        assert answer.status == 400
        assert answer.body["success"] is False
        assert answer.body["error"].startswith(f"{ledger}.{asset}: ")
    assert database.count() == 0
    answer = await service.request("POST", SNAPSHOTS, with_amount("0"))
    assert (answer.status, answer.body["data"][ledger][asset]) == (201, 0)


# Events


@each_transport
async def test_a_client_that_connects_gets_connected_and_a_ping_every_25_seconds(
    client_class: Any, service: Service
) -> None:
    client = await client_class.connect(service.url)
    assert client.connected["message"] == "Connected to balance snapshot server"
    assert client.connected["socketId"] == client.sid
    check_timestamp(client.connected["timestamp"])
    assert client.handshake["pingInterval"] == 25_000
    await client.close()


@each_transport
async def test_an_update_is_acknowledged_to_its_sender_and_then_broadcast(client_class: Any, service: Service) -> None:
    sender = await client_class.connect(service.url)
    watchers = [await SocketClient.connect(service.url), await PollingClient.connect(service.url)]
    await sender.send_raw(f'42["balance:update",{REQUEST}]')

    ack = await sender.next_frame()
    id_ = re.search('"id":"([^"]*)"', ack)[1]
    assert ack == f'42["balance:ack",{{"success":true,"id":"{id_}","timestamp":"2025-11-07T00:45:08.603Z"}}]'
    for client in (sender, *watchers):
        assert await client.next_frame() == f'42["balance:snapshot",{snapshot_text(id_, 1)}]'
    (stored,) = (await service.get()).body["data"]
    assert stored["id"] == id_
    for client in (sender, *watchers):
        await client.expect_silence(0.05)
        await client.close()


@each_transport
async def test_the_callback_gets_the_payload_of_the_event_before_the_broadcast(
    client_class: Any, service: Service
) -> None:
    client = await client_class.connect(service.url)
    callback = await client.start_call("balance:update", AMOUNTS)
    ack = await client.expect("balance:ack")
    snapshot = await client.expect("balance:snapshot")
    assert callback.done()
    assert callback.result() == [ack]
    assert set(ack) == {"success", "id", "timestamp"}
    assert ack["success"] is True
    check_timestamp(ack["timestamp"])
    assert (snapshot["id"], snapshot["ts"], snapshot["pid"]) == (ack["id"], ack["timestamp"], None)
    await client.close()


@each_transport
async def test_a_refused_update_is_reported_to_its_sender_only(
    client_class: Any, service: Service, database: Database
) -> None:
    sender, watcher = await client_class.connect(service.url), await SocketClient.connect(service.url)
    answer = await sender.call("balance:update", {**AMOUNTS, "onsite": {"rlb": -1, "usd": 0}})
    error = await sender.expect("balance:error")
    assert answer == [error]
    assert error["success"] is False
    assert error["error"] == "onsite.rlb: must be at least 0"
    for client in (sender, watcher):
        await client.expect_silence(0.05)
        await client.close()
    assert database.count() == 0


@each_transport
async def test_a_snapshot_saved_by_rest_is_broadcast_to_every_client(client_class: Any, service: Service) -> None:
    client = await client_class.connect(service.url)
    id_ = (await service.request("POST", SNAPSHOTS, REQUEST.encode())).body["data"]["id"]
    assert await client.next_frame() == f'42["balance:snapshot",{snapshot_text(id_, 1)}]'
    await client.close()


@each_transport
async def test_ping_is_answered_with_pong_and_the_time(client_class: Any, service: Service) -> None:
    client = await client_class.connect(service.url)
    await client.emit("ping")
    pong = await client.expect("pong")
    assert set(pong) == {"timestamp"}
    check_timestamp(pong["timestamp"])
    await client.close()
