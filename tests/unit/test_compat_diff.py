"""`diff` reports each change of the schemas, and no change breaks a sender or a receiver of the released v1."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import protocol
from protocol.compat.diff import Change, diff
from protocol.compat.schema_set import read_set
from tests.support.repository import ROOT

RELEASED = ROOT / "tests/released/v1"
CURRENT = ROOT / "protocol/schemas"
SET: dict[str, Any] = read_set(CURRENT)
GONE = object()


def lines(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the changes between two sets, as lines."""
    return [str(change) for change in diff(old, new)]


def edited(*edits: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Copy the current set with some keywords set or removed: ("pong/properties/timestamp", {"type": …})."""
    schemas = deepcopy(SET)
    for pointer, keywords in edits:
        schema = schemas
        for step in pointer.split("/"):
            schema = schema[step]
        for keyword, value in keywords.items():
            if value is GONE:
                del schema[keyword]
            else:
                schema[keyword] = value
    return schemas


def reordered(schema: Any) -> Any:
    """Return a schema with its keywords and fields in the opposite order."""
    if isinstance(schema, dict):
        return {key: reordered(schema[key]) for key in reversed(schema)}
    return schema


def breaking(folder: Path) -> list[str]:
    """Return the changes from the released v1 to the schemas of a folder that break a sender or a receiver."""
    return [str(change) for change in diff(read_set(RELEASED), read_set(folder)) if change.breaks]


# The guard


def test_nothing_breaks_a_sender_or_a_receiver_of_the_released_v1() -> None:
    found = breaking(CURRENT)
    assert not found, "\n" + "\n".join(found)


def test_the_guard_names_the_field_that_breaks(tmp_path: Path) -> None:
    for file in CURRENT.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    update, pong = tmp_path / "balance_update.json", tmp_path / "pong.json"
    update.write_text(update.read_text("utf-8").replace('["integer", "null"]', '"integer"'), "utf-8")
    pong.write_text(pong.read_text("utf-8").replace('["timestamp"]', "[]"), "utf-8")
    assert breaking(tmp_path) == [
        "breaks senders: balance_update: pid: type was integer or null, is integer",
        "breaks receivers: pong: timestamp: was required, is optional",
    ]


def test_the_events_operations_and_errors_of_the_released_v1_are_unchanged() -> None:
    released, now = json.loads((RELEASED.parent / "v1-tables.json").read_text("utf-8")), tables()
    for table, entries in released.items():
        changed = {
            name: (entry, now[table].get(name)) for name, entry in entries.items() if now[table].get(name) != entry
        }
        assert not changed, f"{table}: as released, and as it is now: {changed}"
    assert set(released["errors"]) == set(now["errors"]), "the list of codes is closed"
    assert {entry["schema"] for entry in released["events"].values()} <= set(read_set(RELEASED))


def tables() -> dict[str, dict[str, Any]]:
    """Return the tables of `protocol` as JSON; those of the released v1 are in v1-tables.json."""
    return {
        "events": {
            name: {"direction": event.direction, "schema": event.schema, "answered_by": list(event.answered_by)}
            for name, event in protocol.EVENTS.items()
        },
        "operations": {
            name: {
                "method": one.method,
                "path": one.path,
                "parameters": dict(one.parameters),
                "body": one.body,
                "replies": {str(status): [reply.media_type, reply.schema] for status, reply in one.responses.items()},
            }
            for name, one in protocol.OPERATIONS.items()
        },
        "errors": {code: [error.status, error.temporary] for code, error in protocol.ERRORS.items()},
    }


# Changes of the schemas as they are

UPDATE, UPDATE_ID = "balance_update/properties", "balance_update/properties/id"


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([("balance_update", {"required": ["onsite", "onchain"], "title": "T", "description": "D."})], []),
        ([(UPDATE_ID, {"anyOf": [{"type": "null"}, {"$ref": "uuid.json"}]})], []),
        (
            [(f"{UPDATE}/pid", {"minimum": 1})],
            ["breaks senders: balance_update: pid: minimum was 0, is 1"],
        ),
        (
            [(f"{UPDATE}/pid", {"type": ["integer", "null", "string"], "maximum": GONE})],
            [
                "harmless: balance_update: pid: maximum was 9007199254740991, is absent",
                "harmless: balance_update: pid: type was integer or null, is integer or null or string",
            ],
        ),
        (
            [(f"{UPDATE}/pid", {"default": 7})],
            ["breaks senders: balance_update: pid: default was absent, is 7"],
        ),
        (
            [(UPDATE_ID, {"anyOf": [{"$ref": "uuid.json"}]})],
            ["breaks senders: balance_update: id: type was string or null, is string"],
        ),
        (
            [(UPDATE, {"note": {"type": "string"}})],
            ["harmless: balance_update: note: was absent, is optional"],
        ),
        (
            [(UPDATE, {"note": {"type": "string"}}), ("balance_update", {"required": ["onchain", "onsite", "note"]})],
            ["breaks senders: balance_update: note: was absent, is required"],
        ),
        ([(UPDATE, {"pid": GONE})], ["breaks senders: balance_update: pid: was optional, is absent"]),
        (
            [("balance_update", {"required": ["onsite", "onchain", "id"]})],
            ["breaks senders: balance_update: id: was optional, is required"],
        ),
        (
            [("balance_update", {"required": ["onsite"]})],
            ["harmless: balance_update: onchain: was required, is optional"],
        ),
        (
            [("balance_update", {"additionalProperties": True})],
            ["harmless: balance_update: payload: additionalProperties was false, is true"],
        ),
        ([("pong/properties", {"note": {"type": "string"}})], ["harmless: pong: note: was absent, is optional"]),
        (
            [("pong/properties/timestamp", {"default": "now"})],
            ['harmless: pong: timestamp: default was absent, is "now"'],
        ),
        (
            [("pong/properties", {"timestamp": GONE}), ("pong", {"required": []})],
            ["breaks receivers: pong: timestamp: was required, is absent"],
        ),
        (
            [("balance_ack/properties", {"duplicate": GONE})],
            ["breaks receivers: balance_ack: duplicate: was optional, is absent"],
        ),
        (
            [("balance_ack/properties/duplicate", {"const": GONE})],
            ["breaks receivers: balance_ack: duplicate: const was true, is absent"],
        ),
        (
            [("connected/properties/seq", {"type": "number", "minimum": 1})],
            [
                "breaks receivers: connected: seq: type was integer, is number",
                "harmless: connected: seq: minimum was 0, is 1",
            ],
        ),
        ([("ping", {"type": "null"})], ["breaks senders: ping: payload: type was any, is null"]),
    ],
)  # fmt: skip
def test_a_change_of_one_schema_is_reported_with_the_field(
    edits: list[tuple[str, dict[str, Any]]], expected: list[str]
) -> None:
    assert lines(SET, edited(*edits)) == expected


def test_a_change_of_a_part_is_reported_for_each_use_of_the_part() -> None:
    found = lines(SET, edited(("amount", {"maximum": 5})))
    fields = ("onchain.rlb", "onchain.usdt", "onchain.*", "onsite.rlb", "onsite.usd", "onsite.*")
    assert {line for line in found if line.startswith("breaks")} == {
        f"breaks senders: {name}: {field}: maximum was 1e30, is 5"
        for name in ("balance_update", "import_line")
        for field in fields
    }
    assert "harmless: list_reply: data.*.onchain.rlb: maximum was 1e30, is 5" in found


def test_a_new_error_code_breaks_receivers_and_a_removed_one_is_harmless() -> None:
    codes = SET["error_code"]["enum"]
    for name in ("error_reply", "balance_error"):
        more = [
            line for line in lines(SET, edited(("error_code", {"enum": [*codes, "late"]}))) if f" {name}: code" in line
        ]
        less = [line for line in lines(SET, edited(("error_code", {"enum": codes[1:]}))) if f" {name}: code" in line]
        assert more == [f'breaks receivers: {name}: code: enum gained "late"']
        assert less == [f'harmless: {name}: code: enum lost "{codes[0]}"']


def test_a_removed_schema_breaks_its_users_and_a_new_one_is_harmless() -> None:
    without = {name: schema for name, schema in SET.items() if name not in ("pong", "list_query")}
    assert lines(SET, without) == [
        "breaks senders: list_query: payload: was a schema, is absent",
        "breaks receivers: pong: payload: was a schema, is absent",
    ]
    assert lines(without, SET) == [
        "harmless: list_query: payload: was absent, is a schema",
        "harmless: pong: payload: was absent, is a schema",
    ]


def test_a_schema_that_no_table_names_breaks_senders_and_receivers() -> None:
    old, new = {"gossip": {"type": "string"}}, {"gossip": {"type": "number"}}
    assert lines(old, new) == [
        "breaks senders: gossip: payload: type was string, is number",
        "breaks receivers: gossip: payload: type was string, is number",
    ]
    assert [line.split(": ")[0] for line in lines(old, {})] == ["breaks senders", "breaks receivers"]


def test_another_order_and_another_address_make_no_difference() -> None:
    moved = protocol.loads(protocol.dumps(SET).replace("balance-snapshot.example/v1/", "balance-snapshot.example/v2/"))
    assert lines(SET, {name: reordered(schema) for name, schema in moved.items()}) == []


def test_a_change_is_breaking_unless_it_is_harmless() -> None:
    assert Change("breaks senders", "a", "b", "c").breaks
    assert not Change("harmless", "a", "b", "c").breaks
