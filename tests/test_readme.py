"""README.md says what is so: every event, error, setting and route, and each JSON example fits its schema."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

import protocol
from balance.config import Config, flag
from tests.running import ROOT

README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```json (\w+)$(.*?)^```$", README, re.DOTALL | re.MULTILINE)


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
