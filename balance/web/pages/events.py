"""Prepare the Socket.IO events for the page: `protocol.EVENTS` and the schemas, as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from protocol import EVENTS, Event, ServiceError, dumps, registry
from protocol.events import CONNECT_ERROR

Schema = dict[str, Any]


class Field(NamedTuple):
    """One line in the table of a payload."""

    name: str
    """With the names of the objects around it: onchain.rlb."""
    kind: str
    """Its JSON types: integer or null."""
    schema: str
    """The name of the schema with the details; empty if there is none."""
    required: bool
    description: str


class EventText(NamedTuple):
    """One event as the page shows it."""

    name: str
    schema: str
    description: str
    fields: tuple[Field, ...]
    example: str
    """JSON on several lines; empty if the event needs no payload."""
    answered_by: tuple[str, ...]
    errors: tuple[type[ServiceError], ...]


class Group(NamedTuple):
    """The events of one direction."""

    id: str
    """Of its heading in the page."""
    heading: str
    events: list[EventText]


def groups() -> tuple[Group, Group]:
    """Return the events that clients send, and what they receive.

    They receive the events of the server, and the packet by which Socket.IO rejects a connection.
    """
    sent = [_describe(event) for event in EVENTS.values() if event.direction == "client_to_server"]
    both = (*EVENTS.values(), CONNECT_ERROR)
    received = [_describe(event) for event in both if event.direction == "server_to_client"]
    return Group("send-events", "You send", sent), Group("receive-events", "You receive", received)


def _describe(event: Event) -> EventText:
    schema = registry.schema(event.schema)
    example = schema["examples"][0]
    return EventText(
        event.name,
        event.schema,
        schema["description"],
        tuple(_fields(schema)),
        "" if example is None else msgspec.json.format(dumps(example), indent=2),
        event.answered_by,
        event.errors,
    )


def _fields(schema: Schema, within: str = "") -> Iterator[Field]:
    """Yield each field that a payload of `schema` may have; the fields of an inner object follow it."""
    resolved = _resolve(schema)
    for name, inner in resolved.get("properties", {}).items():
        yield _field(within + name, inner, name in resolved.get("required", ()))
        yield from _fields(inner, f"{within}{name}.")
    if resolved.get("additionalProperties"):
        yield _field(f"{within}*", resolved["additionalProperties"], False)


def _field(name: str, schema: Schema, required: bool) -> Field:
    resolved = _resolve(schema)
    types = resolved.get("type", "anything")
    kind = dumps(resolved["const"]) if "const" in resolved else types if isinstance(types, str) else " or ".join(types)
    if any(branch.get("type") == "null" for branch in schema.get("anyOf", ())):
        kind += " or null"
    return Field(name, kind, _reference(schema), required, resolved["description"])


def _resolve(schema: Schema) -> Schema:
    """Return a schema with the keywords of the one that it refers to; its own keywords win."""
    name = _reference(schema)
    return {**_resolve(registry.schema(name)), **schema} if name else schema


def _reference(schema: Schema) -> str:
    """Return the name of the schema that this one refers to, directly or as the branch that is not null; or empty."""
    for one in (schema, *schema.get("anyOf", ()), *schema.get("allOf", ())):
        if "$ref" in one:
            return str(one["$ref"]).removesuffix(".json")
    return ""
