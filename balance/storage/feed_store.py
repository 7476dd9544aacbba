"""Reads of the feed: where it ends, what comes after a position, and whether a position is good.

Each method is one prepared statement, and so reads one state of the tables. PostgreSQL writes the JSON of all rows of
an answer as one text, one on each line, which costs a tenth of the processor time of rows.

Threads: every method blocks, borrows a connection, and may be called from any number of threads.

Promises: the answers are those of a primary. Each method raises StoreUnavailable, also while the server is in recovery.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import LiteralString, NamedTuple

from balance.position import ClaimedPosition, Position
from balance.snapshot import EncodedSnapshot
from balance.storage.epochs import note_end, renew_epoch
from balance.storage.pool import Pool
from balance.storage.results import checked, parts, position, text
from balance.storage.session_settings import STANDBYS, durability

PAGE_ROWS_MAX = 1000
PAGE_BYTES_MAX = 256 * 1024  # of the JSON of one page, but for its last row
PIDS_MIN, SEQS_MIN = 200, 3000  # the first bounds of the searches for the latest; each costs about a millisecond
SEARCH_GROWTH = 4  # of the bounds from turn to turn: together, all turns cost a third more than the last ones


class Head(NamedTuple):
    """Where the feed ends, and what its rows have survived."""

    position: Position
    durability: str
    """`replicated` if a commit waits for a standby, otherwise `local`."""


class FeedPage(NamedTuple):
    """Snapshots after a position, in order."""

    epoch: str
    head: int
    """The last seq of the feed."""
    first: int | None
    """The first seq that was looked at, that after the position; None if it is not there."""
    last: int
    """The last seq that was looked at, also if the filter rejects it; that of the position if there is none."""
    snapshots: list[EncodedSnapshot]


class PositionFacts(NamedTuple):
    """What decides whether a claimed position is good."""

    head: Position
    first: int
    """The first seq after the claimed one from which on the feed is complete; one more than the last if no row is."""
    epoch_is_known: bool
    good_until: int | None
    """The last seq of the claimed epoch that is still in the feed; None if no later epoch began."""
    id: str | None
    """The id of the row with the claimed seq."""


class Latest(NamedTuple):
    """The newest snapshot, the last one of each pid, and the position up to which they are the last."""

    position: Position
    newest: bytes | None
    of_pids: list[bytes]
    """As JSON, the last saved first."""


class FeedStore:
    """The feed in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._rows_max = PAGE_ROWS_MAX  # of the next page: fewer after a page of large rows

    def head(self) -> Head:
        """Read where the feed ends. An epoch that is over is renewed; a counter that went back is left to `renew`."""
        with self._pool.connection() as session:
            result = checked(session.execute_prepared(b"head", HEAD))
            end = note_end(session, self._pool.probe, self._pool.known, position(result))
        return Head(end, durability(text(result, 3)))

    def renew(self) -> Position:
        """Begin a new epoch if the feed ends before its known end; return where it ends."""
        with self._pool.connection() as session:
            return renew_epoch(session, self._pool.probe, self._pool.known)

    def page(self, after: int, limit: int, pids: Sequence[int] | None = None) -> FeedPage:
        """Look at the next snapshots after seq `after`, and return those of `pids`, or all.

        At most `limit` are looked at, fewer if they are large, and at least one if there is one; none behind a gap.
        """
        wanted = None if pids is None else f"{{{','.join(map(str, pids))}}}".encode()
        count = b"%d" % min(limit, self._rows_max)
        with self._pool.connection() as session:
            result = checked(session.execute_prepared(b"page", PAGE, b"%d" % after, count, wanted))
        head, first, last = position(result), result.get_value(0, 3), result.get_value(0, 4)
        if first is None or last is None:
            return FeedPage(head.epoch, head.seq, None, after, [])
        # PostgreSQL writes all rows that are asked for, also those that the limit of bytes leaves out.
        self._rows_max = min(PAGE_ROWS_MAX, 2 * (int(text(result, 5)) if text(result, 6) == "t" else self._rows_max))
        seqs, rows = range(int(first), int(last) + 1), parts(result, 8, b"\n")
        snapshots = map(EncodedSnapshot, seqs if len(seqs) == len(rows) else map(int, parts(result, 7, b",")), rows)
        return FeedPage(head.epoch, head.seq, seqs[0], seqs[-1], list(snapshots))

    def look_up(self, claimed: ClaimedPosition) -> PositionFacts:
        """Read what decides whether a position is good; without an epoch it is one of this epoch."""
        epoch = None if claimed.epoch is None else claimed.epoch.encode()
        with self._pool.connection() as session:
            result = checked(session.execute_prepared(b"look_up", LOOK_UP, epoch, b"%d" % claimed.seq))
        good_until = result.get_value(0, 5)
        return PositionFacts(
            head=position(result),
            first=int(text(result, 3)),
            epoch_is_known=text(result, 4) == "t",
            good_until=None if good_until is None else int(good_until),
            id=None if result.get_value(0, 6) is None else text(result, 6),
        )

    def latest(self, limit: int, heard_s: int | None = None) -> Latest:
        """Read the newest snapshot and the last one of each pid, at most `limit`, the last saved first.

        A pid whose last snapshot came more than `heard_s` seconds ago is left out.

        Two searches take turns, each time with a higher bound, until one has found all: through the pids, whose cost
        depends on how many there have ever been, and through the newest snapshots, whose cost depends on how far back
        those of the wanted pids are.
        """
        since = None
        if heard_s is not None:
            since = (datetime.now(UTC) - timedelta(seconds=heard_s)).isoformat().encode()
        wanted, bound = (b"%d" % limit, since), 1
        with self._pool.connection() as session:
            while True:
                pids, seqs = b"%d" % (bound * PIDS_MIN), b"%d" % (bound * SEQS_MIN)
                result = checked(session.execute_prepared(b"latest_by_pid", LATEST_BY_PID, *wanted, pids))
                if text(result, 3) == "t":
                    break
                result = checked(session.execute_prepared(b"latest_by_seq", LATEST_BY_SEQ, *wanted, seqs))
                if text(result, 3) == "t":
                    break
                bound *= SEARCH_GROWTH
        return Latest(position(result), result.get_value(0, 4), parts(result, 5, b"\n"))


