"""`export`: write all snapshots, or some of them, as lines of JSON or as a table."""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import IO, Any

import protocol
from balance.commands.command import Command, CommandError, database, not_empty, print_result
from balance.config import Config
from balance.process.progress import progress_bar
from balance.process.stop_signals import StopSignals
from balance.storage.errors import StoreUnavailable
from balance.storage.export import Selection
from balance.storage.pool import Pool
from balance.storage.whole_file import whole_file
from balance.transfer.direct import export_snapshots
from balance.transfer.exporting import to_selection

STDOUT = "-"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command: those of the route, as flags."""
    parser.usage = "%(prog)s [FILE] [--format csv] [--from DATE] [--to DATE] [--pid PID] [settings]"
    parser.add_argument(
        "file", metavar="FILE", nargs="?", type=not_empty, default=STDOUT, help="file to write; - is stdout [-]"
    )
    parser.add_argument("--format", choices=("ndjson", "csv"), help="form of the file [ndjson]")
    parser.add_argument(
        "--from", metavar="DATE", type=not_empty, help="only snapshots with this ts or a later one (RFC 3339)"
    )
    parser.add_argument("--to", metavar="DATE", type=not_empty, help="only snapshots with an earlier ts")
    parser.add_argument("--pid", action="append", type=int, help="only snapshots of this process id; may be repeated")
    parser.add_argument(
        "--asset", action="append", type=not_empty, help="asset with a column in CSV, as onchain.usdt; may be repeated"
    )
    parser.add_argument("--digits", choices=("number", "text"), help="how amounts are written in CSV [number]")


def run(config: Config, arguments: Namespace, signals: StopSignals) -> int:
    """Write the file; print on stdout what it has, unless the snapshots are written there."""
    selection, name = selection_of(arguments), arguments.file
    with (
        database(config, signals) as (url, _postgres),
        unavailable_errors(),
        closing(open_pool(config, url)) as pool,
        progress_bar("written", " snapshots") as bar,
        written(name) as file,
    ):
        exported = export_snapshots(pool, selection, file.write, bar.show)
    if name != STDOUT:
        print_result(f"{name}: {exported.rows} snapshots up to seq {exported.last_seq}")
    return 0


def selection_of(arguments: Namespace) -> Selection:
    """Return what the flags select. Raises CommandError."""
    names = ("format", "from", "to", "pid", "asset", "digits")
    query: dict[str, Any] = {name: vars(arguments)[name] for name in names if vars(arguments)[name] is not None}
    try:
        return to_selection(query)
    except protocol.InvalidPayload as error:
        raise CommandError(f"--{(error.path or '').partition('.')[0]}: {error.reason}") from error


def open_pool(config: Config, url: str) -> Pool:
    """Connect to the database. Raises StoreUnavailable, DatabaseError and SchemaError."""
    logging.getLogger("balance.outage").setLevel(logging.ERROR)  # an outage is the one line of the command
    pool = Pool(
        url,
        pool_max=2,
        pool_wait_ms_max=config.pool_wait_ms_max,
        statement_ms_max=config.statement_ms_max,
    )
    pool.open()
    return pool


@contextmanager
def unavailable_errors() -> Iterator[None]:
    """Convert StoreUnavailable in the block to CommandError."""
    try:
        yield
    except StoreUnavailable as error:
        raise CommandError(str(error)) from error


@contextmanager
def written(name: str) -> Iterator[IO[bytes]]:
    """Open a file to write, or stdout, for the block. Raises CommandError if it cannot be written."""
    try:
        with _opened(name) as file:
            yield file
    except OSError as error:
        shown = "stdout" if name == STDOUT else name
        raise CommandError(f"{shown}: cannot be written: {error.strerror or error}") from error


def _opened(name: str) -> AbstractContextManager[IO[bytes]]:
    if name == STDOUT:
        if sys.stdout is None:  # the process was started without it
            raise OSError("it is closed")
        return os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    return whole_file(Path(name))


COMMAND = Command(
    "write all snapshots as lines of JSON or as CSV, while the service runs",
    run,
    "stopped, and no file was written",
    add_arguments,
)
