"""Moments as text in SQL, as in every reply."""

from __future__ import annotations

from typing import LiteralString


def utc_text(column: LiteralString) -> LiteralString:
    """Return the SQL of the text of a timestamptz, with which balance_snapshot_json writes a `ts`; NULL stays NULL."""
    milliseconds, microseconds = 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
    return f"""to_char(
        {column} AT TIME ZONE 'UTC',
        CASE WHEN date_trunc('milliseconds', {column}) = {column} THEN '{milliseconds}' ELSE '{microseconds}' END
    )"""
