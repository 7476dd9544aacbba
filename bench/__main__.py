"""Run the targets in turn, with the same work on each, and print what each used and the ratio.

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
from functools import partial
from importlib.metadata import version
from pathlib import Path

from balance.storage.embedded import EmbeddedPostgres
from bench import feed, polls, pruning, scale, scenarios, views
from bench.report import BEFORE, FLOOR, NODE, OURS, Figure, Round, to_lines
from bench.table_size import ROWS_FEW, make_database, table_size
from bench.targets import EARLIER, LOAD_CORE, Target, install_peer, make_earlier_database, pgbench, running, url_for
from bench.transfer import transfer

Scenario = Callable[[Target], list[Figure]]
TARGETS = (OURS, NODE, FLOOR)
# Beside the scenarios, since they have databases and servers of their own.
TABLE_SIZE, FEED, PRUNE, VIEWS, TRANSFER = "table-size", "feed", "prune", "views", "transfer"


def service_scenarios(quick: bool) -> dict[str, Scenario]:
    """Return the scenarios of the services, by the names that --only accepts, in the order in which they run."""
    part = 4 if quick else 1
    return {
        "memory": lambda target: scale.idle_memory(target, 1_250 if quick else 10_000),
        "save": lambda target: scenarios.save(target, 20_000 // part),
        "alone": lambda target: scenarios.alone(target, 2_400 // part),
        "bots": lambda target: scenarios.bots(target, 2_400 // part),
        "broadcast": lambda target: scenarios.broadcast(target, 400 // part, 500, 4),
        "broadcast-one": lambda target: scenarios.broadcast(target, 200 // part, 500, 1),
        "last-delivery": lambda target: scenarios.last_delivery_latency(target, 200 // part, 1_000),
        "post": lambda target: scenarios.post(target, 6_400 // part, 64),
        "list": lambda target: scenarios.list_latest(target, 1_600 // part, 16),
    }


def common_scenarios(quick: bool) -> dict[str, Scenario]:
    """Return the scenarios of every target."""
    steps, deliveries = ((10, 100, 500), 4_000) if quick else ((10, 100, 1_000, 10_000), 200_000)
    return {"delivery": lambda target: scale.delivery(target, steps, deliveries)}


def main() -> int:
    """Measure, and print the table."""
    arguments = parse_arguments()
    targets = arguments.target or TARGETS
    if arguments.before is not None:
        os.environ[EARLIER] = str(arguments.before.resolve())
        targets = OURS, BEFORE
    rounds = arguments.rounds or (3 if arguments.quick else 5)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {LOAD_CORE})
    if NODE in targets:
        install_peer()
    with tempfile.TemporaryDirectory(prefix="balance-bench-") as folder:
        Path(folder).chmod(0o755)  # the system's user of the embedded PostgreSQL must be able to enter it
        with EmbeddedPostgres.start(Path(folder) / "data") as postgres:
            single_inserts = pgbench(postgres.url, 2 if arguments.quick else 5)
            measured = measure(postgres.url, targets, arguments.only, rounds, arguments.quick)
            if VIEWS in arguments.only and OURS in targets:
                measured[0].setdefault(OURS, []).extend(measure_views(postgres.url, arguments.rows, arguments.quick))
            if PRUNE in arguments.only and OURS in targets:
                measured[0].setdefault(OURS, []).extend(measure_prune(postgres.url, arguments.rows, arguments.quick))
    for one in measured:
        if OURS in one:
            one[OURS] += scenarios.compare_to_pgbench(one[OURS], single_inserts)
        if {OURS, FLOOR} <= one.keys():
            one[OURS] += scale.compare_to_floor(one[OURS], one[FLOOR], quick=arguments.quick)
    print("\n".join(to_lines(measured)))
    print(f"{'pgbench, 16 clients: single-row INSERTs':50} {'rows/s':10} {single_inserts:10.1f}")
    print(f"\nmedian of {rounds} rounds; server on one core, load and PostgreSQL on another")
    if arguments.quick:
        print("--quick: fewer watchers and rows than the goals are for; the full run measures those")
    print_machine()
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line; `only` is the list of scenarios to run."""
    names = [*service_scenarios(False), *common_scenarios(False), TABLE_SIZE, FEED, PRUNE, VIEWS, TRANSFER]
    parser = argparse.ArgumentParser(prog="python -m bench", description="This service beside the Node server.")
    parser.add_argument("--quick", action="store_true", help="three rounds, smaller")
    parser.add_argument("--rounds", type=int, help="how many, of which the median counts [5, or 3 with --quick]")
    parser.add_argument(
        "--only", nargs="*", metavar="SCENARIO", choices=names, default=names, help=f"of {', '.join(names)}"
    )
    parser.add_argument(
        "--rows", type=int, help="of the tables of prune and of views [10000000, or 1000000 with --quick]"
    )
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="measure beside an earlier version, not Node")
    parser.add_argument("--target", nargs="*", choices=TARGETS, help="measure only these")
    return parser.parse_args()


