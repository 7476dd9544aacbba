"""The example clients, and those of the documents, on a server that needs tokens."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from balance.auth import Role
from balance.storage.token_store import revoke_token
from tests.support.access import add_token, bearer
from tests.support.example_clients import FOLLOWERS, LANGUAGES, ExampleProcess, run_example, run_follower
from tests.support.node import run_node
from tests.support.payloads import UPDATE
from tests.support.repository import ROOT
from tests.support.service import SNAPSHOTS, Database, Service

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
        assert program == ".venv/bin/python"
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
