"""README.md says what is so: every event, error, setting and route, and each JSON example fits its schema."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

import protocol
from balance.config import Config, flag
from tests.bots import Bot, run_python
from tests.node import run_node
from tests.running import ROOT, SNAPSHOTS, Database, Service

README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```json (\w+)$(.*?)^```$", README, re.DOTALL | re.MULTILINE)


ADDRESS = "http://127.0.0.1:3000"


def code(language: str, service: Service) -> str:
    """The one block of this language, for the address of this service."""
    (text,) = re.findall(rf"^```{language}$(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert text.count(ADDRESS) == 1
    return text.replace(ADDRESS, service.url)


def rows(section: str) -> dict[str, str]:
    """The table rows of one section: what stands in the first column, without its code marks, and the line."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return {row[1]: row[0] for row in re.finditer(r"^\| `(.*?)` \|.*$", text, re.MULTILINE)}


def test_every_event_is_listed_with_who_sends_it() -> None:
    listed = {name: line.split("|")[2].strip() for name, line in rows("Socket.IO").items()}
    assert listed == {one.name: one.direction.split("_")[0] for one in protocol.EVENTS.values()}


def test_every_error_is_listed_with_its_status() -> None:
    listed = {name: int(line.split("|")[2]) for name, line in rows("Errors").items()}
    assert listed == {code: error.status for code, error in protocol.ERRORS.items()}


def test_every_setting_is_listed_with_its_default() -> None:
    listed = {name: line.split("|")[2].strip() for name, line in rows("Settings and limits").items()}
    shown = {flag(one): "" if one.default in ((), "") else str(one.default) for one in fields(Config)}
    assert listed == shown


def test_every_route_is_listed() -> None:
    assert list(rows("REST")) == [
        "POST /api/balance/snapshot",
        "GET /api/balance/snapshot",
        "GET /api/balance/snapshot/{id}",
    ]


@pytest.mark.parametrize(("schema", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_each_json_example_fits_its_schema(schema: str, text: str) -> None:
    protocol.check(schema, protocol.loads(text))


def test_the_two_commands_are_one_line_each() -> None:
    for name in ("run", "test"):
        found = re.findall(rf"^```sh {name}\n(.*)\n```$", README, re.MULTILINE)
        assert len(found) == 1
        assert found[0].startswith("python3 -m venv .venv && ")


@pytest.mark.gen_test(timeout=30)
async def test_its_javascript_saves_and_watches(service: Service, database: Database, tmp_path: Path) -> None:
    (tmp_path / "readme.js").write_text(code("js", service))
    async with run_node(tmp_path / "readme.js") as process:
        await Bot(process).line("mine:")
    assert database.count() == 1


@pytest.mark.gen_test(timeout=30)
async def test_its_python_saves_and_watches(service: Service, database: Database, tmp_path: Path) -> None:
    (tmp_path / "readme.py").write_text(code("python", service))
    async with run_python(tmp_path / "readme.py", env=dict(os.environ)) as process:
        await Bot(process).line("'success': True")
    assert database.count() == 1


@pytest.mark.gen_test
async def test_its_curl_commands_save_and_list(service: Service, database: Database) -> None:
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
