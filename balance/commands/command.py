"""What a command is, and what several commands share: the database that the settings name, and printing."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from balance.config import Config
from balance.process.stop_signals import StopSignals
from balance.storage.connect import keep_only_credentials
from balance.storage.embedded import EmbeddedError, EmbeddedPostgres


class CommandError(Exception):
    """A command cannot do what it was asked for; the text is one line."""


class Command(NamedTuple):
    """One command: `server.py <name> ...`. Each has all settings as flags, beside its own arguments."""

    help: str
    """One line for `--help`."""
    run: Callable[[Config, Namespace, StopSignals], int]
    """Does it and returns the exit status.

    Raises CommandError, ConfigError, EmbeddedError, SchemaError and DatabaseError, each with the reason in one line,
    and KeyboardInterrupt at a signal.
    """
    interrupted: str
    """What to print when a signal ends it; empty for a command that has lost nothing then, and ends with status 0."""
    add_arguments: Callable[[ArgumentParser], object] = lambda _parser: None
    """Adds its own arguments."""


@contextmanager
def database(
    config: Config, signals: StopSignals, *, create: bool = False, restoring: bool = False
) -> Iterator[tuple[str, EmbeddedPostgres | None]]:
    """Yield the URL of the database: that of the setting, or of the embedded server, which runs inside the block.

    `create` makes the data of the embedded server if there are none. Without it that is an error, since most commands
    are for what a service has saved: on a new database they would succeed, and mislead. `restoring` is for `restore`:
    no other command can use the data that it makes until their backup is in them.
    """
    if config.database_url:
        keep_only_credentials(os.environ)
        yield config.database_url, None
        return
    postgres = EmbeddedPostgres.start(config.data_dir, create=create, restoring=restoring)
    try:
        yield postgres.url, postgres
    except EmbeddedError:  # the reason for its end is raised, and not the failure to stop it too
        with suppress(EmbeddedError):
            postgres.stop()
        raise
    finally:
        signals.ignore()
        postgres.stop()


def not_empty(text: str) -> str:
    """Return an argument that is a text. Raises ArgumentTypeError for an empty one, as of a variable not set."""
    if not text:
        raise ArgumentTypeError("must not be empty")
    return text


def print_result(text: str) -> None:
    """Print what a command has done or found, and flush it. Raises CommandError if it cannot be written."""
    try:
        if sys.stdout is None:  # the process was started without it
            raise OSError("it is closed")
        print(text, flush=True)
    except OSError as error:
        if sys.stdout is not None:
            devnull = os.open(os.devnull, os.O_WRONLY)  # the rest of the buffer is written there at exit
            os.dup2(devnull, sys.stdout.fileno())
            os.close(devnull)
        raise CommandError(f"stdout: the result cannot be written: {error.strerror or error}") from error


def print_now(text: str) -> None:
    """Print a line of a service, which goes on. A closed pipe or a full disk does not end one that works."""
    with suppress(CommandError):
        print_result(text)
