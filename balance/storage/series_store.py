"""Balances over time: which snapshots were in force at some instants, as JSON that PostgreSQL writes.

A snapshot is in force from its ts to that of the next one. Each is found by a search in an index, so the cost
depends on the number of instants and of process ids, and not on the number of snapshots between them.

Before the first seq that pruning has left, nothing is known: the amounts are null there, and it is a gap.

Threads: the method blocks, borrows a connection, and may be called from any number of threads.

Promises: the answer is that of a primary, and of one state of the tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from psycopg import errors

from balance.storage.pool import Pool
from balance.storage.results import checked, position, text
from balance.storage.series_query import Line, SeriesQuery, SeriesRead, TooLarge
from balance.storage.timestamp_text import utc_text

POINTS_MAX = 100_000  # look-ups: instants times pids; each takes a few microseconds
AMOUNTS_MAX = 1_000_000  # instants times assets of all lines
BYTES_MAX = 16_000_000
SILENT_DAYS, SILENT_MAX = 7, 100  # of the pids without a snapshot in the range that a sum names: how long ago, how many


class SeriesStore:
    """Balances over time in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def read(self, query: SeriesQuery) -> SeriesRead:
        """Read the lines of a query. Raises StoreUnavailable and TooLarge."""
        points = len(query.instants)
        parameters = [
            _array(instant.isoformat() for instant in query.instants),
            b"%d" % query.stale_s,
            _array(query.assets) if query.assets else None,
            b"%d" % (AMOUNTS_MAX // points),
        ]
        if query.line is not Line.ACCOUNT:
            parameters += [_array(map(str, query.pids)) if query.pids else None, b"%d" % (POINTS_MAX // points)]
        with self._pool.connection() as session:
            name = b"series_" + query.line.value.encode()
            try:
                result = checked(session.execute_prepared(name, STATEMENTS[query.line], *parameters))
            except errors.QueryCanceled as error:  # by its time limit: not a fault of the database
                raise TooLarge("the answer takes too long: ask for fewer points, pids or assets") from error
        if (pids := int(text(result, 3))) * points > POINTS_MAX:
            raise TooLarge(f"{pids} pids x {points} points are more than {POINTS_MAX}: ask for fewer, or name the pids")
        data = result.get_value(0, 4)
        if data is None or len(data) > BYTES_MAX:
            raise TooLarge("the amounts are too many: ask for fewer points, or name the assets")
        return SeriesRead(position(result), data)


def _array(values: Iterable[str]) -> bytes:
    """Write an array as PostgreSQL reads it; no value has a character that ends a quoted one."""
    return ("{" + ",".join(f'"{value}"' for value in values) + "}").encode()


# $1: the instants; $2: stale_s; $3: the assets, or NULL for all; $4: the largest number of assets of all lines; $5: the
# pids, or NULL for all that reported; $6: the largest number of pids. Line -1 is that of no pid. Rows are pruned by the
# time of their arrival, up to first_seq.
STALE: LiteralString = "make_interval(secs => $2)"
INSTANTS: LiteralString = """
feed AS MATERIALIZED (
    SELECT epoch, last_seq, CASE WHEN pruned > 0 THEN coalesce(
        (SELECT received_at FROM balance_snapshot WHERE seq >= first_seq ORDER BY seq LIMIT 1), now()
    ) END AS complete_from
    FROM balance_feed WHERE only_row
), instants AS MATERIALIZED (
    SELECT i - 1 AS i, at, coalesce(at < complete_from, false) AS is_pruned
    FROM feed, unnest($1::timestamptz[]) WITH ORDINALITY AS instant (at, i)
)
"""

ACCOUNT: LiteralString = f"""
{INSTANTS}, senders AS (
    SELECT NULL::bigint AS pid WHERE false
), few AS (
    SELECT true AS are_few
), in_force AS MATERIALIZED (
    SELECT -1 AS line, i, row.*, is_pruned OR ts < at - {STALE} AS is_gap, NULL::bigint AS pids
    FROM instants LEFT JOIN LATERAL (
        SELECT ts, onchain, onsite FROM balance_snapshot
        WHERE NOT is_pruned AND ts <= at ORDER BY ts DESC, seq DESC LIMIT 1
    ) AS row ON true
)
"""

# PostgreSQL has no loose index scan: each step of the recursion finds the next pid in the index. No look-up is made
# before the first snapshot of a pid, so that pids that follow each other cost no more than one.
OF_PIDS: LiteralString = f"""
{INSTANTS}, bounds AS MATERIALIZED (
    SELECT min(at) AS from_, max(at) AS to_ FROM instants
), known AS (
    (SELECT pid FROM balance_snapshot WHERE $5::bigint[] IS NULL AND pid IS NOT NULL ORDER BY pid LIMIT 1)
    UNION ALL
    SELECT next.pid FROM known, LATERAL (
        SELECT pid FROM balance_snapshot WHERE pid > known.pid ORDER BY pid LIMIT 1
    ) AS next
), wanted AS (
    SELECT DISTINCT pid, NULL::timestamptz AS since FROM unnest($5::bigint[]) AS pid
    UNION ALL
    SELECT pid, from_ - {STALE} FROM known, bounds
), last_of_pid AS MATERIALIZED (
    SELECT pid, since, last_ts
    FROM bounds CROSS JOIN wanted LEFT JOIN LATERAL (
        SELECT ts AS last_ts FROM balance_snapshot
        WHERE pid = wanted.pid AND ts <= to_ ORDER BY ts DESC, seq DESC LIMIT 1
    ) AS last ON true
), senders AS MATERIALIZED (
    SELECT last_of_pid.pid, first_ts, last_ts
    FROM last_of_pid LEFT JOIN LATERAL (
        SELECT ts AS first_ts FROM balance_snapshot WHERE pid = last_of_pid.pid ORDER BY ts, seq LIMIT 1
    ) AS first ON true
    WHERE since IS NULL OR last_ts >= since
), few AS MATERIALIZED (
    SELECT count(*) <= $6::bigint AS are_few FROM senders
), read AS MATERIALIZED (
    SELECT pid, first_ts, last_ts FROM senders WHERE (SELECT are_few FROM few)
)
"""

OF_EACH: LiteralString = f"""
{OF_PIDS}, of_each AS MATERIALIZED (
    SELECT read.pid, i, row.*, is_pruned OR ts < at - {STALE} AS is_gap
    FROM read CROSS JOIN instants LEFT JOIN LATERAL (
        SELECT ts, seq, onchain, onsite FROM balance_snapshot
        WHERE NOT is_pruned AND at >= first_ts AND pid = read.pid AND ts <= at ORDER BY ts DESC, seq DESC LIMIT 1
    ) AS row ON true
)
"""

PIDS: LiteralString = f"""
{OF_EACH}, in_force AS MATERIALIZED (
    SELECT DISTINCT ON (i) -1 AS line, i, ts, onchain, onsite, is_gap, NULL::bigint AS pids
    FROM of_each ORDER BY i, ts DESC NULLS LAST, seq DESC
)
"""

EACH: LiteralString = f"""
{OF_EACH}, in_force AS MATERIALIZED (
    SELECT pid AS line, i, ts, onchain, onsite, is_gap, NULL::bigint AS pids FROM of_each
)
"""

NO_SUM: LiteralString = "left_out AS (SELECT NULL::bigint AS pid, NULL::bigint AS i WHERE false)"

# Most pids are among the newest snapshots before an instant, which are read at once; only the others are looked up,
# which takes ten times as long for each. The required assets are summed as columns: a set of rows for each snapshot is
# slow.
FURTHER_ONCHAIN: LiteralString = "onchain - '{rlb,usdt}'::text[]"
FURTHER_ONSITE: LiteralString = "onsite - '{rlb,usd}'::text[]"
SUM: LiteralString = f"""
{OF_PIDS}, recent AS MATERIALIZED (
    SELECT i, of_instant.*
    FROM instants, LATERAL (
        SELECT DISTINCT ON (pid) pid, ts, onchain, onsite
        FROM (
            SELECT pid, ts, seq, onchain, onsite FROM balance_snapshot
            WHERE ts <= at AND ts >= at - {STALE}
            ORDER BY ts DESC, seq DESC LIMIT (SELECT 2 * count(*) FROM read)
        ) AS newest ORDER BY pid, ts DESC, seq DESC
    ) AS of_instant
), reported AS MATERIALIZED (
    SELECT pid, i, coalesce(recent.ts, older.ts) AS ts, coalesce(recent.onchain, older.onchain) AS onchain,
           coalesce(recent.onsite, older.onsite) AS onsite
    FROM read JOIN instants ON at >= first_ts AND NOT is_pruned LEFT JOIN recent USING (i, pid) LEFT JOIN LATERAL (
        SELECT ts, onchain, onsite FROM balance_snapshot
        WHERE recent.ts IS NULL AND at - {STALE} <= last_ts
          AND pid = read.pid AND ts <= at AND ts >= at - {STALE}
        ORDER BY ts DESC, seq DESC LIMIT 1
    ) AS older ON true
), silent AS MATERIALIZED (
    SELECT pid, last_ts FROM last_of_pid WHERE last_ts < since
), required AS (
    SELECT i, max(ts) AS ts, count(ts) AS pids,
           bool_or(is_pruned) OR count(ts) = 0 AND (count(pid) > 0 OR EXISTS (SELECT FROM silent)) AS is_gap,
           sum((onchain -> 'rlb')::numeric) AS onchain_rlb, sum((onchain -> 'usdt')::numeric) AS onchain_usdt,
           sum((onsite -> 'rlb')::numeric) AS onsite_rlb, sum((onsite -> 'usd')::numeric) AS onsite_usd
    FROM instants LEFT JOIN reported USING (i) GROUP BY i
), further AS (
    SELECT i, jsonb_object_agg(asset, amount) FILTER (WHERE ledger = 'onchain') AS onchain,
           jsonb_object_agg(asset, amount) FILTER (WHERE ledger = 'onsite') AS onsite
    FROM (
        SELECT i, ledger, asset, sum(amount::numeric) AS amount
        FROM (
            SELECT i, 'onchain' AS ledger, key AS asset, value AS amount FROM reported, jsonb_each({FURTHER_ONCHAIN})
            WHERE {FURTHER_ONCHAIN} <> '{{}}'
            UNION ALL
            SELECT i, 'onsite', key, value FROM reported, jsonb_each({FURTHER_ONSITE}) WHERE {FURTHER_ONSITE} <> '{{}}'
        ) AS of_reported GROUP BY i, ledger, asset
    ) AS summed GROUP BY i
), in_force AS MATERIALIZED (
    SELECT -1 AS line, i, ts, is_gap, pids,
           CASE WHEN pids > 0 THEN jsonb_build_object('rlb', onchain_rlb, 'usdt', onchain_usdt)
               || coalesce(further.onchain, '{{}}') END AS onchain,
           CASE WHEN pids > 0 THEN jsonb_build_object('rlb', onsite_rlb, 'usd', onsite_usd)
               || coalesce(further.onsite, '{{}}') END AS onsite
    FROM required LEFT JOIN further USING (i)
), left_out AS (
    SELECT pid, i FROM reported WHERE ts IS NULL
    UNION ALL
    SELECT pid, i
    FROM instants, (
        SELECT pid FROM silent, bounds WHERE last_ts >= from_ - make_interval(days => {SILENT_DAYS})
        ORDER BY last_ts DESC LIMIT {SILENT_MAX}
    ) AS silent
    WHERE NOT is_pruned
)
"""


def _utc(column: LiteralString) -> LiteralString:
    """Return the SQL of the JSON of a timestamptz."""
    return f"""coalesce('"' || {utc_text(column)} || '"', 'null')"""


def _ranges(of: LiteralString, rows: LiteralString) -> LiteralString:
    """Return a query of the successive instants in `rows` as a JSON array of ranges, by a column."""
    return f"""
        SELECT {of}, string_agg(format('{{"first":%s,"last":%s}}', first, last), ',' ORDER BY first) AS gaps
        FROM (
            SELECT {of}, min(i) AS first, max(i) AS last
            FROM (SELECT {of}, i, i - row_number() OVER (PARTITION BY {of} ORDER BY i) AS range FROM {rows}) AS numbered
            GROUP BY {of}, range
        ) AS found GROUP BY {of}
    """


def _ledger(name: LiteralString) -> LiteralString:
    """Return the aggregate that writes the assets of a ledger as the fields of a JSON object."""
    return f"""string_agg(format('%s:[%s]', to_json(asset), amounts), ',' ORDER BY asset COLLATE "C")
        FILTER (WHERE ledger = '{name}') AS {name}"""


LINES: LiteralString = f"""
assets AS (
    SELECT DISTINCT line, ledger, asset
    FROM (
        SELECT line, 'onchain' AS ledger, jsonb_object_keys(onchain) AS asset FROM in_force
        UNION ALL
        SELECT line, 'onsite', jsonb_object_keys(onsite) FROM in_force
    ) AS found WHERE $3::text[] IS NULL
    UNION ALL
    SELECT DISTINCT line, split_part(name, '.', 1), substr(name, strpos(name, '.') + 1)
    FROM (SELECT DISTINCT line FROM in_force) AS lines, unnest($3::text[]) AS name
), of_assets AS (
    SELECT line, ledger, asset, string_agg(
        coalesce(CASE ledger WHEN 'onchain' THEN onchain ELSE onsite END ->> asset, 'null'), ',' ORDER BY i
    ) AS amounts
    FROM assets JOIN in_force USING (line) GROUP BY line, ledger, asset
), of_ledgers AS (
    SELECT line, {_ledger("onchain")}, {_ledger("onsite")} FROM of_assets GROUP BY line
), line_gaps AS (
    {_ranges("line", "in_force WHERE is_gap")}
), lines AS (
    SELECT line, string_agg({_utc("ts")}, ',' ORDER BY i) AS ts, string_agg(pids::text, ',' ORDER BY i) AS pids
    FROM in_force GROUP BY line
)
SELECT epoch, last_seq, pg_is_in_recovery(), (SELECT count(*) FROM senders),
       CASE WHEN are_few AND (SELECT count(*) FROM assets) <= $4::bigint THEN format(
    '{{"completeFrom":%s,"times":[%s],"lines":[%s],"leftOut":[%s],"epochs":[%s]}}',
    {_utc("complete_from")},
    (SELECT string_agg({_utc("at")}, ',' ORDER BY i) FROM instants),
    (SELECT string_agg(format(
        '{{"pid":%s,"ts":[%s],"onchain":{{%s}},"onsite":{{%s}},"gaps":[%s]%s}}',
        coalesce(nullif(line, -1)::text, 'null'), ts, onchain, onsite, gaps, ',"pids":[' || pids || ']'
    ), ',' ORDER BY line) FROM lines LEFT JOIN of_ledgers USING (line) LEFT JOIN line_gaps USING (line)),
    (SELECT string_agg(format('{{"pid":%s,"gaps":[%s]}}', pid, gaps), ',' ORDER BY pid)
     FROM ({_ranges("pid", "left_out")}) AS left_out),
    (SELECT string_agg(format(
        '{{"epoch":"%s","afterSeq":%s,"beganAt":%s}}', epoch, after_seq, {_utc("began_at")}
    ), ',' ORDER BY number) FROM balance_epoch
     WHERE number > 1 AND began_at BETWEEN (SELECT min(at) FROM instants) AND (SELECT max(at) FROM instants))
) END
FROM feed, few
"""

STATEMENTS: dict[Line, LiteralString] = {
    Line.ACCOUNT: f"WITH {ACCOUNT}, {NO_SUM}, {LINES}",
    Line.PIDS: f"WITH RECURSIVE {PIDS}, {NO_SUM}, {LINES}",
    Line.EACH: f"WITH RECURSIVE {EACH}, {NO_SUM}, {LINES}",
    Line.SUM: f"WITH RECURSIVE {SUM}, {LINES}",
}
