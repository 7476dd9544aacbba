"""REST as OpenAPI 3.1, put together from the tables: operations, errors and schemas."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from protocol import bundle, registry
from protocol.errors import ServiceError
from protocol.limits import Limits
from protocol.operations import HEADERS, OPERATIONS, TEXT, Operation, Reply

Json = dict[str, Any]

ALL_ERRORS = {error: None for operation in OPERATIONS.values() for error in operation.errors}

INTRODUCTION = """\
Trading bots hand this service what they hold, on chain and on site. From the moment a bot hears "saved", that
snapshot can not be lost, and everyone who watches has it milliseconds later, in one agreed order, to the last digit.

**Numbers are exact.** An amount may have any number of digits, and the server keeps and sends every one. It has the
format `double` here because generated clients take a number without a format for one of 32 bits, which keeps 7 digits;
a double keeps 15, and 101132.407627 stays 101132.407627. A client that needs all digits must read amounts with a
decimal type: in Java, generate it with openapi-generator and `--type-mappings=double=BigDecimal`; in Python, read the
body of the answer with `json.loads(text, parse_float=Decimal)`. JavaScript has doubles only. Integers have the format
`int64`.

**Errors** have one shape everywhere, on REST and on Socket.IO: in words for a person, in `code` for a program. What is
temporary has `Retry-After`; send the very same again. A request that cannot be read as HTTP/1.1 gets the same shape,
with 400, 408, 413 or 431, and its connection is closed.

**Sending twice is safe.** The same `id` with the same content is saved once.

Watching is done over Socket.IO, which the AsyncAPI document describes.
"""


def openapi(version: str, limits: Limits) -> Json:
    """Build the document for a server; `version` is that of the contract."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS.values():
        methods = paths.setdefault(operation.path, {})
        methods[operation.method.lower()] = _operation(operation, limits)
        if operation.method == "GET":
            methods["head"] = _head(operation, methods["get"])
    responses = {_response_name(status): _refusal(errors) for status, errors in _by_status(ALL_ERRORS).items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Balance Snapshot System",
            "version": version,
            "summary": "Saves what trading bots hold, and shows it to everyone who watches.",
            "description": INTRODUCTION,
        },
        "servers": [
            {"url": "/", "description": "The server that this document comes from."},
            {
                "url": "http://{address}",
                # The variable has no description: swagger-parser takes none there, against OpenAPI 3.1.
                "description": "Any other, at this host and port.",
                "variables": {"address": {"default": limits.address}},
            },
        ],
        "security": [],  # there is no access control
        "tags": [
            {"name": "snapshots", "description": "Save, list and get balance snapshots."},
            {"name": "contract", "description": "What client teams take away: schemas, types and these documents."},
        ],
        "paths": paths,
        "components": {"schemas": bundle.components([paths, responses]), "responses": responses},
    }


def _operation(operation: Operation, limits: Limits) -> Json:
    described: Json = {
        "operationId": operation.id,
        "tags": ["contract" if _is_document(operation) else "snapshots"],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": [*_parameters(operation)],
        "responses": {str(status): _reply(reply) for status, reply in sorted(operation.replies.items())}
        | {
            str(status): {"$ref": f"#/components/responses/{_response_name(status)}"}
            for status in _by_status(operation.errors)
        },
        "x-errors": [error.code for error in operation.errors],
    }
    if operation.body:
        described["requestBody"] = {
            "description": f"At most {limits.update_bytes_max:,} bytes of UTF-8, not compressed.",
            "required": True,
            "content": {"application/json": _content(operation.body)},
            "x-bytes-max": limits.update_bytes_max,
        }
    return described


def _head(operation: Operation, get: Json) -> Json:
    """Describe HEAD: the same as GET, without the bodies (RFC 9110, section 9.3.2)."""
    refusals = {str(status): _refusal(errors) for status, errors in _by_status(operation.errors).items()}
    bare = {
        status: {key: value for key, value in response.items() if key != "content"}
        for status, response in (get["responses"] | refusals).items()
    }
    return {
        **get,
        "operationId": re.sub("^(get|list)", "head", get["operationId"]),
        "summary": f"{get['summary']}: headers only",
        "responses": bare,
    }


def _is_document(operation: Operation) -> bool:
    return "header" in operation.parameters


def _parameters(operation: Operation) -> Iterable[Json]:
    for place, name in operation.parameters.items():
        schema = registry.schema(name)
        for field, rest in bundle.embedded()[schema["title"]]["properties"].items():
            inner = {keyword: value for keyword, value in rest.items() if keyword not in ("description", "examples")}
            yield {
                "name": field,
                "in": place,
                "description": rest["description"],
                "required": field in schema.get("required", ()),
                "schema": bundle.for_generators(inner),
                "examples": _examples(rest["examples"]),
            }


def _reply(reply: Reply) -> Json:
    described: Json = {"description": reply.description, "headers": _headers(reply.headers)}
    if reply.media_type:
        unnamed = {"schema": {"type": "string" if reply.media_type == TEXT else "object"}}
        content: Json = _content(reply.schema) if reply.schema else unnamed
        if reply.example is not None:
            content["examples"] = _examples([reply.example])
        described["content"] = {reply.media_type: content}
    return described


def _refusal(errors: list[type[ServiceError]]) -> Json:
    """Describe a status with which one or several errors are sent.

    All operations share it, so that generators make one type of it; `x-errors` of an operation lists its own codes.
    """
    return {
        "description": " ".join(f"`{error.code}`: {error.message()}." for error in errors),
        "headers": _headers(["Retry-After"] if all(error.temporary for error in errors) else []),
        "content": {
            "application/json": {
                "schema": bundle.reference("error_reply"),
                "examples": {error.code: {"summary": error.message(), "value": error.as_example()} for error in errors},
            }
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
    return {
        name: {
            "description": HEADERS[name],
            "required": True,
            "schema": {"type": "integer", "format": "int64", "minimum": 0}
            if name == "Retry-After"
            else {"type": "string"},
        }
        for name in names
    }