HEAD: LiteralString = f"""
SELECT epoch, last_seq, pg_is_in_recovery(), {STANDBYS}
FROM balance_feed WHERE only_row
"""

# $1: the position; $2: the number of seqs; $3: the pids, or NULL for all. No page reaches beyond $1 + $2, so that the
# index entries of many pruned rows are not read.
PAGE: LiteralString = f"""
SELECT epoch, last_seq, pg_is_in_recovery(), page.*
FROM balance_feed, (
    SELECT min(seq), max(seq), count(*), coalesce(bool_or(bytes > {PAGE_BYTES_MAX}), false),
           string_agg(seq::text, ',' ORDER BY seq) FILTER (WHERE json IS NOT NULL AND $3::bigint[] IS NOT NULL),
           string_agg(json, E'\\n' ORDER BY seq)
    FROM (
        SELECT seq, json, bytes, bytes - coalesce(octet_length(json), 0) AS bytes_before, gap_after
        FROM (
            SELECT seq, json, sum(octet_length(json)) OVER (ORDER BY seq) AS bytes,
                   seq - row_number() OVER (ORDER BY seq) AS gap_after
            FROM (
                SELECT seq, CASE WHEN $3::bigint[] IS NULL OR pid = ANY ($3::bigint[])
                    THEN balance_snapshot_json(id, seq, ts, pid, onchain, onsite) END AS json
                FROM balance_snapshot WHERE seq > $1 AND seq <= $1 + $2 ORDER BY seq LIMIT $2
            ) AS row
        ) AS row
    ) AS row
    WHERE coalesce(bytes_before, 0) < {PAGE_BYTES_MAX} AND gap_after = $1
) AS page
WHERE only_row
"""

