"""`new-epoch`: begin a new epoch of the feed, after a dump or a copy of a volume was restored."""

from __future__ import annotations

from argparse import Namespace

from balance.commands.command import Command, database, print_result
from balance.config import Config
from balance.process.stop_signals import StopSignals
from balance.storage.epochs import begin_epoch


def run(config: Config, _arguments: Namespace, signals: StopSignals) -> int:
    """Begin a new epoch of the feed and print where it begins."""
    with database(config, signals) as (url, _postgres):
        position = begin_epoch(url)
    print_result(f"epoch {position.epoch} begins after seq {position.seq}")
    return 0


COMMAND = Command("begin a new epoch of the feed", run, "stopped, and a new epoch may have begun")
