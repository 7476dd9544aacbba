"""`backup`: write all snapshots to one file, while the service runs or not."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import balance
from balance.commands.command import Command, CommandError, database, not_empty, print_result
from balance.config import Config
from balance.process.progress import progress_bar
from balance.process.stop_signals import StopSignals
from balance.storage.backup import back_up
from balance.storage.backup_file import BackupError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the argument of the command."""
    parser.usage = "%(prog)s FILE [settings]"
    parser.add_argument("file", metavar="FILE", type=not_empty, help="file of the backup; an older one is replaced")


@contextmanager
def backup_errors() -> Iterator[None]:
    """Convert BackupError in the block to CommandError."""
    try:
        yield
    except BackupError as error:
        raise CommandError(str(error)) from error


def run(config: Config, arguments: Namespace, signals: StopSignals) -> int:
    """Write the backup and print what it has."""
    path = Path(arguments.file)
    with backup_errors(), database(config, signals) as (url, _postgres), progress_bar("written", " snapshots") as bar:
        header = back_up(url, path, balance.__version__, bar.show)
    size = path.stat().st_size
    print_result(f"{path}: {header.rows} snapshots up to seq {header.last_seq}, {size} bytes")
    return 0


COMMAND = Command(
    "write all snapshots to one file, while the service runs",
    run,
    "stopped, and no backup was written",
    add_arguments,
)
