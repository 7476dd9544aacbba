"""All schemas in one piece: with their `$id`s for validators, or under their titles for documents that embed them."""

from __future__ import annotations

from typing import Any

from protocol import registry

DRAFT = "http://json-schema.org/draft-07/schema#"


def bundle() -> registry.Schema:
    """Return every schema in one (draft-07, section 8.2.3): each keeps its `$id`, by which a validator finds it."""
    schemas = {name: registry.schema(name) for name in registry.names()}
    own = next(iter(schemas.values()))["$id"].rpartition("/")[0]
    return {
        "$schema": DRAFT,
        "$id": f"{own}/bundle.json",
        "title": "Bundle",
        "description": "Every schema of the Balance Snapshot System: add it to a validator, then ask for one by $id.",
        "definitions": schemas,
    }


def embedded(place: str) -> dict[str, registry.Schema]:
    """Return every schema by its title, for a document that keeps them at the JSON pointer `place`.

    They refer to each other within that document, since readers of OpenAPI and AsyncAPI do not go by `$id`.
    """
    return {registry.schema(name)["title"]: _embed(registry.schema(name), place) for name in registry.names()}


def reference(name: str, place: str) -> dict[str, str]:
    """Return a reference to a schema that `embedded` put at `place`. Raises KeyError for a name that is none."""
    return {"$ref": f"{place}/{registry.schema(name)['title']}"}


def _embed(value: Any, place: str) -> Any:
    if isinstance(value, list):
        return [_embed(item, place) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {key: _embed(item, place) for key, item in value.items() if key not in ("$id", "$schema")}
    if isinstance(value.get("$ref"), str):
        inner.update(reference(value["$ref"].removesuffix(".json"), place))
    return inner