def measure(postgres: str, targets: Sequence[str], only: Sequence[str], rounds: int, quick: bool) -> list[Round]:
    """Run the scenarios on each target in turn, each time on an empty database; TABLE_SIZE with --quick only once."""
    many, counts = (100_000, (2_000, 240)) if quick else (10_000_000, (20_000, 1_600))
    large = make_database(postgres, "large", many) if TABLE_SIZE in only and OURS in targets else None
    measured = []
    for number in range(rounds):
        one: Round = {}
        for name in targets:
            every = common_scenarios(quick) if name == FLOOR else service_scenarios(quick) | common_scenarios(quick)
            if wanted := [scenario for key, scenario in every.items() if key in only]:
                make = make_earlier_database if name == BEFORE else partial(make_database, rows=0)
                database = "" if name == FLOOR else url_for(name, make(postgres, f"{name}_{number}"))
                with running(name, database) as target:
                    one[name] = [figure for scenario in wanted for figure in scenario(target)]
        if large is not None and (not quick or number == 0):
            small = make_database(postgres, f"small_{number}", ROWS_FEW)
            one[OURS] = one.get(OURS, []) + table_size(small, large, many, *counts)
        if FEED in only and OURS in targets:
            one[OURS] = one.get(OURS, []) + measure_feed(postgres, number, quick=quick)
        if TRANSFER in only and OURS in targets:
            rows = 100_000 if quick else 1_000_000
            databases = [
                make_database(postgres, f"transfer_{name}_{number}", rows if name == "full" else 0)
                for name in ("full", "empty", "busy", "copied")
            ]
            one[OURS] = one.get(OURS, []) + transfer(*databases, rows)
        measured.append(one)
    return measured


def measure_feed(postgres: str, number: int, *, quick: bool) -> list[Figure]:
    """Run the scenarios of `feed`, on a table of its own."""
    rows, clients, saves = (100_000, 200, 40) if quick else (1_000_000, 1_000, 200)
    database = make_database(postgres, f"feed_{number}", rows)
    return [
        *feed.replay(database, rows),
        *feed.come_back(database, clients),
        *feed.streams(make_database(postgres, f"streams_{number}", 0), 1_250 if quick else 10_000, (100, 1_000), saves),
        *feed.two_processes(make_database(postgres, f"two_{number}", 0), saves),
        *polls.beside_polls(make_database(postgres, f"polls_{number}", 0), clients // 2),
    ]


def measure_prune(postgres: str, rows: int | None, quick: bool) -> list[Figure]:
    """Run the scenario of `pruning` once, since it has turns of its own, on a table of its own."""
    rows = rows or (1_000_000 if quick else 10_000_000)
    return pruning.prune(make_database(postgres, "pruned", rows), rows, 5.0 if quick else 20.0)


def measure_views(postgres: str, rows: int | None, quick: bool) -> list[Figure]:
    """Run the scenario of `views` once, on tables of its own, of which the large one takes the longest to fill."""
    rows = rows or (1_000_000 if quick else 10_000_000)
    small, large = (
        make_database(postgres, f"views_{size}", size, views.fill_step_s(size)) for size in (views.ROWS_FEW, rows)
    )
    return views.views(small, large, rows, 200 if quick else 400)


def print_machine() -> None:
    """Print what it was measured on."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("tornado", "python-socketio", "msgspec"))
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{cpu.partition(': ')[2]}, {os.cpu_count()} cores; Linux {platform.release()}")
    print(f"Python {platform.python_version()}, {libraries}; Node {node}")


if __name__ == "__main__":
    sys.exit(main())
