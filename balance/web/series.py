"""REST handler of the balances over time."""

from __future__ import annotations

import asyncio
from typing import Any

import protocol
from balance.auth import Operation
from balance.service import Series, Service
from balance.web.compression import compress_large
from balance.web.query import read_query
from balance.web.snapshots import RestHandler

INTEGERS = frozenset(("points", "pid", "stale_s"))  # of schemas/series_query.json
REPEATABLE = frozenset(("pid", "asset"))


class SeriesHandler(RestHandler):
    """`/api/balance/series`: the amounts in force at some instants."""

    operation = Operation.READ

    def initialize(self, *, service: Service, **common: Any) -> None:  # type: ignore[override]  # as of RestHandler
        super().initialize(service=service, **common)
        self.limiter = service.series_limiter

    async def respond(self, *_path: str) -> asyncio.Future[None]:
        write = encode_series_for_gzip if self.accepts_gzip else encode_series
        return self.write_encoded(*await self.service.series(read_query(self.request, INTEGERS, REPEATABLE), write))


def encode_series(series: Series) -> tuple[bytes, bool]:
    """Encode a series as the body of a response (schemas/series_reply.json); False: it is not compressed."""
    feed = {"epoch": series.position.epoch, "head": series.position.seq}
    return protocol.encode({"success": True, "data": series.data, "feed": feed}), False


def encode_series_for_gzip(series: Series) -> tuple[bytes, bool]:
    """Encode a series for a client that accepts gzip; return the body and whether it is compressed."""
    return compress_large(encode_series(series)[0])
