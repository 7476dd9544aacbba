"""The Balance Snapshot System: `python server.py` serves, `python server.py migrate` prepares a database.

The life of the process, from top to bottom. `python server.py --help` lists the settings.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from tornado.netutil import bind_sockets

from balance.app import App
from balance.config import Config, ConfigError
from balance.embedded import EmbeddedError, EmbeddedPostgres
from balance.log_limit import LimitedHandler
from balance.migrate import SchemaError, migrate
from balance.pool import DatabaseError, to_conninfo


def main(argv: Sequence[str]) -> int:
    """Run the command that `argv` names; return the exit status: 0, or 1 after one line that says why."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING, handlers=[LimitedHandler()]
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until `serve` has a better one
    try:
        if argv[:1] == ["migrate"]:
            return run_migrations(Config.read(argv[1:], os.environ))
        return run_server(Config.read(argv, os.environ))
    except (ConfigError, EmbeddedError, SchemaError, DatabaseError) as error:
        print(f"server.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # told to stop before there was anything to finish
        return 0


def collect_seldom() -> None:
    """Look for garbage in cycles less often: nearly all here is freed without, and what watchers need lives long.

    At Python's defaults a quarter of the time that an update takes would go into it.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def run_migrations(config: Config) -> int:
    """Bring the database to this version's schema and say what was done."""
    with database(config) as url:
        for name in migrate(url):
            print(f"applied {name}")
    print("the database is at this version")
    return 0


def run_server(config: Config) -> int:
    """Take the port, open the database, serve until told to stop."""
    allow_descriptors(config.watchers_max)
    if config.database_url:
        to_conninfo(config.database_url)  # a URL that is none is refused before anything opens
    sockets = bind(config)
    with database(config) as url:
        if not config.database_url:
            migrate(url)
        collect_seldom()
        return asyncio.run(serve(App(config, url), sockets, address(config, sockets[0])))


async def serve(app: App, sockets: list[socket.socket], url: str) -> int:
    """Serve until SIGTERM or SIGINT, then finish what is in flight. Raises DatabaseError and SchemaError."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        started = asyncio.ensure_future(app.start(sockets))
        await asyncio.wait((stopped, started), return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            unfit = started.result()
            print(f"listening on {url}", flush=True)
            await asyncio.wait((stopped, unfit), return_when=asyncio.FIRST_COMPLETED)
            if unfit.done():
                unfit.result()
    finally:
        await app.stop()
    return 0


@contextmanager
def database(config: Config) -> Iterator[str]:
    """Lend the URL of the database: the one that was named, or the embedded one, which lives as long as this."""
    if config.database_url:
        yield config.database_url
        return
    postgres = EmbeddedPostgres.start(config.data_dir)
    try:
        yield postgres.url
    finally:
        postgres.stop()


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
    sys.exit(main(sys.argv[1:]))
