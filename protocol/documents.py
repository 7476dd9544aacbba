"""Everything that a client team takes away, as the documents it consists of.

The server serves them at their addresses, and `python -m protocol write FOLDER` writes the same bytes to files.
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
from protocol.operations import ASYNCAPI, CONTRACT, DOCS, JSON, OPENAPI, SCHEMA_JSON, TEXT

VERSION = "v1"
"""Of the contract: the one in the path of every `$id`."""


@dataclass(frozen=True)
class Document:
    """Something that is the same for everybody. What is derived from its content is derived once."""

    path: str
    """Its address on the server."""
    file: str
    """Its name in a folder."""
    media_type: str
    data: bytes

    @cached_property
    def etag(self) -> str:
        """A strong ETag (RFC 9110, section 8.8.3): another one for each other content."""
        return f'"{hashlib.sha256(self.data).hexdigest()[:32]}"'

    @cached_property
    def gzipped(self) -> bytes:
        """The same, compressed."""
        return gzip.compress(self.data, mtime=0)

    @property
    def gzipped_etag(self) -> str:
        """The ETag of that: its bytes are others, so it has one of its own."""
        return f'{self.etag[:-1]}-gzip"'


@cache
def documents(limits: Limits = DEFAULT) -> dict[str, Document]:
    """Return every document of a server by its address."""
    found = [
        Document(f"{CONTRACT}{name}.json", f"schemas/{name}.json", SCHEMA_JSON, registry.text(name).encode())
        for name in registry.names()
    ]
    types = resources.files("protocol").joinpath("types.d.ts").read_bytes()
    found += [
        Document(CONTRACT, "index.json", JSON, _written(_index())),
        Document(f"{CONTRACT}bundle.json", "bundle.json", SCHEMA_JSON, _written(bundle())),
        Document(f"{CONTRACT}types.d.ts", "types.d.ts", f"{TEXT}; charset=utf-8", types),
        Document(OPENAPI, "openapi.json", JSON, _written(openapi(VERSION, limits))),
        Document(ASYNCAPI, "asyncapi.json", JSON, _written(asyncapi(VERSION, limits))),
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


def _written(value: Any) -> bytes:
    return msgspec.json.format(codec.dumps(value).encode(), indent=2) + b"\n"
