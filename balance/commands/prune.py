"""`prune`: delete the snapshots that are older than a limit, while the service runs or not."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime

from balance.commands.command import Command, CommandError, database, not_empty, print_result
from balance.config import Config
from balance.process.progress import progress_bar
from balance.process.stop_signals import StopSignals
from balance.storage.retention import Progress, Pruning


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.usage = "%(prog)s (--before DATE | --keep 90d) [--dry-run] [settings]"
    parser.add_argument(
        "--before", metavar="DATE", type=not_empty, help="delete what was received before this date or moment (UTC)"
    )
    parser.add_argument("--dry-run", action="store_true", help="delete nothing, and print what would be deleted")


def run(config: Config, arguments: Namespace, signals: StopSignals) -> int:
    """Delete old snapshots and print how many; with `--dry-run`, only count them."""
    before = limit_of(config, arguments.before)
    with database(config, signals) as (url, _postgres), progress_bar("looked at", " snapshots") as bar:
        pruning = Pruning(url, before, dry_run=arguments.dry_run)

        def report(progress: Progress) -> None:
            bar.show(progress.looked_at, progress.last)

        pruned = pruning.run(report)
    moment = before.isoformat(timespec="seconds")
    if arguments.dry_run:
        print_result(f"would delete {pruned.pruned} of {pruned.total} snapshots, those received before {moment}")
    else:
        print_result(
            f"deleted {pruned.pruned} of {pruned.total} snapshots, those received before {moment}; "
            f"the feed begins at seq {pruned.first}"
        )
    return 0


def limit_of(config: Config, before: str | None) -> datetime:
    """Return the moment before which snapshots are deleted; `before` precedes the setting. Raises CommandError.

    The setting from a variable or a file is that of the service; as a flag beside `before` it is a second limit.
    """
    if before is not None:
        if config.sources["keep"].startswith("flag"):
            raise CommandError("prune: --before and --keep are two limits: leave one of them out")
        return parse_moment(before)
    if config.keep_time is None:
        raise CommandError("prune needs --before DATE, or --keep with a time such as 90d")
    return datetime.now(UTC) - config.keep_time


def parse_moment(text: str) -> datetime:
    """Read a date, which begins at 00:00 UTC, or a moment with its zone; it is not in the future."""
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        raise CommandError(f"--before: {text!r} is not a date such as 2025-08-01 or 2025-08-01T12:00:00Z") from None
    if moment.tzinfo is None:
        if "T" in text.upper() or " " in text:
            raise CommandError(f"--before: {text!r} has no zone: append Z for UTC")
        moment = moment.replace(tzinfo=UTC)
    if moment > datetime.now(UTC):
        raise CommandError(f"--before: {text!r} is in the future")
    return moment.astimezone(UTC)


COMMAND = Command(
    "delete old snapshots; the last one of each pid is kept",
    run,
    "stopped; what is deleted already stays deleted, and the next run goes on",
    add_arguments,
)
