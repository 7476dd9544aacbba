"""Operations of which there are several of one kind: documents of the contract, and questions about the health."""

from __future__ import annotations

from typing import Any

from protocol.errors import (
    Busy,
    Forbidden,
    HeadersTooLarge,
    InternalError,
    InvalidPayload,
    MisdirectedRequest,
    RateLimited,
    RequestTimeout,
    Unavailable,
)
from protocol.operation import JSON, Operation, Response

HEAD_ERRORS = (RequestTimeout, MisdirectedRequest, RateLimited, HeadersTooLarge)  # of any request


def document(id_: str, path: str, summary: str, found: Response, **more: Any) -> Operation:
    """Describe a document of the contract: the same for every client, readable by every web page, cached by ETag."""
    unchanged = Response("Not changed: the ETag of the document is in If-None-Match.", media_type="", headers=("ETag",))
    parameters = {"header": "document_headers", **more.get("parameters", {})}
    errors = (InvalidPayload, *more.get("errors", ()), *HEAD_ERRORS, Busy, InternalError)
    description = "Any web page may read it. A request with If-None-Match gets the document only if it has changed."
    return Operation(id_, "GET", path, summary, description, {200: found, 304: unchanged}, errors, parameters)


def probe(id_: str, path: str, summary: str, description: str, example: str) -> Operation:
    """Describe a question about the health of the process."""
    body = {"success": True, "data": {"status": example}}
    errors = (InvalidPayload, Forbidden, *HEAD_ERRORS, Unavailable, InternalError)
    yes = Response("Yes.", "health_reply", JSON, body)
    return Operation(id_, "GET", path, summary, description, {200: yes}, errors)


READY = (
    "503 with the reasons while the database has not been opened yet, cannot be reached or cannot be read, while an "
    "update waits for too long, while a commit waits for a standby, and when the server is stopping. A balancer sends "
    "requests to a server that is ready."
)
