"""`watch`: follow the feed of a running server, and send an alarm when a rule is met and when it no longer is.

It is a client: it needs the address of the server and a token that may read, and no database.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from balance.alarms.clock import Clock
from balance.alarms.evaluation import Evaluation
from balance.alarms.follower import Follower, Refused, Service
from balance.alarms.http_client import CheckedResolver, HttpClient, is_public
from balance.alarms.messages import FORMATS, Format, SecretError, format_of
from balance.alarms.notifier import Notifier
from balance.alarms.rules import Rule, RuleError, parse_rules
from balance.alarms.state_file import StateError, StateFile
from balance.alarms.watch import Watch
from balance.commands.command import Command, CommandError, not_empty, print_now
from balance.commands.connections import find_server, read_token, split_url
from balance.config import Config
from balance.process.stop_signals import StopSignals
from balance.storage.whole_file import regular_file


class Plan(NamedTuple):
    """What to watch, and where to send what is found."""

    rules: list[Rule]
    service: Service
    form: Format
    allow_private: bool
    state: StateFile


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.usage = "%(prog)s --rule RULE … --post URL [--format FORMAT] [--state FILE] [settings]"
    own = parser.add_argument_group("watch")
    own.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="RULE",
        type=not_empty,
        help="such as 'onchain.usdt < 1000 for 60s', 'pid 7 onsite.usd <= 5', 'sum onchain.usdt < 5000', "
        "'onchain.usdt drops 10%% in 1h', 'pid 7 silent 120s', 'any pid silent 10m'; may be given more than once",
    )
    own.add_argument(
        "--post",
        metavar="URL",
        type=not_empty,
        help="where each alarm is sent, by POST: when it begins and when it ends",
    )
    own.add_argument("--format", choices=FORMATS, default="webhook", help="how it is sent [webhook]")
    own.add_argument(
        "--secret-file",
        metavar="FILE",
        type=not_empty,
        help="file with the secret: of webhook the key of the signature, whsec_…; of the others a bearer token",
    )
    own.add_argument("--allow-private", action="store_true", help="also send to private and loopback addresses")
    own.add_argument(
        "--state", metavar="FILE", type=not_empty, help="file of the position and the alarms, for the next start"
    )
    own.add_argument("--url", type=not_empty, help="address of the server that is watched [that of --host and --port]")
    own.add_argument(
        "--token-file", metavar="FILE", type=not_empty, help="file with a token of the role reader, if it needs one"
    )


def run(config: Config, arguments: Namespace, signals: StopSignals) -> int:
    """Watch until a signal."""
    plan = plan_of(config, arguments)
    try:
        plan.state.open()
        return asyncio.run(watch(plan, signals))
    except StateError as error:
        raise CommandError(f"--state: {error}") from error
    finally:
        plan.state.close()


def plan_of(config: Config, arguments: Namespace) -> Plan:
    """Check the arguments. Raises CommandError."""
    if not arguments.rule:
        raise CommandError("watch: needs at least one --rule, such as --rule 'pid 7 silent 120s'")
    try:
        rules = parse_rules(arguments.rule)
    except RuleError as error:
        raise CommandError(f"--rule: {error}") from error
    if not arguments.post:
        raise CommandError("watch: needs --post, the URL to which alarms are sent")
    host = split_url("--post", arguments.post, "https://example.com/path").hostname or ""
    if not arguments.allow_private and is_private_address(host):
        raise CommandError(f"--post: {host} is not a public address; --allow-private permits it")
    url, tls = find_server(config, arguments.url)
    service = Service(url.rstrip("/"), read_token(arguments.token_file), tls)
    try:
        secret = read_token(arguments.secret_file, "--secret-file")
        form = format_of(arguments.format, arguments.post, secret, service.url)
    except SecretError as error:
        raise CommandError(f"--secret-file: {arguments.secret_file}: {error}") from error
    state = StateFile(None if arguments.state is None else state_path(arguments.state))
    return Plan(rules, service, form, arguments.allow_private, state)


def state_path(text: str) -> Path:
    """Return the file of `--state`, which is replaced at each write. Raises CommandError."""
    try:
        return regular_file(Path(text))
    except OSError as error:
        raise CommandError(f"--state: {text}: {error.strerror or error}") from error


def is_private_address(host: str) -> bool:
    """Return whether a host is an IP address, and not of the public Internet. Names are checked at each request."""
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return not is_public(host)


async def watch(plan: Plan, signals: StopSignals) -> int:
    """Watch until a signal. Raises CommandError when the service refuses, and StateError."""
    stop = asyncio.Event()
    signals.set(stop)
    clock = Clock()
    evaluation = Evaluation(plan.rules)
    with HttpClient(None if plan.allow_private else CheckedResolver()) as http:
        notifier = Notifier(plan.form, http, plan.state, clock, lambda: evaluation.alarms)
        watched = Watch(evaluation, plan.state, notifier, clock, print_now)
        follower = Follower(plan.service, watched, clock)
        tasks = [asyncio.ensure_future(one) for one in (follower.run(), follower.keep_time(), notifier.run())]
        waiting = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((waiting, *tasks), return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        except Refused as error:
            raise CommandError(str(error)) from error
        finally:
            signals.ignore()  # the loop of the event `stop` is closed soon
            for future in (waiting, *tasks):
                future.cancel()
            await asyncio.gather(waiting, *tasks, return_exceptions=True)
            watched.save()
    return 0


COMMAND = Command(
    "follow a running server, and send an alarm when a rule about balances or silence is met", run, "", add_arguments
)
