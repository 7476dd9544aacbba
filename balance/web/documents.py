"""Serve documents: those of `protocol` for client teams, and the pages.

Every web page may read them. Caches keep them by strong ETags. They are served with or without a database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import protocol
from balance.aio.limiter import CapacityLimiter
from balance.auth import Operation
from balance.web.compression import accepts_gzip
from balance.web.snapshots import RestHandler
from protocol.documents import Document


class DocumentHandler(RestHandler):
    """Routes whose every address has one document."""

    operation: Operation | None = Operation.READ_DOCUMENTS
    is_public = True  # the documents are the same for everybody
    allowed_headers = "If-None-Match"
    exposed_headers = "ETag, Retry-After, X-Request-Id"

    def initialize(  # type: ignore[override]  # Tornado passes the arguments of the route
        self, *, documents: Mapping[str, Document], headers: Mapping[str, str], limiter: CapacityLimiter, **common: Any
    ) -> None:
        super().initialize(**common)
        self.limiter = limiter  # of its own: requests for documents must not use up the slots for snapshots
        self._documents = documents
        self._extra_headers = headers
        self._etag: str | None = None

    async def respond(self, *_path: str) -> asyncio.Future[None]:
        self.set_header("Vary", "Accept-Encoding, Origin")
        document = self._find(self.request.path)
        data, self._etag = document.data, document.etag
        self.set_header("Content-Type", document.media_type)
        self.set_header("Cache-Control", "no-cache")  # a cache asks by the ETag whether its copy is current
        if accepts_gzip(self.request.headers.get("Accept-Encoding", "")):
            if "gzipped" not in vars(document):  # the largest needs a tenth of a second, once
                await asyncio.to_thread(lambda: document.gzipped)
            data = document.gzipped
            self._etag = document.gzipped_etag
            self.set_header("Content-Encoding", "gzip")
        for name, value in self._extra_headers.items():
            self.set_header(name, value)
        return self.finish(data)

    def _find(self, path: str) -> Document:
        """Return the document at an address. Raises NotFound."""
        document = self._documents.get(path)
        if document is None:
            raise protocol.NotFound("there is nothing at this address", path[:100])
        return document

    def compute_etag(self) -> str | None:
        """Return the ETag of the version that is sent; Tornado compares it with If-None-Match."""
        return self._etag


def by_request_path(documents: Mapping[str, Document]) -> dict[str, Document]:
    """Return documents by the path of a request for them, which has no slash at its end (`request_target`)."""
    return {path.removesuffix("/"): document for path, document in documents.items()}
