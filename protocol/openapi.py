"""REST as OpenAPI 3.1, put together from the tables: operations, errors and schemas."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from protocol import bundle, registry
from protocol.errors import ServiceError
from protocol.limits import Limits
from protocol.operations import HEADERS, OPERATIONS, Operation, Reply

Json = dict[str, Any]

PLACE = "#/components/schemas"

INTRODUCTION = """\
Trading bots hand this service what they hold, on chain and on site. From the moment a bot hears "saved", that
snapshot can not be lost, and everyone who watches has it milliseconds later, in one agreed order, to the last digit.

**Numbers are exact.** An amount may have any number of digits, and every digit is kept: read it with a decimal type
where that matters. JavaScript reads numbers as binary floats of about 16 digits.

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
            methods["head"] = _without_bodies(_operation(operation, limits))
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
                "description": "Any other.",
                "variables": {"address": {"default": limits.address, "description": "Host and port."}},
            },
        ],
        "tags": [
            {"name": "snapshots", "description": "Save, list and get balance snapshots."},
            {"name": "contract", "description": "What client teams take away: schemas, types and these documents."},
        ],
        "paths": paths,
        "components": {"schemas": bundle.embedded(PLACE)},
    }


def _operation(operation: Operation, limits: Limits) -> Json:
    described: Json = {
        "operationId": operation.id,
        "tags": ["contract" if _is_document(operation) else "snapshots"],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": [*_parameters(operation)],
        "responses": {str(status): _reply(reply) for status, reply in sorted(operation.replies.items())}
        | {str(status): _refusal(errors) for status, errors in _by_status(operation.errors).items()},
    }
    if operation.body:
        described["requestBody"] = {
            "description": f"At most {limits.update_bytes_max:,} bytes of UTF-8, not compressed.",
            "required": True,
            "content": {"application/json": _content(operation.body)},
            "x-bytes-max": limits.update_bytes_max,
        }
    return described


def _without_bodies(get: Json) -> Json:
    """Describe HEAD: the same as GET, without the bodies (RFC 9110, section 9.3.2)."""
    bare = {
        status: {key: value for key, value in response.items() if key != "content"}
        for status, response in get["responses"].items()
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
        for field, rest in bundle.embedded(PLACE)[schema["title"]]["properties"].items():
            inner = {keyword: value for keyword, value in rest.items() if keyword not in ("description", "examples")}
            yield {
                "name": field,
                "in": place,
                "description": rest["description"],
                "required": field in schema.get("required", ()),
                "schema": inner,
                "examples": _examples(rest["examples"]),
            }


def _reply(reply: Reply) -> Json:
    described: Json = {"description": reply.description, "headers": _headers(reply.headers)}
    if reply.media_type:
        content: Json = _content(reply.schema) if reply.schema else {}
        if reply.example is not None:
            content["examples"] = _examples([reply.example])
        described["content"] = {reply.media_type: content}
    return described


def _refusal(errors: list[type[ServiceError]]) -> Json:
    """Describe a status by which one or several errors are told."""
    codes = [error.code for error in errors]
    told = [f"`{error.code}`: {error.message()}." for error in errors]
    return {
        "description": " ".join(told),
        "headers": _headers(["Retry-After"] if all(error.temporary for error in errors) else []),
        "content": {
            "application/json": {
                "schema": {
                    "allOf": [bundle.reference("error_reply", PLACE)],
                    "properties": {"code": {"enum": codes}},
                },
                "examples": {error.code: {"summary": error.message(), "value": error.as_example()} for error in errors},
            }
        },
    }


def _by_status(errors: Iterable[type[ServiceError]]) -> dict[int, list[type[ServiceError]]]:
    found: dict[int, list[type[ServiceError]]] = {}
    for error in sorted(errors, key=lambda error: error.status):
        found.setdefault(error.status, []).append(error)
    return found


def _content(name: str) -> Json:
    return {"schema": bundle.reference(name, PLACE), "examples": _examples(registry.schema(name)["examples"])}


def _examples(values: Iterable[Any]) -> Json:
    return {f"example{number}": {"value": value} for number, value in enumerate(values, 1)}


def _headers(names: Iterable[str]) -> Json:
    return {
        name: {
            "description": HEADERS[name],
            "required": True,
            "schema": {"type": "integer", "minimum": 0} if name == "Retry-After" else {"type": "string"},
        }
        for name in names
    }
