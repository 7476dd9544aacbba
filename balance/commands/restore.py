"""`restore`: fill an empty database from a backup, or replace the tables of one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from balance.commands.backup import backup_errors
from balance.commands.command import Command, database, not_empty, print_result
from balance.config import Config
from balance.process.progress import progress_bar
from balance.process.stop_signals import StopSignals
from balance.storage.restore import check_backup, restore


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.usage = "%(prog)s FILE [--replace] [settings]"
    parser.add_argument("file", metavar="FILE", type=not_empty, help="file that `backup` has written")
    parser.add_argument(
        "--replace", action="store_true", help="move the tables that are there to another schema of the database"
    )


def run(config: Config, arguments: Namespace, signals: StopSignals) -> int:
    """Restore the backup and print where the feed ends."""
    with backup_errors():
        with progress_bar("checked", "B") as checked:
            backup = check_backup(Path(arguments.file), checked.show)
        with (
            database(config, signals, create=True, restoring=True) as (url, postgres),  # made only for a good file
            progress_bar("loaded", "B") as loaded,
            progress_bar("indexed", " indexes") as indexed,
        ):
            # One that was killed after its commit has left its tables.
            replace = arguments.replace or (postgres is not None and postgres.is_being_restored)
            restored = restore(url, backup, replace=replace, report_load=loaded.show, report_index=indexed.show)
            if postgres is not None:
                postgres.end_restore()
    epoch, seq = restored.position
    print_result(f"restored {restored.rows} snapshots; epoch {epoch} begins after seq {seq}")
    if restored.aside is not None:
        print_result(f"the tables of before are in schema {restored.aside}")
    return 0


COMMAND = Command(
    "fill an empty database from a backup, or with --replace another one",
    run,
    "stopped, and nothing was changed; a new data directory is for another restore only",
    add_arguments,
)
