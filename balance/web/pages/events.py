"""The Socket.IO events as the page shows them: what `protocol.EVENTS` and the schemas say, for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from protocol import EVENTS, Event, ServiceError, dumps, registry
from protocol.events import CONNECT_ERROR

Schema = dict[str, Any]


class Field(NamedTuple):
    """One line of the table of a payload."""

    name: str
    """Dotted, where it stands in another: onchain.rlb."""
    kind: str
    """Its JSON types: integer or null."""
    schema: str
    """The name of the schema that says more; empty where there is none."""
    required: bool
    description: str


class Shown(NamedTuple):
    """One event."""

    name: str
    schema: str
    description: str
    fields: tuple[Field, ...]
    example: str
    """As JSON on several lines; empty where nothing needs to be sent."""
    answered_by: tuple[str, ...]
    errors: tuple[type[ServiceError], ...]


def sent() -> list[Shown]:
    """Return the events that clients send."""
    return [_shown(event) for event in EVENTS.values() if event.direction == "client_to_server"]


def received() -> list[Shown]:
    """Return what clients hear: the events that the server sends, and how Socket.IO itself says no."""
    return [_shown(event) for event in (*EVENTS.values(), CONNECT_ERROR) if event.direction == "server_to_client"]


def _shown(event: Event) -> Shown:
    schema = registry.schema(event.schema)
    example = schema["examples"][0]
    return Shown(
        event.name,
        event.schema,
        schema["description"],
        tuple(_fields(schema)),
        "" if example is None else msgspec.json.format(dumps(example), indent=2),
        event.answered_by,
        event.errors,
    )


def _fields(schema: Schema, within: str = "") -> Iterator[Field]:
    """Yield each field that a payload of `schema` may have, those of inner objects after the object."""
    whole = _resolved(schema)
    for name, inner in whole.get("properties", {}).items():
        yield _field(within + name, inner, name in whole.get("required", ()))
        yield from _fields(inner, f"{within}{name}.")
    if whole.get("additionalProperties"):
        yield _field(f"{within}*", whole["additionalProperties"], False)


def _field(name: str, schema: Schema, required: bool) -> Field:
    whole = _resolved(schema)
    types = whole.get("type", "anything")
    kind = dumps(whole["const"]) if "const" in whole else types if isinstance(types, str) else " or ".join(types)
    if any(branch.get("type") == "null" for branch in schema.get("anyOf", ())):
        kind += " or null"
    return Field(name, kind, _name(schema), required, whole["description"])


def _resolved(schema: Schema) -> Schema:
    """Follow a schema to where its keywords stand; what it says itself of the field goes before."""
    name = _name(schema)
    return {**_resolved(registry.schema(name)), **schema} if name else schema


def _name(schema: Schema) -> str:
    """Name the schema to which this one refers, by itself or as the one branch that is not just null."""
    for one in (schema, *schema.get("anyOf", ()), *schema.get("allOf", ())):
        if "$ref" in one:
            return str(one["$ref"]).removesuffix(".json")
    return ""
