"""The contract of `protocol.diff`: no change that breaks a sender or a receiver goes unsaid, and v1 has none.

A schema that refuses more breaks who sends it; one that lets more through breaks who receives it. Each row of
NARROWER is such a pair, and is read in both directions, for what clients send and for what the server sends.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import protocol
from protocol.bundle import bundle
from protocol.compat.diff import Change, UnreadableSetError, diff, read_set
from tests.support.paths import ROOT

RELEASED = ROOT / "tests/released/v1"
CURRENT = ROOT / "protocol/schemas"
SET: dict[str, Any] = read_set(CURRENT)
SENT, RECEIVED = "balance_update", "pong"
GONE = object()
Edit = Callable[[dict[str, Any]], None]


def lines(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What is said about the change from one set to another."""
    return [str(change) for change in diff(old, new)]


def edited(*edits: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A copy of the current set with some keywords set, or taken away: ("pong/properties/timestamp", {"type": …})."""
    schemas = deepcopy(SET)
    for place, keywords in edits:
        schema = schemas
        for step in place.split("/"):
            schema = schema[step]
        for keyword, value in keywords.items():
            if value is GONE:
                del schema[keyword]
            else:
                schema[keyword] = value
    return schemas


def turned_round(schema: Any) -> Any:
    """The same schema, its keywords and fields in the opposite order."""
    if isinstance(schema, dict):
        return {key: turned_round(schema[key]) for key in reversed(schema)}
    return schema


def breaking(folder: Path) -> list[str]:
    """What breaks a sender or a receiver of the released v1 if the schemas of a folder take its place."""
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


def test_every_event_operation_and_error_of_the_released_v1_is_still_what_it_was() -> None:
    released, now = json.loads((RELEASED.parent / "v1-tables.json").read_text("utf-8")), tables()
    for table, entries in released.items():
        changed = {
            name: (entry, now[table].get(name)) for name, entry in entries.items() if now[table].get(name) != entry
        }
        assert not changed, f"{table}: what was released, and what it is now: {changed}"
    assert set(released["errors"]) == set(now["errors"]), "the list of codes is closed"
    assert {entry["schema"] for entry in released["events"].values()} <= set(read_set(RELEASED))


def tables() -> dict[str, dict[str, Any]]:
    """What the tables of `protocol` promise beside the schemas, as JSON; what v1 promised is in v1-tables.json."""
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
                "replies": {str(status): [reply.media_type, reply.schema] for status, reply in one.replies.items()},
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
def test_a_change_of_one_schema_is_told_with_the_field(
    edits: list[tuple[str, dict[str, Any]]], expected: list[str]
) -> None:
    assert lines(SET, edited(*edits)) == expected


def test_a_change_of_a_part_is_told_wherever_the_part_is_used() -> None:
    found = lines(SET, edited(("amount", {"maximum": 5})))
    fields = ("onchain.rlb", "onchain.usdt", "onchain.*", "onsite.rlb", "onsite.usd", "onsite.*")
    assert {line for line in found if line.startswith("breaks")} == {
        f"breaks senders: balance_update: {field}: maximum was 1e30, is 5" for field in fields
    }
    assert "harmless: list_reply: data.*.onchain.rlb: maximum was 1e30, is 5" in found


def test_an_error_code_more_breaks_whoever_receives_one_and_one_less_breaks_nobody() -> None:
    codes = SET["error_code"]["enum"]
    for name in ("error_reply", "balance_error"):
        more = [line for line in lines(SET, edited(("error_code", {"enum": [*codes, "late"]}))) if f" {name}:" in line]
        less = [line for line in lines(SET, edited(("error_code", {"enum": codes[1:]}))) if f" {name}:" in line]
        assert more == [f'breaks receivers: {name}: code: enum gained "late"']
        assert less == [f'harmless: {name}: code: enum lost "{codes[0]}"']


def test_a_schema_that_is_gone_breaks_who_uses_it_and_a_new_one_breaks_nobody() -> None:
    without = {name: schema for name, schema in SET.items() if name not in ("pong", "list_query")}
    assert lines(SET, without) == [
        "breaks senders: list_query: payload: was a schema, is absent",
        "breaks receivers: pong: payload: was a schema, is absent",
    ]
    assert lines(without, SET) == [
        "harmless: list_query: payload: was absent, is a schema",
        "harmless: pong: payload: was absent, is a schema",
    ]


def test_what_no_table_names_may_be_sent_and_received_and_breaks_both() -> None:
    old, new = {"gossip": {"type": "string"}}, {"gossip": {"type": "number"}}
    assert lines(old, new) == [
        "breaks senders: gossip: payload: type was string, is number",
        "breaks receivers: gossip: payload: type was string, is number",
    ]
    assert [line.split(": ")[0] for line in lines(old, {})] == ["breaks senders", "breaks receivers"]


def test_a_set_does_not_differ_from_itself_in_another_order_and_under_another_address() -> None:
    moved = protocol.loads(protocol.dumps(SET).replace("balance-snapshot.example/v1/", "balance-snapshot.example/v2/"))
    assert lines(SET, {name: turned_round(schema) for name, schema in moved.items()}) == []


# Each keyword


def open_(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields}


def closed(**fields: Any) -> dict[str, Any]:
    return {**open_(**fields), "additionalProperties": False}


TEXT, ASSET = {"type": "string"}, {"additionalProperties": {"type": "number"}}
# A schema, a narrower one, and what is said of the step from the first to the second.
NARROWER: list[tuple[Any, Any, str]] = [
    (True, {"type": "object"}, "payload: type was any, is object"),
    ({}, False, "payload: type was any, is nothing"),
    ({"type": ["string", "null"]}, {"type": "null"}, "payload: type was string or null, is null"),
    ({"type": "number"}, {"type": "integer"}, "payload: type was number, is integer"),
    ({"minimum": 1}, {"minimum": 2}, "payload: minimum was 1, is 2"),
    ({}, {"minimum": 0}, "payload: minimum was absent, is 0"),
    ({"maximum": 2}, {"maximum": 1}, "payload: maximum was 2, is 1"),
    ({"minimum": 1}, {"exclusiveMinimum": 1}, "payload: exclusiveMinimum was absent, is 1"),
    ({"maximum": 1}, {"exclusiveMaximum": 1}, "payload: exclusiveMaximum was absent, is 1"),
    ({"exclusiveMinimum": 1}, {"minimum": 2}, "payload: minimum was absent, is 2"),
    ({"exclusiveMaximum": 2}, {"maximum": 1}, "payload: maximum was absent, is 1"),
    ({"type": "integer"}, {"type": "integer", "multipleOf": 2}, "payload: multipleOf was absent, is 2"),
    ({"minLength": 1}, {"minLength": 2}, "payload: minLength was 1, is 2"),
    ({"maxLength": 2}, {"maxLength": 1}, "payload: maxLength was 2, is 1"),
    ({"minItems": 1}, {"minItems": 2}, "payload: minItems was 1, is 2"),
    ({"maxItems": 2}, {"maxItems": 1}, "payload: maxItems was 2, is 1"),
    ({"minProperties": 1}, {"minProperties": 2}, "payload: minProperties was 1, is 2"),
    ({"maxProperties": 2}, {"maxProperties": 1}, "payload: maxProperties was 2, is 1"),
    (TEXT, {**TEXT, "pattern": "^a$"}, 'payload: pattern was absent, is "^a$"'),
    (TEXT, {**TEXT, "format": "uuid"}, 'payload: format was absent, is "uuid"'),
    ({"type": "boolean"}, {"type": "boolean", "const": True}, "payload: const was absent, is true"),
    ({"enum": ["a", 1, None]}, {"enum": ["a", None]}, "payload: enum lost 1"),
    (TEXT, {**TEXT, "enum": ["a", "b"]}, 'payload: enum was absent, is ["a", "b"]'),
    ({}, {"not": {"type": "null"}}, 'payload: not was absent, is {"type": "null"}'),
    ({"items": {"maximum": 2}}, {"items": {"maximum": 1}}, "*: maximum was 2, is 1"),
    ({"items": {"items": {}}}, {"items": {"items": TEXT}}, "*.*: type was any, is string"),
    ({}, {"propertyNames": {"maxLength": 8}}, "*: propertyNames maxLength was absent, is 8"),
    (closed(a={}), closed(a=TEXT), "a: type was any, is string"),
    (closed(**{"a b\n": {}}), closed(**{"a b\n": TEXT}), '"a b\\n": type was any, is string'),
    (closed(a={}), {**closed(a={}), "required": ["a"]}, "a: was optional, is required"),
    (closed(a=closed(b={"maximum": 2})), closed(a=closed(b={"maximum": 1})), "a.b: maximum was 2, is 1"),
    ({"type": "object"}, closed(), "payload: additionalProperties was absent, is false"),
    (ASSET, {**ASSET, "required": ["a"]}, "a: was optional, is required"),
    (ASSET, {**ASSET, "properties": {"a": {"type": "integer"}}}, "a: type was number, is integer"),
    ({"anyOf": [TEXT, {"type": "null"}]}, TEXT, "payload: type was string or null, is string"),
    ({"minimum": 1}, {"minimum": 1, "allOf": [{"maximum": 2}]}, "payload: maximum was absent, is 2"),
    ({"type": "object", **ASSET}, closed(), "payload: additionalProperties was a schema, is false"),
    (
        {"anyOf": [{**TEXT, "maxLength": 2}, {**TEXT, "minLength": 5}]},
        {"anyOf": [{**TEXT, "maxLength": 1}, {**TEXT, "minLength": 5}]},
        "payload: maxLength was 2, is 1",
    ),
    ({"allOf": [{"minimum": 1}]}, {"allOf": [{"minimum": 1}, {"minimum": 2}]}, "payload: minimum was 1, is 2"),
]  # fmt: skip


def said(old: Any, new: Any) -> tuple[list[str], list[str]]:
    """What is said of a change of what clients send, and of what the server sends, without the schema's name."""
    found = lines({SENT: old, RECEIVED: old}, {SENT: new, RECEIVED: new})
    sent = [line.replace(f"{SENT}: ", "") for line in found if f": {SENT}: " in line]
    return sent, [line.replace(f"{RECEIVED}: ", "") for line in found if f": {RECEIVED}: " in line]


def other_way_round(line: str) -> str:
    turned = re.sub(r"was (.*), is (.*)", r"was \2, is \1", line)
    return turned.replace("enum lost", "enum gained")


@pytest.mark.parametrize(("wide", "narrow", "line"), NARROWER, ids=[row[2] for row in NARROWER])
def test_refusing_more_breaks_senders_and_letting_more_through_breaks_receivers(
    wide: Any, narrow: Any, line: str
) -> None:
    assert said(wide, narrow) == ([f"breaks senders: {line}"], [f"harmless: {line}"])
    back = other_way_round(line)
    assert said(narrow, wide) == ([f"harmless: {back}"], [f"breaks receivers: {back}"])


EITHER: list[tuple[Any, Any, str]] = [
    (TEXT, {"type": "number"}, "payload: type was string, is number"),
    (ASSET, {"additionalProperties": TEXT}, "*: type was number, is string"),
    ({"const": 1}, {"const": 2}, "payload: const was 1, is 2"),
    ({"const": 1}, {"const": True}, "payload: const was 1, is true"),
    ({"type": "integer", "const": Decimal("1.0")}, {"type": "integer", "const": 2}, "payload: const was 1.0, is 2"),
    ({"pattern": "a"}, {"pattern": "b"}, 'payload: pattern was "a", is "b" (can not be proved to fit)'),
    ({"format": "date"}, {"format": "time"}, 'payload: format was "date", is "time" (can not be proved to fit)'),
    ({"multipleOf": 2}, {"multipleOf": 4}, "payload: multipleOf was 2, is 4 (can not be proved to fit)"),
    ({"oneOf": [TEXT]}, {"oneOf": [{}]}, 'payload: oneOf was [{"type": "string"}], is [{}] (can not be proved to fit)'),
    ({}, {"uniqueItems": True}, "payload: uniqueItems was absent, is true"),
    ({}, {"later": [1]}, "payload: later was absent, is [1]"),
    ({"if": TEXT, "then": {}}, {"if": TEXT}, "payload: then was {}, is absent"),
    ({}, {"patternProperties": {"a": TEXT}}, 'payload: patternProperties was absent, is {"a": {"type": "string"}}'),
    ({"items": [{}]}, {"items": {}}, "payload: items was [{}], is {} (can not be proved to fit)"),
    ({"items": [TEXT]}, {"items": [{}]}, 'payload: items was [{"type": "string"}], is [{}] (can not be proved to fit)'),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line"), EITHER, ids=[row[2] for row in EITHER])
def test_what_is_only_different_or_not_understood_breaks_both(old: Any, new: Any, line: str) -> None:
    assert said(old, new) == ([f"breaks senders: {line}"], [f"breaks receivers: {line}"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (True, {}),
        ({"type": "string"}, {"type": ["string"]}),
        ({"type": ["string", "null"]}, {"anyOf": [{"type": "null"}, TEXT]}),
        ({"type": "number", "minimum": 1}, {"allOf": [{"type": "number"}, {"minimum": 1}]}),
        ({"enum": ["a"]}, {"type": "string", "enum": ["a"]}),
        ({"enum": ["a"]}, {"const": "a"}),
        ({"enum": ["a", "b"]}, {"anyOf": [{"const": "b"}, {"const": "a"}]}),
        ({"type": "boolean"}, {"enum": [True, False]}),
        ({"type": "null"}, {"const": None}),
        ({"maximum": 1}, {"maximum": 1, "title": "T", "description": "D.", "examples": [1], "$comment": "C"}),
        ({"type": "integer"}, {"type": "integer", "maxLength": 3, "required": ["a"], "items": {"type": "null"}}),
        (closed(a={}), {**closed(a={}), "propertyNames": {"enum": ["a"]}}),
        (closed(a=TEXT), {"allOf": [closed(a=TEXT), {"type": "object", "additionalProperties": TEXT}]}),
        ({"not": {"minimum": 1, "type": "number"}}, {"not": {"type": "number", "minimum": 1, "title": "T"}}),
    ],
)
def test_what_means_the_same_is_no_change(old: Any, new: Any) -> None:
    assert said(old, new) == said(new, old) == ([], [])


def test_a_default_counts_for_who_sends_and_a_field_that_is_gone_counts_for_all() -> None:
    old, new = open_(a={"default": 1}), open_(a={"default": 2})
    assert said(old, new) == (["breaks senders: a: default was 1, is 2"], ["harmless: a: default was 1, is 2"])
    gone = "a: was optional, is absent"
    assert said(old, open_()) == ([f"breaks senders: {gone}"], [f"breaks receivers: {gone}"])
    assert said(closed(a={}), closed()) == ([f"breaks senders: {gone}"], [f"breaks receivers: {gone}"])


def test_a_field_that_only_a_pattern_allowed_may_break_when_it_is_named() -> None:
    old = {**closed(), "patternProperties": {"^x": {}}}
    assert "breaks senders: x1: was absent, is optional" in said(old, {**old, "properties": {"x1": TEXT}})[0]


def test_only_a_break_is_called_not_proved() -> None:
    words = 'payload: not was {"type": "null"}, is {"type": ["null", "string"]}'
    sent, received = said({"not": {"type": "null"}}, {"not": {"type": ["null", "string"]}})
    assert (sent, received) == ([f"breaks senders: {words} (can not be proved to fit)"], [f"harmless: {words}"])


# A promise, on any change

VALUES: list[Any] = [None, True, "", "x", "RLB", 0, -1, 2, 7.5, 2**53, [], [1, "x"], {}, {"x": 1}]
KEYWORDS: list[tuple[str, Any]] = [
    *(("type", value) for value in ("string", "number", "integer", ["object", "null"], ["array", "string", "boolean"])),
    *(("const", value) for value in (1, "x", None)),
    *(("enum", value) for value in ([0, 1, 2], ["x", None], [True, {}, "conflict"])),
    *((keyword, limit) for keyword in ("minimum", "maximum") for limit in (0, 1, 2)),
    *((keyword, limit) for keyword in ("exclusiveMinimum", "exclusiveMaximum") for limit in (0, 1, 2)),
    *((keyword, limit) for keyword in ("minLength", "maxLength", "minItems", "maxItems") for limit in (1, 2)),
    *((keyword, limit) for keyword in ("minProperties", "maxProperties") for limit in (1, 2, 3)),
    *(("additionalProperties", value) for value in (True, False, {"type": "number"})),
    *(("propertyNames", value) for value in ({"maxLength": 3}, {"enum": ["rlb", "usd", "x"]})),
    *(("properties", value) for value in ({}, {"x": {"minimum": 1}}, {"rlb": True, "usd": {"type": "integer"}})),
    *(("required", value) for value in ([], ["x"], ["rlb"], ["success"])),
    *(("items", value) for value in ({"type": "object"}, {"maximum": 0}, [{"type": "string"}])),
    *(("anyOf", value) for value in ([{"type": "integer"}, {"minLength": 1}], [{"const": 1}, {"type": "object"}])),
    *(("allOf", value) for value in ([{"maximum": 1}, {"maxLength": 1}], [{"properties": {"rlb": {"maximum": 2}}}])),
    *(("not", value) for value in ({"type": "null"}, {"maximum": 0}, {"required": ["x"]}, {"type": "object"})),
    *(("oneOf", [{"type": "number"}, {"minimum": 1}]), ("if", {"type": "object"}), ("then", {"required": ["x"]})),
    *(("multipleOf", 2), ("pattern", "^x"), ("uniqueItems", True), ("dependencies", {"x": ["rlb"]})),
    *(("patternProperties", {"^x": {"type": "string"}}), ("additionalItems", False), ("contains", {"type": "string"})),
    *(("$ref", "amount.json"), ("$ref", "onsite.json"), ("title", "T"), ("default", 1)),
]  # fmt: skip
NO_REF = {"amount", "asset_name", "onsite"}  # they would refer to themselves
WORLD = {  # enough for both directions and every part
    name: SET[name]
    for name in (
        *("balance_update", "get_reply", "balance_error", "snapshot", "onchain", "onsite", "amount", "asset_name"),
        *("uuid", "timestamp", "utc_timestamp", "error_code"),
    )
}
PLACES = st.tuples(st.sampled_from([*WORLD]), st.integers(0, 40))
EDITS = st.lists(st.tuples(PLACES, st.sampled_from(KEYWORDS), st.booleans()), min_size=1, max_size=4)


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema within a schema that may be edited, itself first."""
    if isinstance(schema, dict):
        yield schema
        inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), *schema.get("allOf", ())]
        for each in (*inner, *(schema.get(keyword) for keyword in ("items", "additionalProperties", "not"))):
            yield from subschemas(each)


def after(schemas: dict[str, Any], edits: list[Any]) -> dict[str, Any]:
    """A copy of a set in which some keywords were set, and in some places another was taken away."""
    schemas = deepcopy(schemas)
    for (name, number), (keyword, value), taken_away in edits:
        places = list(subschemas(schemas[name]))
        schema = places[number % len(places)]
        if taken_away and len(schema) > 1:
            schema.pop(sorted(set(schema) - {"$id", "$schema"})[number % len(set(schema) - {"$id", "$schema"})], None)
        elif keyword != "$ref" or ("$id" not in schema and name not in NO_REF):
            schema[keyword] = deepcopy(value)
    return schemas


def mutated(value: Any) -> Iterator[Any]:
    """Yield a value, and copies of it with one part replaced, taken away or added."""
    yield value
    yield from VALUES
    if isinstance(value, dict):
        yield {**value, "x": 1}
        for key, item in value.items():
            yield {other: value[other] for other in value if other != key}
            yield from ({**value, key: new} for new in mutated(item))
    elif isinstance(value, list):
        yield from ([*value[:index], new] for index, item in enumerate(value) for new in mutated(item))


@cache
def payloads(name: str) -> list[Any]:
    return [payload for example in SET[name]["examples"] for payload in mutated(example)]


def verdicts(schemas: dict[str, Any], name: str) -> list[bool]:
    """Say for each of the payloads of a schema whether it fits it, as this set has it."""
    known = jsonschema_rs.Registry([(schema["$id"], schema) for schema in schemas.values()])
    validator = jsonschema_rs.Draft7Validator(schemas[name], registry=known, validate_formats=False, offline=True)
    return [validator.is_valid(payload) for payload in payloads(name)]


def test_whatever_payload_no_longer_fits_or_newly_fits_a_breaking_change_says_so() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=250)
    @given(EDITS, EDITS, st.booleans())
    def holds(first: list[Any], second: list[Any], both: bool) -> None:
        old = after(WORLD, first) if both else WORLD
        new = after(old, second)
        told = {(change.schema, change.effect) for change in diff(old, new)}
        for name in ("balance_update", "get_reply", "balance_error"):
            before, now = verdicts(old, name), verdicts(new, name)
            effect, fits, not_ = ("breaks senders", before, now) if name == SENT else ("breaks receivers", now, before)
            broken = [each for each, one, other in zip(payloads(name), fits, not_, strict=True) if one and not other]
            if broken:
                seen[effect] += 1
                assert (name, effect) in told, broken[0]

    holds()
    assert min(seen["breaks senders"], seen["breaks receivers"]) > 10, "the test has lost its teeth"


# Reading a set


def test_a_set_is_a_folder_or_a_bundle(tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    file.write_text(protocol.dumps(bundle()), "utf-8")
    assert read_set(CURRENT) == {name: protocol.schema(name) for name in protocol.names()}
    assert set(read_set(file)) == set(protocol.names())
    assert diff(read_set(file), read_set(CURRENT)) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file or directory"),
        ("{", "is not valid JSON"),
        ("{}", "holds no schemas"),
        ("[]", "is no schema"),
        ('{"type": "text"}', "is no schema"),
        ('{"definitions": {"a": {"$ref": "b.json"}}}', "a refers to b.json, which is not in the set"),
        ('{"definitions": {"a": {"items": {"$ref": "a.json"}}}}', "a refers to itself"),
    ],
)
def test_what_is_no_set_is_refused_in_one_line_with_the_file_and_the_reason(
    tmp_path: Path, text: str | None, reason: str
) -> None:
    file = tmp_path / "bundle.json"
    if text is not None:
        file.write_text(text, "utf-8")
    with pytest.raises(UnreadableSetError) as caught:
        read_set(file)
    assert str(caught.value).startswith(f"{file}: {reason}")
    assert "\n" not in str(caught.value)


def test_a_folder_without_schemas_and_one_with_a_bad_one_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSetError, match=f"{tmp_path}: holds no schemas"):
        read_set(tmp_path)
    (tmp_path / "pong.json").write_text("nothing", "utf-8")
    with pytest.raises(UnreadableSetError, match=f"{tmp_path}/pong.json: is not valid JSON"):
        read_set(tmp_path)


def test_a_change_says_whether_it_breaks() -> None:
    assert Change("breaks senders", "a", "b", "c").breaks
    assert not Change("harmless", "a", "b", "c").breaks
