"""The benchmark runs, prints what it measured, and marks missed goals. A short run represents the long one."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from functools import partial

import psycopg
import pytest

from bench import pruning, table_size
from bench.report import Figure, to_lines
from bench.scale import DELIVERY, compare_to_floor
from bench.table_size import make_database
from tests.support import scratch
from tests.support.repository import ROOT

two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the server and the load each need a core")
SCENARIOS = ("save", "alone", "bots", "list", "delivery")
TIMES = 40


@pytest.fixture
def names(postgres: str) -> Iterator[Callable[[str], str]]:
    """Return names for databases, which are dropped after the test."""
    made = []

    def name(prefix: str) -> str:
        made.append(f"{prefix}_{uuid.uuid4().hex}")
        return made[-1]

    yield name
    with psycopg.connect(postgres, autocommit=True) as admin:
        for one in made:
            admin.execute(f"DROP DATABASE IF EXISTS {one} WITH (FORCE)".encode())


@two_cores
def test_a_run_measures_its_scenarios_and_prints_a_line_for_each_figure() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--rounds", "1", "--target", "ours", "floor", "--only", *SCENARIOS],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": scratch.parent()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for name, unit in (
        ("save, 128 in flight: CPU", "µs/update"),
        ("save, 128 in flight: rate", "updates/s"),
        ("saves per INSERT of pgbench", "times"),
        ("alone, by Socket.IO: CPU", "µs/update"),
        ("alone, by Socket.IO: p50", "µs"),
        ("alone, by POST: CPU", "µs/update"),
        ("alone, by POST: p50", "µs"),
        ("2 bots, each one in flight: time", "µs/update"),
        ("5 bots, each one in flight: time", "µs/update"),
        ("20 bots, each one in flight: time", "µs/update"),
        ("GET of the latest 100: rate", "requests/s"),
        ("one delivery, 100 to 500 watchers: CPU", "µs"),
        ("growth of a delivery, less that of a bare send", "times"),
        ("one update to the last of 500 watchers: median", "ms"),
        ("pgbench, 16 clients: single-row INSERTs", "rows/s"),
    ):
        (line,) = [line for line in lines if line.startswith(name)]
        assert float(line.split(f" {unit} ")[1].split()[0]) > 0


@two_cores
def test_the_cost_of_a_save_in_a_table_is_measured(postgres: str, names: Callable[[str], str]) -> None:
    url = make_database(postgres, names("sized"), 100)
    cost = table_size.measure_cost(url, partial(table_size._save, make_id=lambda: None), TIMES)
    assert min(cost.cpu, cost.postgres) > 0


def test_each_work_is_done_on_the_small_table_and_on_the_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure_cost(url: str, _work: object, times: int) -> table_size.Cost:
        asked.append((url, times))
        return table_size.Cost(2.0, 4.0) if url == "large" else table_size.Cost(1.0, 1.0)

    monkeypatch.setattr(table_size, "measure_cost", measure_cost)
    figures = {one.name: one.value for one in table_size.table_size("small", "large", 100_000, 240, 16)}
    assert asked == [("small", 16), ("large", 16), *[("small", 240), ("large", 240)] * 3]
    assert figures["first page, 100 rows: in PostgreSQL"] == 1.0
    assert figures["save, 1e5 rows: in PostgreSQL"] == 4.0
    assert figures["save, large / small: CPU"] == 2.0


@two_cores
def test_saves_beside_a_run_of_prune_are_measured(
    postgres: str, names: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "TURNS", 1)
    figures = pruning.prune(make_database(postgres, names("pruned"), 60_000), 60_000, 0.3)
    assert [figure.name for figure in figures][:2] == ["prune of 6e4 rows: deleted", "save, 6e4 rows, quiet: p50"]
    assert all(figure.value > 0 for figure in figures)


def test_each_figure_is_the_median_of_the_rounds_and_shows_whether_its_goal_is_met() -> None:
    rounds = [
        {
            "ours": [Figure("a", "ms", ours, goal="≤ 0.5"), Figure("b", "KiB", ours, limit="≤ 25")],
            "node": [Figure("a", "ms", 100.0, goal="≤ 0.5"), Figure("c", "/s", 7.0, goal="≥ 3")],
        }
        for ours in (10.0, 30.0, 900.0)
    ]
    assert [line.split() for line in to_lines(rounds)[1:]] == [
        ["a", "ms", "30.0", "100.0", "0.30", "ratio", "≤", "0.5", "ok"],
        ["b", "KiB", "30.0", "≤", "25", "missed"],
        ["c", "/s", "7.00", "ratio", "≥", "3"],
    ]


def test_a_delivery_is_flat_when_it_grows_by_no_more_than_a_bare_send() -> None:
    def growth(ours: list[float], floor: list[float]) -> float:
        targets = ([Figure(f"{DELIVERY}{step}", "µs", cost) for step, cost in enumerate(one)] for one in (ours, floor))
        (figure,) = compare_to_floor(*targets, quick=False)
        return figure.value

    assert growth([8.0, 9.0, 10.0], [4.0, 4.0, 6.0]) == 1.125
    assert growth([8.0, 12.0, 10.0], [4.0, 4.0, 6.0]) == 1.5
    assert growth([8.0, 8.0, 12.0], [4.0, 4.0, 8.0]) == 1.0


def test_no_ratio_is_printed_where_only_one_target_was_measured() -> None:
    lines = [line.split() for line in to_lines([{"ours": [Figure("a", "ms", 10.0, goal="≥ 0.5")]}])[1:]]
    assert lines == [["a", "ms", "10.0", "ratio", "≥", "0.5"]]
