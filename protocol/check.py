"""Validate a payload against its schema: accept it quickly, or report its one most relevant error with the path.

Most payloads are accepted by jsonschema-rs, in about ten microseconds. One that it does not accept is searched for its
first error by `violations`. An update as bots write it needs neither: `plain_update` validates it while decoding. All
three read the same schemas, and property tests hold them to the same verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from protocol import registry
from protocol.errors import InvalidPayload
from protocol.violations import Violation, first_violation, is_exact

_LEVELS_MAX = 8  # more than any valid payload has
_VALUES_MAX = 512  # more than any valid request has
_TEXT_MAX = 40
_UNQUOTED_NAME = re.compile(r"[A-Za-z0-9_$-][A-Za-z0-9._:/$-]{0,63}|\*")  # every asset name matches

_TYPES = {
    "null": "null",
    "boolean": "a boolean",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "array": "an array",
    "object": "an object",
}

# The message for a `pattern` or a `not`, by the title of the schema that has it.
_MESSAGES = {
    "Amount": "must be 0 or at least 1e-30",
    "LedgerAsset": "is not the name of an asset after onchain. or onsite.",
    "AssetName": "is not an asset name (1 to 64 of A-Z a-z 0-9 . _ : / $ - with a letter, a digit or $ first)",
    "Cursor": "must be the `next` of an earlier page",
    "PositionToken": "must be a position as the server sends it: epoch, seq and eight hex digits, with colons between",
    "RecoveryOffset": "must be the last argument of an event",
    "SeriesQuery": "must have only one of by and sum",
    "Timestamp": "must be an RFC 3339 date and time with a time zone, of the years 1000 to 2999, with at most 9 "
    "fraction digits and without a leap second, such as 2025-11-07T00:45:08.603Z",
    "UtcTimestamp": "must be a UTC time with three or six fraction digits, such as 2025-11-07T00:45:08.603Z",
    "Uuid": "must be a UUID, such as 019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51",
}


def check(name: str, payload: object) -> None:
    """Validate `payload`, as `loads` returns it, against the schema `name`.

    Raises InvalidPayload with the path and the reason of one error. It is the same error in every process: of the
    outermost errors, an unknown field before a missing one before a wrong type before a wrong value; among equals the
    first by path. Raises KeyError if there is no such schema.
    """
    is_small = _suits_fast_validator(payload)
    if is_small and registry.is_valid(registry.fast_validator(name), payload):
        return
    violation = first_violation(name, payload)
    if violation is not None:
        raise InvalidPayload(_explain(violation), to_path(violation.path))
    if is_small:
        raise InvalidPayload("does not fit its schema", "payload")


def to_path(steps: Iterable[str | int]) -> str:
    """Write the path to a field: `data.0.onchain.rlb`; `payload` for the whole."""
    return ".".join(map(_format_step, steps)) or "payload"


def _suits_fast_validator(payload: Any) -> bool:
    """Return whether jsonschema-rs is exact and quick for `payload`, which it converts as a whole before it starts."""
    level, count = [payload], 1
    for _ in range(_LEVELS_MAX):
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


def _explain(violation: Violation) -> str:
    """Write the message for a violation; the messages of the libraries change with their versions."""
    value, limit = violation.value, violation.limit
    match violation.keyword:
        case "required":
            reason = "is required"
        case "additionalProperties":
            reason = "is not a known field"
        case "pattern" | "not":
            reason = _MESSAGES[violation.title]
        case "type":
            reason = f"must be {_format_types(limit)}, not {_format_type_of(value, limit)}"
        case "minimum":
            reason = f"must be at least {_format_number(limit)}"
        case "maximum":
            reason = f"must be at most {_format_number(limit)}"
        case "maxProperties":
            assert isinstance(value, dict)
            reason = f"must have at most {limit} fields, not {len(value)}"
        case "maxItems":
            assert isinstance(value, list)
            reason = f"must have at most {limit} items, not {len(value)}"
        case "const":
            reason = f"must be {json.dumps(limit)}"
        case "enum":
            reason = f"must be one of {', '.join(limit)}"
        case _:
            raise AssertionError(f"the schemas use {violation.keyword}, which has no message here")
    return reason


def _format_types(types: Sequence[str]) -> str:
    return " or ".join(_TYPES[name] for name in types)


def _format_type_of(value: object, wanted: Sequence[str]) -> str:
    """Write the JSON type of `value`; where a number is wanted, a number is written by its digits."""
    match value:
        case None:
            type_ = "null"
        case bool():
            type_ = "boolean"
        case str():
            type_ = "string"
        case dict():
            type_ = "object"
        case list() | tuple():
            type_ = "array"
        case int() | float() | Decimal() if "integer" in wanted or "number" in wanted:
            return _format_number(value)
        case int() | float() | Decimal():
            type_ = "number"
        case _:
            return type(value).__name__
    return _TYPES[type_]


def _format_number(value: object) -> str:
    """Write a number as JSON does, shortened if it is long."""
    text = str(value).lower().replace("e+", "e")
    return text if len(text) <= _TEXT_MAX else text[:_TEXT_MAX] + "…"


def _format_step(step: str | int) -> str:
    """Write one step of a path: quoted, escaped and shortened unless it looks like the name of a field."""
    text = str(step)
    if _UNQUOTED_NAME.fullmatch(text):
        return text
    return json.dumps(text[:_TEXT_MAX]) + ("…" if len(text) > _TEXT_MAX else "")
