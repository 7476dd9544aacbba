"""The table of REST operations: what may be asked at which address, and everything that may be answered.

What `events` is to Socket.IO. The server takes its addresses from here, `openapi` describes each operation from
here, and the tests hold every answer of the server to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from protocol import registry
from protocol.errors import (
    Busy,
    Conflict,
    Forbidden,
    HeadersTooLarge,
    InternalError,
    InvalidPayload,
    MalformedJson,
    MisdirectedRequest,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    ServiceError,
    Unavailable,
    UnsupportedMediaType,
)

SNAPSHOTS = "/api/balance/snapshot"
CONTRACT = "/api/protocol/v1/"
"""Below this the contract itself is served."""
OPENAPI = "/api/openapi.json"
ASYNCAPI = "/api/asyncapi.json"
DOCS = "/api/docs"
"""A page for people."""

JSON = "application/json"
SCHEMA_JSON = "application/schema+json"  # JSON Schema draft-07, section 10
TEXT = "text/plain"


@dataclass(frozen=True, slots=True)
class Reply:
    """One way in which an operation succeeds."""

    description: str
    """A sentence for a person."""
    schema: str | None = None
    """The name of the body's schema; None where it has none."""
    media_type: str = JSON
    """Of the body; empty where there is no body."""
    example: object = None
    """A body, where it is not the examples of the schema that fit."""
    headers: tuple[str, ...] = ()
    """Those that matter to a client; `HEADERS` describes them."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a client may ask over REST."""

    id: str
    """Names it, for programs that are generated from the contract."""
    method: Literal["GET", "POST"]
    """HEAD may be asked wherever GET may."""
    path: str
    """Its address, with `{name}` for each parameter."""
    summary: str
    """What it does, in a few words."""
    description: str
    """What else its caller should know."""
    replies: Mapping[int, Reply]
    """Each way in which it succeeds, by HTTP status."""
    errors: tuple[type[ServiceError], ...]
    """Each way in which it fails; the body is an `error_reply`."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """By where they stand (path, query, header): the name of the schema whose properties are its parameters."""
    body: str | None = None
    """The name of the request body's schema."""


HEADERS: dict[str, str] = {
    "ETag": "Names this version of the document (RFC 9110, section 8.8.3). Send it back in If-None-Match.",
    "Location": "The address of the snapshot.",
    "Retry-After": "Seconds to wait before the very same request may succeed.",
}
"""What each response header says."""

_SAVED, _RESAVED = registry.schema("save_reply")["examples"]
_HEAD = (RequestTimeout, MisdirectedRequest, HeadersTooLarge)  # of any request, whatever it asks for
_READ = (InvalidPayload, Forbidden, *_HEAD, Busy, Unavailable, InternalError)
# Without `$id` and `$ref`: tools that read OpenAPI follow them even within an example.
_A_SCHEMA = {"title": "Amount", "type": "number", "minimum": 0}


def _document(id_: str, path: str, summary: str, found: Reply, **more: Any) -> Operation:
    """Describe a document of the contract: the same for everybody, open to every web page, cached by its ETag."""
    unchanged = Reply("If-None-Match names it: it is still the same.", media_type="", headers=("ETag",))
    parameters = {"header": "document_headers", **more.get("parameters", {})}
    errors = (InvalidPayload, *more.get("errors", ()), *_HEAD, Busy, InternalError)
    description = "Any web page may read it. Ask again with If-None-Match, and it is sent only if it has changed."
    return Operation(id_, "GET", path, summary, description, {200: found, 304: unchanged}, errors, parameters)


OPERATIONS: dict[str, Operation] = {
    operation.id: operation
    for operation in (
        Operation(
            "saveSnapshot",
            "POST",
            SNAPSHOTS,
            "Save a balance snapshot",
            "When the answer comes, the snapshot is on disk and can not be lost; everyone who watches is shown it. An "
            "update with an id may be sent again until it is answered: it is saved once.",
            {
                201: Reply("Saved.", "save_reply", JSON, _SAVED, ("Location",)),
                200: Reply(
                    "This very update had been saved before; nothing changed.",
                    "save_reply",
                    JSON,
                    _RESAVED,
                    ("Location",),
                ),
            },
            (
                *(MalformedJson, InvalidPayload, Forbidden, Conflict, PayloadTooLarge, UnsupportedMediaType),
                *(*_HEAD, Busy, Unavailable, InternalError),
            ),
            body="balance_update",
        ),
        Operation(
            "listSnapshots",
            "GET",
            SNAPSHOTS,
            "List snapshots",
            "Newest ts first; of those with the same ts the later saved first. With order=seq the last saved first. "
            "Go on with the cursor that `next` names, which stays fast at any depth.",
            {200: Reply("A page of snapshots.", "list_reply")},
            _READ,
            {"query": "list_query"},
        ),
        Operation(
            "getSnapshot",
            "GET",
            SNAPSHOTS + "/{id}",
            "Get one snapshot",
            "By the id that its sender chose, or that the server made.",
            {200: Reply("The snapshot.", "get_reply")},
            (*_READ, NotFound),
            {"path": "get_path"},
        ),
        _document(
            "getContract",
            CONTRACT.rstrip("/"),  # served with the slash too; linters want paths without
            "Find everything that the contract consists of",
            Reply("The index.", "contract_reply", headers=("ETag",)),
        ),
        _document(
            "getSchema",
            CONTRACT + "{name}.json",
            "Get one schema, or all in one file: bundle",
            Reply("A JSON Schema, draft-07.", None, SCHEMA_JSON, _A_SCHEMA, ("ETag",)),
            parameters={"path": "schema_path"},
            errors=(NotFound,),
        ),
        _document(
            "getTypes",
            CONTRACT + "types.d.ts",
            "Get the types for TypeScript",
            Reply("Declarations.", None, TEXT, "export type Amount = number;\n", ("ETag",)),
        ),
        _document(
            "getOpenapi",
            OPENAPI,
            "Get this description of REST",
            Reply("OpenAPI 3.1.", example={"openapi": "3.1.0", "…": "…"}, headers=("ETag",)),
        ),
        _document(
            "getAsyncapi",
            ASYNCAPI,
            "Get the description of Socket.IO",
            Reply("AsyncAPI 3.0.", example={"asyncapi": "3.0.0", "…": "…"}, headers=("ETag",)),
        ),
    )
}
"""Every operation by its id."""
