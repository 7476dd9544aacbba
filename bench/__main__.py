"""Run the servers in turn, the same work on each, and print what each took and the ratio.

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
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from balance.storage.embedded import EmbeddedPostgres
from bench import rows, scale, scenarios
from bench.report import BARE, NODE, OURS, Figure, Round, lines
from bench.rows import ROWS_FEW
from bench.sides import CORE_OF_LOAD, Side, install_peer, pgbench, running, url_for

Scenario = Callable[[Side], list[Figure]]
SIDES = (OURS, NODE, BARE)
ROWS = "rows"  # stands beside the scenarios, since it has tables of its own


def work_of(quick: bool) -> dict[str, Scenario]:
    """The scenarios of the services, by the names that --only takes, in the order in which they run."""
    part = 4 if quick else 1
    return {
        "memory": lambda side: scale.idling(side, 1_250 if quick else 10_000),
        "save": lambda side: scenarios.saving(side, 20_000 // part),
        "broadcast": lambda side: scenarios.broadcasting(side, 400 // part, 500, 4),
        "single": lambda side: scenarios.broadcasting(side, 200 // part, 500, 1),
        "last": lambda side: scenarios.last_of(side, 200 // part, 1_000),
        "post": lambda side: scenarios.posting(side, 6_400 // part, 64),
        "list": lambda side: scenarios.listing(side, 1_600 // part, 16),
    }


def delivery_of(quick: bool) -> dict[str, Scenario]:
    """The scenarios of every side."""
    steps, deliveries = ((10, 100, 500), 10_000) if quick else ((10, 100, 1_000, 10_000), 200_000)
    return {"delivery": lambda side: scale.delivering(side, steps, deliveries)}


def main() -> int:
    """Measure, and print the table."""
    names = [*work_of(False), *delivery_of(False), ROWS]
    parser = argparse.ArgumentParser(prog="python -m bench", description="This service beside the Node server.")
    parser.add_argument("--quick", action="store_true", help="three rounds, smaller")
    parser.add_argument("--rounds", type=int, help="how often; the median counts [5, or 3 with --quick]")
    parser.add_argument("--only", nargs="*", metavar="SCENARIO", choices=names, help=f"of {', '.join(names)}")
    parser.add_argument("--side", nargs="*", choices=SIDES, help="measure only these")
    arguments = parser.parse_args()
    picked = arguments.only or names
    sides = arguments.side or SIDES
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {CORE_OF_LOAD})
    if NODE in sides:
        install_peer()
    with tempfile.TemporaryDirectory(prefix="balance-bench-") as folder:
        Path(folder).chmod(0o755)  # the system's user of the embedded PostgreSQL has to get in
        with EmbeddedPostgres.start(Path(folder) / "data") as postgres:
            single_inserts = pgbench(postgres.url, 2 if arguments.quick else 5)
            rounds = arguments.rounds or (3 if arguments.quick else 5)
            measured = measure(postgres.url, sides, picked, rounds, arguments.quick)
    for one in measured:
        if OURS in one:
            one[OURS] += scenarios.beside_pgbench(one[OURS], single_inserts)
        if {OURS, BARE} <= one.keys():
            one[OURS] += scale.beside_bare(one[OURS], one[BARE], quick=arguments.quick)
    print("\n".join(lines(measured)))
    print(f"{'pgbench, 16 clients: single-row INSERTs':50} {'rows/s':10} {single_inserts:10.1f}")
    print(f"\nmedian of {rounds} rounds; server on one core, load and PostgreSQL on another")
    if arguments.quick:
        print("--quick: fewer watchers and rows than are promised; what is promised of them the full run measures")
    print_machine()
    return 0


def measure(postgres: str, sides: Sequence[str], picked: Sequence[str], rounds: int, quick: bool) -> list[Round]:
    """Run what was picked on each server in turn, each time with an empty database; ROWS with --quick only once."""
    many, sizes = (100_000, (2_000, 240)) if quick else (10_000_000, (20_000, 1_600))
    large = rows.make(postgres, "large", many) if ROWS in picked and OURS in sides else None
    measured = []
    for number in range(rounds):
        one: Round = {}
        for name in sides:
            every = delivery_of(quick) if name == BARE else work_of(quick) | delivery_of(quick)
            if wanted := [scenario for key, scenario in every.items() if key in picked]:
                database = "" if name == BARE else url_for(name, rows.make(postgres, f"{name}_{number}", 0))
                with running(name, database) as side:
                    one[name] = [figure for scenario in wanted for figure in scenario(side)]
        if large is not None and (not quick or number == 0):
            small = rows.make(postgres, f"small_{number}", ROWS_FEW)
            one[OURS] = one.get(OURS, []) + rows.growing(small, large, many, *sizes)
        measured.append(one)
    return measured


def print_machine() -> None:
    """Say what it was measured on."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("tornado", "python-socketio", "msgspec"))
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{cpu.partition(': ')[2]}, {os.cpu_count()} cores; Linux {platform.release()}")
    print(f"Python {platform.python_version()}, {libraries}; Node {node}")


if __name__ == "__main__":
    sys.exit(main())
