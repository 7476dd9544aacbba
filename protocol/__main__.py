"""`python -m protocol`: list, show and check payloads from the shell.

    python -m protocol list                     the names of all schemas
    python -m protocol show NAME                one schema
    python -m protocol check NAME [FILE|-]      check a payload, from standard input if no file is named

Exit status: 0 fine, 1 the payload is refused (the error, with its path, on stderr), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from protocol import ServiceError, check, loads, names, registry


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m protocol", description="The Balance Snapshot protocol.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="print the names of all schemas")
    show = commands.add_parser("show", help="print one schema")
    show.add_argument("name", choices=names(), metavar="NAME")
    checker = commands.add_parser("check", help="check a payload against its schema")
    checker.add_argument("name", choices=names(), metavar="NAME")
    checker.add_argument("file", nargs="?", default="-", metavar="FILE", help="- or nothing: standard input")
    chosen = parser.parse_args(arguments)
    match chosen.command:
        case "list":
            print(*names(), sep="\n")
        case "show":
            print((registry.FOLDER / f"{chosen.name}.json").read_text("utf-8"), end="")
        case "check":
            return _check(parser, chosen.name, chosen.file)
    return 0


def _check(parser: argparse.ArgumentParser, name: str, file: str) -> int:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        parser.error(f"{file}: {error.strerror}")
    try:
        check(name, loads(data))
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
