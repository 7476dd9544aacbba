"""Find the one fault of a payload that is reported, without looking at any fault after it.

A payload of 16 kB can have thousands of faults, and jsonschema takes up to 0.1 ms for each. So the payload is walked
level by level, and at each level by rank; the walk ends at the first fault. jsonschema finds what is wrong with a
single value; jsonschema-rs passes over the values that are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

import jsonschema
import jsonschema_rs

from protocol import registry

Path = tuple[str | int, ...]
_EXPONENT_MAX = 30
_DIGITS_MAX = 64
_INTEGER_MAX = 10**_EXPONENT_MAX

_ANNOTATIONS = {"$schema", "$id", "title", "description", "examples", "default"}
_OF_PARTS = {"type", "required", "properties", "additionalProperties", "propertyNames", "items", "allOf", "anyOf"}
_NULL = {"type": "null"}


class Fault(NamedTuple):
    """What is wrong with one value: the keyword it breaks, with what the schema says there."""

    path: Path
    keyword: str
    limit: Any
    value: object
    title: str = ""  # of the schema that the keyword stands in, for `pattern` and `not`


@dataclass
class _Shape:
    """One schema, with its references followed."""

    nullable: bool
    types: Sequence[str] = ()
    own: jsonschema.protocols.Validator | None = None  # what is said of the value itself, but for its type
    own_fast: jsonschema_rs.Draft7Validator | None = None
    required: Sequence[str] = ()
    closed: bool = False  # no fields beside `properties`
    names: Sequence[_Shape] = ()  # of each field's name
    properties: dict[str, Sequence[_Shape]] = field(default_factory=dict)
    others: Sequence[_Shape] = ()  # of each further field's value
    items: Sequence[_Shape] = ()


class _Place(NamedTuple):
    """A value, and one of the shapes that it must have."""

    path: Path
    shape: _Shape
    value: Any


def first_fault(name: str, payload: object) -> Fault | None:
    """Find the fault of a payload that `check` reports; None if it fits the schema `name`.

    Of the outermost faults: a wrong type before a wrong value; then an unknown field before a missing one, which are
    faults one level further in. Of several alike the first by path. Raises KeyError for an unknown name.
    """
    level = list(_places((), _named(name), payload))
    while level:
        for find in (_wrong_type, _wrong_value, _unknown_field, _missing_field):
            for place in level:
                if fault := find(*place):
                    return fault
        level = [part for place in level for part in _parts(*place)]
    return None


def is_exact(value: object) -> bool:
    """Tell whether jsonschema-rs can be trusted with a number, or `value` is none.

    It compares a number just above 1e30 through a float (and finds it equal), takes milliseconds for 1e-9999 or for
    five thousand digits, and longer than jsonschema for a hundred. Such numbers are rare.
    """
    if isinstance(value, Decimal):
        return -_EXPONENT_MAX < value.adjusted() < _EXPONENT_MAX and len(str(value)) <= _DIGITS_MAX
    return not isinstance(value, int) or -_INTEGER_MAX < value < _INTEGER_MAX


def _wrong_type(path: Path, shape: _Shape, value: object) -> Fault | None:
    if not shape.types or any(registry.is_type(value, name) for name in shape.types):
        return None
    return Fault(path, "type", shape.types, value)


def _wrong_value(path: Path, shape: _Shape, value: object) -> Fault | None:
    if shape.own is None or shape.own_fast is None or (is_exact(value) and registry.is_valid(shape.own_fast, value)):
        return None
    error = next(shape.own.iter_errors(value), None)
    if error is None:
        return None
    return Fault(path, error.validator, error.validator_value, value, error.schema.get("title", ""))


def _unknown_field(path: Path, shape: _Shape, value: object) -> Fault | None:
    if shape.closed and isinstance(value, dict):
        unknown = value.keys() - shape.properties.keys()
        if unknown:
            return Fault((*path, min(unknown)), "additionalProperties", False, value)
    return None


def _missing_field(path: Path, shape: _Shape, value: object) -> Fault | None:
    if isinstance(value, dict):
        for name in shape.required:
            if name not in value:
                return Fault((*path, name), "required", shape.required, value)
    return None


def _parts(path: Path, shape: _Shape, value: object) -> Iterator[_Place]:
    """Yield what is in a value, in the order of the paths."""
    if isinstance(value, dict) and (shape.names or shape.properties or shape.others):
        for name in sorted(value):
            yield from _places((*path, name), shape.names, name)
            yield from _places((*path, name), shape.properties.get(name, shape.others), value[name])
    elif isinstance(value, list) and shape.items:
        for number, item in enumerate(value):
            yield from _places((*path, number), shape.items, item)


def _places(path: Path, shapes: Sequence[_Shape], value: object) -> Iterator[_Place]:
    for shape in shapes:
        if value is not None or not shape.nullable:
            yield _Place(path, shape, value)


@cache
def _named(name: str) -> Sequence[_Shape]:
    return tuple(_shapes(registry.schema(name)))


def _shapes(schema: dict[str, Any], nullable: bool = False) -> Iterator[_Shape]:
    """Yield the shapes that a value must have to fit a schema."""
    if "$ref" in schema:
        yield from _shapes(registry.schema(schema["$ref"].removesuffix(".json")), nullable)
        return
    yield _shape(schema, nullable)
    for part in schema.get("allOf", ()):
        yield from _shapes(part, nullable)
    if "anyOf" in schema:
        part, null = schema["anyOf"]
        assert null == _NULL, "the schemas use anyOf to say that a value may be null, and for nothing else"
        yield from _shapes(part, nullable=True)


def _shape(schema: dict[str, Any], nullable: bool) -> _Shape:
    types, others, items = schema.get("type", ()), schema.get("additionalProperties", True), schema.get("items")
    own = {keyword: limit for keyword, limit in schema.items() if keyword not in _ANNOTATIONS | _OF_PARTS}
    slow, fast = registry.validators(own | {"title": schema.get("title", "")}) if own else (None, None)
    return _Shape(
        nullable=nullable,
        types=(types,) if isinstance(types, str) else tuple(types),
        own=slow,
        own_fast=fast,
        required=schema.get("required", ()),
        closed=others is False,
        names=tuple(_shapes(schema["propertyNames"])) if "propertyNames" in schema else (),
        properties={
            name: tuple(_shapes(part)) if part is not True else ()
            for name, part in schema.get("properties", {}).items()
        },
        others=tuple(_shapes(others)) if isinstance(others, dict) else (),
        items=tuple(_shapes(items)) if items is not None else (),
    )
