"""Exports and imports of a service, and lines to import."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from random import Random
from typing import Any

import protocol
from protocol.operation import NDJSON
from protocol.operations import EXPORT, IMPORT
from tests.support.http_client import Reply
from tests.support.payloads import LINE, updates
from tests.support.service import Service


async def export(service: Service, query: str = "") -> bytes:
    """Return an export; fail unless it is complete."""
    reply = await service.request("GET", f"{EXPORT}{query}")
    assert reply.status == 200, reply.body
    return reply.raw


async def import_(service: Service, body: bytes, **headers: str) -> Reply:
    """Import a body."""
    return await service.request("POST", IMPORT, body, **{"Content_Type": NDJSON, **headers})


def counts(lines: int, saved: int, duplicates: int = 0, *errors: tuple[int, str, str]) -> dict[str, Any]:
    """Return the data of an import, of which only the first 20 lines were refused."""
    refused = [{"line": line, "code": code, "error": text} for line, code, text in errors]
    return {"lines": lines, "saved": saved, "duplicates": duplicates, "refused": len(errors), "errors": refused}


def line(**changed: Any) -> bytes:
    """Return LINE with an id of its own and other fields."""
    return protocol.encode({**protocol.loads(LINE), "id": str(uuid.uuid4()), **changed})


def lines(count: int, seed: int = 1) -> list[bytes]:
    """Return lines with amounts of up to forty digits."""
    made: Iterator[dict[str, Any]] = updates(Random(seed))
    found = []
    for number in range(count):
        update = {"ts": "2025-11-07T00:45:08.603Z", **next(made)}
        found.append(protocol.encode({**update, "id": update.get("id") or str(uuid.UUID(int=number))}))
    return found