# $1: the claimed epoch, or NULL; $2: the claimed seq. What was pruned is skipped: until a VACUUM, its index entries are
# still read, one by one. Rows that were deleted by hand make a gap behind first_seq.
LOOK_UP: LiteralString = """
SELECT feed.epoch, last_seq, pg_is_in_recovery(),
       coalesce((SELECT min(seq) FROM balance_snapshot WHERE seq > greatest($2, first_seq - 1)), last_seq + 1),
       coalesce($1::uuid = feed.epoch OR claimed.number IS NOT NULL, true),
       (SELECT min(after_seq) FROM balance_epoch WHERE number > claimed.number),
       (SELECT id FROM balance_snapshot WHERE seq = $2)
FROM balance_feed AS feed LEFT JOIN balance_epoch AS claimed ON claimed.epoch = $1
WHERE only_row
"""

# $1: the number of pids; $2: the earliest time of arrival, or NULL; `last_of_pid` has the last seq of each pid.
LATEST: LiteralString = """
recent AS MATERIALIZED (
    SELECT last_of_pid.seq, json
    FROM (SELECT seq FROM last_of_pid ORDER BY seq DESC) AS last_of_pid, LATERAL (
        SELECT balance_snapshot_json(id, seq, ts, pid, onchain, onsite) AS json FROM balance_snapshot
        WHERE seq = last_of_pid.seq AND ($2::timestamptz IS NULL OR received_at >= $2)
        OFFSET 0
    ) AS row
    ORDER BY last_of_pid.seq DESC LIMIT $1
)
SELECT epoch, last_seq, pg_is_in_recovery(), coalesce(is_complete, false),
       (SELECT balance_snapshot_json(id, seq, ts, pid, onchain, onsite)
        FROM balance_snapshot ORDER BY seq DESC LIMIT 1),
       (SELECT string_agg(json, E'\\n' ORDER BY seq DESC) FROM recent)
"""

# $3: the number of pids to find. PostgreSQL has no loose index scan: each step of the recursion finds the next pid in
# the index.
LATEST_BY_PID: LiteralString = f"""
WITH RECURSIVE found AS (
    (SELECT pid, seq FROM balance_snapshot WHERE pid IS NOT NULL ORDER BY pid, seq DESC LIMIT 1)
    UNION ALL
    SELECT next.pid, next.seq FROM found, LATERAL (
        SELECT pid, seq FROM balance_snapshot WHERE pid > found.pid ORDER BY pid, seq DESC LIMIT 1
    ) AS next
), first_pids AS MATERIALIZED (
    SELECT seq FROM found LIMIT $3::bigint + 1
), last_of_pid AS (
    SELECT seq FROM first_pids WHERE (SELECT count(*) FROM first_pids) <= $3
), {LATEST}
FROM balance_feed, (SELECT count(*) <= $3 AS is_complete FROM first_pids) AS search
WHERE only_row
"""

# $3: the number of snapshots to look through. Before a thousand that all came before $2, none came after it.
LATEST_BY_SEQ: LiteralString = f"""
WITH last_of_pid AS (
    SELECT max(seq) AS seq FROM balance_snapshot
    WHERE seq > (SELECT last_seq FROM balance_feed WHERE only_row) - $3::bigint AND pid IS NOT NULL GROUP BY pid
), {LATEST}
FROM balance_feed, LATERAL (
    SELECT last_seq <= $3 OR (SELECT count(*) FROM recent) = $1
        OR (SELECT max(received_at) < $2 FROM balance_snapshot
            WHERE seq > last_seq - $3 AND seq <= last_seq - $3 + 1000) AS is_complete
) AS search
WHERE only_row
"""
