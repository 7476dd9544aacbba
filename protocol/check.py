"""Check a payload against its schema: a quick yes, or the one best error with its path.

A plain update is checked as it is read, by `quick`; whatever else fits gets its yes from jsonschema-rs, in ten
microseconds or more; only when that says no does jsonschema look for the error, which takes some hundred. All three
read the same schemas, and property tests hold them to the same verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import islice
from typing import NamedTuple

import jsonschema

from protocol import registry
from protocol.errors import InvalidPayload
from protocol.quick import PlainUpdate

Path = tuple[str | int, ...]


class _Found(NamedTuple):
    """One error; the least is the best. jsonschema's order is in part that of a set, new in each process."""

    depth: int
    rank: int
    path: Path
    reason: str


_UPDATE = "balance_update"  # the name of a schema
_FIRST = ("additionalProperties", "required", "type")
_NEST_MAX = 8  # deeper than any payload of ours
_DIGITS_MAX = 256
# Each costs up to 0.1 ms, and 16 kB can hold thousands. A request with so many has too many fields, which is
# found before what is wrong with each.
_ERRORS_MAX = 256
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
    name. Raises KeyError if there is no such schema.
    """
    if name == _UPDATE and type(payload) is PlainUpdate:
        return
    plain = _is_plain(payload, _NEST_MAX)
    if plain and _is_valid(name, payload):
        return
    errors = islice(_leaves(registry.slow(name).iter_errors(payload)), _ERRORS_MAX)
    found = min(map(_find, errors), default=None)
    if found:
        raise InvalidPayload(found.reason, to_path(found.path))
    if plain:
        raise InvalidPayload("does not fit its schema", "payload")


def to_path(steps: Iterable[str | int]) -> str:
    """Write the way to a field, step by step: `data.0.onchain.rlb`; `payload` is the whole."""
    return ".".join(map(_name, steps)) or "payload"


def _is_valid(name: str, payload: object) -> bool:
    try:
        return registry.fast(name).is_valid(payload)
    except ValueError:  # half a surrogate pair, which `loads` lets nobody send; a set; NaN
        return False


def _is_plain(value: object, nest_max: int) -> bool:
    """Say whether jsonschema-rs can be trusted with the numbers in `value`.

    It compares a number just above 1e30 through a float (and finds it equal), and 1e-9999 or five thousand
    digits take it milliseconds. Such numbers are rare, and jsonschema takes both in its stride.
    """
    if isinstance(value, Decimal):
        return -30 < value.adjusted() < 30 and len(str(value)) <= _DIGITS_MAX
    if isinstance(value, dict):
        return nest_max > 0 and all(_is_plain(item, nest_max - 1) for item in value.values())
    if isinstance(value, list):
        return nest_max > 0 and all(_is_plain(item, nest_max - 1) for item in value)
    return True


def _leaves(errors: Iterable[jsonschema.ValidationError]) -> Iterator[jsonschema.ValidationError]:
    """Replace each "fits none of these" by what is wrong with the branch that is not just null."""
    for error in errors:
        if error.context:
            yield from _leaves(inner for inner in error.context if inner.validator_value != "null")
        else:
            yield error


def _find(error: jsonschema.ValidationError) -> _Found:
    path, reason = _explain(error)
    rank = _FIRST.index(error.validator) if error.validator in _FIRST else len(_FIRST)
    return _Found(len(path), rank, path, reason)


def _explain(error: jsonschema.ValidationError) -> tuple[Path, str]:
    """Return where the error is and what is wrong there, in words of ours."""
    path = tuple(error.absolute_path)
    value, limit = error.instance, error.validator_value
    match error.validator:
        case "required":
            path = (*path, next(field for field in limit if field not in value))
            reason = "is required"
        case "additionalProperties":
            path = (*path, min(field for field in value if field not in error.schema["properties"]))
            reason = "is not a known field"
        case "pattern" | "not":
            if "propertyNames" in error.absolute_schema_path:
                path = (*path, value)
            reason = _MEANINGS[error.schema["title"]]
        case "type":
            reason = f"must be {_either(limit)}, not {_kind(value, limit)}"
        case "minimum":
            reason = f"must be at least {_number(limit)}"
        case "maximum":
            reason = f"must be at most {_number(limit)}"
        case "maxProperties":
            reason = f"must have at most {limit} fields, not {len(value)}"
        case "const":
            reason = f"must be {json.dumps(limit)}"
        case "enum":
            reason = f"must be one of {', '.join(limit)}"
        case _:
            raise AssertionError(f"the schemas use {error.validator}, which has no words here")
    return path, reason


def _either(types: str | list[str]) -> str:
    return " or ".join(_KINDS[name] for name in ([types] if isinstance(types, str) else types))


def _kind(value: object, wanted: str | list[str]) -> str:
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
