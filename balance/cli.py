"""The commands of the program: `serve`, the default, `migrate` and `new-epoch`.

`main` reads the settings and runs one of them. `run_server` opens what the service needs, and `serve` runs it until a
signal. `--help` lists the settings.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from tornado.netutil import bind_sockets

from balance import program
from balance.app import App
from balance.config import Config, ConfigError
from balance.process.log_limit import LimitedHandler
from balance.process.start_line import database_location, start_line
from balance.process.stop_signals import StopSignals
from balance.storage.connect import DatabaseError, keep_only_credentials, to_conninfo
from balance.storage.embedded import EmbeddedError, EmbeddedPostgres, Supervisor
from balance.storage.epochs import begin_epoch
from balance.storage.migrate import SchemaError, migrate
from balance.storage.outage import Outage

REPORT_S_MAX = 0.5  # from the loss of a connection to the supervisor's report of the end of the server
BACKLOG = 4_096  # connections that wait to be accepted: the listener accepts a few in each turn of the event loop


def main(argv: Sequence[str]) -> int:
    """Run the command that `argv` names; return the exit status: 0, or 1 after one line with the reason."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING, handlers=[LimitedHandler()]
    )
    is_named = bool(argv) and argv[0] in COMMANDS
    command = argv[0] if is_named else "serve"
    with StopSignals() as signals:
        try:
            return COMMANDS[command](Config.read(argv[1:] if is_named else argv, os.environ), signals)
        except (ConfigError, EmbeddedError, SchemaError, DatabaseError) as error:
            reason = str(error)
        except KeyboardInterrupt:
            if command == "serve":  # there was nothing to finish yet
                return 0
            reason = INTERRUPTED[command]
        print(f"{program.NAME}: {reason}", file=sys.stderr)
        return 1


def tune_gc() -> None:
    """Collect cyclic garbage less often. Reference counts free nearly everything, and a watcher's objects live long.

    With Python's defaults the collector would take a quarter of the time of an update.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def run_migrations(config: Config, signals: StopSignals) -> int:
    """Bring the database to this version's schema and print what was done."""
    with database(config, signals) as (url, postgres):
        for name in migrate(url):
            print_now(f"applied {name}")
    print_now("the database is at this version" + (f": {postgres.location}" if postgres else ""))
    return 0


def run_new_epoch(config: Config, signals: StopSignals) -> int:
    """Begin a new epoch of the feed and print where it begins."""
    with database(config, signals) as (url, _postgres):
        position = begin_epoch(url)
    print_now(f"epoch {position.epoch} begins after seq {position.seq}")
    return 0


def run_server(config: Config, signals: StopSignals) -> int:
    """Bind the port, open the database, serve until a signal."""
    raise_open_file_limit(config.watchers_max)
    if config.database_url:
        to_conninfo(config.database_url)  # reject an invalid URL before anything is opened
    sockets = bind(config)
    with database(config, signals) as (url, postgres):
        supervisor = None
        outage = Outage(REPORT_S_MAX if postgres is not None else 0.0)
        if postgres is not None:
            migrate(url)
            supervisor = Supervisor(postgres, outage.report)
        tune_gc()
        url_of_service = base_url(config, sockets[0])
        location = postgres.location if postgres is not None else database_location(url)
        # Printed in one write: a reader may close the pipe between two.
        greeting = f"listening on {url_of_service}\n{start_line(location, url_of_service)}"
        return asyncio.run(serve(App(config, url, outage), sockets, signals, supervisor, greeting))


async def serve(
    app: App, sockets: list[socket.socket], signals: StopSignals, supervisor: Supervisor | None, greeting: str
) -> int:
    """Serve until a signal, then finish the requests in flight.

    Raises DatabaseError and SchemaError, and EmbeddedError when the embedded PostgreSQL cannot be restarted.
    """
    stop = asyncio.Event()
    signals.set(stop)
    ends: list[asyncio.Future[Any]] = [asyncio.ensure_future(stop.wait())]  # the service runs until one of them is done
    if supervisor is not None:
        supervisor.start()
        ends.append(asyncio.wrap_future(supervisor.failure))
    started = asyncio.ensure_future(app.start(sockets))
    try:
        await asyncio.wait((*ends, started), return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            ends.append(started.result())
            print_now(greeting)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            if end.done():
                end.result()
    finally:
        signals.ignore()  # the loop of the event `stop` is closed soon
        started.cancel()  # otherwise it could still begin to serve, or fail with an error that is never retrieved
        if supervisor is not None:
            supervisor.stop()  # first: a service manager may send SIGTERM to PostgreSQL as well
        await app.stop()
    return 0


@contextmanager
def database(config: Config, signals: StopSignals) -> Iterator[tuple[str, EmbeddedPostgres | None]]:
    """Yield the URL of the database: that of the setting, or of the embedded server, which runs inside the block."""
    if config.database_url:
        keep_only_credentials(os.environ)
        yield config.database_url, None
        return
    postgres = EmbeddedPostgres.start(config.data_dir)
    try:
        yield postgres.url, postgres
    except EmbeddedError:  # the reason for its end is raised, and not the failure to stop it too
        with suppress(EmbeddedError):
            postgres.stop()
        raise
    finally:
        signals.ignore()
        postgres.stop()


def print_now(text: str) -> None:
    """Print a text and flush it. A closed pipe or a full disk does not end a service that works."""
    try:
        print(text, flush=True)
    except OSError:
        devnull = os.open(os.devnull, os.O_WRONLY)  # the rest of the buffer is written there at exit
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


def bind(config: Config) -> list[socket.socket]:
    """Bind the port, before the database is touched. Raises ConfigError when that is not possible."""
    try:
        return bind_sockets(config.port, config.host, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:  # UnicodeError: the host is not a valid name
        reason = getattr(error, "strerror", None) or "this is not a host"
        raise ConfigError(f"cannot listen on {config.host}:{config.port}: {reason}") from error


def raise_open_file_limit(watchers_max: int) -> None:
    """Raise the limit on open files to one for each watcher, as far as the hard limit allows; defaults are lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = watchers_max + 256 if hard == resource.RLIM_INFINITY else min(hard, watchers_max + 256)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def base_url(config: Config, listening: socket.socket) -> str:
    """Return the URL under which a client reaches the service: `http://127.0.0.1:3000`."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{listening.getsockname()[1]}"


COMMANDS = {"serve": run_server, "migrate": run_migrations, "new-epoch": run_new_epoch}
INTERRUPTED = {
    "migrate": "stopped before the database was at this version",
    "new-epoch": "stopped, and a new epoch may have begun",
}
