"""`serve`, the default: open what the service needs, and run it until a signal."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import socket
import time
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from tornado.netutil import bind_sockets

from balance.app import App
from balance.commands.command import Command, database, print_now
from balance.config import Config
from balance.process.service_manager import ServiceManager
from balance.process.start_line import database_location, start_line
from balance.process.stop_signals import StopSignals
from balance.setting import ConfigError
from balance.storage.connect import to_conninfo
from balance.storage.embedded import Supervisor
from balance.storage.migrate import migrate
from balance.storage.outage import Outage
from balance.web.tls import Certificate, CertificateError

log = logging.getLogger("balance.serve")

REPORT_S_MAX = 0.5  # from the loss of a connection to the supervisor's report of the end of the server
DESCRIPTORS_BESIDE_WATCHERS = 256
BACKLOG = 4_096  # connections that wait to be accepted: the listener accepts a few in each turn of the event loop


def run(config: Config, _arguments: Namespace, signals: StopSignals) -> int:
    """Bind the port, open the database, serve until a signal."""
    manager = ServiceManager(os.environ)
    raise_open_file_limit(config.watchers_max)
    if config.database_url:
        to_conninfo(config.database_url)  # reject an invalid URL before anything is opened
    certificate = read_certificate(config)
    sockets = bind(config)
    manager.report("STATUS=opening the database")
    with database(config, signals, create=True) as (url, postgres):
        supervisor = None
        outage = Outage(REPORT_S_MAX if postgres is not None else 0.0)
        if postgres is not None:
            migrate(url)
            supervisor = Supervisor(postgres, outage.report)
        tune_gc()
        url_of_service = base_url(config, sockets[0])
        location = postgres.location if postgres is not None else database_location(url)
        # Printed in one write: a reader may close the pipe between two.
        greeting = f"listening on {url_of_service}\n{start_line(location, config.public_url or url_of_service)}"
        app = App(config, url, outage, certificate)
        return asyncio.run(serve(app, sockets, signals, supervisor, manager, greeting))


async def serve(
    app: App,
    sockets: list[socket.socket],
    signals: StopSignals,
    supervisor: Supervisor | None,
    manager: ServiceManager,
    greeting: str,
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
            manager.report_ready(greeting.partition("\n")[0])
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            if end.done():
                end.result()
    finally:
        began = time.monotonic()
        manager.report_stopping("answering the requests in flight")
        if signals.received is not None:
            log.info("stopping after %s: the requests in flight are answered first", signals.received.name)
        signals.ignore()  # the loop of the event `stop` is closed soon
        started.cancel()  # otherwise it could still begin to serve, or fail with an error that is never retrieved
        if supervisor is not None:
            supervisor.stop()  # first: a service manager may send SIGTERM to PostgreSQL as well
        await app.stop()
        log.info("stopped after %.1f s", time.monotonic() - began)
    return 0


def tune_gc() -> None:
    """Collect cyclic garbage less often. Reference counts free nearly everything, and a watcher's objects live long.

    With Python's defaults the collector would take a quarter of the time of an update.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def bind(config: Config) -> list[socket.socket]:
    """Bind the port, before the database is touched. Raises ConfigError when that is not possible."""
    try:
        return bind_sockets(config.port, config.host, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:  # UnicodeError: the host is not a valid name
        reason = getattr(error, "strerror", None) or "this is not a host"
        raise ConfigError(f"cannot listen on {config.host}:{config.port}: {reason}") from error


def read_certificate(config: Config) -> Certificate | None:
    """Read the certificate and its key, if the settings name them. Raises ConfigError."""
    if not config.tls_cert:
        return None
    try:
        return Certificate(Path(config.tls_cert), Path(config.tls_key))
    except CertificateError as error:
        raise ConfigError(str(error)) from error


def raise_open_file_limit(watchers_max: int) -> None:
    """Raise the limit on open files to one for each watcher, as far as the hard limit allows; defaults are lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = watchers_max + DESCRIPTORS_BESIDE_WATCHERS
    wanted = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def base_url(config: Config, listening: socket.socket) -> str:
    """Return the URL under which a client reaches the service: `http://127.0.0.1:3000`."""
    scheme = "https" if config.tls_cert else "http"
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"{scheme}://{host}:{listening.getsockname()[1]}"


COMMAND = Command("serve REST and Socket.IO until a signal; the default", run, "")
