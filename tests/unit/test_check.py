"""`check` accepts exactly what the schemas accept, and reports one error with its path and a plain reason."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import deque
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import protocol
from protocol import InvalidPayload, check, dumps, loads, registry
from protocol.check import _explain, _suits_fast_validator, to_path
from protocol.violations import Violation, first_violation
from tests.support.repository import ROOT
from tests.support.strategies import UPDATE, examples, mutated_updates, numbers, values


def rejection(name: str, payload: object) -> str:
    """Return the error of a payload that `check` must reject."""
    with pytest.raises(InvalidPayload) as caught:
        check(name, payload)
    return str(caught.value)


# The verdict


def assert_one_verdict(name: str, payload: object) -> None:
    """Assert that both validators, the search for a violation and `check` agree."""
    slow = next(registry.slow_validator(name).iter_errors(payload), None) is None
    assert (first_violation(name, payload) is None) == slow
    if _suits_fast_validator(payload):
        assert registry.is_valid(registry.fast_validator(name), payload) == slow
    if slow:
        check(name, payload)
    else:
        assert rejection(name, payload).startswith(f"{best_path(name, payload)}: ")


def best_path(name: str, payload: object) -> str:
    """Return the path of the error to report, among all errors that jsonschema finds."""
    ranks, found = ["additionalProperties", "required", "type"], []
    errors = deque(registry.slow_validator(name).iter_errors(payload))
    while errors:
        error = errors.popleft()
        errors.extend(inner for inner in error.context or () if inner.validator_value != "null")
        path = tuple(error.absolute_path)
        if error.validator == "required":
            path = (*path, next(field for field in error.validator_value if field not in error.instance))
        elif error.validator == "additionalProperties":
            path = (*path, min(set(error.instance) - set(error.schema["properties"])))
        elif "propertyNames" in error.absolute_schema_path:
            path = (*path, error.instance)
        if not error.context:
            rank = ranks.index(error.validator) if error.validator in ranks else len(ranks)
            found.append((len(path), rank, path))
    return to_path(min(found)[2])


@settings(max_examples=examples(200))
@given(mutated_updates())
def test_fast_and_slow_agree_on_mutated_updates(update):
    assert_one_verdict("balance_update", update)


@settings(max_examples=examples(300))
@given(st.sampled_from(protocol.names()), values)
def test_fast_and_slow_agree_on_any_json_for_any_schema(name, payload):
    assert_one_verdict(name, payload)


@settings(max_examples=examples(400))
@given(numbers)
def test_an_amount_is_valid_exactly_if_0_or_from_1e_minus_30_to_1e30(number):
    if number == 0 or Decimal("1e-30") <= number <= 10**30:
        check("amount", number)
    else:
        assert rejection("amount", number).startswith("payload: must be ")


@pytest.mark.parametrize("number", ["1.00000000000000000000000000000000001e30", "1000000000000000000000000000000.1"])
def test_jsonschema_rs_alone_would_accept_a_number_above_1e30(number):
    assert registry.fast_validator("amount").is_valid(Decimal(number)), "no longer: `is_exact` may be removed"
    assert rejection("amount", Decimal(number)) == "payload: must be at most 1e30"


@pytest.mark.parametrize(
    ("payload", "suits"),
    [
        *((1, True), ("x", True), (None, True), (Decimal("1.5"), True), ({}, True), ([[{"a": ["x"]}]], True)),
        *((Decimal("1e-9999"), False), ([Decimal("1e-9999")], False), ({"a": 10**30}, False)),
        *(([1] * 511, True), ([1] * 512, False), ({"a": [1] * 510}, True), ({"a": [1] * 511}, False)),
        *(([[1] * 254, [1] * 255], True), ([[1] * 255, [1] * 255], False)),
        *((loads("[" * 8 + "]" * 8), True), (loads("[" * 9 + "]" * 9), False)),
    ],
)
def test_the_fast_validator_gets_small_payloads_with_exact_numbers(payload, suits):
    assert _suits_fast_validator(payload) == suits


def test_a_payload_that_only_the_fast_validator_rejects_is_rejected(monkeypatch):
    monkeypatch.setattr(registry, "is_valid", lambda validator, payload: False)
    assert rejection("amount", 1) == "payload: does not fit its schema"


# The messages


@settings(max_examples=examples(100))
@given(mutated_updates())
def test_an_error_is_one_short_printable_line_without_a_trace_of_python(update):
    if next(registry.slow_validator("balance_update").iter_errors(update), None):
        text = rejection("balance_update", update)
        assert text.isprintable()
        assert len(text) < 400
        assert not re.search(r"Decimal|None|True|False|dict|\bint\b|float|<|>", text.partition(": ")[2])


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"limit": 0}, "limit: must be at least 1"),
        ({"limit": 1001}, "limit: must be at most 1000"),
        ({"limit": "abc"}, "limit: must be an integer, not a string"),
        ({"limit": Decimal("1.5")}, "limit: must be an integer, not 1.5"),
        ({"offset": -1}, "offset: must be at least 0"),
        ({"offset": 1000001}, "offset: must be at most 1000000"),
        ({"cursor": "x"}, "cursor: must be the `next` of an earlier page"),
        ({"cursor": "1_1\n"}, "cursor: must be the `next` of an earlier page"),
        ({"page": 2}, "page: is not a known field"),
        ({"pid": -1}, "pid: must be at least 0"),
    ],
)
def test_an_invalid_query_is_rejected_with_its_path(query, error):
    assert rejection("list_query", query) == error


def test_a_wrong_date_or_id_gets_the_same_message_in_queries_and_updates():
    assert rejection("list_query", {"from": "x"}) == rejection("balance_update", {**UPDATE, "ts": "x"}).replace(
        "ts:", "from:"
    )
    assert rejection("get_path", {"id": "x"}) == rejection("balance_update", {**UPDATE, "id": "x"})


def test_an_error_deep_in_a_reply_has_its_whole_path():
    reply = loads(dumps(protocol.schema("list_reply")["examples"][0]))
    reply["data"][0]["onchain"]["rlb"] = "1"
    assert rejection("list_reply", reply) == "data.0.onchain.rlb: must be a number, not a string"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), *map(Decimal, ("NaN", "sNaN", "-Infinity"))])
def test_nan_and_infinity_are_not_numbers(number):
    update = {**UPDATE, "onchain": {"rlb": number, "usdt": 1}}
    assert rejection("balance_update", update) == f"onchain.rlb: must be a number, not {str(number).lower()}"


def test_a_value_that_json_does_not_have_is_named_by_its_python_type():
    assert rejection("amount", frozenset()) == "payload: must be a number, not frozenset"
    assert rejection("amount", ()) == "payload: must be a number, not an array"


def test_a_list_of_too_many_items_is_rejected_with_both_numbers():
    check("stream_query", {"pid": [1] * 100})
    assert rejection("stream_query", {"pid": [1] * 101}) == "pid: must have at most 100 items, not 101"


def test_a_constant_and_an_enumeration_are_listed():
    ack = {**protocol.schema("balance_ack")["examples"][0], "success": False}
    assert rejection("balance_ack", ack) == "success: must be true"
    assert rejection("list_query", {"order": "pid"}) == "order: must be one of ts, seq"


@pytest.mark.parametrize(("digits", "shown"), [(38, "1." + "1" * 38), (39, "1." + "1" * 38 + "…")])
def test_a_number_of_more_than_40_characters_is_shortened(digits, shown):
    number = Decimal("1." + "1" * digits)
    assert rejection("balance_update", {**UPDATE, "pid": number}) == f"pid: must be an integer or null, not {shown}"


@pytest.mark.parametrize(("length", "end"), [(40, ""), (41, "…")])
def test_a_name_of_more_than_40_characters_is_shortened(length, end):
    assert rejection("balance_update", {**UPDATE, " " * length: 1}) == f'"{" " * 40}"{end}: is not a known field'


def test_a_keyword_without_a_message_is_an_error_of_the_schemas():
    with pytest.raises(AssertionError, match="minItems, which has no message here"):
        _explain(Violation((), "minItems", 1, []))


def test_the_same_error_is_reported_in_every_process():
    # jsonschema iterates over a set of names, whose order depends on the hash seed.
    code = (
        "from protocol import check, InvalidPayload\n"
        "try: check('onchain', {'rlb': 1, 'usdt': 1, **{f'a{i}': -1 for i in range(50)}})\n"
        "except InvalidPayload as error: print(error)"
    )
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.stdout == "a0: must be at least 0\n"


def test_an_unknown_schema_is_an_error_of_the_caller():
    for call in (lambda: check("nothing", {}), lambda: protocol.schema("nothing")):
        with pytest.raises(KeyError):
            call()
