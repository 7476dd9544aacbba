"""What the table of REST operations has of each operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from protocol.errors import ServiceError

JSON = "application/json"
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Response:
    """One successful response of an operation."""

    description: str
    """One sentence, for a person."""
    schema: str | None = None
    """The name of the schema of the body; None if the body has none."""
    media_type: str = JSON
    """The media type of the body; empty if there is no body."""
    example: object = None
    """A body; None if the examples of the schema are the right ones."""
    headers: tuple[str, ...] = ()
    """The headers that matter to a client; `headers.HEADERS` describes them."""
    other_examples: Mapping[str, str] = field(default_factory=dict)
    """By its media type: an example of each other form of the body that a client may request."""
    events: Mapping[str, str] = field(default_factory=dict)
    """Of an event stream: the name of the schema of the data of each event."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of REST."""

    id: str
    """Its name in code that is generated from the contract."""
    method: Literal["GET", "POST"]
    """Every GET operation also accepts HEAD."""
    path: str
    """Its path, with `{name}` for each parameter."""
    summary: str
    """What it does, in a few words, for a person."""
    description: str
    """What else its caller should know, in sentences."""
    responses: Mapping[int, Response]
    """The successful responses, by HTTP status."""
    errors: tuple[type[ServiceError], ...]
    """The errors with which it may fail; the body is then an `error_reply`."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """By location (path, query, header): the name of the schema whose properties are the parameters there."""
    body: str | None = None
    """The name of the schema of the request body, or of each line of it if `body_type` is NDJSON."""
    body_type: str = JSON
    """The media type of the request body."""
