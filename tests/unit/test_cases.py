"""Each case of tests/cases/balance_update.json gets its verdict, by `check` and by validators of other drafts."""

from __future__ import annotations

import base64
from typing import Any

import jsonschema
import jsonschema_rs
import pytest
import referencing
import referencing.jsonschema

import protocol
from protocol import PayloadTooLarge, ServiceError, check, dumps, loads, registry
from protocol.plain_update import read_plain_update
from tests.support.repository import ROOT

GROUPS = loads((ROOT / "tests/cases/balance_update.json").read_bytes())
CASES = [
    pytest.param(case, id=f"{group['description']}: {case['description']}")
    for group in GROUPS
    for case in group["tests"]
]


def body(case: dict[str, Any]) -> bytes:
    """Return the bytes of the update of a case."""
    if "base64" in case:
        return base64.b64decode(case["base64"])
    return (case["json"] if "json" in case else dumps(case["data"])).encode()


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    raw = body(case)
    try:
        if len(raw) > 16_384:  # what the transports do before they decode
            raise PayloadTooLarge("is larger than 16384 bytes", "payload")
        check("balance_update", loads(raw))
        verdict = {"valid": True}
    except ServiceError as error:
        verdict = {"valid": False, "error": str(error), "code": error.code}
    assert verdict == {key: case[key] for key in ("valid", "error", "code") if key in case}


@pytest.mark.parametrize("case", [case for case in CASES if not case.values[0]["valid"]])
def test_an_invalid_case_is_not_a_plain_update(case):
    assert read_plain_update(body(case)) is None or case["code"] == "payload_too_large"


def test_every_case_is_well_formed_and_has_a_description_of_its_own():
    for group in GROUPS:
        descriptions = [case["description"] for case in group["tests"]]
        assert len(set(descriptions)) == len(descriptions)
        for case in group["tests"]:
            assert len({"data", "json", "base64"} & set(case)) == 1
            assert set(case) >= {"description", "valid"} | (set() if case["valid"] else {"error", "code"})
            assert ("base64" not in case) or case["rest_only"]
    assert len(CASES) >= 80


def test_draft_2020_12_reads_the_schemas_the_same():
    draft = referencing.jsonschema.DRAFT202012
    uri = "https://json-schema.org/draft/2020-12/schema"
    schemas = [{**protocol.schema(name), "$schema": uri} for name in protocol.names()]
    known = referencing.Registry().with_resources((each["$id"], draft.create_resource(each)) for each in schemas)
    newer = jsonschema.Draft202012Validator(
        next(each for each in schemas if each["title"] == "BalanceUpdate"), registry=known
    )
    for case in (param.values[0] for param in CASES):
        if "data" in case:
            assert newer.is_valid(case["data"]) == case["valid"], case["description"]


def test_the_patterns_accept_the_strings_that_a_format_would():
    for name, format_ in {"timestamp": "date-time", "utc_timestamp": "date-time", "uuid": "uuid"}.items():
        schema = {**protocol.schema(name), "format": format_}
        strict = jsonschema_rs.Draft7Validator(schema, validate_formats=True)
        good = [c.values[0]["data"] for c in CASES if c.values[0]["valid"] and "data" in c.values[0]]
        texts = [text for update in good for text in update.values() if isinstance(text, str)]
        for text in texts:
            assert strict.is_valid(text) == registry.fast_validator(name).is_valid(text), text
