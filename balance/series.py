"""Turn the query of a series (schemas/series_query.json) into what the store reads."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import protocol
from balance.snapshot import parse_ts
from balance.storage.series_query import Line, SeriesQuery

POINTS_DEFAULT = 500
RANGE_DEFAULT = timedelta(days=1)
STALE_S_DEFAULT = 600
FROM_IS_LATE = "must be earlier than to, which is now if it is absent"


def to_series_query(query: Mapping[str, Any], now: datetime) -> SeriesQuery:
    """Return what a query that fits its schema asks for. Raises InvalidPayload."""
    to = parse_ts(query["to"]) if "to" in query else now
    from_ = parse_ts(query["from"]) if "from" in query else to - RANGE_DEFAULT
    if from_ >= to:
        raise protocol.InvalidPayload(FROM_IS_LATE, "from")
    last = query.get("points", POINTS_DEFAULT) - 1
    return SeriesQuery(
        instants=tuple(from_ + (to - from_) * i // last for i in range(last + 1)),
        line=_line(query),
        pids=tuple(query.get("pid", ())),
        assets=tuple(query.get("asset", ())),
        stale_s=query.get("stale_s", STALE_S_DEFAULT),
    )


def _line(query: Mapping[str, Any]) -> Line:
    if "by" in query:
        return Line.EACH
    if "sum" in query:
        return Line.SUM
    return Line.PIDS if query.get("pid") else Line.ACCOUNT
