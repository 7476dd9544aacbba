"""Clients that connect again on the same transport, or whose position cannot be looked up or replayed to the end."""

from __future__ import annotations

import asyncio
import threading

import pytest

import protocol
from tests.support.history import append_history
from tests.support.raw_clients import PollingClient, SocketClient
from tests.support.service import Database, MakeService
from tests.support.waiting import until
from tests.support.watching import check_live, feed_epoch, seqs


async def test_a_client_that_leaves_in_its_second_replay_is_not_made_live(
    database: Database, make_service: MakeService
) -> None:
    append_history(database, 20_000)
    service = await make_service(watcher_unsent_bytes_max=65_536)
    epoch = feed_epoch(database)
    client = await PollingClient.open(service.url, poll=False)
    assert (await client.post("40" + protocol.dumps({"after": 0, "epoch": epoch}))).status == 200
    (session,) = service.app.server.eio.sessions.values()
    await until(lambda: session.send_queue.unsent_bytes > 16_384)
    first = session.replay
    assert (await client.post("41", "40" + protocol.dumps({"after": 10_000, "epoch": epoch}))).status == 200
    await until(lambda: session.replay is not first and session.send_queue.unsent_bytes > 16_384)
    assert session.replay is not None
    assert (await client.post("41")).status == 200
    client.start_polling()
    await until(lambda: not session.send_queue.unsent_bytes)
    assert session.live_group is None
    await client.close()


async def test_a_second_connect_while_the_first_one_waits_is_refused(
    database: Database, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_history(database, 5)
    service = await make_service()
    go, look_up = threading.Event(), service.app.database.feed_store.look_up
    monkeypatch.setattr(service.app.database.feed_store, "look_up", lambda claimed: go.wait(10) and look_up(claimed))
    client = await PollingClient.open(service.url)
    (session,) = service.app.server.eio.sessions.values()
    connect = "40" + protocol.dumps({"after": 3, "epoch": feed_epoch(database)})
    connecting = asyncio.create_task(client.post(connect))
    await until(lambda: session.has_sent_connect)
    # A client that changes to its WebSocket meanwhile can send a second one there.
    await service.app.server.receive(session, connect[1:])
    assert str(await client.next_frame()).startswith("44")
    go.set()
    assert (await connecting).status == 200
    await client.take_connect()
    await client.expect("connected")
    assert await seqs(client, 2) == [4, 5]
    await check_live(service, client, 6)
    await client.expect_silence(0.1)
    await client.close()


@pytest.mark.expects_log("a position could not be looked up")
async def test_a_fault_while_a_position_is_looked_up_ends_the_session(
    database: Database, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_history(database, 5)
    service = await make_service()
    monkeypatch.setattr(service.app.database.feed_store, "look_up", lambda claimed: 1 / 0)
    client = await SocketClient.open(service.url)
    await client.send_raw("40" + protocol.dumps({"after": 3, "epoch": feed_epoch(database)}))
    assert await client.await_closed() == 1013
    await client.close()


async def test_a_client_is_sent_nothing_behind_a_gap_and_is_pruned_there(
    database: Database, make_service: MakeService
) -> None:
    append_history(database, 20)
    database.rows("DELETE FROM balance_snapshot WHERE seq IN (11, 12)")
    service = await make_service()
    epoch = feed_epoch(database)
    client = await SocketClient.connect(service.url, {"after": 0, "epoch": epoch})
    assert client.connected["recovered"]
    assert await seqs(client, 10) == list(range(1, 11))
    assert await client.await_closed() == 1013
    again = await SocketClient.connect(service.url, {"after": 10, "epoch": epoch})
    assert {"seq": 20, "recovered": False, "reason": "pruned"}.items() <= again.connected.items()
    await check_live(service, again, 21)
    for one in (client, again):
        await one.close()
