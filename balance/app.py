"""Builds the parts of the service, and starts and stops them in an order that loses nothing.

docs/architecture.md has a drawing of the parts.

Life cycle: `App(config, url)` opens nothing. `start` opens everything, on sockets that are bound already, and returns
when the service answers. `stop` answers what is in flight, then closes everything, in bounded time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress

from balance.access.refresh import AccessRefresh
from balance.access.setup import check_closed, make_authenticator
from balance.aio.clock_watch import ClockWatch
from balance.aio.limiter import CapacityLimiter
from balance.aio.loop_budget import LoopBudget
from balance.aio.loop_lag import LoopLag
from balance.config import Config
from balance.database import Database
from balance.feed.feed import Feed
from balance.feed.tail import Tail
from balance.feed.writer import Writer
from balance.health import Health
from balance.metrics.collector import Metrics
from balance.metrics.table import Parts
from balance.rate_limit import RateLimits
from balance.realtime import Engine, EventHandlers, Watchers
from balance.realtime.build import make_engine, make_socket_server
from balance.request_log import RequestLog
from balance.routes import Served, make_application
from balance.service import Life, Service
from balance.storage.connect import DatabaseError
from balance.storage.errors import StoreUnavailable
from balance.storage.outage import Outage
from balance.transfer.exporting import Exports
from balance.web.base import DRAIN_BYTES_MAX
from balance.web.build import make_policies
from balance.web.connection_limit import ConnectionLimit
from balance.web.cors import HostPolicy, OriginPolicy
from balance.web.descriptors import Descriptors
from balance.web.feed import LongPolls
from balance.web.imports import IMPORTS_MAX
from balance.web.listener import HttpListener
from balance.web.save import SaveRouter
from balance.web.stream_hub import StreamHub
from balance.web.tls import Certificate
from balance.web.watcher_limit import WatcherLimit

log = logging.getLogger("balance.app")

RETRY_S = 0.25  # between two attempts to open a database that was not available at the start


class App:
    """The service of one process."""

    def __init__(
        self, config: Config, url: str, outage: Outage | None = None, certificate: Certificate | None = None
    ) -> None:
        """Build it; `outage` logs the loss and return of the database. Raises DatabaseError for an invalid `url`.

        With a certificate the service speaks TLS only.
        """
        self._config = config
        self._certificate = certificate
        self.database = database = Database(config, url, outage or Outage())
        self._budget = LoopBudget()
        self.request_log = RequestLog(config.log_requests_per_s if config.logs_requests else 0)
        engine = make_engine(config)
        self.watchers = Watchers(engine)
        tail = Tail(database.feed_store, database.tail_thread)
        self.feed = Feed(
            database.feed_store, tail, database.replay_executor, database.read_executor, read_ms_max=config.read_ms_max
        )
        self.feed.subscribe(self.watchers)
        self.streams = StreamHub(
            self.feed,
            self._budget,
            self.request_log,
            stream_s_max=config.stream_s_max,
            unsent_bytes_max=config.watcher_unsent_bytes_max,
        )
        self.feed.subscribe(self.streams)
        self.writer = Writer(
            database.store,
            database.write_thread,
            tail,
            engine.sender.cork,
            batch_max=config.save_batch_max,
            pending_max=config.saves_pending_max,
            save_ms_max=config.save_ms_max,
        )
        self.service = Service(
            self.writer,
            self.feed,
            *(database.store, database.series_store),
            *(database.read_executor, database.series_executor),
            reads_in_flight_max=config.reads_in_flight_max,
            read_ms_max=config.read_ms_max,
        )
        self.health = Health(self.service, self.writer, tail, database, statement_ms_max=config.statement_ms_max)
        self.document_limiter = CapacityLimiter(config.reads_in_flight_max, "documents")
        self._poll_limiter = CapacityLimiter(config.watchers_max, "long polls")
        self._long_polls = LongPolls(self._poll_limiter)
        self.rate_limits = RateLimits.make(config)
        watching = (engine.sockets, self.streams, self._poll_limiter)
        self._watcher_limit = WatcherLimit(config.watchers_max, self.rate_limits.handshakes, *watching)
        self.authenticator = make_authenticator(config, self.rate_limits.failed_logins)
        self._refresh = self._access_refresh()
        handlers = EventHandlers(self.service, self.watchers, self.rate_limits.saves, self.request_log)
        self.server = make_socket_server(config, engine, handlers, self.authenticator)
        self._loop_lag, self._clock, self._descriptors = LoopLag(), ClockWatch(), Descriptors()
        self.metrics = self._metrics(engine, tail)
        self._http = self._listener(*make_policies(config))
        self._opening: asyncio.Task[None] | None = None
        self._logged_refusal: str | None = None  # why a database that came after the start cannot be used

    def _metrics(self, engine: Engine, tail: Tail) -> Metrics:
        parts = Parts(
            config=self._config, pool=self.database.pool, service=self.service, writer=self.writer, feed=self.feed,
            tail=tail, engine=engine, watchers=self.watchers, streams=self.streams, long_polls=self._poll_limiter,
            health=self.health, loop_lag=self._loop_lag, clock=self._clock, descriptors=self._descriptors,
        )  # fmt: skip
        return Metrics(parts)

    def _exports(self) -> Exports:
        database = self.database
        return Exports(
            database.feed_store, database.export_store, database.replay_executor, read_ms_max=self._config.read_ms_max
        )

    def _access_refresh(self) -> AccessRefresh:
        watched = (self.watchers, self.streams, self._long_polls)
        return AccessRefresh(self.authenticator, self.database.token_store, self.database.tail_thread, watched)

    def _served(self) -> Served:
        return Served(
            config=self._config,
            service=self.service,
            server=self.server,
            streams=self.streams,
            authenticator=self.authenticator,
            health=self.health,
            metrics=self.metrics,
            request_log=self.request_log,
            budget=self._budget,
            watcher_limit=self._watcher_limit,
            poll_limiter=self._poll_limiter,
            long_polls=self._long_polls,
            document_limiter=self.document_limiter,
            exports=self._exports(),
            import_limiter=CapacityLimiter(IMPORTS_MAX, "imports"),
        )

    def _listener(self, hosts: HostPolicy, origins: OriginPolicy) -> HttpListener:
        public = self._config.public
        router = SaveRouter(
            make_application(self._served(), hosts, origins),
            self.service,
            self.authenticator,
            hosts,
            origins,
            self._budget,
            self.rate_limits.saves,
            self.request_log,
            body_bytes_max=self._config.body_bytes_max,
            prefix=public.prefix if public is not None else "",
        )
        return HttpListener(
            router,
            budget=self._budget,
            certificate=self._certificate,
            request_log=self.request_log,
            refusals=self.service.refusals,
            connection_limit=ConnectionLimit(self._config.connections_per_address_max),
            descriptors=self._descriptors,
            accept_limit=self.rate_limits.accepts,
            protocol="https" if public is not None and public.scheme == "https" else None,
            xheaders=bool(self._config.trusted_proxies),  # without a proxy, any client could write X-Forwarded-For
            trusted_downstream=list(self._config.trusted_proxies),
            max_body_size=DRAIN_BYTES_MAX,  # a larger body is read, discarded and answered
        )

    async def start(self, sockets: Sequence[socket.socket]) -> asyncio.Future[None]:
        """Open the database and serve on `sockets`. Raises DatabaseError and SchemaError.

        A database that is not available does not stop the start: every request gets `unavailable` until it is. The
        future that is returned fails if it then cannot be used.
        """
        loop = asyncio.get_running_loop()
        unfit: asyncio.Future[None] = loop.create_future()
        self.database.start()
        with suppress(StoreUnavailable):  # `outage` has logged it
            await self._open_database()
        self._opening = loop.create_task(self._open_when_there(unfit))
        self.server.eio.start()
        self.streams.start()
        self._refresh.start()
        self._loop_lag.start()
        self._clock.start()
        self._http.add_sockets(sockets)
        self._http.start_sweep()
        return unfit

    async def _open_when_there(self, unfit: asyncio.Future[None]) -> None:
        """Open the database if that failed at the start."""
        while self.service.life is Life.STARTING:
            await asyncio.sleep(RETRY_S)
            try:
                await self._open_later()
            except Exception as error:
                unfit.set_exception(error)
                return

    async def _open_database(self) -> None:
        """Open the database and serve. Raises StoreUnavailable, DatabaseError, SchemaError and ConfigError."""
        head, tokens = await self.database.open()
        self.authenticator.replace_tokens(tokens)
        check_closed(self._config, self.authenticator)
        self.service.start(head)

    async def _open_later(self) -> None:
        try:
            await self._open_database()
        except StoreUnavailable:
            pass
        except DatabaseError as error:  # the process runs already, and a person may still repair the database
            if str(error) != self._logged_refusal:
                self._logged_refusal = str(error)
                log.warning("the database cannot be used: %s", error)

    async def stop(self) -> None:
        """Be not ready for a while, then stop.

        Accept nothing more, answer what is in flight, end each stream and WebSocket, and close the database.
        """
        loop = asyncio.get_running_loop()
        self.health.stop()
        if self.service.life is Life.RUNNING:
            await asyncio.sleep(self._config.shutdown_delay_ms / 1000)
        deadline = loop.time() + self._config.shutdown_ms_max / 1000
        self._http.stop()
        self._refresh.stop()
        self._loop_lag.stop()
        self._clock.stop()
        if self._opening is not None:
            self._opening.cancel()
        await self.service.drain(deadline - loop.time())
        await self._poll_limiter.wait_idle(deadline - loop.time())
        self.streams.close()
        await asyncio.sleep(0)  # the last answers are sent in a turn of their own
        await self.server.eio.close(max(0.2, deadline - loop.time()))
        try:
            await asyncio.wait_for(self._http.close_all_connections(), 1)
        except TimeoutError:
            log.warning("some connections did not close")
        self.request_log.close()
        await self.database.close()
