"""`migrate`: bring the database to the schema of this version."""

from __future__ import annotations

from argparse import Namespace

from balance.commands.command import Command, database, print_result
from balance.config import Config
from balance.process.stop_signals import StopSignals
from balance.storage.migrate import migrate


def run(config: Config, _arguments: Namespace, signals: StopSignals) -> int:
    """Bring the database to this version's schema and print what was done."""
    with database(config, signals, create=True) as (url, postgres):
        for name in migrate(url):
            print_result(f"applied {name}")
    print_result("the database is at this version" + (f": {postgres.location}" if postgres else ""))
    return 0


COMMAND = Command(
    "bring the database to the schema of this version", run, "stopped before the database was at this version"
)
