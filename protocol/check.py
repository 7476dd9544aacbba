"""Check a payload against its schema: a quick yes, or the one best error with its path.

A plain update is checked as it is read, by `quick`; any other payload that fits is accepted by jsonschema-rs, in ten
microseconds or more; only what that does not accept is searched for its error, by `faults`, and that search ends at the
first one. All three read the same schemas, and property tests hold them to the same verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from protocol import registry
from protocol.errors import InvalidPayload
from protocol.faults import Fault, first_fault, is_exact
from protocol.plain_update import PlainUpdate

_UPDATE = "balance_update"  # the name of a schema
_NEST_MAX = 8  # deeper than any payload of ours
_VALUES_MAX = 512  # more than any request of ours may have
_NAME_MAX = 40
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_$-][A-Za-z0-9._:/$-]{0,63}|\*")  # every asset name is one

_KINDS = {
    "null": "null",
    "boolean": "a boolean",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "array": "an array",
    "object": "an object",
}

# What a `pattern` or a `not` means, by the title of the schema it stands in.
_MEANINGS = {
    "Amount": "must be 0 or at least 1e-30",
    "AssetName": "is not an asset name (1 to 64 of A-Z a-z 0-9 . _ : / $ - with a letter, a digit or $ first)",
    "Cursor": "must be the `next` of an earlier page",
    "Timestamp": "must be a date and time with a zone as RFC 3339 has it, such as 2025-11-07T00:45:08.603Z",
    "UtcTimestamp": "must be a UTC time with three or six fraction digits, such as 2025-11-07T00:45:08.603Z",
    "Uuid": "must be a UUID, such as 019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51",
}


def check(name: str, payload: object) -> None:
    """Check `payload`, as `loads` gives it, against the schema `name`.

    Raises InvalidPayload with the path and the reason of one error, always the same one: of the outermost, an
    unknown field before a missing one before a wrong type before a wrong value; of several such, the first by
    path. Raises KeyError if there is no such schema.
    """
    if name == _UPDATE and type(payload) is PlainUpdate:
        return
    plain = _is_plain(payload)
    if plain and registry.is_valid(registry.fast(name), payload):
        return
    fault = first_fault(name, payload)
    if fault is not None:
        raise InvalidPayload(_explain(fault), to_path(fault.path))
    if plain:
        raise InvalidPayload("does not fit its schema", "payload")


def to_path(steps: Iterable[str | int]) -> str:
    """Write the way to a field, step by step: `data.0.onchain.rlb`; `payload` is the whole."""
    return ".".join(map(_name, steps)) or "payload"


def _is_plain(payload: Any) -> bool:
    """Tell whether jsonschema-rs can be trusted with `payload`, and is fast with it: it reads the whole of it first."""
    level, count = [payload], 1
    for _ in range(_NEST_MAX):
        below: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is dict:
                below += value.values()
            elif kind is list:
                below += value
            elif kind is not str and not is_exact(value):
                return False
        if not below:
            return True
        count += len(below)
        if count > _VALUES_MAX:
            return False
        level = below
    return False


def _explain(fault: Fault) -> str:
    """Say what is wrong, in words of ours."""
    value, limit = fault.value, fault.limit
    match fault.keyword:
        case "required":
            reason = "is required"
        case "additionalProperties":
            reason = "is not a known field"
        case "pattern" | "not":
            reason = _MEANINGS[fault.title]
        case "type":
            reason = f"must be {_either(limit)}, not {_kind(value, limit)}"
        case "minimum":
            reason = f"must be at least {_number(limit)}"
        case "maximum":
            reason = f"must be at most {_number(limit)}"
        case "maxProperties":
            assert isinstance(value, dict)
            reason = f"must have at most {limit} fields, not {len(value)}"
        case "const":
            reason = f"must be {json.dumps(limit)}"
        case "enum":
            reason = f"must be one of {', '.join(limit)}"
        case _:
            raise AssertionError(f"the schemas use {fault.keyword}, which has no words here")
    return reason


def _either(types: Sequence[str]) -> str:
    return " or ".join(_KINDS[name] for name in types)


def _kind(value: object, wanted: Sequence[str]) -> str:
    """Name the JSON type of `value`; where a number of a kind is wanted, a number by its digits."""
    match value:
        case None:
            kind = "null"
        case bool():
            kind = "boolean"
        case str():
            kind = "string"
        case dict():
            kind = "object"
        case list() | tuple():
            kind = "array"
        case int() | float() | Decimal() if "integer" in wanted or "number" in wanted:
            return _number(value)
        case int() | float() | Decimal():
            kind = "number"
        case _:
            return type(value).__name__
    return _KINDS[kind]


def _number(value: object) -> str:
    """Write a number as JSON has it, cut off where it is long."""
    text = str(value).lower().replace("e+", "e")
    return text if len(text) <= _NAME_MAX else text[:_NAME_MAX] + "…"


def _name(part: str | int) -> str:
    """Write one step of a path: as it is where it is plain, else quoted, escaped and cut off."""
    text = str(part)
    if _PLAIN_NAME.fullmatch(text):
        return text
    return json.dumps(text[:_NAME_MAX]) + ("…" if len(text) > _NAME_MAX else "")
