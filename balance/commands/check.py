"""`check`: show whether the service can run here, one line for each thing that it needs; change nothing.

The embedded PostgreSQL is joined if it runs, and started for the check if it does not, but no data directory is made.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import stat
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from balance.commands.command import Command, database, print_result
from balance.commands.serve import DESCRIPTORS_BESIDE_WATCHERS, bind
from balance.config import DEFAULT_SOURCE, Config
from balance.process.stop_signals import StopSignals
from balance.setting import ConfigError
from balance.storage.embedded import EmbeddedError
from balance.storage.embedded.data_directory import has_data
from balance.storage.inspection import FAIL, OK, WARN, Finding, inspect
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
    """Yield every finding: the settings, this machine, the database."""
    yield from check_settings(config)
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
    """Yield what is found of the database, but make none."""
    is_own = bool(config.database_url)
    try:
        if not is_own and not has_data(config.data_dir):
            yield Finding(OK, "database", f"none in {config.data_dir.absolute()} yet: the first start makes it")
            return
        with database(config, signals) as (url, _):
            yield from inspect(url, config.pool_max, is_own=is_own)
    except (EmbeddedError, OSError) as error:
        yield Finding(FAIL, "database", str(error))


def _others_may_read(path: Path) -> bool:
    with suppress(OSError):
        return bool(path.stat().st_mode & stat.S_IROTH)
    return False


def _is_this_service(config: Config) -> bool:
    """Return whether the program at the port serves the contract of this service."""
    connection = HTTPConnection(reachable_host(config.host), config.port, timeout=PROBE_S_MAX)
    try:
        connection.request("GET", CONTRACT)
        return "protocol" in json.loads(connection.getresponse().read())["data"]["bundle"]
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return False
    finally:
        connection.close()


def reachable_host(host: str) -> str:
    """Return the address of this machine under which a program of it reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


COMMAND = Command(
    "show whether the service can run with these settings, and change nothing", run, "stopped before the end"
)
