"""JSON with exact numbers.

`loads` gives an int for every number written without point and exponent, a Decimal for every other, never a
float; `dumps` and `encode` write them back to the last digit. None lets NaN or Infinity through. Duplicate keys: the
last one wins, as in JavaScript.

The module is handed to python-socketio as `json=`, hence the names and the ignored keyword arguments. Safe to
use from any thread.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any, Never

import msgspec

from protocol.errors import MalformedJson

Encoded = msgspec.Raw
"""JSON that has been encoded already; `dumps` copies it as it stands."""

_decoder = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number", uuid_format="canonical")

_NOT_JSON = "is not valid JSON"
_NOT_UTF8 = "is not valid UTF-8"
_TOO_DEEP = "is nested too deeply"
_LEVELS_MAX = 200
_EXPONENT_MAX = 999_999_999_999_999_999  # of a Decimal, decimal.MAX_EMAX on every 64-bit machine


def loads(data: str | bytes, **_ignored: object) -> Any:
    """Decode one JSON value from text or UTF-8.

    Raises MalformedJson, and nothing else, on whatever is not JSON (RFC 8259), not UTF-8, has half a
    surrogate pair, or is nested more than 200 levels deep.
    """
    value = _decode(data)
    # Left to itself, msgspec goes as deep as the Python it runs on lets it: 1,000 levels or 10,000.
    if len(data) > 2 * _LEVELS_MAX and _is_deeper(value, _LEVELS_MAX):
        raise MalformedJson(_TOO_DEEP, "payload")
    return value


def dumps(value: Any, **_ignored: object) -> str:
    """Encode a value as compact JSON, as `encode` does."""
    return encode(value).decode()


def encode(value: Any) -> bytes:
    """Encode str, int, Decimal, float, bool, None, UUID, datetime, list, tuple, dict, Encoded and structs as JSON.

    Raises ValueError for NaN and Infinity (but within structs, which declare what they hold) and half a surrogate
    pair, TypeError for what has no JSON form.
    """
    data = _encoder.encode(value)
    # msgspec writes Decimal("NaN") as NaN and float("nan") as null, and finds nothing wrong with it. A letter is found
    # ten times faster than a word, and most data has neither of these.
    if b"N" in data or b"I" in data or b"null" in data:
        _refuse_not_finite(value)
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
    """Decode what msgspec and Decimal have no number for, so that the schema can refuse it by its path.

    An integer of thousands of digits becomes a Decimal; an exponent of 19 digits becomes the nearest one that
    a Decimal has, on the same side of zero.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        value = json.loads(text, parse_int=_integer, parse_float=_decimal, parse_constant=_refuse_constant)
        _encoder.encode(value)  # the standard library lets half a surrogate pair in
    except RecursionError as error:
        raise MalformedJson(_TOO_DEEP, "payload") from error
    except UnicodeError as error:
        raise MalformedJson(_NOT_UTF8, "payload") from error
    except ValueError as error:
        raise MalformedJson(_NOT_JSON, "payload") from error
    return value


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < 4300 else Decimal(digits)


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
    for _ in range(levels + 1):  # level by level, since a call for each of 8,000 lists takes a millisecond
        level = [part for part in level if isinstance(part, dict | list)]
        if not level:
            return False
        level = [part for outer in level for part in (outer.values() if isinstance(outer, dict) else outer)]
    return True


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")


def _refuse_not_finite(value: Any) -> None:
    """Raise ValueError if there is a NaN or an Infinity anywhere in `value`."""
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"{value} is not JSON")
    elif isinstance(value, float):
        if value - value != 0:
            raise ValueError(f"{value} is not JSON")
    elif isinstance(value, dict | list | tuple):
        inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for item in inner:
            _refuse_not_finite(item)
