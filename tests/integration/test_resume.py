"""Watchers on Socket.IO resume from a position: everything after it once, in order, and then the live tail."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from tornado.httpclient import HTTPClientError

import protocol
from balance.aio import slices
from balance.aio.slices import SlicedWork
from balance.feed import replay
from tests.support.history import append_history, begin_epoch, id_of
from tests.support.payloads import UPDATE
from tests.support.raw_clients import Dropped, PollingClient, Refused, SocketClient
from tests.support.service import Database, MakeService, Service
from tests.support.waiting import until
from tests.support.watching import check_live, feed_epoch, seqs

CLIENTS = (SocketClient, PollingClient)


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("after", [0, 1, 999, 1000, 2499, 2500])
async def test_a_client_receives_everything_after_its_position_and_then_the_live_tail(
    database: Database, make_service: MakeService, client_class: Any, after: int
) -> None:
    append_history(database, 2500)
    service = await make_service()
    auth = {"after": after, "epoch": feed_epoch(database), **({"id": id_of(database, after)} if after else {})}
    client = await client_class.connect(service.url, auth)
    head = {"seq": 2500, "epoch": feed_epoch(database), "durability": "local", "recovered": True}
    assert head.items() <= client.connected.items()
    assert await seqs(client, 2500 - after) == list(range(after + 1, 2501))
    await check_live(service, client, 2501)
    await client.close()


async def test_a_client_without_a_position_receives_only_what_comes(
    database: Database, make_service: MakeService
) -> None:
    append_history(database, 5)
    service = await make_service()
    client = await SocketClient.connect(service.url)
    assert {"seq": 5, "recovered": False}.items() <= client.connected.items()
    assert not {"reason", "goodUntil"} & set(client.connected)
    await check_live(service, client, 6)
    await client.close()


@pytest.mark.parametrize(
    ("auth", "reason"),
    [
        ({"after": 3, "epoch": str(uuid4())}, "other_feed"),
        ({"after": 0, "epoch": str(uuid4())}, "other_feed"),
        ({"after": 6}, "ahead"),
        ({"after": 3, "id": str(uuid4())}, "diverged"),
    ],
)
async def test_a_client_whose_position_is_not_good_gets_the_reason_and_the_live_tail(
    database: Database, make_service: MakeService, auth: dict[str, Any], reason: str
) -> None:
    append_history(database, 5)
    service = await make_service()
    client = await SocketClient.connect(service.url, {"epoch": feed_epoch(database), **auth})
    assert {"seq": 5, "recovered": False, "reason": reason}.items() <= client.connected.items()
    assert "goodUntil" not in client.connected
    await check_live(service, client, 6)
    await client.close()


@pytest.mark.expects_log("every watcher has to resume", "a new epoch of the feed begins")
async def test_a_client_that_has_seen_what_was_lost_gets_the_last_seq_that_is_good(
    database: Database, make_service: MakeService
) -> None:
    append_history(database, 5)
    old = feed_epoch(database)
    service = await make_service()
    watcher = await SocketClient.connect(service.url)
    database.rows("DELETE FROM balance_snapshot WHERE seq > 3")
    database.rows("UPDATE balance_feed SET last_seq = 3")
    assert await watcher.await_closed() == 1012
    new = feed_epoch(database)
    assert new != old
    lost, good = [await SocketClient.connect(service.url, {"after": after, "epoch": old}) for after in (4, 3)]
    expected = {"seq": 3, "epoch": new, "recovered": False, "reason": "diverged", "goodUntil": 3}
    assert expected.items() <= lost.connected.items()
    assert {"seq": 3, "epoch": new, "recovered": True}.items() <= good.connected.items()
    for client in (lost, good):
        await client.close()


@pytest.mark.expects_log("every watcher has to resume")
async def test_the_ends_of_a_new_epoch_do_not_delay_a_save_and_a_new_client_stays(
    database: Database, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)  # one client in each turn of the event loop
    monkeypatch.setattr(slices, "GIL_PAUSE_S", 0.005)
    service = await make_service()
    old = [await SocketClient.connect(service.url) for _ in range(200)]
    sessions = list(service.app.server.eio.sessions.values())

    def ended() -> int:
        return sum(session.has_ended for session in sessions)

    begin_epoch(database, 0)
    await until(lambda: ended() > 0)
    new = await SocketClient.connect(service.url)
    assert new.connected["epoch"] == feed_epoch(database)
    assert (await service.post(UPDATE)).status == 201
    assert ended() < len(old), "the save did not wait for the last of them"
    assert [await client.await_closed() for client in old] == [1012] * len(old)
    assert [client.waiting() for client in old] == [1] * len(old), "nothing of the new epoch, but the end"
    assert await seqs(new, 1) == [1]
    await check_live(service, new, 2)
    for client in (*old, new):
        await client.close()


async def test_a_client_that_connects_again_on_its_transport_is_of_the_new_epoch(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await SocketClient.connect(service.url)
    with monkeypatch.context() as patched:
        patched.setattr(SlicedWork, "_run_slice", lambda work: work._schedule())  # no turn comes
        service.app.watchers.end_all()
        await client.send_raw("41")
        await client.send_raw("40")
        await client.take_connect()
    await client.expect("connected")
    await check_live(service, client, 1)
    await client.close()


@pytest.mark.parametrize("client_class", CLIENTS)
async def test_what_is_saved_during_a_replay_comes_once_and_in_order(
    database: Database, make_service: MakeService, client_class: Any
) -> None:
    append_history(database, 3000)
    service = await make_service()
    epoch = feed_epoch(database)

    async def save() -> None:
        for _ in range(100):
            assert (await service.post(UPDATE)).status == 201

    saving = asyncio.create_task(save())
    clients = [await client_class.connect(service.url, {"after": 200 * n, "epoch": epoch}) for n in range(8)]
    await saving
    for n, client in enumerate(clients):
        assert await seqs(client, 3100 - 200 * n) == list(range(200 * n + 1, 3101))
    for client in clients:
        assert not client.waiting()
        await client.close()


async def test_an_update_is_acknowledged_in_the_middle_of_a_replay(
    database: Database, make_service: MakeService
) -> None:
    append_history(database, 20_000)
    service = await make_service()
    client = await SocketClient.connect(service.url, {"after": 0, "epoch": feed_epoch(database)})
    ((answer,), events) = await client.call("balance:update", UPDATE), client.waiting()
    assert answer["success"]
    assert events < 20_000
    received: list[int] = []
    while len(received) < 20_001:
        name, payload = await client.next_event()
        if name == "balance:snapshot":
            received.append(payload["seq"])
    assert received == list(range(1, 20_002))
    await client.close()


async def test_a_client_that_goes_during_its_replay_leaves_nothing_behind(
    database: Database, make_service: MakeService
) -> None:
    append_history(database, 20_000)
    service = await make_service()
    tasks = len(asyncio.all_tasks())
    client = await SocketClient.connect(service.url, {"after": 0, "epoch": feed_epoch(database)})
    (session,) = service.app.server.eio.sessions.values()
    assert session.replay is not None
    await client.close()
    await until(lambda: not service.app.server.eio.sessions)
    await until(lambda: len(asyncio.all_tasks()) <= tasks)


async def test_a_client_that_does_not_read_its_replay_is_sent_no_more_than_its_limit(
    database: Database, make_service: MakeService
) -> None:
    append_history(database, 100_000)
    service = await make_service(watcher_unsent_bytes_max=1_000_000)
    client = await SocketClient.connect(service.url, {"after": 0, "epoch": feed_epoch(database)})
    await client.stop_reading()
    (session,) = service.app.server.eio.sessions.values()
    await until(lambda: session.send_queue.unsent_bytes > 250_000)
    for _ in range(20):
        assert (await service.post(UPDATE)).status == 201
        assert session.send_queue.unsent_bytes < 1_000_000
    assert service.app.server.eio.sender.slow_disconnects == 0
    client.resume_reading()
    assert await seqs(client, 100_020) == list(range(1, 100_021))
    await client.close()


@pytest.mark.expects_log("disconnected slow client")
@pytest.mark.parametrize("client_class", CLIENTS)
async def test_a_client_that_answers_pings_and_does_not_read_its_replay_is_disconnected(
    database: Database,
    make_service: MakeService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    client_class: Any,
) -> None:
    monkeypatch.setattr(replay, "READ_S_MAX", 1.0)
    append_history(database, 50_000)
    service = await make_service(watcher_unsent_bytes_max=65_536)
    engine = service.app.server.eio
    client = await client_class.open(service.url, **({"poll": False} if client_class is PollingClient else {}))
    await client.send_raw(f'40{{"after":0,"epoch":"{feed_epoch(database)}"}}')
    (session,) = engine.sessions.values()
    if client_class is SocketClient:
        await client.stop_reading()
    while engine.sessions:
        with suppress(Dropped, HTTPClientError):
            await client.send_raw("3")
        await asyncio.sleep(0.02)
    assert engine.sender.slow_disconnects == 1
    assert session.replay is None
    lines = [record.getMessage() for record in caplog.records if "slow client" in record.getMessage()]
    assert len(lines) == 1
    assert re.fullmatch(rf"disconnected slow client {session.id}: \d{{5,}} bytes unread", lines[0])
    await client.close()


@pytest.mark.parametrize(
    ("auth", "error"),
    [
        ({"after": 1.5, "epoch": str(uuid4())}, "after: must be an integer"),
        ({"after": 5}, "epoch: is required"),
        ({"after": 5, "epoch": "x"}, "epoch: must be a UUID"),
        ({"after": 5, "epoch": str(uuid4()), "id": 7}, "id: must be a string"),
        ({"recovery": "yes"}, "recovery: must be a boolean"),
        ({"recovery": True, "offset": 7}, "offset: must be a string"),
        ({"last": 5}, "last: is not a known field"),
    ],
)
async def test_a_position_that_cannot_be_read_is_refused_by_the_name_of_its_field(
    service: Service, auth: dict[str, Any], error: str
) -> None:
    with pytest.raises(Refused) as refused:
        await SocketClient.connect(service.url, auth)
    assert refused.value.payload["message"].startswith(error)
    assert refused.value.payload["data"]["code"] == "invalid_payload"
    await until(lambda: not service.app.server.eio.sessions)


async def native(service: Service, auth: dict[str, Any]) -> tuple[SocketClient, dict[str, Any], list[Any]]:
    """Connect with native recovery; return the client, the payload of CONNECT and the arguments of `connected`."""
    client = await SocketClient.open(service.url)
    await client.send_raw("40" + protocol.dumps({"recovery": True, **auth}))
    connect = protocol.loads(str(await client.next_frame())[2:])
    event, *arguments = protocol.loads(str(await client.next_frame())[2:])
    assert event == "connected"
    return client, connect, arguments


async def next_offset(client: SocketClient, seq: int) -> str:
    """Return the offset of the next snapshot, which must have this seq."""
    event, payload, offset = protocol.loads(str(await client.next_frame())[2:])
    assert (event, payload["seq"]) == ("balance:snapshot", seq)
    assert isinstance(offset, str)
    assert offset.endswith(payload["id"][-8:])
    return offset


async def test_native_recovery_has_the_epoch_as_pid_and_a_position_beside_each_event(
    database: Database, make_service: MakeService
) -> None:
    append_history(database, 3)
    service = await make_service()
    epoch = feed_epoch(database)
    client, connect, (greeting, offset) = await native(service, {})
    assert (connect["pid"], greeting["recovered"]) == (epoch, False)
    assert offset == f"3:{id_of(database, 3)[-8:]}"
    assert (await service.post(UPDATE)).status == 201
    offset = await next_offset(client, 4)
    await client.close()
    append_history(database, 1500)
    client, connect, (greeting, first) = await native(service, {"pid": epoch, "offset": offset})
    assert (connect["pid"], greeting["recovered"], first) == (epoch, True, offset), "a cut now must lose nothing"
    for seq in range(5, 1505):
        offset = await next_offset(client, seq)
    assert offset == f"1504:{id_of(database, 1504)[-8:]}"
    await client.close()


@pytest.mark.expects_log("every watcher has to resume")
async def test_native_recovery_keeps_its_pid_over_a_new_epoch_that_has_lost_nothing(
    database: Database, make_service: MakeService
) -> None:
    append_history(database, 3)
    service = await make_service()
    old = feed_epoch(database)
    client, _, (_, offset) = await native(service, {})
    new = begin_epoch(database, 3)
    assert await client.await_closed() == 1012
    append_history(database, 1)
    client, connect, (greeting, first) = await native(service, {"pid": old, "offset": offset})
    assert (connect["pid"], greeting["recovered"], greeting["epoch"]) == (old, True, new)
    assert first == f"{new}:{offset}"
    offset = await next_offset(client, 4)
    assert offset.startswith(f"{new}:4:")
    await client.close()
    client, connect, (greeting, _) = await native(service, {"pid": old, "offset": offset})
    assert (connect["pid"], greeting["recovered"]) == (old, True)
    await client.close()
    client, connect, (greeting, _) = await native(service, {"pid": old, "offset": f"4:{offset[-8:]}"})
    assert (connect["pid"], greeting["recovered"], greeting["goodUntil"]) == (new, False, 3)
    await client.close()


@pytest.mark.parametrize(
    "position", [{"pid": "other", "offset": "other"}, {"pid": str(uuid4()), "offset": "1:00000000"}]
)
async def test_native_recovery_of_another_server_is_not_recovered(service: Service, position: dict[str, str]) -> None:
    client, connect, (greeting, offset) = await native(service, position)
    assert (greeting["recovered"], greeting["reason"], offset) == (False, "other_feed", "0:00000000")
    assert connect["pid"] == greeting["epoch"]
    await client.close()


async def test_native_recovery_that_fails_within_an_epoch_gets_another_pid(
    database: Database, make_service: MakeService
) -> None:
    append_history(database, 3)
    service = await make_service()
    epoch = feed_epoch(database)
    client, connect, (greeting, _) = await native(service, {"pid": epoch, "offset": "3:ffffffff"})
    assert (connect["pid"], greeting["reason"]) == (epoch.upper(), "diverged")
    await client.close()
