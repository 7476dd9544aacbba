"""The benchmark runs, prints what it measured, and says what was missed: one short run stands for the long one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.report import Figure, lines
from bench.scale import DELIVERY, beside_bare
from tests.support.paths import ROOT

WITHOUT_NODE = ("--quick", "--rounds", "1", "--side", "ours", "bare")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the server and the load each need a core")
def test_it_measures_what_was_done_and_prints_a_line_for_each_figure() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *WITHOUT_NODE, "--only", "save", "list", "delivery"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for name, unit in (
        ("save, 128 in flight: CPU", "µs/update"),
        ("save, 128 in flight: rate", "updates/s"),
        ("saves to each INSERT of pgbench", "times"),
        ("GET of the latest 100: rate", "requests/s"),
        ("one delivery, 100 to 500 watchers: CPU", "µs"),
        ("growth of a delivery, less that of a bare send", "times"),
        ("one update to the last of 500 watchers: median", "ms"),
        ("pgbench, 16 clients: single-row INSERTs", "rows/s"),
    ):
        (line,) = [line for line in lines if line.startswith(name)]
        assert float(line.split(f" {unit} ")[1].split()[0]) > 0


def test_each_figure_is_the_median_and_says_whether_what_is_wanted_is_reached() -> None:
    rounds = [
        {
            "ours": [Figure("a", "ms", ours, goal="≤ 0.5"), Figure("b", "KiB", ours, limit="≤ 25")],
            "node": [Figure("a", "ms", 100.0, goal="≤ 0.5"), Figure("c", "/s", 7.0, goal="≥ 3")],
        }
        for ours in (10.0, 30.0, 900.0)
    ]
    told = [line.split() for line in lines(rounds)[1:]]
    assert told == [
        ["a", "ms", "30.0", "100.0", "0.30", "ratio", "≤", "0.5", "ok"],
        ["b", "KiB", "30.0", "≤", "25", "missed"],
        ["c", "/s", "7.00", "ratio", "≥", "3"],
    ]


def test_a_delivery_is_flat_when_it_grows_by_no_more_than_a_bare_send() -> None:
    def growth(ours: list[float], bare: list[float]) -> float:
        sides = ([Figure(f"{DELIVERY}{step}", "µs", cost) for step, cost in enumerate(side)] for side in (ours, bare))
        (figure,) = beside_bare(*sides, quick=False)
        return figure.value

    assert growth([8.0, 9.0, 10.0], [4.0, 4.0, 6.0]) == 1.125
    assert growth([8.0, 12.0, 10.0], [4.0, 4.0, 6.0]) == 1.5
    assert growth([8.0, 8.0, 12.0], [4.0, 4.0, 8.0]) == 1.0


def test_of_one_side_alone_no_ratio_is_told() -> None:
    told = [line.split() for line in lines([{"ours": [Figure("a", "ms", 10.0, goal="≥ 0.5")]}])[1:]]
    assert told == [["a", "ms", "10.0", "ratio", "≥", "0.5"]]
