"""The table of routes: which handler answers at which address, and what it is given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

from tornado.web import Application

import protocol
from balance.access.authenticator import Authenticator
from balance.aio.limiter import CapacityLimiter
from balance.aio.loop_budget import LoopBudget
from balance.config import Config
from balance.health import Health
from balance.metrics.collector import MEDIA_TYPE, Metrics
from balance.realtime import EngineHandler, SocketServer
from balance.request_log import RequestLog
from balance.service import Life, Service
from balance.transfer.exporting import Exports
from balance.web import pages
from balance.web.base import JsonHandler, log_request
from balance.web.connections import CONNECTIONS, ConnectionsHandler
from balance.web.cors import HostPolicy, OriginPolicy
from balance.web.documents import DocumentHandler, by_request_path
from balance.web.export import ExportHandler
from balance.web.feed import FeedHandler, LatestHandler, LongPolls
from balance.web.health import LiveHandler, MetricsHandler, ReadyHandler, VersionHandler
from balance.web.host_rule import HostNotServed
from balance.web.imports import ImportHandler
from balance.web.pages.balances_page import BALANCES, PAGE_HEADERS, balances
from balance.web.root import RootHandler
from balance.web.series import SeriesHandler
from balance.web.snapshots import (
    MisdirectedHandler,
    NotFoundHandler,
    ServerHandler,
    SnapshotHandler,
    SnapshotsHandler,
)
from balance.web.stream import StreamHandler
from balance.web.stream_hub import StreamHub
from balance.web.ticket import TicketHandler
from balance.web.watcher_limit import WatcherLimit
from protocol.documents import documents
from protocol.limits import DEFAULT, Limits
from protocol.operations import (
    ASYNCAPI,
    CONTRACT,
    DOCS,
    EXPORT,
    FEED,
    HEALTHZ,
    IMPORT,
    LATEST,
    LIVEZ,
    METRICS,
    OPENAPI,
    READYZ,
    SERIES,
    SNAPSHOTS,
    STREAM,
    TICKET,
    VERSION_PATH,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the handlers use."""

    config: Config
    service: Service
    server: SocketServer
    streams: StreamHub
    authenticator: Authenticator
    health: Health
    metrics: Metrics
    request_log: RequestLog
    budget: LoopBudget
    watcher_limit: WatcherLimit
    poll_limiter: CapacityLimiter
    long_polls: LongPolls
    document_limiter: CapacityLimiter
    exports: Exports
    import_limiter: CapacityLimiter


def make_application(served: Served, hosts: HostPolicy, origins: OriginPolicy) -> Application:
    """Make the application that answers every request but a POST of an update, which `SaveRouter` answers before."""
    config = served.config
    common = {
        "service": served.service,
        "authenticator": served.authenticator,
        "origins": origins,
        "budget": served.budget,
        "body_bytes_max": config.body_bytes_max,
    }
    socket_io = {
        "server": served.server,
        "authenticator": served.authenticator,
        "origins": origins,
        "budget": served.budget,
        "is_ready": lambda: served.service.life is Life.RUNNING,
        "watcher_limit": served.watcher_limit,
        "body_bytes_max": config.frame_bytes_max,
    }
    limits = _limits(config)
    clients = {"transports": (served.server.eio, served.streams)}
    counted = {"socketIo": served.server.eio.sockets, "sse": served.streams, "longPolls": served.poll_limiter}
    watching = {**common, "watcher_limit": served.watcher_limit}
    of_documents = {**common, "limiter": served.document_limiter}
    of_health = {**common, "health": served.health}
    return Application(
        [
            (HostNotServed(hosts, served.authenticator), MisdirectedHandler, common),
            (SNAPSHOTS, SnapshotsHandler, common),  # POST is answered by `SaveRouter`, before these routes
            (f"{SNAPSHOTS}/([^/]+)", SnapshotHandler, common),
            (STREAM, StreamHandler, {**watching, "hub": served.streams}),
            (FEED, FeedHandler, {**watching, "long_polls": served.long_polls}),
            (LATEST, LatestHandler, common),
            (EXPORT, ExportHandler, {**common, "exports": served.exports}),
            (IMPORT, ImportHandler, {**common, "import_limiter": served.import_limiter}),
            (SERIES, SeriesHandler, common),
            (CONNECTIONS, ConnectionsHandler, {**common, **clients, "counted": counted}),
            (TICKET, TicketHandler, common),
            (re.escape(protocol.SOCKET_PATH), EngineHandler, socket_io),
            *_document_routes(of_documents, limits),
            (LIVEZ, LiveHandler, of_health),
            (READYZ, ReadyHandler, of_health),
            (HEALTHZ, ReadyHandler, of_health),
            (VERSION_PATH, VersionHandler, of_health),
            (METRICS, MetricsHandler, {**of_documents, "scrape": served.metrics.scrape, "media_type": MEDIA_TYPE}),
            (r"\*", ServerHandler, common),
        ],
        default_handler_class=NotFoundHandler,
        default_handler_args=common,
        log_function=partial(log_request, served.request_log),
        refusals=served.service.refusals,
        websocket_max_message_size=config.frame_bytes_max,
        websocket_ping_interval=0,  # Engine.IO has a heartbeat of its own
    )


def _document_routes(common: dict[str, Any], limits: Limits) -> list[tuple[str, type[JsonHandler], dict[str, Any]]]:
    """Return the routes of the contract, of its pages, and of the page of balances."""
    contract = {**common, "documents": by_request_path(documents(limits)), "headers": {}}
    docs = {**common, "documents": by_request_path(pages.pages(limits)), "headers": pages.HEADERS}
    page = {**common, "documents": by_request_path(balances(limits.prefix)), "headers": PAGE_HEADERS}
    return [
        (f"{CONTRACT[:-1]}(?:/.*)?", DocumentHandler, contract),
        (re.escape(OPENAPI), DocumentHandler, contract),
        (re.escape(ASYNCAPI), DocumentHandler, contract),
        (f"{DOCS}(?:/.*)?", DocumentHandler, docs),
        ("/", RootHandler, {**page, "prefix": limits.prefix}),
        (f"{BALANCES}/.*", DocumentHandler, page),
    ]


def _limits(config: Config) -> Limits:
    """Return the settings that the documents state, with the address as clients see it."""
    public = config.public
    own = f"{config.host}:{config.port}" if config.port else DEFAULT.address
    return Limits(
        update_bytes_max=config.body_bytes_max,
        ping_interval_s=config.ping_interval_s,
        ping_timeout_s=config.ping_timeout_s,
        address=own if public is None else public.address,
        scheme=("https" if config.tls_cert else "http") if public is None else public.scheme,
        prefix="" if public is None else public.prefix,
    )
