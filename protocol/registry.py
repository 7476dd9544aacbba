"""The schemas, read once at import and validated against the draft-07 metaschema, and their validators.

A schema has the name of its file: `balance_update` is `schemas/balance_update.json`. The files refer to each other by
relative `$ref`. Nothing is ever fetched over the network.

Each schema has two validators. The fast one (jsonschema-rs) returns only whether a payload is valid. The slow one
(jsonschema) lists the errors; it is built on first use. The schemas use `pattern` where others use `format`, because
validators of all languages agree on patterns, and none needs a plugin for them.
"""

from __future__ import annotations

import math
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any

import jsonschema
import jsonschema_rs
import referencing
import referencing.jsonschema

from protocol import codec

Schema = dict[str, Any]

FOLDER = resources.files("protocol") / "schemas"
"""The folder of the files."""


def _read() -> dict[str, Schema]:
    schemas = {}
    for file in sorted(FOLDER.iterdir(), key=lambda file: file.name):
        name, _, kind = file.name.rpartition(".")
        if kind == "json":
            schemas[name] = codec.loads(file.read_bytes())
            jsonschema_rs.meta.validate(schemas[name])
    return schemas


def _is_number(_checker: object, instance: object) -> bool:
    # jsonschema would compare NaN, and accept it or raise an exception. JSON has no such number.
    if isinstance(instance, Decimal):
        return instance.is_finite()
    if isinstance(instance, float):
        return math.isfinite(instance)
    return isinstance(instance, int) and not isinstance(instance, bool)


def _is_integer(checker: object, instance: object) -> bool:
    """Accept 1.0 as an integer: JSON has one kind of number, and JavaScript cannot distinguish 1.0 from 1."""
    if isinstance(instance, Decimal):
        return instance.is_finite() and instance == instance.to_integral_value()
    if isinstance(instance, float):
        return instance.is_integer()
    return _is_number(checker, instance)


_SCHEMAS = _read()
_FAST_REFERENCES = jsonschema_rs.Registry([(schema["$id"], schema) for schema in _SCHEMAS.values()])
_FAST_VALIDATORS = {
    name: jsonschema_rs.Draft7Validator(schema, registry=_FAST_REFERENCES, offline=True)
    for name, schema in _SCHEMAS.items()
}
# Without "$schema": jsonschema would validate the target of a `$ref` that has one by a class of its own.
_WITHOUT_DRAFT = {
    name: {keyword: value for keyword, value in schema.items() if keyword != "$schema"}
    for name, schema in _SCHEMAS.items()
}
_SLOW_REFERENCES: referencing.Registry[Any] = referencing.Registry().with_resources(
    (schema["$id"], referencing.jsonschema.DRAFT7.create_resource(schema)) for schema in _WITHOUT_DRAFT.values()
)
_SlowValidator = jsonschema.validators.extend(
    jsonschema.Draft7Validator,
    type_checker=jsonschema.Draft7Validator.TYPE_CHECKER.redefine_many({"number": _is_number, "integer": _is_integer}),
)


def names() -> list[str]:
    """Return the names of all schemas, sorted."""
    return list(_SCHEMAS)


def schema(name: str) -> Schema:
    """Return a schema with exact numbers; the caller must not change it. Raises KeyError for an unknown name."""
    return _SCHEMAS[name]


def text(name: str) -> str:
    """Return the text of a schema's file. Raises FileNotFoundError for an unknown name."""
    return (FOLDER / f"{name}.json").read_text("utf-8")


def fast_validator(name: str) -> jsonschema_rs.Draft7Validator:
    """Return the validator for `is_valid`. Raises KeyError for an unknown name."""
    return _FAST_VALIDATORS[name]


@cache
def slow_validator(name: str) -> jsonschema.protocols.Validator:
    """Return the validator that lists the errors. Raises KeyError for an unknown name."""
    return _SlowValidator(_WITHOUT_DRAFT[name], registry=_SLOW_REFERENCES)


def validators(part: Schema) -> tuple[jsonschema.protocols.Validator, jsonschema_rs.Draft7Validator]:
    """Build both validators, the slow one and the fast one, of a part of a schema that has no references."""
    return _SlowValidator(part), jsonschema_rs.Draft7Validator(part, offline=True)


def is_valid(validator: jsonschema_rs.Draft7Validator, payload: object) -> bool:
    """Validate by a fast validator; a payload that it cannot convert is not valid."""
    try:
        return validator.is_valid(payload)
    except ValueError:  # half a surrogate pair, which `loads` rejects; NaN; a value that JSON does not have
        return False


def is_type(value: object, name: str) -> bool:
    """Return whether a value has a type of JSON Schema, by the rules of both validators."""
    return bool(_SlowValidator.TYPE_CHECKER.is_type(value, name))
