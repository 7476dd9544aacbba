"""The benchmark runs, and what it prints is what it measured: the short run of one side stands for the long one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.running import ROOT


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the server and the load each need a core")
def test_it_measures_what_was_done_and_prints_a_line_for_each_figure() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--rounds", "1", "--side", "ours", "--only", "save", "list"],
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
        ("GET of the latest 100: rate", "requests/s"),
        ("pgbench, 16 clients: single-row INSERTs", "rows/s"),
    ):
        (line,) = [line for line in lines if line.startswith(name)]
        assert float(line.split(unit)[1]) > 0
