"""`check`: show whether the service can run here, one line for each thing that it needs; change nothing.

The embedded PostgreSQL is joined if it runs, and started for the check if it does not, but no data directory is made.
"""

from __future__ import annotations

import re
import resource
import shutil
import stat
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from balance.access.setup import check_closed, make_authenticator
from balance.commands.command import Command, CommandError, database, print_result
from balance.commands.connections import ask, find_server
from balance.commands.serve import DESCRIPTORS_BESIDE_WATCHERS, bind, read_certificate
from balance.config import DEFAULT_SOURCE, Config
from balance.process.stop_signals import StopSignals
from balance.rate_limit import RateLimits
from balance.setting import ConfigError
from balance.storage.connect import DatabaseError
from balance.storage.embedded import EmbeddedError
from balance.storage.embedded.data_directory import has_data
from balance.storage.inspection import FAIL, OK, WARN, Finding, inspect
from balance.storage.migrate import SchemaError
from balance.storage.token_store import StoredToken, read_tokens
from protocol.operations import CONTRACT

GIB = 1024**3
DISK_WARN_BYTES, DISK_FAIL_BYTES = GIB, GIB // 16  # free
PROBE_S_MAX = 2.0
HIDDEN = "…"
SECRET_SETTINGS = ("database_url",)
PASSWORD = re.compile(r"://[^/@]*:[^/@]*@|\bpassword=")


def run(config: Config, _arguments: Namespace, signals: StopSignals) -> int:
    """Print each finding; return 1 if one of them prevents the service from running, else 0."""
    counts = {OK: 0, WARN: 0, FAIL: 0}
    for finding in findings(config, signals):
        counts[finding.level] += 1
        print_result(f"{finding.level:5} {finding.subject:10}  {finding.text}")
    print_result(f"{counts[OK]} ok, {counts[WARN]} warn, {counts[FAIL]} fail")
    return 1 if counts[FAIL] else 0


def findings(config: Config, signals: StopSignals) -> Iterator[Finding]:
    """Yield every finding: the settings, this machine, the database, the callers."""
    yield from check_settings(config)
    if config.tls_cert:
        yield check_certificate(config)
    yield check_port(config)
    yield check_open_files(config)
    if not config.database_url:
        yield check_disk(config.data_dir)
    yield from check_database(config, signals)


def check_settings(config: Config) -> Iterator[Finding]:
    """Yield each setting that is given, with its source, and what is wrong with how a secret is given."""
    given = {name: source for name, source in config.sources.items() if source != DEFAULT_SOURCE}
    for name, source in given.items():
        value = getattr(config, name)
        shown = HIDDEN if name in SECRET_SETTINGS else ",".join(value) if isinstance(value, tuple) else value
        yield Finding(OK, "setting", f"{name} = {shown} ({source})")
    yield Finding(OK, "settings", f"{len(fields(config)) - len(given)} others have their defaults")
    source = given.get("database_url", "")
    if source.startswith("flag") and PASSWORD.search(config.database_url):
        text = "its password is in the list of processes: use --database-url-file, or DATABASE_URL"
        yield Finding(WARN, "setting", f"database_url: {text}")
    if source.startswith("file") and _others_may_read(Path(source.removeprefix("file "))):
        yield Finding(WARN, "setting", f"{source} has the URL of the database, and any user may read it: chmod o-r")


def check_certificate(config: Config) -> Finding:
    """Return whether the certificate and its key can be used."""
    try:
        read_certificate(config)
    except ConfigError as error:
        return Finding(FAIL, "tls", str(error))
    return Finding(OK, "tls", f"{config.tls_cert} and its key can be used")


def check_port(config: Config) -> Finding:
    """Return whether the port is free, or this service has it."""
    where = f"{config.host}:{config.port}"
    if config.port == 0:
        return Finding(OK, "port", "any free one")
    try:
        for one in bind(config):
            one.close()
    except ConfigError as error:
        if _is_this_service(config):
            return Finding(OK, "port", f"{where} is used by this service, which is running")
        return Finding(FAIL, "port", str(error))
    return Finding(OK, "port", f"{where} is free")


def check_open_files(config: Config) -> Finding:
    """Return whether the service can open a file for each watcher."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = config.watchers_max + DESCRIPTORS_BESIDE_WATCHERS
    if hard != resource.RLIM_INFINITY and hard < needed:
        text = f"at most {hard}, and --watchers-max needs {needed}: raise it (ulimit -Hn, LimitNOFILE)"
        return Finding(WARN, "open files", text)
    return Finding(OK, "open files", f"{needed} are allowed")


def check_disk(data_dir: Path) -> Finding:
    """Return how much is free where the data are, or will be."""
    folder = data_dir.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    level = FAIL if usage.free < DISK_FAIL_BYTES else WARN if usage.free < DISK_WARN_BYTES else OK
    return Finding(level, "disk", f"{usage.free / GIB:.1f} GiB of {usage.total / GIB:.1f} GiB are free in {folder}")


def check_database(config: Config, signals: StopSignals) -> Iterator[Finding]:
    """Yield what is found of the database, but make none, and whether its tokens are enough for these settings."""
    is_own = bool(config.database_url)
    tokens: list[StoredToken] | None = None
    try:
        if not is_own and not has_data(config.data_dir):
            yield Finding(OK, "database", f"none in {config.data_dir.absolute()} yet: the first start makes it")
            tokens = []
        else:
            with database(config, signals) as (url, _):
                yield from inspect(url, config.pool_max, is_own=is_own)
                with suppress(DatabaseError, SchemaError):  # which is among the findings already
                    tokens = read_tokens(url)
    except (EmbeddedError, OSError) as error:
        yield Finding(FAIL, "database", str(error))
    yield check_access(config, tokens)


def check_access(config: Config, tokens: list[StoredToken] | None) -> Finding:
    """Return who may call, and whether the service starts with these tokens; None if they cannot be read."""
    try:
        authenticator = make_authenticator(config, RateLimits.make(config).failed_logins)
        if tokens is None:
            return Finding(WARN, "access", "the tokens cannot be read: whether the service starts is not known")
        authenticator.replace_tokens(tokens)
        check_closed(config, authenticator)
    except ConfigError as error:
        return Finding(FAIL, "access", str(error))
    if authenticator.is_closed:
        return Finding(OK, "access", "callers need a token" + (", or a JWT" if config.jwks else ""))
    return Finding(OK, "access", "everyone may do everything")


def _others_may_read(path: Path) -> bool:
    with suppress(OSError):
        return bool(path.stat().st_mode & stat.S_IROTH)
    return False


def _is_this_service(config: Config) -> bool:
    """Return whether the program at the port serves the contract of this service."""
    try:
        url, tls = find_server(config)
        return "protocol" in ask(url, CONTRACT, None, tls, answer_s_max=PROBE_S_MAX)["bundle"]
    except (CommandError, LookupError, TypeError):
        return False


COMMAND = Command(
    "show whether the service can run with these settings, and change nothing", run, "stopped before the end"
)
