"""Makes the servers of Engine.IO and Socket.IO, with each option of the libraries and its reason."""

from __future__ import annotations

import logging

import protocol
from balance.access.authenticator import Authenticator
from balance.config import Config
from balance.realtime.engine import Engine
from balance.realtime.events import EventHandlers
from balance.realtime.server import SocketServer

# The libraries log payloads, which are balances, at INFO; and each gets a handler of its own unless given a logger.
library_log = logging.getLogger("balance.library")
library_log.setLevel(logging.ERROR)


def make_engine(config: Config) -> Engine:
    """Make the engine of Engine.IO."""
    return Engine(
        watcher_unsent_bytes_max=config.watcher_unsent_bytes_max,
        connect_ms_max=config.connect_ms_max,
        async_mode="tornado",
        async_handlers=False,  # the packets of a client are handled in order
        json=protocol,  # exact numbers, and no NaN
        ping_interval=config.ping_interval_s,
        ping_timeout=config.ping_timeout_s,
        max_http_buffer_size=config.frame_bytes_max,
        transports=["polling", "websocket"],
        allow_upgrades=True,
        http_compression=False,  # events are small
        cookie=None,
        cors_allowed_origins=[],  # `cors.OriginPolicy` decides, for both transports and for REST alike
        cors_credentials=False,
        monitor_clients=False,  # `Engine` has a sweep of its own
        logger=library_log,
    )


def make_socket_server(
    config: Config, engine: Engine, handlers: EventHandlers, authenticator: Authenticator
) -> SocketServer:
    """Make the server of Socket.IO."""
    return SocketServer(
        engine,
        handlers,
        authenticator,
        body_bytes_max=config.body_bytes_max,
        updates_in_flight_max=config.updates_in_flight_max,
        json=protocol,
        always_connect=False,  # the first packet to a client accepts or refuses its CONNECT
        namespaces=[protocol.NAMESPACE],
        logger=library_log,
    )
