"""The OpenAPI 3.1 document of REST, built from the tables of operations and errors and from the schemas."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from protocol import bundle, codec, registry
from protocol.errors import Forbidden, ServiceError, Unauthorized
from protocol.headers import HEADERS, RATE_LIMIT, REQUEST_ID, REQUEST_ID_SENT
from protocol.limits import Limits
from protocol.operation import NDJSON, Operation, Response
from protocol.operations import (
    ASYNCAPI,
    CONTRACT,
    EVENT_STREAM,
    OPENAPI,
    OPERATIONS,
    PROBLEM,
    TEXT,
)

Json = dict[str, Any]

_DOCUMENTS = (CONTRACT.rstrip("/"), OPENAPI, ASYNCAPI)
ALL_ERRORS = {error: None for operation in OPERATIONS.values() for error in operation.errors}

TOKEN = """\
A token of `server.py token create`, or a JWT of the identity provider that the server trusts. A reader reads and
watches, a writer also saves, an admin may do everything. A server that listens on loopback only may need none.\
"""

INTRODUCTION = """\
Trading bots report their balances to this service, on chain and on site. A snapshot whose save was acknowledged cannot
be lost. Every connected client receives it milliseconds later, in one order that is the same for all, with every digit.

**Numbers are exact.** An amount may have any number of digits, and the server stores and sends all of them. It has the
format `double` here because generated clients use a 32-bit number where there is no format, which keeps 7 digits. A
double keeps 15: 101132.407627 stays 101132.407627. A client that needs all digits must read amounts with a decimal
type. In Java, generate it with openapi-generator and `--type-mappings=double=BigDecimal`. In Python, read the body of
the response with `json.loads(text, parse_float=Decimal)`. JavaScript has doubles only. Integers have the format
`int64`.

**Errors** have the same shape everywhere, on REST and on Socket.IO: `error` is a text for a person, and `code` a word
for a program. A temporary error has `Retry-After`: send the same request again after that many seconds. A request that
cannot be read as HTTP/1.1 gets an error of the same shape, with the status 400, 408, 413 or 431, and its connection is
closed. With `application/problem+json` in `Accept`, errors have the members of RFC 9457 too.

**Limits.** A server may limit how often a token or an address saves and connects. Over a limit it answers with
`rate_limited`, and the headers `Retry-After`, `RateLimit-Policy` and `RateLimit`. Where it limits saves, each response
to a save has the last two.

**Sending an update again is safe.** The same `id` with the same content is saved once.

**Nothing is missed.** Each snapshot has a `seq`: 1, 2, 3 and so on, without a gap. With the `epoch`, which names the
feed, it is a position from which a client reads on after any time: by the feed, by the stream, or by Socket.IO, which
the AsyncAPI document describes. If the database lost snapshots, `goodUntil` is the last `seq` that it has kept.
"""


def openapi(version: str, limits: Limits) -> Json:
    """Build the document of a server; `version` is the version of the contract."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS.values():
        methods = paths.setdefault(operation.path, {})
        methods[operation.method.lower()] = _operation(operation, limits)
        if operation.method == "GET":
            methods["head"] = _head(operation, methods["get"])
    responses = {_response_name(status): _error_response(errors) for status, errors in _by_status(ALL_ERRORS).items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Balance Snapshot System",
            "version": version,
            "summary": "Saves the balances of trading bots and broadcasts each saved snapshot.",
            "description": INTRODUCTION,
        },
        "servers": [
            {"url": limits.prefix or "/", "description": "The server that serves this document."},
            {
                "url": f"{limits.scheme}://{{address}}{limits.prefix}",
                # The variable has no description: swagger-parser rejects one there, although OpenAPI 3.1 allows it.
                "description": "Another server, by host and port.",
                "variables": {"address": {"default": limits.address}},
            },
        ],
        "security": [{"token": []}, {}],  # a server may be open to anyone
        "tags": [
            {"name": "snapshots", "description": "Save, list and get balance snapshots."},
            {"name": "contract", "description": "Get the contract itself: schemas, types and these documents."},
        ],
        "paths": paths,
        "components": {
            "schemas": bundle.used_components([paths, responses]),
            "responses": responses,
            "headers": {name: _header(name) for name in HEADERS},
            "parameters": {
                REQUEST_ID: {
                    "name": REQUEST_ID,
                    "in": "header",
                    "description": REQUEST_ID_SENT,
                    "schema": {"type": "string"},  # without a pattern: no value of it is an error
                    "examples": _examples(["bot-7.1042"]),
                }
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": TOKEN}},
        },
    }


