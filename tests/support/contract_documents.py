"""The documents of the contract, as the server serves them with its default settings."""

from __future__ import annotations

import json
from typing import Any

from protocol import documents
from protocol.operations import ASYNCAPI, OPENAPI

DOCUMENTS = documents.documents()
OPEN: dict[str, Any] = json.loads(DOCUMENTS[OPENAPI].data)
ASYNC: dict[str, Any] = json.loads(DOCUMENTS[ASYNCAPI].data)


def resolve(reference: dict[str, str], document: dict[str, Any]) -> Any:
    """Return the target of a reference within a document."""
    found: Any = document
    for step in reference["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return resolve(found, document) if "$ref" in found else found
