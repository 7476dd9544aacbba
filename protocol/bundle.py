"""All schemas in one document: as the bundle for validators, or as the components of OpenAPI and AsyncAPI.

A schema file refers to others by relative address. Within one document each reference is a JSON pointer into that
document: every validator and code generator resolves it, and none opens a connection for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from protocol import registry
from protocol.registry import Schema

DRAFT = "http://json-schema.org/draft-07/schema#"
COMPONENTS = "#/components/schemas"
# For code generators: without a format a number becomes one of 32 bits in many languages.
_FORMATS = {"integer": "int64", "number": "double"}


def bundle() -> Schema:
    """Return one schema with every schema under its name in `definitions`.

    The definitions have no `$id`: many tools would look for the schema at that address instead of in the bundle. No
    keyword is beside a `$ref`: draft-07 ignores it, and json-schema-to-typescript duplicates the type because of it.
    """
    base = registry.schema("pong")["$id"].rpartition("/")[0]
    return {
        "$schema": DRAFT,
        "$id": f"{base}/bundle.json",
        "title": "Bundle",
        "description": "All schemas of the Balance Snapshot System. balance_update is #/definitions/balance_update.",
        "definitions": {
            name: _copy(name, lambda _, other: {"$ref": f"#/definitions/{other}"}) for name in registry.names()
        },
    }


def component_schemas() -> dict[str, Schema]:
    """Return every schema by its title, for a document that has them at `COMPONENTS`.

    A rule between two fields (`not` beside `properties`) is left out: Modelina would take the type from the whole.
    """
    copies = {name: _copy(name, lambda schema, other: schema | reference(other)) for name in registry.names()}
    return {str(registry.schema(name)["title"]): _without_rules(copy) for name, copy in copies.items()}


def used_components(document: Any) -> dict[str, Schema]:
    """Return the schemas that `document` refers to, directly or through others, adapted to code generators."""
    schemas = {title: for_generators(schema) for title, schema in component_schemas().items()}
    used: set[str] = set()
    found = set(_references(document))
    while found:
        used |= found
        found = {title for each in found for title in _references(schemas[each])} - used
    return {title: schema for title, schema in schemas.items() if title in used}


def for_generators(schema: Schema) -> Schema:
    """Return a schema with a `format` for each number, and without the `const` of each boolean.

    openapi-generator makes the string "true" of `const: true`, and its clients then reject every response.
    """
    adapted: Schema = _rewrite(schema, _for_generators)
    return adapted


def _for_generators(schema: Schema) -> Schema:
    types = schema.get("type", ())
    types = [types] if isinstance(types, str) else types
    changed = {keyword: value for keyword, value in schema.items() if keyword != "const" or "boolean" not in types}
    numeric = [name for name in types if name in _FORMATS]
    return changed | {"format": _FORMATS[numeric[0]]} if numeric else changed


def reference(name: str) -> dict[str, str]:
    """Return a reference to the component of a schema. Raises KeyError for an unknown name."""
    return {"$ref": f"{COMPONENTS}/{registry.schema(name)['title']}"}


def _without_rules(schema: Schema) -> Schema:
    return {keyword: value for keyword, value in schema.items() if keyword != "not" or "properties" not in schema}


def _copy(name: str, refer: Callable[[Schema, str], Schema]) -> Schema:
    """Copy a schema without `$id` and `$schema`.

    `refer` gets each part that is a reference, and the name of the schema that it refers to; it returns the new part.
    """

    def copy_part(schema: Schema) -> Schema:
        inner = {keyword: value for keyword, value in schema.items() if keyword not in ("$id", "$schema")}
        return refer(inner, inner["$ref"].removesuffix(".json")) if "$ref" in inner else inner

    copied: Schema = _rewrite(registry.schema(name), copy_part)
    return copied


def _rewrite(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """Copy a schema and apply `change` to it and to every schema within it, but not to examples and other values."""
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
    """Yield the title of each component that `value` refers to at any depth."""
    if isinstance(value, dict):
        if str(value.get("$ref")).startswith(f"{COMPONENTS}/"):
            yield value["$ref"].rpartition("/")[2]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _references(item)
