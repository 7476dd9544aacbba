"""A feed with many snapshots, stored without the service."""

from __future__ import annotations

from tests.support.service import Database

APPEND = """
WITH feed AS (
    UPDATE balance_feed SET last_seq = last_seq + %(count)s RETURNING last_seq - %(count)s AS before
)
INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
SELECT before + n, gen_random_uuid(), now(), %(pid)s, '{"rlb": 1, "usdt": 2}', '{"rlb": 3, "usd": 4}', now()
FROM feed, generate_series(1, %(count)s) AS n
"""


def append_history(database: Database, count: int, pid: int | None = None) -> None:
    """Append snapshots to the feed, as another process would."""
    database.rows(
        APPEND.replace("%(count)s", str(count)).replace("%(pid)s", "NULL::bigint" if pid is None else str(pid))
    )


def id_of(database: Database, seq: int) -> str:
    """Return the id of a stored snapshot."""
    return str(database.rows("SELECT id FROM balance_snapshot WHERE seq = %s", seq)[0]["id"])
