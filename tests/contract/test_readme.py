"""README.md and the documents for clients and operators are complete and correct: tables, examples and commands."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import protocol
from balance.cli import COMMANDS
from balance.config import Config, settings_parser
from balance.setting import flag
from protocol.documents import documents
from protocol.operations import CONTRACT
from tests.support.example_clients import ExampleProcess, run_python
from tests.support.node import ask_node, node_modules, run_node
from tests.support.repository import ROOT
from tests.support.service import SNAPSHOTS, Database, Service

README = (ROOT / "README.md").read_text()
CLIENTS, SETTINGS, OPERATIONS, METRICS = (
    (ROOT / "docs" / name).read_text()
    for name in ("clients.md", "settings.md", "operations.md", "monitoring/metrics.md")
)
EXAMPLES = re.findall(r"^```json (\w+)$(.*?)^```$", CLIENTS, re.DOTALL | re.MULTILINE)


ADDRESS = "http://127.0.0.1:3000"


def code(language: str, service: Service) -> str:
    """Return the only block of a language in README.md, with the address of this service."""
    (text,) = re.findall(rf"^```{language}$(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert text.count(ADDRESS) == 1
    return text.replace(ADDRESS, service.url)


def rows(document: str, section: str) -> dict[str, str]:
    """Return the table rows of one section: the text of the first column, without code marks, and the line."""
    text = document.split(f"\n## {section}\n")[1].split("\n## ", 1)[0]
    return {row[1]: row[0] for row in re.finditer(r"^\| `(.*?)` \|.*$", text, re.MULTILINE)}


def test_every_event_is_listed_with_its_direction() -> None:
    listed = {name: line.split("|")[2].strip() for name, line in rows(CLIENTS, "Socket.IO").items()}
    assert listed == {one.name: one.direction.split("_")[0] for one in protocol.EVENTS.values()}


def test_every_error_is_listed_with_its_status() -> None:
    listed = {name: int(line.split("|")[2]) for name, line in rows(CLIENTS, "Errors").items()}
    assert listed == {code: error.status for code, error in protocol.ERRORS.items()}


def test_every_setting_is_listed_with_its_default() -> None:
    listed = {name: line.split("|")[2].strip() for name, line in rows(SETTINGS, "Settings").items()}
    shown = {flag(one): "" if one.default in ((), "") else str(one.default) for one in fields(Config)}
    shown |= {flag(one): "no" for one in fields(Config) if one.default is False}
    assert listed == shown


def test_every_flag_that_operators_read_of_exists() -> None:
    parsers = [settings_parser("server.py", "") for _ in COMMANDS]
    for parser, command in zip(parsers, COMMANDS.values(), strict=True):
        command.add_arguments(parser)
    known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    text = re.sub(r"^```.*?^```$", "", SETTINGS + OPERATIONS, flags=re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"`(--[a-z-]+)", text))
    assert named <= known


def test_every_metric_that_operators_read_of_exists() -> None:
    at_night = OPERATIONS.split("\n## At night, by symptom\n")[1]
    named = set(re.findall(r"`(balance_[a-z_]+)`", at_night)) - {"balance_feed"}
    assert named
    assert named <= set(re.findall(r"^\| `(\w+)` \|", METRICS, re.MULTILINE))


def test_every_route_is_listed() -> None:
    assert list(rows(CLIENTS, "REST")) == [f"{one.method} {one.path}" for one in protocol.OPERATIONS.values()]


def test_every_document_is_listed() -> None:
    index = protocol.loads(documents()[CONTRACT].data)["data"]
    listed = rows(CLIENTS, "The contract")
    assert set(listed) == {index[key] for key in ("docs", "bundle", "types", "openapi", "asyncapi")}


def test_the_part_for_client_teams_is_also_on_the_docs_page() -> None:
    for file in (ROOT / "protocol" / "guide").iterdir():
        language = file.suffix[1:].replace("mjs", "js").replace("py", "python")
        assert f"```{language} {file.name}\n{file.read_text()}```" in CLIENTS


def guide(name: str, service: Service) -> str:
    """Return a program for client teams, with the address of this service."""
    text = (ROOT / "protocol" / "guide" / name).read_text()
    assert text.count(ADDRESS) >= 1
    return text.replace(ADDRESS, service.url)


async def test_the_program_that_checks_a_payload_with_ajv_works(service: Service, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(node_modules())
    (tmp_path / "check.mjs").write_text(guide("check.mjs", service))
    async with run_node(tmp_path / "check.mjs") as process:
        await ExampleProcess(process).line("it is valid")
    wrong = guide("check.mjs", service).replace("usdt: 7656.36", "usdt: '7656.36'")
    (tmp_path / "wrong.mjs").write_text(wrong)
    async with run_node(tmp_path / "wrong.mjs") as process:
        await ExampleProcess(process).line("message: 'must be number'")


async def test_the_program_that_checks_a_payload_with_jsonschema_works(service: Service, tmp_path: Path) -> None:
    (tmp_path / "check.py").write_text(guide("check.py", service))
    async with run_python(tmp_path / "check.py", env=dict(os.environ)) as process:
        await ExampleProcess(process).line("it is valid")
    (tmp_path / "wrong.py").write_text(guide("check.py", service).replace('"usdt": 7656.36', '"usdt": "7656.36"'))
    async with run_python(tmp_path / "wrong.py", env=dict(os.environ)) as process:
        await ExampleProcess(process).line("[\"'7656.36' is not of type 'number'\"")


async def test_the_typescript_client_compiles_and_works(service: Service, database: Database, tmp_path: Path) -> None:
    program = guide("client.ts", service)
    setup, fetch, build = [line.removeprefix("// ") for line in program.splitlines() if line.startswith("// ")]
    assert setup == "npm init -y && npm pkg set type=module && npm install socket.io-client typescript"
    (tmp_path / "package.json").write_text('{"type": "module"}')  # the same result, beside the packages
    (tmp_path / "node_modules").symlink_to(node_modules())
    assert fetch == f"curl -O {service.url}{CONTRACT}types.d.ts"
    (tmp_path / "types.d.ts").write_bytes((await service.request("GET", f"{CONTRACT}types.d.ts")).raw)
    (tmp_path / "client.ts").write_text(program)
    compiler, run = build.split(" && ")
    assert run == "node client.js"
    *options, file = compiler.removeprefix("npx tsc ").split()
    tsc = node_modules() / "typescript" / "bin" / "tsc"
    await asyncio.to_thread(ask_node, tsc, "", *options, "--outDir", str(tmp_path), str(tmp_path / file))
    async with run_node(tmp_path / "client.js") as process:
        await ExampleProcess(process).line("saved as ")
    assert database.count() == 1


@pytest.mark.parametrize(("schema", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_each_json_example_is_valid_by_its_schema(schema: str, text: str) -> None:
    protocol.check(schema, protocol.loads(text))


def test_the_two_commands_are_one_line_each() -> None:
    for name in ("run", "test"):
        found = re.findall(rf"^```sh {name}\n(.*)\n```$", README, re.MULTILINE)
        assert len(found) == 1
        assert found[0].startswith("python3 -m venv .venv && ")


def test_the_shell_commands_work_as_written(tmp_path: Path) -> None:
    (commands,) = re.findall(r"^```sh shell$(.*?)^```$", CLIENTS, re.DOTALL | re.MULTILINE)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    (tmp_path / "protocol").symlink_to(ROOT / "protocol")
    done = [
        subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
        for command in commands.strip().splitlines()
    ]
    assert [one.returncode for one in done] == [0, 0, 1, 0, 0]
    assert [one.stderr for one in done] == ["", "", "onsite: is required\n", "", ""]
    assert (tmp_path / "contract" / "bundle.json").exists()


def test_the_row_of_an_unedited_example_request_is_documented() -> None:
    example = protocol.schema("balance_update")["examples"][0]
    assert f"`ts` ({example['ts']}) and\n`pid` ({example['pid']})" in CLIENTS


async def test_the_javascript_example_saves_and_watches(service: Service, database: Database, tmp_path: Path) -> None:
    (tmp_path / "readme.js").write_text(code("js", service))
    async with run_node(tmp_path / "readme.js") as process:
        await ExampleProcess(process).line("mine:")
    assert database.count() == 1


async def test_the_python_example_saves_and_watches(service: Service, database: Database, tmp_path: Path) -> None:
    (tmp_path / "readme.py").write_text(code("python", service))
    async with run_python(tmp_path / "readme.py", env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        bot = ExampleProcess(process)
        await bot.line("'success': True")
        assert database.count() == 1
        assert (await service.post({"onchain": {"rlb": 5, "usdt": 6}, "onsite": {"rlb": 7, "usd": 8}})).status == 201
        await bot.line("saved by anyone:", "'seq': 2")
        assert process.returncode is None, "the example watches until it is killed"


async def test_the_curl_commands_save_and_list(service: Service, database: Database) -> None:
    (block,) = [text for text in re.findall(r"^```sh$(.*?)^```$", README, re.DOTALL | re.MULTILINE) if "curl" in text]
    words = shlex.split(block)
    body, content_type = words[words.index("-d") + 1], words[words.index("-H") + 1]
    assert [word for word in words if word.startswith("http")] == [
        ADDRESS + SNAPSHOTS,
        ADDRESS + SNAPSHOTS + "?limit=1",
    ]
    assert content_type == "Content-Type: application/json"
    assert (await service.post(body.encode())).status == 201
    assert (await service.get("?limit=1")).body["data"][0]["onchain"]["usdt"] == database.rows()[0]["onchain"]["usdt"]


@pytest.mark.parametrize("block", ["latest", "feed", "stream", "watch"])
async def test_each_curl_command_of_the_feed_shows_snapshots(block: str, service: Service, database: Database) -> None:
    (commands,) = re.findall(rf"^```sh {block}$(.*?)^```$", README + CLIENTS, re.DOTALL | re.MULTILINE)
    update = {"onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}}
    saved = (await service.post(update)).body["data"]["id"]
    ((epoch, last),) = [row.values() for row in database.rows("SELECT epoch, last_seq FROM balance_feed")]
    for command in commands.strip().splitlines():
        process = await asyncio.create_subprocess_shell(
            command.replace(ADDRESS, service.url).replace("curl ", "curl -sS --noproxy '*' --max-time 2 "),
            env={**os.environ, "id": f"{epoch}:{last}:{saved[-8:]}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        await asyncio.sleep(0.5)  # so that a command that waits receives the next one
        await service.post(update)
        out, _ = await process.communicate()
        assert re.search(rb'"seq":[123],"ts":', out), (command, out)
