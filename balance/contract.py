"""Serves documents: what `protocol` has for client teams, and whatever else is the same for everybody.

They are open to every web page, cached by strong ETags, and there as soon as the server listens, database or not.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import protocol
from balance.rest import RestHandler
from protocol.documents import Document

TAKES_GZIP = re.compile(
    r"(?:^|[\s,])(?:gzip|\*)\s*(?:$|,|;\s*q=(?!0(?:\.0*)?\s*(?:,|$)))", re.IGNORECASE
)  # RFC 9110, 12.5.3


class DocumentHandler(RestHandler):
    """Some addresses at each of which is a document."""

    allowed_headers = "If-None-Match"
    exposed_headers = "ETag"

    def initialize(  # type: ignore[override]  # Tornado calls it with what stands in its route
        self, *, documents: Mapping[str, Document], headers: Mapping[str, str], **common: Any
    ) -> None:
        super().initialize(**common)
        self._documents = documents
        self._headers_of_all = headers
        self._etag: str | None = None

    def check_caller(self) -> None:
        """Refuse nobody: there is nothing here that is not for everybody."""
        self.let_page_read()

    def let_page_read(self) -> None:
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Access-Control-Expose-Headers", self.exposed_headers)

    async def respond(self, *_path: str) -> asyncio.Future[None]:
        document = self._find(self.request.path)
        data, self._etag = document.data, document.etag
        self.set_header("Content-Type", document.media_type)
        self.set_header("Cache-Control", "no-cache")  # keep it, and ask by its ETag whether it is still the same
        self.set_header("Vary", "Accept-Encoding")
        if TAKES_GZIP.search(self.request.headers.get("Accept-Encoding", "")):
            # The largest takes a tenth of a second, once.
            data = await asyncio.to_thread(lambda: document.gzipped)
            self._etag = document.gzipped_etag
            self.set_header("Content-Encoding", "gzip")
        for name, value in self._headers_of_all.items():
            self.set_header(name, value)
        return self.finish(data)

    def _find(self, path: str) -> Document:
        """Find the document at an address, with or without the slash at its end. Raises NotFound."""
        for address in (path, f"{path}/", path.removesuffix("/")):
            if address in self._documents:
                return self._documents[address]
        raise protocol.NotFound("there is nothing at this address", path[:100])

    def compute_etag(self) -> str | None:
        """Name the version that is sent; Tornado compares it with If-None-Match."""
        return self._etag
