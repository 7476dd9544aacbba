"""Serves documents: what `protocol` has for client teams, and whatever else is the same for everybody.

They are open to every web page, cached by strong ETags, and there as soon as the server listens, database or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import protocol
from balance.aio.limiter import Places
from balance.auth import Operation
from balance.web.compression import takes_gzip
from balance.web.snapshots import RestHandler
from protocol.documents import Document


class DocumentHandler(RestHandler):
    """Some addresses at each of which is a document."""

    operation = Operation.READ_DOCUMENTS
    is_public = True  # there is nothing here that is not for everybody
    allowed_headers = "If-None-Match"
    exposed_headers = "ETag, Retry-After"

    def initialize(  # type: ignore[override]  # Tornado calls it with what stands in its route
        self, *, documents: Mapping[str, Document], headers: Mapping[str, str], places: Places, **common: Any
    ) -> None:
        super().initialize(**common)
        self.places = places  # of its own: who reads documents is not to keep anyone from the snapshots
        self._documents = documents
        self._headers_of_all = headers
        self._etag: str | None = None

    async def respond(self, *_path: str) -> asyncio.Future[None]:
        document = self._find(self.request.path)
        data, self._etag = document.data, document.etag
        self.set_header("Content-Type", document.media_type)
        self.set_header("Cache-Control", "no-cache")  # keep it, and ask by its ETag whether it is still the same
        self.set_header("Vary", "Accept-Encoding, Origin")
        if takes_gzip(self.request.headers.get("Accept-Encoding", "")):
            if "gzipped" not in vars(document):  # the largest takes a tenth of a second, once
                await asyncio.to_thread(lambda: document.gzipped)
            data = document.gzipped
            self._etag = document.gzipped_etag
            self.set_header("Content-Encoding", "gzip")
        for name, value in self._headers_of_all.items():
            self.set_header(name, value)
        return self.finish(data)

    def _find(self, path: str) -> Document:
        """Find the document at an address. Raises NotFound."""
        document = self._documents.get(path)
        if document is None:
            raise protocol.NotFound("there is nothing at this address", path[:100])
        return document

    def compute_etag(self) -> str | None:
        """Name the version that is sent; Tornado compares it with If-None-Match."""
        return self._etag


def by_target(documents: Mapping[str, Document]) -> dict[str, Document]:
    """Return documents by the path of a request for them, which ends in no slash (`balance.web.targets`)."""
    return {path.removesuffix("/"): document for path, document in documents.items()}
