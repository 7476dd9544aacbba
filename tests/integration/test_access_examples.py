"""The example clients, and those of the documents, on a server that needs tokens."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest

from balance.auth import Role
from balance.storage.token_store import revoke_token
from tests.support.access import add_token, bearer
from tests.support.example_clients import (
    EXAMPLES,
    FOLLOWERS,
    LANGUAGES,
    ExampleProcess,
    run_example,
    run_follower,
    state_folder,
)
from tests.support.node import run_node
from tests.support.payloads import UPDATE
from tests.support.repository import ROOT
from tests.support.service import SNAPSHOTS, Database, MakeService, Service

CLIENTS, OPERATIONS = ((ROOT / "docs" / name).read_text() for name in ("clients.md", "operations.md"))


@pytest.mark.parametrize("language", LANGUAGES)
async def test_an_example_saves_with_its_token(
    service: Service, database: Database, language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BALANCE_TOKEN", await add_token(service))
    async with run_example(language, service.url, "--count", "2", "--interval", "10", folder=tmp_path) as bot:
        assert await bot.end() == 0
    assert database.count() == len(bot.saved) == 2


@pytest.mark.parametrize("name", FOLLOWERS)
async def test_a_short_client_follows_with_its_token(
    service: Service, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await add_token(service)
    monkeypatch.setenv("BALANCE_TOKEN", token)
    (tmp_path / f"{name}.position").write_text('{"last": 0, "epoch": ""}' if name == "follow.py" else "")
    async with run_follower(name, service.url, tmp_path) as follower:
        while not (len(service.app.watchers) or len(service.app.streams) or service.app._long_polls._held):
            await asyncio.sleep(0.05)
        assert (await service.request("POST", SNAPSHOTS, UPDATE, **bearer(token))).status == 201
        await follower.shows(1)


@pytest.mark.parametrize(("name", "argument"), [("follow.py", "position.json"), ("follow.sh", "position")])
def test_a_short_client_without_its_file_prints_how_it_is_used(name: str, argument: str, tmp_path: Path) -> None:
    for arguments in ((), ("",)):
        command = [str(FOLLOWERS[name]()), str(EXAMPLES / name), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode != 0, done.stdout) == (True, "")
        (line,) = done.stderr.splitlines()
        assert line.endswith(f"{name} {argument}")
        assert "usage: " in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("token", ["", "bal_reader_0000000000000000000000_000000"])
@pytest.mark.parametrize("name", [*FOLLOWERS, *LANGUAGES])
async def test_a_client_whose_token_is_refused_ends_with_one_line(
    service: Service, name: str, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_token(service)
    monkeypatch.setenv("BALANCE_TOKEN", token)
    run = (
        run_follower(name, service.url, tmp_path)
        if name in FOLLOWERS
        else run_example(name, service.url, folder=tmp_path)
    )
    async with run as client:
        await check_refused(client, "unauthorized")


@pytest.mark.parametrize("name", [*FOLLOWERS, *LANGUAGES])
async def test_a_client_whose_token_is_revoked_ends_with_one_line(
    service: Service, database: Database, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BALANCE_TOKEN", await add_token(service, name="bot"))
    run = (
        run_follower(name, service.url, tmp_path)
        if name in FOLLOWERS
        else run_example(name, service.url, folder=tmp_path)
    )
    async with run as client:
        while not (len(service.app.watchers) or len(service.app.streams) or service.app._long_polls._held):
            await asyncio.sleep(0.05)
        revoke_token(database.url, "bot")
        await check_refused(client, "unauthorized")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_bot_whose_role_is_too_small_ends_and_keeps_its_reading(
    service: Service, database: Database, language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BALANCE_TOKEN", await add_token(service, Role.READER))
    async with run_example(language, service.url, "--count", "1", folder=tmp_path) as bot:
        await check_refused(bot, "forbidden")
    assert (state_folder(language, tmp_path) / "readings.jsonl").read_text().count("\n") == 1
    assert database.count() == 0


@pytest.mark.expects_log("the database cannot be reached")
async def test_the_short_clients_wait_for_a_server_that_is_away(make_service: MakeService, tmp_path: Path) -> None:
    """A port that refuses connections, and a server without a database, are faults that pass."""
    away = await make_service(database_url="postgresql://127.0.0.1:1/none")
    async with AsyncExitStack() as stack:
        followers = [
            await stack.enter_async_context(run_follower(name, url, tmp_path))
            for name in FOLLOWERS
            for url in ("http://127.0.0.1:1", away.url)
        ]
        await asyncio.sleep(4)  # longer than each of them needs for its start, and waits before it tries again
        assert [follower.is_running for follower in followers] == [True] * len(followers)


def run_any(name: str, url: str, folder: Path) -> AbstractAsyncContextManager[ExampleProcess]:
    """Run a short client, or a bot in a language."""
    return run_follower(name, url, folder) if name in FOLLOWERS else run_example(name, url, folder=folder)


async def check_refused(client: ExampleProcess, code: str) -> None:
    """Check that a client ends by itself, with one line on stderr."""
    status, line = await client.end_refused()
    assert status == 1
    assert line.startswith("refused: ")
    assert code in line
    assert "set BALANCE_TOKEN to a token" in line
    assert line.count("\n") == 1


async def test_the_official_client_connects_by_auth_and_gets_the_reason_at_the_end(
    service: Service, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"^```js auth$(.*?)^```$", CLIENTS, re.DOTALL | re.MULTILINE)
    script = tmp_path / "auth.js"
    script.write_text(
        code.replace("http://127.0.0.1:3000", service.url)
        + "socket.on('connected', () => console.log('connected'));\n"
        + "socket.on('balance:error', (error) => console.log('error', error.code));\n"
        + "socket.on('connect_error', (error) => console.log('refused', error.data.code));\n"
    )
    monkeypatch.setenv("BALANCE_TOKEN", await add_token(service, Role.READER))
    async with run_node(script) as process:
        client = ExampleProcess(process)
        await client.line("connected")
        revoke_token(database.url, "reader")
        assert await client.line("error") == "error unauthorized"
        assert await client.line("refused") == "refused unauthorized", "it connects again with the same token"


def test_the_documented_commands_create_list_and_revoke(database: Database) -> None:
    (block,) = re.findall(r"^```sh token$(.*?)^```$", OPERATIONS, re.DOTALL | re.MULTILINE)
    done = []
    for line in block.strip().splitlines():
        program, *arguments = shlex.split(line)
        assert program == "python"
        environment = {**os.environ, "DATABASE_URL": database.url}
        done.append(
            subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
        )
    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * 3
    created, listed, revoked = [one.stdout for one in done]
    assert re.fullmatch(r"bal_writer_[0-9A-Za-z]{22}_[0-9A-Za-z]{6}\n", created)
    head, row = listed.splitlines()
    assert head.split() == ["name", "role", "state", "created", "expires", "last", "used"]
    assert row.split()[:3] == ["bot-7", "writer", "valid"]
    assert row.endswith("-")
    assert created.strip() not in listed
    assert revoked == "revoked bot-7: running servers refuse it within seconds\n"
    (stored,) = database.rows("SELECT name, sha256, revoked_at IS NOT NULL AS revoked FROM balance_token")
    assert created.strip().encode() not in bytes(stored["sha256"])
    assert stored["revoked"]
