"""Run both servers in turn, the same work on each, and print what each took and the ratio.

python -m bench             five rounds, the full sizes
python -m bench --quick     three rounds, smaller: under two minutes
python -m bench --only save --rounds 1      one scenario, while working on it
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from balance.embedded import EmbeddedPostgres
from balance.migrate import migrate
from bench import scenarios
from bench.scenarios import Figure
from bench.sides import CORE_OF_LOAD, SIDES, Side, install_peer, pgbench, running, url_for

Scenario = Callable[[Side], list[Figure]]


def scenarios_of(quick: bool) -> dict[str, Scenario]:
    """The scenarios, by the names that --only takes, in the order in which they run."""
    part = 4 if quick else 1
    return {
        "memory": lambda side: scenarios.idling(side, 10_000 // part),
        "save": lambda side: scenarios.saving(side, 20_000 // part),
        "broadcast": lambda side: scenarios.broadcasting(side, 400 // part, 500, 4),
        "single": lambda side: scenarios.broadcasting(side, 200 // part, 500, 1),
        "last": lambda side: scenarios.last_of(side, 200 // part, 1_000),
        "post": lambda side: scenarios.posting(side, 6_400 // part, 64),
        "list": lambda side: scenarios.listing(side, 1_600 // part, 16),
    }


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="This service beside the Node server.")
    parser.add_argument("--quick", action="store_true", help="three rounds, smaller")
    parser.add_argument("--rounds", type=int, help="how often; the median counts [5, or 3 with --quick]")
    parser.add_argument("--only", nargs="*", metavar="SCENARIO", help=f"of {', '.join(scenarios_of(False))}")
    parser.add_argument("--side", choices=SIDES, help="measure only one")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (3 if arguments.quick else 5)
    every = scenarios_of(arguments.quick)
    picked = [every[name] for name in arguments.only or every]
    sides = [arguments.side] if arguments.side else list(SIDES)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {CORE_OF_LOAD})
    if "node" in sides:
        install_peer()
    with tempfile.TemporaryDirectory(prefix="balance-bench-") as folder:
        Path(folder).chmod(0o755)  # the system's user of the embedded PostgreSQL has to get in
        postgres = EmbeddedPostgres.start(Path(folder) / "data")
        try:
            single_inserts = pgbench(postgres.url)
            figures = [
                {side: measure(side, postgres.url, f"{side}_{number}", picked) for side in sides}
                for number in range(rounds)
            ]
        finally:
            postgres.stop()
    print_table(figures, single_inserts)
    return 0


def measure(name: str, postgres: str, database: str, picked: Sequence[Scenario]) -> list[Figure]:
    """Run every scenario on one server with an empty database."""
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(SQL("CREATE DATABASE {}").format(Identifier(database)))
    url = make_conninfo(postgres, dbname=database)
    migrate(url)
    with running(name, url_for(name, url)) as side:
        return [figure for scenario in picked for figure in scenario(side)]


def print_table(rounds: Sequence[Mapping[str, Sequence[Figure]]], single_inserts: float) -> None:
    """Print the median of each figure, the ratio, and what it was measured on."""
    sides = list(rounds[0])
    print(f"{'':44} {'unit':12} " + " ".join(f"{side:>10}" for side in sides) + "      ratio  wanted")
    for index, figure in enumerate(rounds[0][sides[0]]):
        values = {side: median(one[side][index].value for one in rounds) for side in sides}
        shown = " ".join(f"{value:10.1f}" for value in values.values())
        ratio = f"{values['ours'] / values['node']:10.2f}  {figure.goal}" if len(sides) > 1 else ""
        print(f"{figure.name:44} {figure.unit:12} {shown} {ratio}")
    print(f"{'pgbench, 16 clients: single-row INSERTs':44} {'rows/s':12} {single_inserts:10.1f}")
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("tornado", "python-socketio", "msgspec"))
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"\nmedian of {len(rounds)} rounds; server on one core, load and PostgreSQL on another")
    print(f"{cpu.partition(': ')[2]}, {os.cpu_count()} cores; Linux {platform.release()}")
    print(f"Python {platform.python_version()}, {libraries}; Node {node}")


if __name__ == "__main__":
    sys.exit(main())
