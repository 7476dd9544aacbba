"""`diff` misses no breaking change: a property test with random edits of the schemas and many payloads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import jsonschema_rs
from hypothesis import given, settings
from hypothesis import strategies as st

import protocol
from protocol.compat.diff import diff
from tests.support.strategies import examples, mutations

SET: dict[str, Any] = {name: protocol.schema(name) for name in protocol.names()}
SENT = "balance_update"
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
POINTERS = st.tuples(st.sampled_from([*WORLD]), st.integers(0, 40))
EDITS = st.lists(st.tuples(POINTERS, st.sampled_from(KEYWORDS), st.booleans()), min_size=1, max_size=4)


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema within a schema that may be edited, itself first."""
    if isinstance(schema, dict):
        yield schema
        inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), *schema.get("allOf", ())]
        for each in (*inner, *(schema.get(keyword) for keyword in ("items", "additionalProperties", "not"))):
            yield from subschemas(each)


def after(schemas: dict[str, Any], edits: list[Any]) -> dict[str, Any]:
    """Copy a set; set a keyword in some schemas, and remove another one in others."""
    schemas = deepcopy(schemas)
    for (name, number), (keyword, value), is_removed in edits:
        parts = list(subschemas(schemas[name]))
        schema = parts[number % len(parts)]
        if is_removed and len(schema) > 1:
            schema.pop(sorted(set(schema) - {"$id", "$schema"})[number % len(set(schema) - {"$id", "$schema"})], None)
        elif keyword != "$ref" or ("$id" not in schema and name not in NO_REF):
            schema[keyword] = deepcopy(value)
    return schemas


@cache
def payloads(name: str) -> list[Any]:
    """Return the examples of a schema and many mutations of them."""
    examples = SET[name]["examples"]
    return [*examples, *(payload for example in examples for payload in mutations(example, VALUES, "x"))]


def verdicts(schemas: dict[str, Any], name: str) -> list[bool]:
    """Return for each payload of a schema whether it is valid against the schema of a set."""
    known = jsonschema_rs.Registry([(schema["$id"], schema) for schema in schemas.values()])
    validator = jsonschema_rs.Draft7Validator(schemas[name], registry=known, validate_formats=False, offline=True)
    return [validator.is_valid(payload) for payload in payloads(name)]


def test_a_breaking_change_is_reported_if_any_payload_is_affected() -> None:
    seen: Counter[str] = Counter()

    count = examples(125)

    @settings(max_examples=count)
    @given(EDITS, EDITS, st.booleans())
    def holds(first: list[Any], second: list[Any], both: bool) -> None:
        old = after(WORLD, first) if both else WORLD
        new = after(old, second)
        reported = {(change.schema, change.effect) for change in diff(old, new)}
        for name in ("balance_update", "get_reply", "balance_error"):
            before, now = verdicts(old, name), verdicts(new, name)
            effect, fits, not_ = ("breaks senders", before, now) if name == SENT else ("breaks receivers", now, before)
            broken = [each for each, one, other in zip(payloads(name), fits, not_, strict=True) if one and not other]
            if broken:
                seen[effect] += 1
                assert (name, effect) in reported, broken[0]

    holds()
    assert min(seen["breaks senders"], seen["breaks receivers"]) > count / 25, "the edits hardly break anything"
