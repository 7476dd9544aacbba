"""All schemas in one document: as the bundle for validators, or as the components of OpenAPI and AsyncAPI.

A schema file refers to others by relative address; within one document each reference is a JSON pointer into that very
document. Every validator and code generator follows those, and none opens a connection for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from protocol import registry
from protocol.registry import Schema

DRAFT = "http://json-schema.org/draft-07/schema#"
COMPONENTS = "#/components/schemas"
# What generators are to take for a number: without a format it is one of 32 bits in many languages.
_FORMATS = {"integer": "int64", "number": "double"}


def bundle() -> Schema:
    """Return every schema in one, each under its name in `definitions`.

    None of them has an `$id` there: many tools look for what `$id` names at that address, and not in the bundle.
    Nothing stands beside a `$ref`: draft-07 ignores it, and json-schema-to-typescript makes a copy of the type for it.
    """
    own = registry.schema("pong")["$id"].rpartition("/")[0]
    return {
        "$schema": DRAFT,
        "$id": f"{own}/bundle.json",
        "title": "Bundle",
        "description": "Every schema of the Balance Snapshot System: balance_update is #/definitions/balance_update.",
        "definitions": {
            name: _embed(name, lambda _, other: {"$ref": f"#/definitions/{other}"}) for name in registry.names()
        },
    }


def embedded() -> dict[str, Schema]:
    """Return every schema by its title, for a document that keeps them at `COMPONENTS`."""
    return {
        str(registry.schema(name)["title"]): _embed(name, lambda schema, other: schema | reference(other))
        for name in registry.names()
    }


def components(document: Any) -> dict[str, Schema]:
    """Return the schemas that `document` refers to, directly or by way of others, as code generators need them."""
    schemas = {title: _rewrite(schema, for_generators) for title, schema in embedded().items()}
    used: set[str] = set()
    found = set(_references(document))
    while found:
        used |= found
        found = {title for each in found for title in _references(schemas[each])} - used
    return {title: schema for title, schema in schemas.items() if title in used}


def for_generators(schema: Schema) -> Schema:
    """Return a schema with a format where it is a number, and without `const` where it is a boolean.

    From `const: true` openapi-generator makes a text "true", and its clients refuse every answer.
    """
    types = schema.get("type", ())
    types = [types] if isinstance(types, str) else types
    changed = {keyword: value for keyword, value in schema.items() if keyword != "const" or "boolean" not in types}
    numeric = [name for name in types if name in _FORMATS]
    return changed | {"format": _FORMATS[numeric[0]]} if numeric else changed


def reference(name: str) -> dict[str, str]:
    """Return a reference to the component of a schema. Raises KeyError for a name that is none."""
    return {"$ref": f"{COMPONENTS}/{registry.schema(name)['title']}"}


def _embed(name: str, refer: Callable[[Schema, str], Schema]) -> Schema:
    """Copy a schema without `$id` and `$schema`; `refer` rewrites a part that refers to the file of another name."""

    def embed(schema: Schema) -> Schema:
        inner = {keyword: value for keyword, value in schema.items() if keyword not in ("$id", "$schema")}
        return refer(inner, inner["$ref"].removesuffix(".json")) if "$ref" in inner else inner

    copied: Schema = _rewrite(registry.schema(name), embed)
    return copied


def _rewrite(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """Copy a schema with `change` made in it and in every schema within it, but not in examples and other values."""
    if not isinstance(schema, dict):
        return schema
    inner = dict(schema)
    for keyword, value in schema.items():
        if keyword == "properties":
            inner[keyword] = {name: _rewrite(item, change) for name, item in value.items()}
        elif keyword in ("anyOf", "allOf"):
            inner[keyword] = [_rewrite(item, change) for item in value]
        elif keyword in ("additionalProperties", "items", "not", "propertyNames"):
            inner[keyword] = _rewrite(value, change)
    return change(inner)


def _references(value: Any) -> Iterator[str]:
    """Yield the title of each component that is referred to anywhere in `value`."""
    if isinstance(value, dict):
        if str(value.get("$ref")).startswith(f"{COMPONENTS}/"):
            yield value["$ref"].rpartition("/")[2]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _references(item)
