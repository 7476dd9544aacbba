"""Find the one violation of a schema that is reported, without looking at any violation after it.

A payload of 16 kB can have thousands of violations, and jsonschema needs up to 0.1 ms for each. So the payload is
searched level by level, and each level in the order of precedence; the search ends at the first violation. jsonschema
finds what is wrong with a single value, and jsonschema-rs skips the values that are valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

import jsonschema_rs
from jsonschema.protocols import Validator

from protocol import registry

Path = tuple[str | int, ...]
_EXPONENT_MAX = 30
_DIGITS_MAX = 64
_INTEGER_MAX = 10**_EXPONENT_MAX

_ANNOTATIONS = {"$schema", "$id", "title", "description", "examples", "default"}
_OF_PARTS = {"type", "required", "properties", "additionalProperties", "propertyNames", "items", "allOf", "anyOf"}
_NULL = {"type": "null"}


class Violation(NamedTuple):
    """One value that violates one keyword of its schema."""

    path: Path
    keyword: str
    limit: Any
    """The value of the keyword in the schema."""
    value: object
    title: str = ""
    """The title of the schema that has the keyword, for `pattern` and `not`."""


@dataclass
class _Compiled:
    """One schema object, with its references resolved."""

    nullable: bool
    types: Sequence[str] = ()
    unless: Validator | None = None  # of the alternative that a value may be valid against instead
    own: Validator | None = None  # of the keywords about the value itself, except `type`
    own_fast: jsonschema_rs.Draft7Validator | None = None
    required: Sequence[str] = ()
    closed: bool = False  # allows no fields beside `properties`
    names: Sequence[_Compiled] = ()  # for the name of each field
    properties: dict[str, Sequence[_Compiled]] = field(default_factory=dict)
    others: Sequence[_Compiled] = ()  # for the value of each other field
    items: Sequence[_Compiled] = ()


class _Node(NamedTuple):
    """A value of the payload, and one of the schemas that it must be valid against."""

    path: Path
    schema: _Compiled
    value: Any


def first_violation(name: str, payload: object) -> Violation | None:
    """Find the violation of a payload that `check` reports; None if it is valid against the schema `name`.

    Of the outermost violations: a wrong type before a wrong value; then an unknown field before a missing one, which
    are violations one level further in. Among equals the first by path. Raises KeyError for an unknown name.
    """
    level = list(_nodes((), _compiled(name), payload))
    while level:
        for find in (_wrong_type, _wrong_value, _unknown_field, _missing_field):
            for node in level:
                if violation := find(*node):
                    return violation
        level = [child for node in level for child in _children(*node)]
    return None


def is_exact(value: object) -> bool:
    """Return whether jsonschema-rs validates a number exactly and quickly; True for a value that is not a number.

    It converts a number just above 1e30 to a float, and finds the two equal. It needs milliseconds for 1e-9999 or for
    five thousand digits, and more time than jsonschema for a hundred digits. Such numbers are rare.
    """
    if isinstance(value, Decimal):
        return -_EXPONENT_MAX < value.adjusted() < _EXPONENT_MAX and len(str(value)) <= _DIGITS_MAX
    return not isinstance(value, int) or -_INTEGER_MAX < value < _INTEGER_MAX


def _wrong_type(path: Path, schema: _Compiled, value: object) -> Violation | None:
    if not schema.types or any(registry.is_type(value, name) for name in schema.types):
        return None
    return Violation(path, "type", schema.types, value)


def _wrong_value(path: Path, schema: _Compiled, value: object) -> Violation | None:
    own, fast = schema.own, schema.own_fast
    if own is None or fast is None or (is_exact(value) and registry.is_valid(fast, value)):
        return None
    error = next(own.iter_errors(value), None)
    if error is None:
        return None
    return Violation(path, error.validator, error.validator_value, value, error.schema.get("title", ""))


def _unknown_field(path: Path, schema: _Compiled, value: object) -> Violation | None:
    if schema.closed and isinstance(value, dict):
        unknown = value.keys() - schema.properties.keys()
        if unknown:
            return Violation((*path, min(unknown)), "additionalProperties", False, value)
    return None


def _missing_field(path: Path, schema: _Compiled, value: object) -> Violation | None:
    if isinstance(value, dict):
        for name in schema.required:
            if name not in value:
                return Violation((*path, name), "required", schema.required, value)
    return None


def _children(path: Path, schema: _Compiled, value: object) -> Iterator[_Node]:
    """Yield the names, fields and items of a value, in the order of their paths."""
    if isinstance(value, dict) and (schema.names or schema.properties or schema.others):
        for name in sorted(value):
            yield from _nodes((*path, name), schema.names, name)
            yield from _nodes((*path, name), schema.properties.get(name, schema.others), value[name])
    elif isinstance(value, list) and schema.items:
        for number, item in enumerate(value):
            yield from _nodes((*path, number), schema.items, item)


def _nodes(path: Path, schemas: Sequence[_Compiled], value: object) -> Iterator[_Node]:
    for schema in schemas:
        if (value is None and schema.nullable) or (schema.unless and schema.unless.is_valid(value)):
            continue
        yield _Node(path, schema, value)


@cache
def _compiled(name: str) -> Sequence[_Compiled]:
    return tuple(_compile(registry.schema(name)))


def _compile(schema: dict[str, Any], nullable: bool = False, unless: Validator | None = None) -> Iterator[_Compiled]:
    """Yield the schema objects that a value must all be valid against to be valid against a schema.

    Of two alternatives (`anyOf`) the first is yielded: a value that neither accepts violates the first. `not` in a
    `not` is a rule, "what fits the outer one must fit the inner one": a value that breaks it violates the inner one.
    """
    if "$ref" in schema:
        yield from _compile(registry.schema(schema["$ref"].removesuffix(".json")), nullable, unless)
        return
    yield _compile_object(schema, nullable, unless)
    for part in schema.get("allOf", ()):
        yield from _compile(part, nullable, unless)
    assert unless is None or not schema.keys() & {"anyOf", "not"}, "the schemas have no alternatives within others"
    if "anyOf" in schema:
        part, other = schema["anyOf"]
        is_null = other == _NULL
        yield from _compile(part, nullable or is_null, None if is_null else registry.validators(other)[0])
    if _has_rule(schema):
        outer = {keyword: value for keyword, value in schema["not"].items() if keyword != "not"}
        yield from _compile(schema["not"]["not"], nullable, registry.validators({"not": outer})[0])


def _has_rule(schema: dict[str, Any]) -> bool:
    return "not" in schema.get("not", ())


def _compile_object(schema: dict[str, Any], nullable: bool, unless: Validator | None) -> _Compiled:
    types, others, items = schema.get("type", ()), schema.get("additionalProperties", True), schema.get("items")
    parts = _OF_PARTS | {"not"} if _has_rule(schema) else _OF_PARTS
    own = {keyword: limit for keyword, limit in schema.items() if keyword not in _ANNOTATIONS | parts}
    slow, fast = registry.validators(own | {"title": schema.get("title", "")}) if own else (None, None)
    return _Compiled(
        nullable=nullable,
        unless=unless,
        types=(types,) if isinstance(types, str) else tuple(types),
        own=slow,
        own_fast=fast,
        required=schema.get("required", ()),
        closed=others is False,
        names=tuple(_compile(schema["propertyNames"])) if "propertyNames" in schema else (),
        properties={
            name: tuple(_compile(part)) if part is not True else ()
            for name, part in schema.get("properties", {}).items()
        },
        others=tuple(_compile(others)) if isinstance(others, dict) else (),
        items=tuple(_compile(items)) if items is not None else (),
    )
