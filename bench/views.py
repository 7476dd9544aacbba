"""What a dashboard asks for, in a table of ten thousand rows and in one of ten million over the same thirty days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bench.clients import make_request, send_requests
from bench.report import Figure
from bench.table_size import measure_cost
from bench.targets import Target

ROWS_FEW = 10_000
DAYS = 30
PIDS = 50  # of the table
PID = 1_132_900
POINTS = 500
CONNECTIONS = 4
FLAT = 2  # times the cost in the small table: an index of ten million rows has twice as many levels


def fill_step_s(rows: int) -> float:
    """Return the seconds between two rows of which there are that many in the range."""
    return DAYS * 86_400 / rows


def views(small: str, large: str, rows: int, requests: int) -> list[Figure]:
    """Send the same requests to a service on each table; `rows` is the size of the large one.

    The limits are of what is asked for when a page opens, and of the sum over all pids. A series has 500 points.
    """
    to = datetime.now(UTC).replace(microsecond=0)
    range_ = f"points={POINTS}&from={_text(to - timedelta(days=DAYS))}&to={_text(to)}"
    # In the small table each pid reports every four hours.
    stale_s = int(2 * PIDS * fill_step_s(ROWS_FEW))
    figures: list[Figure] = []
    for name, path, ms_max in (
        ("latest of 50 pids", "/api/balance/latest", 20),
        ("first page", "/api/balance/snapshot?limit=100", 20),
        ("series, account", f"/api/balance/series?{range_}", 20),
        ("series, one pid", f"/api/balance/series?{range_}&pid={PID}", 20),
        ("series, sum of 50 pids", f"/api/balance/series?{range_}&sum=pid&stale_s={stale_s}", 100),
    ):

        def ask(target: Target, times: int, path: str = path) -> None:
            send_requests(target.port, [[make_request(path)] * (times // CONNECTIONS)] * CONNECTIONS, b"200")

        few, many = (measure_cost(url, ask, requests) for url in (small, large))
        size = f"{rows:.0e} rows".replace("e+0", "e")
        figures.append(Figure(f"{name}, {size}: in PostgreSQL", "ms", many.postgres / 1000, limit=f"≤ {ms_max}"))
        figures.append(Figure(f"{name}, {size}: CPU", "ms", many.cpu / 1000))
        figures.append(
            Figure(f"{name}, large / small: in PostgreSQL", "times", many.postgres / few.postgres, limit=f"≤ {FLAT}")
        )
    return figures


def _text(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
