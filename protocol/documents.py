"""The contract as documents for client teams: schemas, bundle, types, OpenAPI, AsyncAPI and the index of them.

The server serves them at their paths, and `python -m protocol write FOLDER` writes the same bytes to files.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any

import msgspec

from protocol import codec, registry
from protocol.asyncapi import asyncapi
from protocol.bundle import bundle
from protocol.limits import DEFAULT, Limits
from protocol.openapi import openapi
from protocol.operation import JSON
from protocol.operations import ASYNCAPI, CONTRACT, DOCS, OPENAPI, SCHEMA_JSON, TEXT

VERSION = "v1"
"""The version of the contract, which is in the path of every `$id`."""


@dataclass(frozen=True)
class Document:
    """A document that is the same for every client. What is derived from its content is computed once."""

    path: str
    """Its path on the server."""
    file: str
    """Its file name, relative to the folder that the documents are written to."""
    media_type: str
    data: bytes

    @cached_property
    def etag(self) -> str:
        """A strong ETag (RFC 9110, section 8.8.3), derived from the content."""
        return f'"{hashlib.sha256(self.data).hexdigest()[:32]}"'

    @cached_property
    def gzipped(self) -> bytes:
        """The content, compressed."""
        return gzip.compress(self.data, mtime=0)

    @property
    def gzipped_etag(self) -> str:
        """The ETag of `gzipped`: a strong ETag identifies bytes, and those of the compressed form differ."""
        return f'{self.etag[:-1]}-gzip"'


@cache
def documents(limits: Limits = DEFAULT) -> dict[str, Document]:
    """Return every document of a server by its path."""
    found = [
        Document(f"{CONTRACT}{name}.json", f"schemas/{name}.json", SCHEMA_JSON, registry.text(name).encode())
        for name in registry.names()
    ]
    types = resources.files("protocol").joinpath("types.d.ts").read_bytes()
    found += [
        Document(CONTRACT, "index.json", JSON, _to_json(_index())),
        Document(f"{CONTRACT}bundle.json", "bundle.json", SCHEMA_JSON, _to_json(bundle())),
        Document(f"{CONTRACT}types.d.ts", "types.d.ts", f"{TEXT}; charset=utf-8", types),
        Document(OPENAPI, "openapi.json", JSON, _to_json(openapi(VERSION, limits))),
        Document(ASYNCAPI, "asyncapi.json", JSON, _to_json(asyncapi(VERSION, limits))),
    ]
    return {document.path: document for document in found}


def _index() -> dict[str, Any]:
    """Build the index (schemas/contract_reply.json)."""
    data = {
        "version": VERSION,
        "docs": DOCS,
        "bundle": f"{CONTRACT}bundle.json",
        "types": f"{CONTRACT}types.d.ts",
        "openapi": OPENAPI,
        "asyncapi": ASYNCAPI,
        "schemas": [
            {"name": name, "description": registry.schema(name)["description"], "url": f"{CONTRACT}{name}.json"}
            for name in registry.names()
        ],
    }
    return {"success": True, "data": data}


def _to_json(value: Any) -> bytes:
    return msgspec.json.format(codec.dumps(value).encode(), indent=2) + b"\n"
