"""`diff` compares each keyword of JSON Schema.

A schema that accepts less breaks senders; one that allows more breaks receivers. Each row of NARROWER is such a pair,
and is compared in both directions, as a schema that clients send and as one that the server sends.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest

from protocol.compat.branches import Branch, branches
from protocol.compat.diff import diff
from protocol.compat.subschema import Comparison, Reason

SENT, RECEIVED = "balance_update", "pong"


def test_the_examples_of_the_documentation_hold() -> None:
    old, new = {"type": ["integer", "null"], "minimum": 0}, {"type": ["number", "null"], "minimum": 1}
    assert Comparison(a_is_new=False).counterexamples(old, new) == [Reason((), "minimum was 0, is 1")]
    groups = ({"maxLength": 9}, {"minLength": 1})
    schema = {"type": ["string", "null"], "maxLength": 9, "allOf": [{"minLength": 1}]}
    assert branches(schema) == [Branch("string", groups), Branch("null", groups)]


def open_(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields}


def closed(**fields: Any) -> dict[str, Any]:
    return {**open_(**fields), "additionalProperties": False}


TEXT, ASSET = {"type": "string"}, {"additionalProperties": {"type": "number"}}
# A schema, a narrower one, and the change from the first to the second.
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


def changes(old: Any, new: Any) -> tuple[list[str], list[str]]:
    """Return the changes of a schema that clients send, and of one that the server sends, without its name."""
    found = [str(change) for change in diff({SENT: old, RECEIVED: old}, {SENT: new, RECEIVED: new})]
    sent = [line.replace(f"{SENT}: ", "") for line in found if f": {SENT}: " in line]
    return sent, [line.replace(f"{RECEIVED}: ", "") for line in found if f": {RECEIVED}: " in line]


def reversed_change(line: str) -> str:
    turned = re.sub(r"was (.*), is (.*)", r"was \2, is \1", line)
    return turned.replace("enum lost", "enum gained")


@pytest.mark.parametrize(("wide", "narrow", "line"), NARROWER, ids=[row[2] for row in NARROWER])
def test_a_narrower_schema_breaks_senders_and_a_wider_one_receivers(wide: Any, narrow: Any, line: str) -> None:
    assert changes(wide, narrow) == ([f"breaks senders: {line}"], [f"harmless: {line}"])
    back = reversed_change(line)
    assert changes(narrow, wide) == ([f"harmless: {back}"], [f"breaks receivers: {back}"])


EITHER: list[tuple[Any, Any, str]] = [
    (TEXT, {"type": "number"}, "payload: type was string, is number"),
    (ASSET, {"additionalProperties": TEXT}, "*: type was number, is string"),
    ({"const": 1}, {"const": 2}, "payload: const was 1, is 2"),
    ({"const": 1}, {"const": True}, "payload: const was 1, is true"),
    ({"type": "integer", "const": Decimal("1.0")}, {"type": "integer", "const": 2}, "payload: const was 1.0, is 2"),
    ({"pattern": "a"}, {"pattern": "b"}, 'payload: pattern was "a", is "b" (not proved compatible)'),
    ({"format": "date"}, {"format": "time"}, 'payload: format was "date", is "time" (not proved compatible)'),
    ({"multipleOf": 2}, {"multipleOf": 4}, "payload: multipleOf was 2, is 4 (not proved compatible)"),
    ({"oneOf": [TEXT]}, {"oneOf": [{}]}, 'payload: oneOf was [{"type": "string"}], is [{}] (not proved compatible)'),
    ({}, {"uniqueItems": True}, "payload: uniqueItems was absent, is true"),
    ({}, {"later": [1]}, "payload: later was absent, is [1]"),
    ({"if": TEXT, "then": {}}, {"if": TEXT}, "payload: then was {}, is absent"),
    ({}, {"patternProperties": {"a": TEXT}}, 'payload: patternProperties was absent, is {"a": {"type": "string"}}'),
    ({"items": [{}]}, {"items": {}}, "payload: items was [{}], is {} (not proved compatible)"),
    ({"items": [TEXT]}, {"items": [{}]}, 'payload: items was [{"type": "string"}], is [{}] (not proved compatible)'),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line"), EITHER, ids=[row[2] for row in EITHER])
def test_a_different_or_unknown_keyword_breaks_senders_and_receivers(old: Any, new: Any, line: str) -> None:
    assert changes(old, new) == ([f"breaks senders: {line}"], [f"breaks receivers: {line}"])


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
def test_another_form_of_the_same_schema_makes_no_difference(old: Any, new: Any) -> None:
    assert changes(old, new) == changes(new, old) == ([], [])


def test_a_default_breaks_senders_and_a_removed_field_breaks_both() -> None:
    old, new = open_(a={"default": 1}), open_(a={"default": 2})
    assert changes(old, new) == (["breaks senders: a: default was 1, is 2"], ["harmless: a: default was 1, is 2"])
    removed = "a: was optional, is absent"
    assert changes(old, open_()) == ([f"breaks senders: {removed}"], [f"breaks receivers: {removed}"])
    assert changes(closed(a={}), closed()) == ([f"breaks senders: {removed}"], [f"breaks receivers: {removed}"])


def test_naming_a_field_that_a_pattern_allowed_is_breaking() -> None:
    old = {**closed(), "patternProperties": {"^x": {}}}
    assert "breaks senders: x1: was absent, is optional" in changes(old, {**old, "properties": {"x1": TEXT}})[0]


def test_only_a_breaking_change_is_reported_as_not_proved() -> None:
    detail = 'payload: not was {"type": "null"}, is {"type": ["null", "string"]}'
    sent, received = changes({"not": {"type": "null"}}, {"not": {"type": ["null", "string"]}})
    assert (sent, received) == ([f"breaks senders: {detail} (not proved compatible)"], [f"harmless: {detail}"])


def test_a_rule_about_a_field_that_was_not_allowed_breaks_no_sender() -> None:
    rule = {"type": "object", "required": ["a"], "not": {"required": ["b"]}}
    new = {**closed(a={}, b={}), "type": ["object", "null"], "not": rule}
    for old in (closed(), {**closed(b={}), "type": ["object", "null"]}):
        assert [line for line in changes(old, new)[0] if line.startswith("breaks")] == []
    for old in (closed(a={}), open_()):
        assert any(line.startswith("breaks senders: payload: not was absent") for line in changes(old, new)[0])