def _operation(operation: Operation, limits: Limits) -> Json:
    described: Json = {
        "operationId": operation.id,
        "tags": ["contract" if operation.path.startswith(_DOCUMENTS) else "snapshots"],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": [*_parameters(operation), {"$ref": f"#/components/parameters/{REQUEST_ID}"}],
        "responses": {str(status): _response(one) for status, one in sorted(operation.responses.items())}
        | {
            str(status): {"$ref": f"#/components/responses/{_response_name(status)}"}
            for status in _by_status(operation.errors)
        },
        "x-errors": [error.code for error in operation.errors],
    }
    if Unauthorized not in operation.errors:
        described["security"] = []
    if operation.body:
        described["requestBody"] = _body(operation.body, operation.body_type, limits)
    return described


def _body(schema: str, media_type: str, limits: Limits) -> Json:
    if media_type == NDJSON:
        lines = "".join(f"{codec.dumps(example)}\n" for example in registry.schema(schema)["examples"])
        return {
            "description": f"Any number of lines, each a JSON object ({schema}), in UTF-8, not compressed.",
            "required": True,
            "content": {media_type: {"schema": {"type": "string"}, "examples": _examples([lines])}},
        }
    return {
        "description": f"At most {limits.update_bytes_max:,} bytes of UTF-8, not compressed.",
        "required": True,
        "content": {media_type: _content(schema)},
        "x-bytes-max": limits.update_bytes_max,
    }


def _head(operation: Operation, get: Json) -> Json:
    """Describe HEAD: the responses of GET without their bodies (RFC 9110, section 9.3.2)."""
    failures = {str(status): _error_response(errors) for status, errors in _by_status(operation.errors).items()}
    bare = {
        status: {key: value for key, value in response.items() if key != "content"}
        for status, response in (get["responses"] | failures).items()
    }
    return {
        **get,
        "operationId": re.sub("^(get|list)", "head", get["operationId"]),
        "summary": f"{get['summary']}, headers only",
        "responses": bare,
    }


def _parameters(operation: Operation) -> Iterable[Json]:
    for location, name in operation.parameters.items():
        schema = registry.schema(name)
        for field, rest in bundle.component_schemas()[schema["title"]]["properties"].items():
            inner = {keyword: value for keyword, value in rest.items() if keyword not in ("description", "examples")}
            yield {
                "name": field,
                "in": location,
                "description": rest["description"],
                "required": field in schema.get("required", ()),
                "schema": bundle.for_generators(inner),
                "examples": _examples(rest["examples"]),
            }


def _response(response: Response) -> Json:
    described: Json = {"description": response.description, "headers": _headers(response.headers)}
    if response.media_type:
        is_text = response.media_type in (TEXT, EVENT_STREAM, NDJSON)
        unnamed = {"schema": {"type": "string" if is_text else "object"}}
        content: Json = _content(response.schema) if response.schema else unnamed
        if response.example is not None:
            content["examples"] = _examples([response.example])
        if response.events:
            content["x-events"] = {name: bundle.reference(schema) for name, schema in response.events.items()}
        described["content"] = {response.media_type: content} | {
            media_type: {"schema": {"type": "string"}, "examples": _examples([example])}
            for media_type, example in response.other_examples.items()
        }
    return described


def _error_response(errors: list[type[ServiceError]]) -> Json:
    """Describe a status with which one or more errors are sent.

    All operations share it, so that code generators make one type of it. The codes of one operation are its `x-errors`.
    """
    return {
        "description": " ".join(f"`{error.code}`: {error.message()}." for error in errors),
        "headers": _headers(
            [
                *(["Retry-After"] if all(error.temporary for error in errors) else []),
                *RATE_LIMIT,
                *(["WWW-Authenticate"] if Unauthorized in errors or Forbidden in errors else []),
            ]
        ),
        "content": {
            "application/json": {
                "schema": bundle.reference("error_reply"),
                "examples": {error.code: {"summary": error.message(), "value": error.as_example()} for error in errors},
            },
            PROBLEM: {"schema": bundle.reference("problem_details")},
        },
    }


def _response_name(status: int) -> str:
    return f"Error{status}"


def _by_status(errors: Iterable[type[ServiceError]]) -> dict[int, list[type[ServiceError]]]:
    found: dict[int, list[type[ServiceError]]] = {}
    for error in sorted(errors, key=lambda error: error.status):
        found.setdefault(error.status, []).append(error)
    return found


def _content(name: str) -> Json:
    return {"schema": bundle.reference(name), "examples": _examples(registry.schema(name)["examples"])}


def _examples(values: Iterable[Any]) -> Json:
    return {f"example{number}": {"value": value} for number, value in enumerate(values, 1)}


def _headers(names: Iterable[str]) -> Json:
    """Refer to the headers of a response: those that are named, and the one of all responses."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*names, REQUEST_ID)}


def _header(name: str) -> Json:
    header = HEADERS[name]
    number = {"type": "integer", "format": "int64", "minimum": 0}
    return {
        "description": header.description,
        "required": header.is_always_sent,
        "schema": number if header.is_number else {"type": "string"},
    }
