"""A feed with many snapshots, stored without the service."""

from __future__ import annotations

from tests.support.service import Database

APPEND = """
WITH wanted AS (SELECT %s::int AS count, %s::bigint AS pid), feed AS (
    UPDATE balance_feed SET last_seq = last_seq + count FROM wanted RETURNING last_seq - count AS before
)
INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
SELECT before + n, gen_random_uuid(), now(), pid, '{"rlb": 1, "usdt": 2}', '{"rlb": 3, "usd": 4}', now()
FROM wanted, feed, generate_series(1, count) AS n
"""


NEW_EPOCH = """
WITH wanted AS (SELECT %s::bigint AS after_seq, gen_random_uuid() AS epoch),
lost AS (DELETE FROM balance_snapshot USING wanted WHERE seq > after_seq),
begun AS (
    INSERT INTO balance_epoch (epoch, number, after_seq)
    SELECT epoch, (SELECT max(number) + 1 FROM balance_epoch), after_seq FROM wanted
)
UPDATE balance_feed SET epoch = wanted.epoch, last_seq = after_seq FROM wanted RETURNING wanted.epoch
"""


def append_history(database: Database, count: int, pid: int | None = None) -> None:
    """Append snapshots to the feed, as another process would."""
    database.rows(APPEND, count, pid)


def begin_epoch(database: Database, after_seq: int) -> str:
    """Begin a new epoch as a failover does that has lost the snapshots after `after_seq`; return it."""
    return str(database.rows(NEW_EPOCH, after_seq)[0]["epoch"])


def id_of(database: Database, seq: int) -> str:
    """Return the id of a stored snapshot."""
    return str(database.rows("SELECT id FROM balance_snapshot WHERE seq = %s", seq)[0]["id"])
