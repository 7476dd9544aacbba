"""`upgrade`: move the data of the embedded PostgreSQL to the major version of its programs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import balance
from balance.commands.backup import backup_errors
from balance.commands.command import Command, CommandError, not_empty, print_result
from balance.config import Config
from balance.process.progress import progress_bar
from balance.process.stop_signals import StopSignals
from balance.storage.upgrade import Reports, advice, upgrade, versions_of


def add_arguments(parser: ArgumentParser) -> None:
    """Add the argument of the command."""
    parser.usage = "%(prog)s --old-programs DIR [settings]"
    parser.add_argument(
        "--old-programs",
        metavar="DIR",
        type=not_empty,
        help="folder with the programs of the PostgreSQL that made the data",
    )


def run(config: Config, arguments: Namespace, signals: StopSignals) -> int:
    """Upgrade the data and print what was done."""
    if config.database_url:
        raise CommandError("upgrade is for the embedded PostgreSQL, and --database-url names another one")
    versions = versions_of(config.data_dir)
    if versions.old == versions.new:
        print_result(f"the data are of PostgreSQL {versions.old}, which is that of the programs")
        return 0
    if arguments.old_programs is None:
        raise CommandError(advice(versions))
    with (
        backup_errors(),
        progress_bar("read", " snapshots") as written,
        progress_bar("checked", "B") as checked,
        progress_bar("loaded", "B") as loaded,
        progress_bar("indexed", " indexes") as indexed,
    ):
        reports = Reports(written.show, checked.show, loaded.show, indexed.show)
        restored = upgrade(config.data_dir, Path(arguments.old_programs), balance.__version__, reports, signals.ignore)
    print_result(
        f"upgraded {restored.rows} snapshots from PostgreSQL {versions.old} to {versions.new}; the old data are in "
        f"{config.data_dir.absolute()}/postgresql.{versions.old}"
    )
    return 0


COMMAND = Command(
    "move the data of the embedded PostgreSQL to the major version that is installed",
    run,
    "stopped, and the data are as before",
    add_arguments,
)
