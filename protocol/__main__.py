"""`python -m protocol`, or `balance-protocol` once it is installed: the contract on the command line, without a server.

    python -m protocol list                     the names of all schemas
    python -m protocol show NAME                one schema
    python -m protocol check NAME [FILE|-]      validate a payload, from standard input if no file is given
    python -m protocol write FOLDER             write the documents for client teams: schemas, bundle, OpenAPI,
                                                AsyncAPI, TypeScript
    python -m protocol diff OLD NEW             compare two sets of schemas (folders or bundles): a line for each
                                                change, with whether it breaks senders or receivers

Exit status: 0 success, 1 the payload is invalid (the error, with its path, is on stderr) or a change breaks senders or
receivers, 2 wrong usage, or standard output cannot be written. If its reader has gone, as in `list | head -1`, nothing
is printed about it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from protocol import ServiceError, check, loads, names, registry
from protocol.compat.diff import diff
from protocol.compat.schema_set import UnreadableSetError, read_set
from protocol.documents import documents

COMMAND = "balance-protocol"  # as pyproject.toml names it


def main(arguments: list[str] | None = None) -> int:
    """Run one command, write all of its output, and return the exit status."""
    program = COMMAND if Path(sys.argv[0]).name == COMMAND else "python -m protocol"
    try:
        status = _run(program, arguments)
        if sys.stdout is not None:  # the process was started without it
            sys.stdout.flush()
    except OSError as error:  # of stdout: those of files are wrong usage
        devnull = os.open(os.devnull, os.O_WRONLY)  # the rest of the buffer is written there at exit
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
        if not isinstance(error, BrokenPipeError):
            print(f"{program}: error: standard output: {error.strerror}", file=sys.stderr)
        return 2
    return status


def _run(program: str, arguments: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog=program, description="The Balance Snapshot protocol.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="print the names of all schemas")
    show = commands.add_parser("show", help="print one schema")
    show.add_argument("name", choices=names(), metavar="NAME")
    checker = commands.add_parser("check", help="validate a payload against its schema")
    checker.add_argument("name", choices=names(), metavar="NAME")
    checker.add_argument(
        "file", nargs="?", type=_not_empty, default="-", metavar="FILE", help="standard input if - or absent"
    )
    writer = commands.add_parser("write", help="write schemas, bundle, OpenAPI, AsyncAPI and types to a folder")
    writer.add_argument("folder", type=_not_empty, metavar="FOLDER", help="created if it does not exist")
    differ = commands.add_parser("diff", help="compare two sets of schemas, and name what breaks senders or receivers")
    differ.add_argument("old", type=_not_empty, metavar="OLD", help="a folder of schemas, or a bundle")
    differ.add_argument("new", type=_not_empty, metavar="NEW", help="a folder of schemas, or a bundle")
    chosen = parser.parse_args(arguments)
    match chosen.command:
        case "list":
            print(*names(), sep="\n")
        case "show":
            print(registry.text(chosen.name), end="")
        case "check":
            return _check(parser, chosen.name, chosen.file)
        case "write":
            _write(parser, Path(chosen.folder))
        case "diff":
            return _diff(parser, Path(chosen.old), Path(chosen.new))
    return 0


def _not_empty(text: str) -> str:
    """Return the name of a file or folder. Raises ArgumentTypeError if it is empty, which is the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _check(parser: argparse.ArgumentParser, name: str, file: str) -> int:
    try:
        data = _read_stdin() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        parser.error(f"{file}: {error.strerror or error}")
    try:
        check(name, loads(data))
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _read_stdin() -> bytes:
    """Return all of standard input. Raises OSError."""
    if sys.stdin is None:  # the process was started without it
        raise OSError("it is closed")
    return sys.stdin.buffer.read()


def _write(parser: argparse.ArgumentParser, folder: Path) -> None:
    for document in documents().values():
        file = folder / document.file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(document.data)
        except OSError as error:
            parser.error(f"{file}: {error.strerror}")
        print(file)


def _diff(parser: argparse.ArgumentParser, old: Path, new: Path) -> int:
    try:
        changes = diff(read_set(old), read_set(new))
    except UnreadableSetError as error:
        parser.error(str(error))
    for change in changes:
        print(change)
    return 1 if any(change.breaks for change in changes) else 0


if __name__ == "__main__":
    sys.exit(main())
