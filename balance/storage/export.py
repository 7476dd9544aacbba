"""Reads of an export: the snapshots of a feed in the order of `seq`, as the text that is sent.

PostgreSQL writes all rows of a page as one text, in NDJSON or CSV. No row is converted or encoded here, so that an
export costs this process little more than passing bytes on.

No cell of the CSV can be read as a formula by a spreadsheet (CWE-1236), which is one that begins with `=`, `+`, `-`,
`@`, a tab or CR: an id begins with a hexadecimal digit, `seq`, `ts`, `pid` and amounts begin with a digit, since no
amount is negative, and the names of assets are only in the header, behind `onchain.` or `onsite.`, and in `further`,
which begins with `{`. With `digits=text` an amount is `="1.5"` on purpose: the formula of a text of digits and a point.

Threads: every method blocks, borrows a connection for one page, and may be called from any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple

from psycopg import errors

from balance.position import Position
from balance.storage.errors import NO_FEED, DatabaseFault, StoreUnavailable
from balance.storage.pool import Pool
from balance.storage.timestamp_text import utc_text

PAGE_ROWS_MAX = 1000
PAGE_BYTES_MAX = 256 * 1024  # of the text of one page, but for its last row
SEQS_MAX = 65_536  # that are looked at for one page; most of them may be rejected by a filter or were pruned
FIXED_COLUMNS = ("onchain.rlb", "onchain.usdt", "onsite.rlb", "onsite.usd")  # docs/spec.md, Balance Data


class Selection(NamedTuple):
    """Which snapshots are exported, and how."""

    from_: datetime | None = None
    """Only those with this `ts` or a later one."""
    to: datetime | None = None
    """Only those with an earlier `ts`."""
    pids: Sequence[int] | None = None
    """Only those of these process ids; None for all."""
    is_csv: bool = False
    columns: Sequence[str] = ()
    """The assets with a column in CSV beside FIXED_COLUMNS, as `onchain.usdt`."""
    digits_are_text: bool = False


class ExportPage(NamedTuple):
    """The text of some snapshots."""

    last: int
    """The last seq that was looked at."""
    rows: int
    text: bytes


class ExportStore:
    """The reads."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def page(self, selection: Selection, after: int, head: Position) -> ExportPage:
        """Read the next selected snapshots after seq `after`, none after `head`; it may be none although more follow.

        Raises StoreUnavailable, also if the feed has another epoch than `head`.
        """
        until = min(after + SEQS_MAX, head.seq)
        rows = b"%d" % after, b"%d" % until, _time(selection.from_), _time(selection.to), _pids(selection.pids)
        with self._pool.connection() as session:
            if selection.is_csv:
                result = session.execute_prepared(b"export_csv", CSV_PAGE, *rows, *_csv_parameters(selection))
            else:
                result = session.execute_prepared(b"export_ndjson", NDJSON_PAGE, *rows)
            if not result.ntuples:
                raise DatabaseFault(NO_FEED)
            epoch, is_in_recovery, found, written, last, text = (result.get_value(0, column) for column in range(6))
            if is_in_recovery == b"t":
                raise errors.ReadOnlySqlTransaction("the server is in recovery")
        if epoch != head.epoch.encode():
            raise StoreUnavailable("the feed has a new epoch")
        count = int(written or 0)
        is_whole = found == written and count < PAGE_ROWS_MAX
        return ExportPage(until if is_whole else int(last or 0), count, text or b"")


def csv_header(selection: Selection) -> bytes:
    """Return the first line of the CSV of a selection."""
    return ",".join(["id", "seq", "ts", "pid", *FIXED_COLUMNS, *selection.columns, "further"]).encode() + b"\r\n"


def _csv_parameters(selection: Selection) -> tuple[bytes, ...]:
    """Return the parameters of CSV_PAGE beside those of every page."""
    columns = [column.split(".", 1) for column in selection.columns]
    every = [column.split(".", 1) for column in (*FIXED_COLUMNS, *selection.columns)]
    before, after = (b'"=""', b'"""') if selection.digits_are_text else (b"", b"")
    return (
        _array("t" if ledger == "onchain" else "f" for ledger, _ in columns),
        _array(asset for _, asset in columns),
        *(_array(asset for ledger, asset in every if ledger == name) for name in ("onchain", "onsite")),
        before,
        after,
    )


def _time(moment: datetime | None) -> bytes | None:
    return None if moment is None else moment.isoformat().encode()


def _pids(pids: Iterable[int] | None) -> bytes | None:
    return None if pids is None else _array(map(str, pids))


def _array(items: Iterable[str]) -> bytes:
    """Write an array for PostgreSQL; no name of an asset has a character that is escaped there."""
    return "{{{}}}".format(",".join([f'"{item}"' for item in items])).encode()


# $1, $2: only rows after the first and up to the second seq; $3, $4: the bounds of ts, or NULL; $5: the pids, or NULL.
PAGE_BEGIN: LiteralString = f"""
SELECT epoch, pg_is_in_recovery(), page.*
FROM balance_feed, (
    SELECT count(*), count(*) FILTER (WHERE bytes_before < {PAGE_BYTES_MAX}),
           max(seq) FILTER (WHERE bytes_before < {PAGE_BYTES_MAX}),
           string_agg(line, '' ORDER BY seq) FILTER (WHERE bytes_before < {PAGE_BYTES_MAX})
    FROM (
        SELECT seq, line,
               sum(octet_length(line)) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) - octet_length(line) AS bytes_before
        FROM (
            SELECT seq,
"""

PAGE_END: LiteralString = f"""
AS line
            FROM balance_snapshot
            WHERE seq > $1::bigint AND seq <= $2::bigint
              AND ($3::timestamptz IS NULL OR ts >= $3) AND ($4::timestamptz IS NULL OR ts < $4)
              AND ($5::bigint[] IS NULL OR pid = ANY ($5))
            ORDER BY seq LIMIT {PAGE_ROWS_MAX}
        ) AS row
    ) AS row
) AS page
WHERE only_row
"""

NDJSON_PAGE: LiteralString = rf"""
{PAGE_BEGIN} balance_snapshot_json(id, seq, ts, pid, onchain, onsite) || E'\n' {PAGE_END}
"""

# $6, $7: of each column that was asked for, whether it is of onchain, and its asset; $8, $9: the assets of each ledger
# that have a column; $10, $11: what is before and after each amount.
CSV_PAGE: LiteralString = rf"""
{PAGE_BEGIN}
concat(
    id, ',', seq, ',',
    {utc_text("ts")}, ',', pid, ',',
    $10::text || (onchain ->> 'rlb') || $11::text, ',', $10::text || (onchain ->> 'usdt') || $11::text, ',',
    $10::text || (onsite ->> 'rlb') || $11::text, ',', $10::text || (onsite ->> 'usd') || $11::text, ',',
    (
        SELECT string_agg(
            concat(
                $10::text || (CASE WHEN is_onchain THEN onchain ELSE onsite END ->> asset) || $11::text, ','
            ), '' ORDER BY number
        )
        FROM unnest($6::boolean[], $7::text[]) WITH ORDINALITY AS wanted (is_onchain, asset, number)
    ),
    -- RFC 4180, section 2: a cell with quotes in it is quoted, and each of them doubled.
    '"' || replace(replace(nullif(
        jsonb_strip_nulls(jsonb_build_object(
            'onchain', nullif(onchain - $8::text[], '{{}}'), 'onsite', nullif(onsite - $9::text[], '{{}}')
        ))::text, '{{}}'
    ), ' ', ''), '"', '""') || '"',
    E'\r\n'
)
{PAGE_END}
"""
