"""Ajv, z-schema, hyperjump, jsonschema, jsonschema-rs and fastjsonschema give the verdicts of `check`.

Each is used as a client team would use it: without options and plugins, with numbers as its language reads them. There
are two sets of payloads: every update of tests/cases/balance_update.json, and for every schema its examples with each
part replaced, removed or extended.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from copy import deepcopy
from decimal import Decimal
from functools import cache
from typing import Any

import fastjsonschema
import jsonschema
import jsonschema_rs
import pytest

import protocol
from protocol.bundle import bundle
from protocol.limits import DEFAULT
from tests.support.node import FOLDER, ask_node, node, node_modules
from tests.support.offline import run_offline
from tests.support.payloads import CASES, body_of
from tests.support.strategies import mutations

BUNDLE: dict[str, Any] = json.loads(protocol.dumps(bundle()))  # as a client reads it
SCHEMAS: dict[str, Any] = BUNDLE["definitions"]
REPLACEMENTS: list[Any] = [None, True, "", "x", "a\n", 0, -1, 7.0, 1.5, 1e30, 2e30, 1e-31, 2**53, [], [1], {}, {"x": 1}]
Verdict = Callable[[str, Any], bool]


def pointer(name: str) -> str:
    """Return the pointer to a schema in the bundle."""
    return f"#/definitions/{name}"


def accepts(name: str, payload: object) -> bool:
    """Return the verdict of the server."""
    try:
        protocol.check(name, payload)
    except protocol.InvalidPayload:
        return False
    return True


def as_doubles(value: Any) -> Any:
    """Return a value with the numbers that JavaScript reads."""
    if isinstance(value, dict):
        return {key: as_doubles(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_doubles(item) for item in value]
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    return value


@cache
def payloads() -> list[tuple[str, Any]]:
    """Return every payload to validate, each with the name of its schema."""
    return [
        (name, payload)
        for name, schema in SCHEMAS.items()
        for example in schema["examples"]
        for payload in (example, *mutations(example, REPLACEMENTS, "later"))
    ]


def by_jsonschema() -> Verdict:
    validators = {name: jsonschema.Draft7Validator({"$ref": pointer(name), "definitions": SCHEMAS}) for name in SCHEMAS}
    return lambda name, payload: validators[name].is_valid(payload)


def by_jsonschema_rs() -> Verdict:
    validators = {
        name: jsonschema_rs.validator_for({**BUNDLE, "$ref": pointer(name), "$id": f"{BUNDLE['$id']}/{name}"})
        for name in SCHEMAS
    }
    return lambda name, payload: validators[name].is_valid(payload)


def by_fastjsonschema() -> Verdict:
    validators = {
        name: fastjsonschema.compile({"$ref": pointer(name), "definitions": deepcopy(SCHEMAS)}) for name in SCHEMAS
    }

    def verdict(name: str, payload: Any) -> bool:
        try:
            validators[name](deepcopy(payload))  # it fills in default values
        except fastjsonschema.JsonSchemaValueException:
            return False
        return True

    return verdict


def ask_ajv(texts: list[tuple[str, bytes]]) -> list[bool | None]:
    """Return the verdicts of Ajv on payloads as bytes; None for bytes that are not JSON."""
    question = {
        "bundle": BUNDLE,
        "schemas": [BUNDLE["$id"] + pointer(name) for name in SCHEMAS],
        "payloads": [(BUNDLE["$id"] + pointer(name), b64encode(text).decode()) for name, text in texts],
    }
    answer: list[bool | None] = json.loads(ask_node(FOLDER / "validate.mjs", json.dumps(question)))
    return answer


IN_PYTHON = {"jsonschema": by_jsonschema, "jsonschema-rs": by_jsonschema_rs, "fastjsonschema": by_fastjsonschema}
in_python = pytest.mark.parametrize("library", IN_PYTHON)


def test_the_cases_that_doubles_cannot_distinguish_are_marked() -> None:
    def differs(case: dict[str, Any]) -> bool:
        try:
            update = protocol.loads(body_of(case))
        except protocol.MalformedJson:
            return False
        return accepts("balance_update", update) != accepts("balance_update", as_doubles(update))

    found = [case["description"] for case in CASES if differs(case)]
    assert found == [case["description"] for case in CASES if case.get("beyond_double")]


def expected(case: dict[str, Any]) -> bool:
    """Return the verdict on a case of a validator that reads numbers as doubles."""
    return bool(case["valid"] or case.get("beyond_double") or case["code"] == "payload_too_large")


def test_ajv_gives_every_case_the_servers_verdict() -> None:
    verdicts = ask_ajv([("balance_update", body_of(case)) for case in CASES])
    for case, verdict in zip(CASES, verdicts, strict=True):
        if not case["valid"] and case["code"] == "payload_too_large":
            assert len(body_of(case)) > DEFAULT.update_bytes_max, "the size is the only rule that is not in the schema"
        else:
            assert bool(verdict) == expected(case), case["description"]


@in_python
def test_in_python_every_case_gets_the_servers_verdict(library: str) -> None:
    verdict = IN_PYTHON[library]()
    assert len(judged()) > 150
    for case in judged():
        update = as_doubles(protocol.loads(body_of(case)))
        assert verdict("balance_update", update) == expected(case), case["description"]


def judged() -> list[dict[str, Any]]:
    """Return the cases whose verdict the schema gives, not the decoder."""
    return [case for case in CASES if case["valid"] or case["code"] == "invalid_payload"]


def test_hyperjump_z_schema_ajv_2020_and_typescript_read_the_bundle() -> None:
    node_modules()
    updates = [("balance_update", protocol.loads(body_of(case))) for case in judged()]
    question = protocol.dumps({"bundle": BUNDLE, "payloads": [*updates, *payloads()]})
    read = json.loads(run_offline([node(), FOLDER / "read-bundle.mjs"], question))
    assert set(read.pop("types")) == {"Bundle", *(schema["title"] for schema in SCHEMAS.values())}
    assert set(read) == {"ajv2020", "hyperjump", "z-schema"}
    for library, verdicts in read.items():
        for case, verdict in zip(judged(), verdicts, strict=False):
            assert verdict == expected(case), f"{library}: {case['description']}"
        check_verdicts(verdicts[len(updates) :])


def test_decimals_get_the_verdict_if_the_schema_has_decimals_too() -> None:
    exact = json.loads(protocol.dumps(bundle()), parse_float=Decimal)["definitions"]
    validator = jsonschema.Draft7Validator({"$ref": pointer("balance_update"), "definitions": exact})
    differing = []
    for case in judged():
        update = protocol.loads(body_of(case))
        if validator.is_valid(update) != case["valid"]:
            differing.append(update["pid"])
    assert differing, "no longer: the note on 7.0 in docs/clients.md may be removed"
    assert all(isinstance(pid, Decimal) and pid == int(pid) for pid in differing), "only integers with a point"


def test_ajv_gives_every_mutated_example_the_servers_verdict() -> None:
    verdicts = ask_ajv([(name, protocol.dumps(payload).encode()) for name, payload in payloads()])
    check_verdicts(verdicts)


@in_python
def test_in_python_every_mutated_example_gets_the_servers_verdict(library: str) -> None:
    verdict = IN_PYTHON[library]()
    check_verdicts([verdict(name, payload) for name, payload in payloads()])


def check_verdicts(verdicts: list[Any]) -> None:
    found = [
        f"{name} {payload!r}: {verdict}"
        for (name, payload), verdict in zip(payloads(), verdicts, strict=True)
        if verdict != accepts(name, payload)
    ]
    assert not found, "\n" + "\n".join(found[:20])
    good = sum(verdicts)
    assert good > 300, "enough of them are valid"
    assert len(verdicts) - good > 2000, "and enough are invalid"
