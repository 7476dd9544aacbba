"""/metrics: each number is what happened, no client can add a series, and Prometheus' own tool finds no fault."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from balance.metrics.table import METRICS as TABLE
from protocol.operations import FEED, METRICS, STREAM
from tests.support.http_client import Connection, request
from tests.support.outages import OUTAGE
from tests.support.payloads import UPDATE
from tests.support.postgres import LOCK_FEED, locked
from tests.support.raw_clients import PollingClient, Refused, SocketClient
from tests.support.service import SNAPSHOTS, Database, MakeService, Service
from tests.support.sse import StreamClient
from tests.support.waiting import until

PROMTOOL = shutil.which("promtool")
OTHER_EPOCH = "00000000-0000-4000-8000-000000000000"
ID = "019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51"
Series = tuple[str, tuple[tuple[str, str], ...]]


async def scrape(service: Service) -> dict[Series, float]:
    """Return every series of /metrics: its name and labels, and its value."""
    reply = await service.request("GET", METRICS)
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(reply.raw.decode())
        for sample in family.samples
    }


def value(found: Mapping[Series, float], name: str, **labels: str) -> float:
    """Return the value of one series."""
    return found[name, tuple(sorted(labels.items()))]


async def saves(service: Service) -> dict[str, int]:
    """Return how many updates were answered, by outcome, without those that did not occur."""
    found = await scrape(service)
    return {
        dict(labels)["outcome"]: int(n) for (name, labels), n in found.items() if name == "balance_saves_total" and n
    }


async def refusals(service: Service) -> dict[str, int]:
    """Return how many errors were sent, by transport and code, without those that did not occur."""
    found = await scrape(service)
    named = [(dict(labels), n) for (name, labels), n in found.items() if name == "balance_refusals_total" and n]
    return {f"{labels['transport']} {labels['code']}": int(n) for labels, n in named}


async def test_every_metric_of_the_table_is_rendered_with_those_of_the_process(service: Service) -> None:
    names = {name for name, _ in await scrape(service)}
    suffix = {"counter": "", "gauge": "", "histogram": "_bucket"}
    assert {metric.name + suffix[metric.kind] for metric in TABLE} <= names
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= names
    assert {name for name in names if not name.startswith(("balance_", "process_"))} == set()


async def test_saves_are_counted_by_outcome_on_both_transports(service: Service, database: Database) -> None:
    client = await SocketClient.connect(service.url)
    assert (await service.post({**UPDATE, "id": ID})).status == 201
    assert (await service.post({**UPDATE, "id": ID})).status == 200
    assert (await service.post({**UPDATE, "id": ID, "pid": 1})).status == 409
    assert (await service.post(b"{")).status == 400
    assert (await service.post({"onchain": {}})).status == 400
    await client.call("balance:update", UPDATE)
    await client.call("balance:update", {**UPDATE, "id": ID})
    await client.call("balance:update", {**UPDATE, "id": ID, "pid": 1})
    await client.call("balance:update", {})
    assert await saves(service) == {
        "saved": 2,
        "duplicate": 2,
        "conflict": 2,
        "malformed_json": 1,
        "invalid_payload": 2,
    }
    assert await refusals(service) == {
        "rest conflict": 1,
        "rest malformed_json": 1,
        "rest invalid_payload": 1,
        "socket_io conflict": 1,
        "socket_io invalid_payload": 1,
    }
    found = await scrape(service)
    assert value(found, "balance_feed_head_seq") == 2 == database.count()
    assert value(found, "balance_saves_pending") == 0
    assert value(found, "balance_commit_rows_sum") == 6, "of each update that reached the database"
    assert value(found, "balance_commit_seconds_count") == value(found, "balance_commit_rows_count") > 0
    assert 0 < value(found, "balance_commit_seconds_sum") < 10
    assert value(found, "balance_commit_rows_bucket", le="+Inf") == value(found, "balance_commit_rows_count")
    assert (value(found, "balance_ready"), value(found, "balance_database_up")) == (1, 1)
    assert 0 <= value(found, "balance_feed_lag_seconds") < 5
    await client.close()


@pytest.mark.expects_log(*OUTAGE)
async def test_updates_that_wait_and_batches_that_fail_are_counted(
    make_service: MakeService, database: Database
) -> None:
    service = await make_service(statement_ms_max=500)
    with locked(database, LOCK_FEED):
        saving = asyncio.create_task(service.post(UPDATE))
        async with asyncio.timeout(10):
            names = ("balance_saves_pending", "balance_pool_connections_in_use")
            while not all([value(found := await scrape(service), name) for name in names]):
                await asyncio.sleep(0.01)
        assert value(found, "balance_saves_pending") == 1
        assert (await saving).status == 503
    found = await scrape(service)
    assert value(found, "balance_commits_failed_total") == 1
    assert value(found, "balance_commit_seconds_count") == 0
    assert await saves(service) == {"unavailable": 1}


async def test_watchers_deliveries_resumes_and_replays_are_counted(service: Service) -> None:
    assert (await service.post(UPDATE)).status == 201
    websocket, polling = await SocketClient.connect(service.url), await PollingClient.connect(service.url)
    async with StreamClient.to(service.port) as stream:
        epoch = (await stream.next()).data["epoch"]
        waiting = asyncio.create_task(service.request("GET", f"{FEED}?after=1&epoch={epoch}&wait=30"))
        async with asyncio.timeout(10):
            while (found := await scrape(service))["balance_watchers", (("transport", "long_poll"),)] == 0:
                await asyncio.sleep(0.01)
        for transport in ("websocket", "polling", "sse", "long_poll"):
            assert value(found, "balance_watchers", transport=transport) == 1
        before = found
        assert (await service.post(UPDATE)).status == 201
        await stream.next()
        await websocket.expect("balance:snapshot")
        await polling.expect("balance:snapshot")
        assert (await waiting).status == 200
        found = await scrape(service)
        for transport, count in (("socket_io", 2), ("sse", 1)):
            name = "balance_deliveries_total"
            assert value(found, name, transport=transport) - value(before, name, transport=transport) == count
        assert value(found, "balance_resumes_total", outcome="new", reason="") == 3
        assert value(found, "balance_watchers", transport="long_poll") == 0
    async with StreamClient.to(service.port, f"?after=1&epoch={epoch}") as stream:
        await stream.next()
        await stream.next()
    async with StreamClient.to(service.port, f"?after=1&epoch={OTHER_EPOCH}") as stream:
        await stream.next()
    found = await scrape(service)
    assert value(found, "balance_resumes_total", outcome="recovered", reason="") == 1
    assert value(found, "balance_resumes_total", outcome="not_recovered", reason="other_feed") == 1
    assert value(found, "balance_replay_rows_total") == 1
    assert value(found, "balance_replays_total") >= 1
    await websocket.close()
    await polling.close()


async def test_refusals_are_counted_by_transport(service: Service) -> None:
    async with Connection.to(service.port) as one:
        await one.send(b"NOT HTTP\r\n\r\n")
        await one.read_reply()
    assert (await service.request("GET", "/nothing")).status == 404
    assert (await service.request("GET", f"{STREAM}?unknown=1")).status == 400
    assert (await service.request("GET", "/api/socket.io/?EIO=3&transport=polling")).status == 400
    assert (await service.request("GET", SNAPSHOTS, Host="evil.example")).status == 421
    with pytest.raises(Refused):
        await SocketClient.connect(service.url, auth={"after": "x"})
    client = await SocketClient.connect(service.url)
    await client.call("unknown")
    await client.close()
    assert await refusals(service) == {
        "http invalid_payload": 1,
        "rest not_found": 1,
        "rest misdirected_request": 1,
        "sse invalid_payload": 1,
        "socket_io invalid_payload": 3,
    }


async def test_no_client_can_add_a_series(service: Service) -> None:
    before = (await scrape(service)).keys()
    for target in (f"/{'a' * 50}", f"{SNAPSHOTS}/x", f"{STREAM}?pid=x", METRICS + "?x=1"):
        for method in ("GET", "POST", "BREW"):
            await service.request(method, target, Origin="http://evil.example", X_Forwarded_For="203.0.113.9")
    for number in range(5):
        await service.post({**UPDATE, "pid": number, "onchain": {**UPDATE["onchain"], f"x{number}": 1}})
    client = await SocketClient.connect(service.url)
    for name in ("a", "b"):
        await client.call(name, {"x": 1})
    await client.close()
    assert (await scrape(service)).keys() == before


async def test_the_lag_of_the_event_loop_is_measured(service: Service) -> None:
    lag = service.app._loop_lag.seconds
    await until(lambda: next(iter(reversed(list(lag.cumulative()))))[1] >= 2)
    assert 0 <= lag.sum < 5


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: it is in Debian's package prometheus")
async def test_promtool_finds_no_fault_in_the_metrics(service: Service) -> None:
    await service.post(UPDATE)
    text = (await request(service.url, "GET", METRICS)).raw
    done = await asyncio.to_thread(
        subprocess.run, [str(PROMTOOL), "check", "metrics"], input=text, capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
