"""`import`: save the lines of an export, while the service runs or not."""

from __future__ import annotations

import os
import stat
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO

from balance.commands.command import Command, CommandError, database, not_empty, print_result
from balance.commands.export import open_pool, unavailable_errors
from balance.config import Config
from balance.process.progress import ProgressBar, progress_bar
from balance.process.stop_signals import StopSignals
from balance.storage.errors import StoreUnavailable
from balance.storage.store import Store
from balance.transfer.direct import import_snapshots
from balance.transfer.importing import ImportResult, Lines

STDIN = "-"
BLOCK_BYTES = 65_536


def add_arguments(parser: ArgumentParser) -> None:
    """Add the argument of the command."""
    parser.usage = "%(prog)s [FILE] [settings]"
    parser.add_argument(
        "file", metavar="FILE", nargs="?", type=not_empty, default=STDIN, help="file of lines; - is stdin [-]"
    )


def run(config: Config, arguments: Namespace, signals: StopSignals) -> int:
    """Save the lines; print the counts, and on stderr the first lines that were refused, which make the status 1."""
    result = ImportResult()
    with (
        read_errors(arguments.file),
        opened(arguments.file) as file,
        database(config, signals) as (url, _postgres),
        unavailable_errors(),
        closing(open_pool(config, url)) as pool,
        progress_bar("read", "B") as bar,
    ):
        store = Store(pool)
        store.open()
        try:
            import_snapshots(store, Lines(config.body_bytes_max), blocks(file, bar), result)
        except StoreUnavailable as error:
            raise CommandError(f"{error}: {counts(result)}; import the same again, which is safe") from error
    print_result(counts(result))
    for number, code, text in result.errors:
        print(f"line {number}: {code}: {text}", file=sys.stderr)
    return 1 if result.refused else 0


def counts(result: ImportResult) -> str:
    """Write the counts of an import."""
    return f"{result.lines} lines: {result.saved} saved, {result.duplicates} saved before, {result.refused} refused"


@contextmanager
def read_errors(name: str) -> Iterator[None]:
    """Convert OSError in the block to CommandError."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{name}: cannot be read: {error.strerror or error}") from error


def opened(name: str) -> IO[bytes]:
    """Open a file, or stdin. Raises OSError."""
    if name != STDIN:
        return open(name, "rb")
    if sys.stdin is None:  # the process was started without it
        raise OSError("it is closed")
    return os.fdopen(os.dup(sys.stdin.fileno()), "rb")


def blocks(file: IO[bytes], bar: ProgressBar) -> Iterator[bytes]:
    """Yield a file in blocks, and show how much of it was read."""
    status = os.fstat(file.fileno())
    total = status.st_size if stat.S_ISREG(status.st_mode) else 0
    done = 0
    while block := file.read(BLOCK_BYTES):
        yield block
        done += len(block)
        bar.show(done, total)


COMMAND = Command(
    "save the snapshots of an export, while the service runs or not",
    run,
    "stopped; what is saved stays saved, and to import the same again is safe",
    add_arguments,
)
