"""The Balance Snapshot System: `python server.py` serves, `python server.py migrate` prepares a database.

The life of the process, from top to bottom. `python server.py --help` lists the settings.
"""

from __future__ import annotations

import os
import signal
import sys

if sys.version_info < (3, 11):  # this file is kept readable to older ones, to say so
    sys.exit(f"server.py: Python 3.11 or newer is needed, and this is {sys.version_info[0]}.{sys.version_info[1]}")
if __name__ == "__main__":  # the imports take most of the start: until they are done, a signal ends the process at once
    for _number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if _number != signal.SIGHUP or signal.getsignal(_number) != signal.SIG_IGN:
            signal.signal(_number, lambda *_: os._exit(1 if "migrate" in sys.argv[1:2] else 0))

import asyncio
import gc
import logging
import resource
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from tornado.netutil import bind_sockets

from balance.app import App
from balance.config import Config, ConfigError
from balance.process.log_limit import LimitedHandler
from balance.process.start_line import database_location, start_line
from balance.process.stop_signals import STOP_SIGNALS, StopSignals
from balance.storage.connect import DatabaseError, keep_credentials, to_conninfo
from balance.storage.embedded import EmbeddedError, EmbeddedPostgres, Supervisor
from balance.storage.migrate import SchemaError, migrate
from balance.storage.outage import Outage

REPORT_S_MAX = 0.5  # from the loss of a connection to the supervisor's report of the end of the server


def main(argv: Sequence[str]) -> int:
    """Run the command that `argv` names; return the exit status: 0, or 1 after one line that says why."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING, handlers=[LimitedHandler()]
    )
    is_migration = argv[:1] == ["migrate"]
    with StopSignals() as signals:
        try:
            if is_migration:
                return run_migrations(Config.read(argv[1:], os.environ), signals)
            return run_server(Config.read(argv, os.environ), signals)
        except (ConfigError, EmbeddedError, SchemaError, DatabaseError) as error:
            reason = str(error)
        except KeyboardInterrupt:
            if not is_migration:  # there was nothing to finish yet
                return 0
            reason = "stopped before the database was at this version"
        print(f"server.py: {reason}", file=sys.stderr)
        return 1


def collect_seldom() -> None:
    """Look for garbage in cycles less often: nearly all here is freed without, and what watchers need lives long.

    At Python's defaults a quarter of the time that an update takes would go into it.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def run_migrations(config: Config, signals: StopSignals) -> int:
    """Bring the database to this version's schema and say what was done."""
    with database(config, signals) as (url, postgres):
        for name in migrate(url):
            say(f"applied {name}")
    say("the database is at this version" + (f": {postgres.location}" if postgres else ""))
    return 0


def run_server(config: Config, signals: StopSignals) -> int:
    """Take the port, open the database, serve until a signal."""
    allow_descriptors(config.watchers_max)
    if config.database_url:
        to_conninfo(config.database_url)  # a URL that is none is refused before anything opens
    sockets = bind(config)
    with database(config, signals) as (url, postgres):
        supervisor = None
        outage = Outage(REPORT_S_MAX if postgres is not None else 0.0)
        if postgres is not None:
            migrate(url)
            supervisor = Supervisor(postgres, outage.report)
        collect_seldom()
        own = address(config, sockets[0])
        place = postgres.location if postgres is not None else database_location(url)
        greeting = f"listening on {own}\n{start_line(place, own)}"  # at once: a reader may close the pipe in between
        return asyncio.run(serve(App(config, url, outage), sockets, signals, supervisor, greeting))


async def serve(
    app: App, sockets: list[socket.socket], signals: StopSignals, supervisor: Supervisor | None, greeting: str
) -> int:
    """Serve until a signal, then finish what is in flight.

    Raises DatabaseError and SchemaError, and EmbeddedError when the embedded PostgreSQL cannot be started again.
    """
    stop = asyncio.Event()
    signals.set(stop)
    ends: list[asyncio.Future[Any]] = [asyncio.ensure_future(stop.wait())]
    if supervisor is not None:
        supervisor.start()
        ends.append(asyncio.wrap_future(supervisor.failure))
    started = asyncio.ensure_future(app.start(sockets))
    try:
        await asyncio.wait((*ends, started), return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            ends.append(started.result())
            say(greeting)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            if end.done():
                end.result()
    finally:
        signals.ignore()  # the loop that the event belongs to is closed soon
        started.cancel()  # else it could go on to serve, or fail with nobody to take its error
        if supervisor is not None:
            supervisor.stop()  # first: a service manager may send SIGTERM to PostgreSQL as well
        await app.stop()
    return 0


@contextmanager
def database(config: Config, signals: StopSignals) -> Iterator[tuple[str, EmbeddedPostgres | None]]:
    """Lend the URL of the database: the one that was named, or the embedded one, which lives as long as this."""
    if config.database_url:
        keep_credentials(os.environ)
        yield config.database_url, None
        return
    postgres = EmbeddedPostgres.start(config.data_dir)
    try:
        yield postgres.url, postgres
    except EmbeddedError:  # what it says of its end is the reason, and not that it does not stop either
        with suppress(EmbeddedError):
            postgres.stop()
        raise
    finally:
        signals.ignore()
        postgres.stop()


def say(text: str) -> None:
    """Print a text at once. A reader that has gone, or a full disk, does not end a service that works."""
    try:
        print(text, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)  # what is left in the buffer is written there at the end
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def bind(config: Config) -> list[socket.socket]:
    """Take the port, before the database is touched. Raises ConfigError when it is not to be had."""
    try:
        return bind_sockets(config.port, config.host, backlog=1024)
    except (OSError, UnicodeError) as error:  # a host that is no name is a UnicodeError
        reason = getattr(error, "strerror", None) or "this is not a host"
        raise ConfigError(f"can not listen on {config.host}:{config.port}: {reason}") from error


def allow_descriptors(watchers_max: int) -> None:
    """Raise the limit on open files towards one per watcher; each system's default is a fraction of that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = watchers_max + 256 if hard == resource.RLIM_INFINITY else min(hard, watchers_max + 256)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def address(config: Config, taken: socket.socket) -> str:
    """Name the address as a client would type it."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{taken.getsockname()[1]}"


if __name__ == "__main__":
    exit_status = main(sys.argv[1:])
    for _number in STOP_SIGNALS:  # the interpreter takes a while to end, and one more must not change the status
        signal.signal(_number, signal.SIG_IGN)
    sys.exit(exit_status)
