"""The examples lose no reading and miss no snapshot while the server or they themselves are away.

The bots in JavaScript and Python store their readings and their position on disk. The three short clients are written
only from the section "Follow the feed" of docs/clients.md, each for another transport.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from tornado.httpclient import HTTPClientError

from protocol.operations import STREAM
from tests.support.example_clients import (
    EXAMPLES,
    FOLLOWERS,
    LANGUAGES,
    ExampleProcess,
    run_example,
    run_follower,
    run_program,
    state_folder,
)
from tests.support.http_client import request
from tests.support.proxies import free_port
from tests.support.repository import ROOT
from tests.support.service import SNAPSHOTS, Database, MakeService, Process, Processes, Service
from tests.support.waiting import until

UPDATE = {"onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}}
LINES_MAX = 32

each_language = pytest.mark.parametrize("language", LANGUAGES)


async def save(url: str, count: int = 1) -> int:
    """Save snapshots; return the `seq` of the last one."""
    for _ in range(count):
        assert (await request(url, "POST", SNAPSHOTS, UPDATE)).status == 201
    return int((await request(url, "GET", f"{SNAPSHOTS}?limit=1&order=seq")).body["data"][0]["seq"])


def lose(database: Database, after: int) -> None:
    """Remove the newest rows and change the timeline, as a failover to a standby that was behind does."""
    database.rows("DELETE FROM balance_snapshot WHERE seq > %s", after)
    database.rows("UPDATE balance_feed SET last_seq = %s, timeline = '0000000A'", after)


@each_language
async def test_readings_made_while_the_server_is_away_survive_a_kill(
    language: str, make_service: MakeService, database: Database, tmp_path: Path
) -> None:
    readings = state_folder(language, tmp_path) / "readings.jsonl"
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with run_example(language, nowhere, "--interval", "5", folder=tmp_path) as bot:
        await bot.line("cannot connect: ")
        await until(lambda: readings.read_bytes().count(b"\n") >= 10)
        await bot.kill()
    kept = [json.loads(line)["id"] for line in readings.read_text().split("\n")[:-1]]
    with readings.open("a") as file:
        file.write('{"id":"019a5bb2-4a1b-7c3e-9f')  # as a kill in the middle of a line leaves it

    service = await make_service()
    async with run_example(language, service.url, "--count", "1", folder=tmp_path) as bot:
        assert await bot.end() == 0
    stored = [str(row["id"]) for row in database.rows()]
    assert stored[:-1] == kept, "in the order in which they were made"
    assert bot.saved == stored
    assert readings.read_bytes() == b""


@each_language
async def test_no_reading_is_lost_by_a_kill_at_any_moment(
    language: str, service: Service, database: Database, tmp_path: Path
) -> None:
    readings = state_folder(language, tmp_path) / "readings.jsonl"
    kept: set[str] = set()
    for lines in (1, 4, 9):  # the kill comes between two lines of what it prints
        async with run_example(language, service.url, "--interval", "2", folder=tmp_path) as bot:
            for _ in range(lines):
                await bot.line("saved ")
            await bot.kill()
        kept |= {*bot.saved, *(json.loads(line)["id"] for line in readings.read_text().split("\n")[:-1])}
    async with run_example(language, service.url, "--count", "1", folder=tmp_path) as bot:
        assert await bot.end() == 0
    rows = database.rows()
    assert kept | set(bot.saved) == {str(row["id"]) for row in rows}
    assert [row["ts"] for row in rows] == sorted(row["ts"] for row in rows), "in the order in which they were made"
    assert readings.read_bytes() == b""


@each_language
async def test_a_client_that_was_killed_resumes_after_its_position(
    language: str, service: Service, tmp_path: Path
) -> None:
    async with run_example(language, service.url, folder=tmp_path) as bot:
        await bot.line("saved ")
        await save(service.url, 50)
        await bot.shows(40)
        await bot.kill()
    before = bot.seqs
    last = await save(service.url, 50)

    async with run_example(language, service.url, "--interval", "60000", folder=tmp_path) as bot:
        await bot.line("resumed after seq ")
        await bot.shows(last + 1)  # its own first reading
        await bot.kill()
    after = bot.seqs
    assert before == list(range(before[0], before[-1] + 1))
    assert after == list(range(after[0], last + 2))
    assert before[0] <= after[0] <= before[-1] + 1


@pytest.mark.expects_log("a new epoch of the feed begins after seq 3")
@each_language
async def test_a_client_prints_what_the_database_lost_and_continues_before_it(
    language: str, make_service: MakeService, database: Database, tmp_path: Path
) -> None:
    service = await make_service()
    position = state_folder(language, tmp_path) / "position.json"
    async with run_example(language, service.url, "--interval", "60000", folder=tmp_path) as bot:
        await bot.line("saved ")
        await save(service.url, 5)
        await until(lambda: position.exists() and json.loads(position.read_text())["after"] == 6)
        await bot.kill()
    await service.stop()
    lose(database, 3)

    service = await make_service()
    await save(service.url, 2)
    async with run_example(language, service.url, "--interval", "60000", folder=tmp_path) as bot:
        await bot.line("lost: seq 4 to 6 are gone (diverged)")
        await bot.line("resumed after seq 3")
        await bot.shows(6)
        await bot.kill()
    assert bot.seqs == [4, 5, 6]

    position.write_text(json.dumps({"after": 6, "epoch": str(uuid.uuid4())}))
    async with run_example(language, service.url, "--interval", "60000", folder=tmp_path) as bot:
        await bot.line("lost: cannot resume after seq 6 (other_feed), only after seq ")
        await bot.line("snapshot ")
        await bot.kill()


@pytest.mark.parametrize("name", FOLLOWERS)
async def test_a_short_client_misses_nothing_in_a_restart_and_in_a_loss_of_rows(
    name: str, processes: Processes, database: Database, tmp_path: Path
) -> None:
    port = free_port()

    async def serve() -> tuple[Process, str]:
        process = processes("--port", str(port), DATABASE_URL=database.url)
        return process, await asyncio.to_thread(process.url)

    process, url = await serve()
    async with run_follower(name, url, tmp_path) as client:
        first = asyncio.ensure_future(client.line("{"))
        while not first.done():  # it is connected once it prints one
            last = await save(url)
            await asyncio.wait([first], timeout=0.1)
        process.kill()
        process, url = await serve()
        last = await save(url, 20)
        await client.shows(last)
        printed = client.seqs
        assert printed == list(range(printed[0], last + 1))

        process.kill()
        lose(database, last - 5)
        process, url = await serve()
        head = await save(url, 10)
        await client.line("lost: ")
        await client.shows(head)
        assert client.seqs[len(printed) :] == list(range(last - 4, head + 1))
        await client.kill()

    if name != "follow.js":  # the recovery of the library does not survive the process
        last = await save(url, 20)
        async with run_follower(name, url, tmp_path) as client:
            await client.shows(last)
            assert client.seqs == list(range(client.seqs[0], last + 1))
            assert head - 10 < client.seqs[0] <= head + 1, "what it printed and did not store comes again"
            await client.kill()


async def test_the_documented_loop_with_curl_prints_each_snapshot_once_over_restarts(
    processes: Processes, database: Database, tmp_path: Path
) -> None:
    (loop,) = re.findall(
        r"^```sh follow\n(.*?)^```$", (ROOT / "docs" / "clients.md").read_text(), re.DOTALL | re.MULTILINE
    )
    address, port = "http://127.0.0.1:3000", free_port()
    assert loop.count(f"curl -sN -H \"Last-Event-ID: $id\" '{address}{STREAM}' |") == 1
    script = f"cd '{tmp_path}'\n" + loop.replace(address, f"http://127.0.0.1:{port}")

    async def serve() -> tuple[Process, str]:
        process = processes("--port", str(port), DATABASE_URL=database.url)
        return process, await asyncio.to_thread(process.url)

    async def save_until_killed(url: str) -> None:
        with suppress(OSError, HTTPClientError):
            while True:
                await save(url)

    process, url = await serve()
    async with run_program("sh", "-c", script, env={"no_proxy": "*"}) as shell:
        client = ExampleProcess(shell)
        await client.line('"recovered":false')
        for _ in range(3):
            saving = asyncio.create_task(save_until_killed(url))
            for _ in range(10):
                await client.line('"onchain"')
            await asyncio.to_thread(process.kill)
            await saving
            process, url = await serve()
        last = await save(url)
        await client.line(f'","seq":{last},')  # behind the id of the snapshot: `connected` has its seq too
        await client.kill()
    assert [line["seq"] for line in map(json.loads, client.lines) if "onchain" in line] == list(range(1, last + 1))
    recovered = [line["recovered"] for line in map(json.loads, client.lines) if "recovered" in line]
    assert recovered[0] is False
    assert len(recovered) > 1  # lines that are still unread may let the next kill come before a reconnect
    assert all(recovered[1:])


def test_the_short_clients_are_short() -> None:
    assert [name for name in FOLLOWERS if len((EXAMPLES / name).read_text().splitlines()) > LINES_MAX] == []
