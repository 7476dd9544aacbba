"""JSON with exact numbers.

`loads` returns an int for each number that is written without a point and an exponent, and a Decimal for every other
one, never a float. `dumps` and `encode` write them to the last digit. NaN and Infinity are rejected in both directions.
Of duplicate keys the last one counts, as in JavaScript.

python-socketio gets this module as its `json=`: hence the names, and the keyword arguments that are ignored. Every
function is safe to call from any thread.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any, Never

import msgspec

from protocol.errors import MalformedJson

Encoded = msgspec.Raw
"""JSON that is already encoded; `dumps` and `encode` copy it unchanged."""

_decoder = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number", uuid_format="canonical")

_NOT_JSON = "is not valid JSON"
_NOT_UTF8 = "is not valid UTF-8"
_TOO_DEEP = "is nested too deeply"
_LEVELS_MAX = 200
_INT_DIGITS_MAX = 4300  # the limit of Python and of msgspec
_EXPONENT_MAX = 999_999_999_999_999_999  # of a Decimal: decimal.MAX_EMAX on every 64-bit machine


def loads(data: str | bytes, **_ignored: object) -> Any:
    """Decode one JSON value from text or UTF-8.

    Raises MalformedJson, and no other exception, if `data` is not JSON (RFC 8259), is not UTF-8, contains half a
    surrogate pair, or is nested more than 200 levels deep.
    """
    value = _decode(data)
    # msgspec stops at the recursion limit of Python only: 1,000 or 10,000 levels, depending on the version of Python.
    # A level takes two characters, so that a short text needs no search.
    if len(data) > 2 * _LEVELS_MAX and _is_deeper(value, _LEVELS_MAX):
        raise MalformedJson(_TOO_DEEP, "payload")
    return value


def dumps(value: Any, **_ignored: object) -> str:
    """Encode a value as compact JSON, as `encode` does."""
    return encode(value).decode()


def encode(value: Any) -> bytes:
    """Encode str, int, Decimal, float, bool, None, UUID, datetime, list, tuple, dict, Encoded and structs as JSON.

    Raises ValueError for half a surrogate pair, and for NaN and Infinity except within structs, whose types declare
    what they hold. Raises TypeError for a value that has no JSON form.
    """
    data = _encoder.encode(value)
    # msgspec writes Decimal("NaN") as NaN and float("nan") as null without an error. A search for a letter is ten times
    # as fast as one for a word, and most data contains none of these.
    if b"N" in data or b"I" in data or b"null" in data:
        _reject_not_finite(value)
    return data


def _decode(data: str | bytes) -> Any:
    try:
        return _decoder.decode(data)
    except UnicodeError as error:
        raise MalformedJson(_NOT_UTF8, "payload") from error
    except RecursionError as error:
        raise MalformedJson(_TOO_DEEP, "payload") from error
    except (msgspec.ValidationError, InvalidOperation):
        return _decode_wide(data)
    except msgspec.DecodeError as error:
        raise MalformedJson(_NOT_JSON, "payload") from error


def _decode_wide(data: str | bytes) -> Any:
    """Decode numbers that msgspec and Decimal cannot represent, so that the schema can reject them by path.

    An integer of thousands of digits becomes a Decimal. An exponent of 19 digits becomes the nearest one that a Decimal
    can have, with the sign of the number kept.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
    except UnicodeError as error:
        raise MalformedJson(_NOT_UTF8, "payload") from error
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_decimal, parse_constant=_reject_constant)
        _encoder.encode(value)  # raises UnicodeError for half a surrogate pair, which the standard library accepts
    except RecursionError as error:
        raise MalformedJson(_TOO_DEEP, "payload") from error
    except ValueError as error:
        raise MalformedJson(_NOT_JSON, "payload") from error
    return value


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= _INT_DIGITS_MAX else Decimal(digits)


def _decimal(digits: str) -> Decimal:
    try:
        return Decimal(digits)
    except InvalidOperation:
        mantissa, _, exponent = digits.lower().partition("e")
        number = Decimal(mantissa)
        if not number:
            return number
        bound = -_EXPONENT_MAX if exponent.startswith("-") else _EXPONENT_MAX
        return Decimal((number.as_tuple().sign, (1,), bound))


def _is_deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels + 1):  # level by level: a call for each of 8,000 lists would need a millisecond
        level = [part for part in level if isinstance(part, dict | list)]
        if not level:
            return False
        level = [part for outer in level for part in (outer.values() if isinstance(outer, dict) else outer)]
    return True


def _reject_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")


def _reject_not_finite(value: Any) -> None:
    """Raise ValueError if `value` contains NaN or Infinity at any depth."""
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"{value} is not JSON")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not JSON")
    elif isinstance(value, dict | list | tuple):
        inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for item in inner:
            _reject_not_finite(item)
