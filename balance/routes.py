"""The address of every route, and the handler that answers it. POST of an update is answered before (`web.save`)."""

from __future__ import annotations

import re

from tornado.web import Application

import protocol
from balance.aio.limiter import CapacityLimiter
from balance.aio.loop_budget import LoopBudget
from balance.config import Config
from balance.realtime import EngineHandler, SocketServer
from balance.service import Life, Service
from balance.web import pages
from balance.web.base import HostNotServed, WatcherLimit, log_request
from balance.web.cors import HostPolicy, OriginPolicy
from balance.web.documents import DocumentHandler, by_request_path
from balance.web.feed import FeedHandler, LatestHandler
from balance.web.snapshots import (
    MisdirectedHandler,
    NotFoundHandler,
    ServerHandler,
    SnapshotHandler,
    SnapshotsHandler,
)
from balance.web.stream import StreamHandler
from balance.web.stream_hub import StreamHub
from protocol.documents import documents
from protocol.limits import DEFAULT, Limits
from protocol.operations import ASYNCAPI, CONTRACT, DOCS, FEED, LATEST, OPENAPI, SNAPSHOTS, STREAM


def routes(
    config: Config,
    hosts: HostPolicy,
    *,
    service: Service,
    server: SocketServer,
    streams: StreamHub,
    origins: OriginPolicy,
    budget: LoopBudget,
    watcher_limit: WatcherLimit,
    poll_limiter: CapacityLimiter,
    document_limiter: CapacityLimiter,
) -> Application:
    """Build the application, whose handlers get the parts of the service that they use."""
    common = {
        "service": service,
        "origins": origins,
        "budget": budget,
        "body_bytes_max": config.body_bytes_max,
    }
    socket_io = {
        "server": server,
        "origins": origins,
        "budget": budget,
        "is_ready": lambda: service.life is Life.RUNNING,
        "watcher_limit": watcher_limit,
        "body_bytes_max": config.frame_bytes_max,
    }
    limits = Limits(
        update_bytes_max=config.body_bytes_max,
        ping_interval_s=config.ping_interval_s,
        ping_timeout_s=config.ping_timeout_s,
        address=f"{config.host}:{config.port}" if config.port else DEFAULT.address,
    )
    watching = {**common, "watcher_limit": watcher_limit}
    of_documents = {**common, "limiter": document_limiter}
    contract = {**of_documents, "documents": by_request_path(documents(limits)), "headers": {}}
    docs = {**of_documents, "documents": by_request_path(pages.pages(limits)), "headers": pages.HEADERS}
    return Application(
        [
            (HostNotServed(hosts), MisdirectedHandler, common),
            (SNAPSHOTS, SnapshotsHandler, common),  # POST is answered by `SaveRouter`, before these routes
            (f"{SNAPSHOTS}/([^/]+)", SnapshotHandler, common),
            (STREAM, StreamHandler, {**watching, "hub": streams}),
            (FEED, FeedHandler, {**watching, "poll_limiter": poll_limiter}),
            (LATEST, LatestHandler, common),
            (re.escape(protocol.SOCKET_PATH), EngineHandler, socket_io),
            (f"{CONTRACT[:-1]}(?:/.*)?", DocumentHandler, contract),
            (re.escape(OPENAPI), DocumentHandler, contract),
            (re.escape(ASYNCAPI), DocumentHandler, contract),
            (f"{DOCS}(?:/.*)?", DocumentHandler, docs),
            (r"\*", ServerHandler, common),
        ],
        default_handler_class=NotFoundHandler,
        default_handler_args=common,
        log_function=log_request,
        websocket_max_message_size=config.frame_bytes_max,
        websocket_ping_interval=0,  # Engine.IO has a heartbeat of its own
    )
