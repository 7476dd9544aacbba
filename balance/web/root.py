"""`/`: the page of the balances for a browser; any other client gets the addresses to begin with."""

from __future__ import annotations

from typing import Any

import balance
from balance.web.documents import DocumentHandler
from balance.web.problem import accepts
from protocol.documents import Document
from protocol.operations import ASYNCAPI, CONTRACT, DOCS, METRICS, OPENAPI, READYZ

HTML = "text/html"


class RootHandler(DocumentHandler):
    """Answers by the header Accept: `*/*`, which every program sends, does not ask for the page."""

    operation = None
    is_public = False

    def initialize(  # type: ignore[override]  # Tornado passes the arguments of the route
        self, *, prefix: str, **common: Any
    ) -> None:
        super().initialize(**common)
        self._prefix = prefix

    async def on_get(self, *path: str) -> None:
        if accepts(self.request.headers.get("Accept", ""), HTML):
            await super().on_get(*path)
            return
        addresses = {
            "docs": DOCS,
            "openapi": OPENAPI,
            "asyncapi": ASYNCAPI,
            "contract": CONTRACT,
            "ready": READYZ,
            "metrics": METRICS,
        }
        seen = {name: self._prefix + address for name, address in addresses.items()}
        self.set_header("Location", seen["docs"])
        self.set_header("Vary", "Accept, Origin")
        body = {"success": True, "data": {"version": balance.__version__, **seen}}
        await self.finish_in_time(self.write_json(body, 302))

    def _find(self, path: str) -> Document:
        """Return the page."""
        self.set_header("Vary", "Accept, Accept-Encoding, Origin")
        return super()._find("")
