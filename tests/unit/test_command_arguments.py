"""The arguments of all commands: what the parser of each refuses."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import fields

import pytest

from balance import cli
from balance.cli import COMMANDS
from balance.config import Config, settings_parser
from balance.setting import ConfigError

SETTINGS = {one.name for one in fields(Config)}


def parser_of(command: str) -> ArgumentParser:
    """Return the parser of a command, with its own arguments and all settings."""
    parser = settings_parser(command)
    COMMANDS[command].add_arguments(parser)
    return parser


OPTIONS = [
    (command, action.option_strings[0])
    for command in COMMANDS
    for action in parser_of(command)._actions
    if action.option_strings and action.nargs != 0 and action.dest not in SETTINGS
]


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_an_empty_option_of_a_command_is_refused_by_its_name(command: str, option: str) -> None:
    for arguments in ([option, ""], [f"{option}="]):
        with pytest.raises(ConfigError, match=f"^argument {option}: [^\n]+$"):
            parser_of(command).parse_args(arguments)


def test_the_options_of_the_commands_are_found() -> None:
    assert {("watch", "--secret-file"), ("connections", "--url"), ("upgrade", "--old-programs")} <= set(OPTIONS)


@pytest.mark.parametrize(
    ("argv", "argument"),
    [
        (("watch", "--secret-file="), "--secret-file"),
        (("connections", "--url", ""), "--url"),
        (("token", "list", ""), "name"),
        (("backup", ""), "FILE"),
    ],
)
def test_an_empty_argument_ends_a_command_in_one_line(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], argument: str
) -> None:
    assert cli.main(argv) == 1
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", f"server.py: argument {argument}: must not be empty\n")
