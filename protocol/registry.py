"""The schemas: read once at import, each checked against the draft-07 metaschema, and their validators.

A schema is named after its file, `balance_update` for `schemas/balance_update.json`; files refer to each
other by relative `$ref`. Nothing is ever fetched over the network.

Two validators for each schema. The fast one (jsonschema-rs) only says yes or no. The slow one (jsonschema)
finds the errors; it is built when it is first asked for. The schemas say by `pattern` what others say by
`format`: on a pattern every validator in every language agrees, and none needs a plugin.
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
"""Where the files are."""


def _read() -> dict[str, Schema]:
    schemas = {}
    for file in sorted(FOLDER.iterdir(), key=lambda file: file.name):
        name, _, kind = file.name.rpartition(".")
        if kind == "json":
            schemas[name] = codec.loads(file.read_bytes())
            jsonschema_rs.meta.validate(schemas[name])
    return schemas


def _is_number(_checker: object, instance: object) -> bool:
    # jsonschema would compare NaN, and let it pass or raise; JSON has no such number.
    if isinstance(instance, Decimal):
        return instance.is_finite()
    if isinstance(instance, float):
        return math.isfinite(instance)
    return isinstance(instance, int) and not isinstance(instance, bool)


def _is_integer(checker: object, instance: object) -> bool:
    """Say yes to 1.0 too: JSON knows one kind of number, and JavaScript can not tell the two apart."""
    if isinstance(instance, Decimal):
        return instance.is_finite() and instance == instance.to_integral_value()
    if isinstance(instance, float):
        return instance.is_integer()
    return _is_number(checker, instance)


_SCHEMAS = _read()
_FAST_REGISTRY = jsonschema_rs.Registry([(schema["$id"], schema) for schema in _SCHEMAS.values()])
_FAST = {
    name: jsonschema_rs.Draft7Validator(schema, registry=_FAST_REGISTRY, offline=True)
    for name, schema in _SCHEMAS.items()
}
# Without "$schema": where a `$ref` leads to one, jsonschema goes on with its own class instead of _Slow.
_UNMARKED = {
    name: {keyword: value for keyword, value in schema.items() if keyword != "$schema"}
    for name, schema in _SCHEMAS.items()
}
_SLOW_REGISTRY: referencing.Registry[Any] = referencing.Registry().with_resources(
    (schema["$id"], referencing.jsonschema.DRAFT7.create_resource(schema)) for schema in _UNMARKED.values()
)
_Slow = jsonschema.validators.extend(
    jsonschema.Draft7Validator,
    type_checker=jsonschema.Draft7Validator.TYPE_CHECKER.redefine_many({"number": _is_number, "integer": _is_integer}),
)


def names() -> list[str]:
    """Return the names of all schemas, sorted."""
    return list(_SCHEMAS)


def schema(name: str) -> Schema:
    """Return the schema as it stands in its file, numbers exact; not to be changed. Raises KeyError."""
    return _SCHEMAS[name]


def text(name: str) -> str:
    """Return a schema's file, as it stands. Raises FileNotFoundError for a name that is none."""
    return (FOLDER / f"{name}.json").read_text("utf-8")


def fast(name: str) -> jsonschema_rs.Draft7Validator:
    """Return the validator that only says yes or no. Raises KeyError for a name that is none."""
    return _FAST[name]


@cache
def slow(name: str) -> jsonschema.protocols.Validator:
    """Return the validator that finds the errors. Raises KeyError for a name that is none."""
    return _Slow(_UNMARKED[name], registry=_SLOW_REGISTRY)


def validators(part: Schema) -> tuple[jsonschema.protocols.Validator, jsonschema_rs.Draft7Validator]:
    """Return both validators, the slow and the fast one, of a part of a schema that has no references."""
    return _Slow(part), jsonschema_rs.Draft7Validator(part, offline=True)


def is_valid(validator: jsonschema_rs.Draft7Validator, payload: object) -> bool:
    """Ask a fast validator; what it cannot read is not valid."""
    try:
        return validator.is_valid(payload)
    except ValueError:  # half a surrogate pair, which `loads` lets nobody send; a set; NaN
        return False


def is_type(value: object, name: str) -> bool:
    """Tell whether a value is of a type of JSON Schema, as both validators see it."""
    return bool(_Slow.TYPE_CHECKER.is_type(value, name))
