"""`GET /api/balance/connections`, for operators: which clients are connected, those with the largest backlogs first.

It is not a part of the contract for client teams. docs/logs.md has the fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from datetime import timedelta
from heapq import nlargest
from time import monotonic
from typing import Any

import protocol
from balance.auth import Operation
from balance.open_connection import OpenConnection, Transport
from balance.service import now
from balance.snapshot import format_ts
from balance.web.query import read_query
from balance.web.snapshots import RestHandler

CONNECTIONS = "/api/balance/connections"
LIMIT_DEFAULT, LIMIT_MAX = 100, 1_000


class ConnectionsHandler(RestHandler):
    """The list of connections."""

    operation = Operation.READ_CONNECTIONS

    def initialize(  # type: ignore[override]  # Tornado passes the arguments of the route
        self, *, transports: Sequence[Transport], counted: Mapping[str, Sized], **common: Any
    ) -> None:
        super().initialize(**common)
        self._transports = transports
        self._counted = counted

    async def read(self, *_path: str) -> dict[str, Any]:
        limit = _limit(read_query(self.request, ("limit",)))
        found = [one for transport in self._transports for one in transport.largest_backlogs(limit)]
        found = nlargest(limit, found, key=lambda one: one.backlog_bytes)
        head = self.service.feed.head
        return {
            "success": True,
            "data": {
                "connections": [_to_wire(one, head.seq if head is not None else None) for one in found],
                "total": {name: len(clients) for name, clients in self._counted.items()},
            },
        }


def _limit(query: Mapping[str, Any]) -> int:
    """Return the only parameter. Raises InvalidPayload."""
    limit: int = query.get("limit", LIMIT_DEFAULT)
    if query.keys() - {"limit"}:
        raise protocol.InvalidPayload("has a parameter that is not limit", "query")
    if not 1 <= limit <= LIMIT_MAX:
        raise protocol.InvalidPayload(f"must be a whole number from 1 to {LIMIT_MAX}", "limit")
    return limit


def _to_wire(one: OpenConnection, head: int | None) -> dict[str, Any]:
    position = one.position(head)
    return {
        "address": one.context.client,
        "transport": one.transport,
        "connectedSince": format_ts(now() - timedelta(seconds=monotonic() - one.since)),
        "role": one.context.caller.role.value,
        "name": one.context.caller.name,
        "backlogBytes": one.backlog_bytes,
        "position": position,
        "behind": None if head is None or position is None else max(head - position, 0),
        "replaying": not one.is_live,
        "requestId": one.context.request_id,
    }
