"""`server.py watch` as a process of its own, beside a running service and a receiver of its alarms."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from balance.auth import Role
from balance.storage.token_store import revoke_token
from tests.support.access import add_token
from tests.support.alarm_receiver import check_signature, receiving
from tests.support.service import Database, MakeService, Processes, Service
from tests.support.waiting import until
from tests.support.watches import NOTICED_S_MAX, Watches, followed, reporting, save, stop

LIMIT = "onchain.usdt < 1000"
SILENT = "pid 7 silent 2s"


@pytest.fixture
def watches(processes: Processes, tmp_path: Path) -> Watches:
    """Start watches as processes."""
    return Watches(processes, tmp_path)


async def test_a_drop_is_sent_once_and_its_end_once_signed_and_exact(service: Service, watches: Watches) -> None:
    await save(service.url)
    async with receiving() as receiver:
        watch = watches.start(service.url, receiver, LIMIT)
        await followed(watch)
        for usdt in (999.5, 3, 1000, 5000):
            saved_at = await save(service.url, usdt, 7)
            if usdt in (999.5, 1000):
                await receiver.until(1 if usdt < 1000 else 2)
                assert receiver.arrived[-1].at - saved_at < NOTICED_S_MAX
        await stop(watch)
    fired, ended = receiver.arrived
    assert receiver.accepted == receiver.arrived
    assert receiver.alarms == [("firing", LIMIT), ("resolved", LIMIT)]
    for one in (fired, ended):
        check_signature(one)
        assert one.headers["Content-Type"] == "application/json"
    assert b'"value":999.5,' in fired.body
    data = ended.json["data"]
    assert (data["id"], data["startsAt"]) == (fired.json["data"]["id"], fired.json["data"]["startsAt"])
    assert (fired.json["data"]["endsAt"], data["endsAt"]) == (None, ended.json["timestamp"])
    assert data["summary"] == f"Resolved: {LIMIT}; the amount is 1000"
    assert fired.headers["webhook-id"] != ended.headers["webhook-id"]
    assert [line.split(" ", 1)[1] for line in watch.stdout] == [
        f"Firing: {LIMIT}; the amount is 999.5",
        f"Resolved: {LIMIT}; the amount is 1000",
    ]


async def test_silence_is_sent_once_and_its_end_once_also_over_the_ends_of_old_streams(
    make_service: MakeService, watches: Watches
) -> None:
    service = await make_service(stream_s_max=1)
    async with receiving() as receiver:
        watch = watches.start(service.url, receiver, "pid 7 silent 3s", "any pid silent 3s")
        await followed(watch)
        async with reporting(service.url, 7), reporting(service.url, 8):
            await asyncio.sleep(4)
            assert receiver.arrived == []
        silent_at = time.monotonic()
        await receiver.until(3)
        for one in receiver.arrived:
            assert 2 < one.at - silent_at < 3 + NOTICED_S_MAX
        async with reporting(service.url, 7):
            await receiver.until(5)
            await asyncio.sleep(1.5)
        await stop(watch)
    first, second = ("pid 7 silent 3s", "any pid silent 3s 7")
    assert sorted(receiver.alarms[:3]) == [("firing", "any pid silent 3s 7"), ("firing", "any pid silent 3s 8"),
                                           ("firing", first)]  # fmt: skip
    assert receiver.alarms[3:] == [("resolved", first), ("resolved", second)]


async def test_a_notice_is_sent_again_under_its_id_until_it_is_accepted(service: Service, watches: Watches) -> None:
    async with receiving() as receiver:
        receiver.statuses = [500, 302]
        receiver.answer_headers = {"Location": f"http://127.0.0.1:{receiver.port}/elsewhere"}
        watch = watches.start(service.url, receiver, LIMIT)
        await followed(watch)
        await save(service.url, 5)
        await save(service.url, 5000)
        await receiver.until(2)
        await stop(watch)
    assert [one.status for one in receiver.arrived] == [500, 302, 204, 204]
    assert receiver.alarms == [("firing", LIMIT), ("resolved", LIMIT)], "the order is kept"
    assert len({one.headers["webhook-id"] for one in receiver.arrived[:3]}) == 1
    assert len({one.body for one in receiver.arrived[:3]}) == 1
    assert {one.path for one in receiver.arrived} == {"/hook"}, "no redirect is followed"
    first, second, third, _ = (one.at for one in receiver.arrived)
    assert third - second > second - first
    for one in receiver.arrived:
        check_signature(one)


async def test_a_watch_that_was_killed_goes_on_without_repeating_or_missing_an_alarm(
    service: Service, watches: Watches, tmp_path: Path
) -> None:
    state = str(tmp_path / "state.json")
    rules = LIMIT, "pid 7 onsite.usd > 5", SILENT
    async with receiving() as receiver:
        watch = watches.start(service.url, receiver, *rules, state=state)
        await followed(watch)
        await save(service.url, 5)
        await receiver.until(2)  # the limit, and silence
        await asyncio.to_thread(watch.kill)  # it may not have stored yet that the receiver has accepted the second
        await save(service.url, 4)
        update = {"pid": 7, "onchain": {"rlb": 1, "usdt": 3}, "onsite": {"rlb": 1, "usd": 6}}
        assert (await service.post(update)).status == 201
        watch = watches.start(service.url, receiver, *rules, state=state)
        await followed(watch)
        await receiver.until(4)
        receiver.statuses = [503] * 20
        await save(service.url, 5000)
        await until(lambda: receiver.arrived[-1].status == 503)
        await asyncio.to_thread(watch.kill)
        receiver.statuses = []
        watch = watches.start(service.url, receiver, LIMIT, SILENT, state=state)
        await receiver.until(7)
        await stop(watch)
    assert sorted(receiver.alarms[:2]) == [("firing", LIMIT), ("firing", SILENT)]
    assert sorted(receiver.alarms[2:4]) == [("firing", rules[1]), ("resolved", SILENT)]
    assert sorted(receiver.alarms[4:]) == [("firing", SILENT), ("resolved", LIMIT), ("resolved", rules[1])]
    refused = {one.headers["webhook-id"] for one in receiver.arrived if one.status == 503}
    assert len(refused) == 1
    assert refused <= {one.headers["webhook-id"] for one in receiver.accepted}
    removed = next(one for one in receiver.arrived if one.alarm == ("resolved", rules[1]))
    assert removed.json["data"]["summary"] == f"Resolved: {rules[1]}; the rule was removed"


async def test_ntfy_gets_a_message_and_alertmanager_an_alert_on_the_wire(service: Service, watches: Watches) -> None:
    async with receiving() as ntfy, receiving() as alertmanager:
        watches = [
            watches.start(service.url, ntfy, LIMIT, format="ntfy"),
            watches.start(service.url, alertmanager, LIMIT, format="alertmanager"),
        ]
        for watch in watches:
            await followed(watch)
        await save(service.url, 5)
        await save(service.url, 5000)
        for receiver in (ntfy, alertmanager):
            await receiver.until(2)
        for watch in watches:
            await stop(watch)
    fired, ended = ntfy.arrived
    wanted = {"Title": f"Firing: {LIMIT}", "Priority": "high", "Tags": "rotating_light"}
    assert {name: fired.headers[name] for name in wanted} == wanted
    assert (fired.path, fired.body) == ("/hook", f"Firing: {LIMIT}; the amount is 5".encode())
    assert (ended.headers["Title"], ended.headers["Priority"]) == (f"Resolved: {LIMIT}", "default")
    for one in alertmanager.arrived:
        assert (one.path, one.headers["Content-Type"]) == ("/hook/api/v2/alerts", "application/json")
    ((begin,), (end,)) = (one.json for one in alertmanager.arrived)
    assert begin["labels"] == end["labels"] == {"alertname": "BalanceAlarm", "rule": LIMIT}
    assert begin["startsAt"] == end["startsAt"] <= end["endsAt"] < begin["endsAt"]
    assert begin["generatorURL"] == service.url


async def test_a_server_that_does_not_run_is_waited_for_and_the_state_is_for_one_watch(
    watches: Watches, tmp_path: Path
) -> None:
    state = str(tmp_path / "state")
    async with receiving() as receiver:
        waiting = watches.start("http://127.0.0.1:1", receiver, LIMIT, state=state)
        await until(lambda: any("is not followed now" in line for line in waiting.stderr), 30)
        second = watches.start("http://127.0.0.1:1", receiver, LIMIT, state=state)
        assert await asyncio.to_thread(second.wait) == 1
        assert second.stderr == [f"server.py: --state: {state}: another watch uses it"]
        await stop(waiting)


async def test_a_token_is_sent_and_a_server_that_refuses_ends_the_watch(
    service: Service, watches: Watches, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(await add_token(service, Role.READER) + "\n")
    async with receiving() as receiver:
        watch = watches.start(service.url, receiver, LIMIT, token_file=str(tmp_path / "token"))
        refused = watches.start(service.url, receiver, LIMIT)
        assert await asyncio.to_thread(refused.wait) == 1
        assert refused.stderr[0].startswith(f"server.py: the service at {service.url} refuses: A token is required")
        await followed(watch)
        revoke_token(service.app._config.database_url, Role.READER)
        assert await asyncio.to_thread(watch.wait) == 1
        assert watch.stderr[-1].startswith(f"server.py: the service at {service.url} refuses: ")


async def test_a_position_whose_rows_are_gone_begins_again_and_ends_no_alarm(
    make_service: MakeService, database: Database, watches: Watches, tmp_path: Path
) -> None:
    state = str(tmp_path / "state")
    service = await make_service()
    async with receiving() as receiver:
        watch = watches.start(service.url, receiver, LIMIT, "pid 8 onchain.usdt < 1000", state=state)
        await followed(watch)
        await save(service.url, 5)
        await receiver.until(1)
        await stop(watch)
        for usdt in (2000, 1, 2000):
            await save(service.url, usdt, 8)
        database.rows("DELETE FROM balance_snapshot WHERE seq <= 3 RETURNING seq")
        service = await make_service()  # whose memory has none of them
        watch = watches.start(service.url, receiver, LIMIT, "pid 8 onchain.usdt < 1000", state=state)
        await followed(watch)
        assert any("the feed has lost rows: pruned" in line for line in watch.stderr)
        await save(service.url, 2000)
        await receiver.until(2)
        await stop(watch)
    assert receiver.alarms == [("firing", LIMIT), ("resolved", LIMIT)]
