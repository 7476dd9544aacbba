"""The command line: `main` reads the arguments and the settings, and runs one of the commands.

`--help` lists the commands and the settings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from io import TextIOWrapper

from balance import program
from balance.commands import (
    backup,
    check,
    connections,
    export,
    import_,
    migrate,
    new_epoch,
    prune,
    restore,
    serve,
    token,
    upgrade,
    watch,
)
from balance.commands.command import Command, CommandError
from balance.config import Config, settings_parser
from balance.config_sources import nearest
from balance.process.logs import Logs
from balance.process.stop_signals import StopSignals
from balance.setting import ConfigError
from balance.storage.connect import DatabaseError
from balance.storage.embedded import EmbeddedError
from balance.storage.migrate import SchemaError

COMMANDS: Mapping[str, Command] = {
    "serve": serve.COMMAND,
    "migrate": migrate.COMMAND,
    "new-epoch": new_epoch.COMMAND,
    "check": check.COMMAND,
    "connections": connections.COMMAND,
    "prune": prune.COMMAND,
    "backup": backup.COMMAND,
    "restore": restore.COMMAND,
    "export": export.COMMAND,
    "import": import_.COMMAND,
    "upgrade": upgrade.COMMAND,
    "token": token.COMMAND,
    "watch": watch.COMMAND,
}
DEFAULT = "serve"


def main(argv: Sequence[str]) -> int:
    """Run the command that `argv` names; return the exit status: 0, or 1 after one line with the reason."""
    is_named = bool(argv) and argv[0] in COMMANDS
    name = argv[0] if is_named else DEFAULT
    command = COMMANDS[name]
    parser = settings_parser(f"{program.NAME} {name}", command.help) if is_named else settings_parser(*overview())
    command.add_arguments(parser)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name of a file may have what the terminal cannot show
    with StopSignals() as signals:
        try:
            if argv and not is_named and not argv[0].startswith("-"):
                raise CommandError(f"{argv[0]!r} is not a command{nearest(argv[0], COMMANDS)}")
            arguments = parser.parse_args(argv[1:] if is_named else argv)
            config = Config.of(arguments, os.environ)
            with Logs(config.log_level, config.log_format):
                return command.run(config, arguments, signals)
        except (CommandError, ConfigError, EmbeddedError, SchemaError, DatabaseError) as error:
            reason = str(error)
        except KeyboardInterrupt:
            if not command.interrupted:  # there was nothing to finish yet
                return 0
            reason = command.interrupted
        print(f"{program.NAME}: {reason}", file=sys.stderr)
        return 1


def overview() -> tuple[str, str]:
    """Return the name of the program with its commands, and a line for each of them, for `--help`."""
    lines = [f"  {name:12} {command.help}" for name, command in COMMANDS.items()]
    return f"{program.NAME} [{' | '.join(COMMANDS)}]", "\n".join(["commands:", *lines])
