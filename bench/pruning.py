"""What pruning a large table costs a bot that saves meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from statistics import median

import psycopg

from bench.report import OURS, Figure
from bench.saver import p99, saving
from bench.targets import LOAD_CORE, ROOT, running

TURNS = 3  # of a quiet time and one with a run, so that both have what else the machine does
START_S_MAX = 60.0
PRUNED = "SELECT pruned FROM balance_feed"


def prune(database: str, rows: int, turn_s: float) -> list[Figure]:
    """Save one update at a time, in turn while nothing else happens and while `server.py prune` deletes old rows.

    No run comes to its end: half of the table is old, which is more than is deleted in all turns.
    """
    before = datetime.now(UTC) - timedelta(seconds=rows / 2)  # the table has a row for each second
    quiet, busy, deleted = [], [], 0
    with running(OURS, database) as target, saving(target.port) as stop:
        for _ in range(TURNS):
            quiet.append(_wait(turn_s))
            with _pruning(database, before):
                first = _pruned(database)
                busy.append(_wait(turn_s))
                deleted += _pruned(database) - first
        saves = stop()
    still, meanwhile = (_within(saves, turns) for turns in (quiet, busy))
    size = f"{rows:.0e}".replace("e+0", "e")
    return [
        Figure(f"prune of {size} rows: deleted", "rows/s", deleted / TURNS / turn_s),
        Figure(f"save, {size} rows, quiet: p50", "ms", median(still) * 1e3),
        Figure(f"save, {size} rows, quiet: p99", "ms", p99(still) * 1e3),
        Figure(f"save, {size} rows, during prune: p50", "ms", median(meanwhile) * 1e3),
        Figure(f"save, {size} rows, during prune: p99", "ms", p99(meanwhile) * 1e3),
        Figure("save, during prune / quiet: p50", "times", median(meanwhile) / median(still), limit="≤ 1.5"),
        Figure("save, during prune / quiet: p99", "times", p99(meanwhile) / p99(still), limit="≤ 2"),
    ]


@contextmanager
def _pruning(database: str, before: datetime) -> Iterator[None]:
    """Run the command in the block, from its first deleted batch on."""
    first = _pruned(database)
    process = subprocess.Popen(
        ["taskset", "-c", str(LOAD_CORE), sys.executable, ROOT / "server.py", "prune", "--before", before.isoformat()],
        env={**os.environ, "DATABASE_URL": database},
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_S_MAX
        while _pruned(database) == first and time.monotonic() < deadline:
            time.sleep(0.1)
        yield
        if process.poll() is not None:
            raise RuntimeError("the run ended before the turn did: the table has too few old rows")
    finally:
        process.kill()
        process.wait()


def _wait(seconds: float) -> tuple[float, float]:
    """Wait; return when that began and ended."""
    began = time.perf_counter()
    time.sleep(seconds)
    return began, time.perf_counter()


def _within(saves: Sequence[tuple[float, float]], turns: Sequence[tuple[float, float]]) -> list[float]:
    return [took for at, took in saves if any(began <= at < ended for began, ended in turns)]


def _pruned(database: str) -> int:
    with psycopg.connect(database, autocommit=True) as connection:
        row = connection.execute(PRUNED).fetchone()
    assert row is not None
    return int(row[0])
