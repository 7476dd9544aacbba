"""`token create`, `token list` and `token revoke`: the tokens by which callers are known."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from balance.access.tokens import digest, new_token
from balance.auth import TOKEN_ROLES, Role
from balance.commands.command import Command, CommandError, database, not_empty, print_result
from balance.config import Config
from balance.process.stop_signals import StopSignals
from balance.storage.migrate import migrate
from balance.storage.token_store import ListedToken, TokenError, create_token, list_tokens, revoke_token

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
LIFETIME = re.compile(r"([1-9][0-9]{0,5})([dhm])")
UNITS = {"d": "days", "h": "hours", "m": "minutes"}
ROLES = tuple(role.value for role in TOKEN_ROLES)  # argparse would show members as <Role.READER: 'reader'>
COLUMNS = ("name", "role", "state", "created", "expires", "last used")


def add_arguments(parser: ArgumentParser) -> None:
    """Add what is done, and to which token."""
    parser.usage = "%(prog)s create NAME [--role ROLE] [--expires 90d] | list | revoke NAME  [settings]"
    parser.add_argument("action", choices=("create", "list", "revoke"), help="what to do")
    parser.add_argument("name", nargs="?", type=not_empty, help="the name of the token, for people: what uses it")
    parser.add_argument("--role", choices=ROLES, default=Role.WRITER.value, help="what it may do [writer]")
    parser.add_argument(
        "--expires", metavar="90d", type=not_empty, help="after how many days (d), hours (h) or minutes (m) it expires"
    )


def run(config: Config, arguments: Namespace, signals: StopSignals) -> int:
    """Create, list or revoke tokens, and print the result; the token itself is printed once, at its creation."""
    name, lifetime = arguments.name, parse_lifetime(arguments.expires)
    if arguments.action != "list" and not (name and NAME.fullmatch(name)):
        raise CommandError("token: needs a name of letters, digits and ._@-, at most 100 of them")
    is_creation = arguments.action == "create"  # also before the first start, which may need a token
    with database(config, signals, create=is_creation) as (url, postgres):
        if postgres is not None:
            migrate(url)
        try:
            if is_creation:
                create(url, name, Role(arguments.role), lifetime)
            elif arguments.action == "revoke":
                revoke_token(url, name)
                print_result(f"revoked {name}: running servers refuse it within seconds")
            else:
                print_result(table(list_tokens(url), datetime.now(UTC)))
        except TokenError as error:
            raise CommandError(f"token: {error}") from error
    return 0


def create(url: str, name: str, role: Role, lifetime: timedelta | None) -> None:
    """Create a token and print it. Raises TokenError, and CommandError if nobody could read it: then there is none."""
    token = new_token(role)

    def announce() -> None:
        try:
            print_result(token)
        except CommandError as error:
            raise CommandError(f"{error}; token {name} was not created") from error

    create_token(url, name, role, digest(token), lifetime, announce)


def parse_lifetime(text: str | None) -> timedelta | None:
    """Return the time of `--expires`, such as 90d; None if it is not given. Raises CommandError."""
    if text is None:
        return None
    found = LIFETIME.fullmatch(text)
    if found is None:
        raise CommandError(f"token: --expires: {text!r} is not a time such as 90d, 12h or 30m")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


def table(tokens: Iterable[ListedToken], now: datetime) -> str:
    """Return the tokens as lines of columns."""
    rows = [
        COLUMNS,
        *((one.name, one.role, state(one, now), *map(to_minute, one[2:4]), to_minute(one[5])) for one in tokens),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def state(token: ListedToken, now: datetime) -> str:
    """Return whether a token is valid."""
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= now else "valid"


def to_minute(moment: datetime | None) -> str:
    """Return a moment in UTC; a dash for none."""
    return "-" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ")


COMMAND = Command(
    "create, list or revoke the tokens of callers",
    run,
    "stopped, and the token may have been created or revoked",
    add_arguments,
)
