"""The example clients work as documented, so that bot authors can copy from them.

For each language: every update is saved exactly once, also when the server is killed after the commit and before the
answer; after a temporary refusal the update is sent again under the same id, and any other refusal is printed; the
snapshots of other bots are printed; pings are answered; the examples wait for a server that is not there yet, and a
server that stops does not wait for them; exit status 0 means that every update was saved.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from tests.support.example_clients import (
    EXAMPLES,
    LANGUAGES,
    LINE_S_MAX,
    ExampleProcess,
    TcpProxy,
    run_example,
    run_python,
)
from tests.support.repository import ROOT
from tests.support.service import Database, MakeService, Process, Service

AMOUNTS = {
    "onchain": {"rlb": Decimal("100074.99978"), "usdt": Decimal("7656.36")},
    "onsite": {"rlb": Decimal("101132.407627"), "usd": Decimal("7646.96")},
}

each_language = pytest.mark.parametrize("language", LANGUAGES)


@each_language
async def test_three_updates_are_acknowledged_stored_and_broadcast(
    language: str, service: Service, database: Database, tmp_path: Path
) -> None:
    async with run_example(language, service.url, "--count", "3", "--interval", "10", folder=tmp_path) as bot:
        assert await bot.end() == 0
    rows = database.rows()
    assert bot.lines[0].startswith("connected as ")
    assert bot.saved == [str(row["id"]) for row in rows]
    assert len(rows) == 3
    assert [{"onchain": row["onchain"], "onsite": row["onsite"]} for row in rows] == [AMOUNTS] * 3
    assert all(row["pid"] for row in rows)
    shown = [json.loads(line.removeprefix("snapshot ")) for line in bot.lines if line.startswith("snapshot ")]
    assert {one["id"] for one in shown[:2]} <= set(bot.saved)  # the last may come after the example has ended


@each_language
async def test_snapshots_of_other_bots_are_printed_and_pings_are_answered(
    language: str, service: Service, tmp_path: Path
) -> None:
    hurry = {  # shortens the half minute between two pings
        "javascript": "const slow = setInterval; setInterval = (call) => slow(call, 20);",
        "python": "import asyncio; slow = asyncio.sleep; asyncio.sleep = lambda seconds: slow(min(seconds, 0.02))",
    }
    async with run_example(language, service.url, before=hurry[language], folder=tmp_path) as bot:
        await bot.line("saved ")
        other = (await service.post({"onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}})).body
        await bot.line("snapshot ", str(other["data"]["id"]))
        await bot.line("pong 20")


@each_language
async def test_an_update_is_sent_again_after_a_temporary_refusal(
    language: str, make_service: MakeService, database: Database, tmp_path: Path
) -> None:
    service = await make_service(save_ms_max=200)
    with psycopg.connect(database.url) as held:
        held.execute("SELECT FROM balance_feed FOR UPDATE")  # blocks every save
        async with run_example(language, service.url, "--count", "1", folder=tmp_path) as bot:
            await bot.line("error unavailable: ")
            held.rollback()
            assert await bot.end() == 0
    assert bot.saved == [str(row["id"]) for row in database.rows()]
    assert database.count() == 1


@each_language
async def test_any_other_refusal_is_printed_and_the_bot_continues(
    language: str, service: Service, database: Database, tmp_path: Path
) -> None:
    same_id = {
        "javascript": "Date.now = () => 0; "
        "require('node:crypto').randomUUID = () => '4d3b2c1a-0000-4000-8000-000000000001';",
        "python": "import time, uuid; time.time_ns = lambda: 0; "
        "uuid.uuid4 = lambda: uuid.UUID('4d3b2c1a-0000-4000-8000-000000000001')",
    }
    args = ("--count", "3", "--interval", "5")  # so that each has a `ts` of its own
    async with run_example(language, service.url, *args, before=same_id[language], folder=tmp_path) as bot:
        assert await bot.end() == 1
    assert len(bot.saved) == 1
    assert bot.lines.count("error conflict: id: another snapshot has this id") == 2
    assert database.count() == 1


@each_language
async def test_a_server_that_stops_does_not_wait_for_an_example(
    language: str, service: Service, tmp_path: Path
) -> None:
    async with run_example(language, service.url, folder=tmp_path) as bot:
        await bot.line("saved ")
        async with asyncio.timeout(5):
            await service.stop()
        await bot.line("disconnected: transport ")


async def test_after_a_kill_between_commit_and_answer_each_update_is_stored_once(
    processes: Callable[..., Process], database: Database, tmp_path: Path
) -> None:
    """Run both languages at once, since most of the time is waiting. They start before the server does."""
    hurry = {  # python-socketio waits the whole timeout for an answer, also after the connection was lost
        "javascript": "",
        "python": "import socketio; original = socketio.AsyncClient.call\n"
        "socketio.AsyncClient.call = lambda *args, timeout: original(*args, timeout=timeout / 2)",
    }
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(TcpProxy(lost_ack=3)) for _ in LANGUAGES]
        bots = []
        for language, proxy in zip(LANGUAGES, proxies, strict=True):
            args = (language, proxy.url, "--count", "5", "--interval", "1")
            example = run_example(*args, before=hurry[language], folder=tmp_path)
            bots.append(await stack.enter_async_context(example))
        for bot in bots:
            await bot.line("cannot connect: ")

        killed = processes("--port", "0", DATABASE_URL=database.url)
        address = await asyncio.to_thread(killed.url)
        for proxy in proxies:
            proxy.connect_to(address)
        async with asyncio.timeout(LINE_S_MAX):
            for proxy in proxies:
                await proxy.lost.wait()
        killed.kill()
        assert database.count() == 6

        address = await asyncio.to_thread(processes("--port", "0", DATABASE_URL=database.url).url)
        for proxy in proxies:
            proxy.connect_to(address)
        for bot in bots:
            assert await bot.end() == 0, "\n".join(bot.lines)

    stored = [str(row["id"]) for row in database.rows()]
    assert sorted(stored) == sorted(bots[0].saved + bots[1].saved)
    assert database.seqs() == list(range(1, 11))
    for bot in bots:
        assert bot.saved == [id_ for id_ in stored if id_ in bot.saved], "in the order sent"
        again = [line.endswith("(it was saved already)") for line in bot.lines if line.startswith("saved ")]
        assert again == [False, False, True, False, False]


async def test_the_python_example_keeps_every_digit_with_this_repositorys_json(
    service: Service, database: Database, tmp_path: Path
) -> None:
    text = (EXAMPLES / "balance_client.py").read_text()
    for old, new in (
        ("import json\n", "from decimal import Decimal\n\nimport protocol as json\n"),
        ("100074.99978", 'Decimal("100074.9997812345678901234567890123456789")'),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    script = tmp_path / "exact.py"
    script.write_text(text)
    env = {"BALANCE_URL": service.url, "PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"}
    async with run_python(script, env=env) as process:
        assert '"rlb":100074.9997812345678901234567890123456789,' in await ExampleProcess(process).line("snapshot ")
    assert database.rows()[0]["onchain"]["rlb"] == Decimal("100074.9997812345678901234567890123456789")


def test_the_javascript_examples_install_the_versions_that_the_tests_run() -> None:
    shipped = json.loads((EXAMPLES / "package.json").read_text())["dependencies"]
    tested = json.loads((ROOT / "tests" / "js" / "package.json").read_text())["dependencies"]
    assert shipped.items() <= tested.items()
