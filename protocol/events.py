"""The table of Socket.IO events: which there are, who sends them, what they carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protocol.errors import (
    Busy,
    Conflict,
    Forbidden,
    InternalError,
    InvalidPayload,
    MalformedJson,
    MisdirectedRequest,
    PayloadTooLarge,
    ServiceError,
    Unavailable,
)

SOCKET_PATH = "/api/socket.io"
"""Where Socket.IO is served: the option `path` of its clients."""
NAMESPACE = "/"
"""The only one there is; clients join it if they name none."""

BALANCE_UPDATE = "balance:update"
PING = "ping"
CONNECTED = "connected"
BALANCE_SNAPSHOT = "balance:snapshot"
BALANCE_ACK = "balance:ack"
BALANCE_ERROR = "balance:error"
PONG = "pong"


@dataclass(frozen=True, slots=True)
class Event:
    """One event of SEED.md."""

    name: str
    """As it stands on the wire."""
    direction: Literal["client_to_server", "server_to_client"]
    """Who sends it."""
    schema: str
    """The name of its payload's schema, for `check`."""
    answered_by: tuple[str, ...] = ()
    """The events one of which the server answers with; the same payload is the acknowledgement."""
    errors: tuple[type[ServiceError], ...] = ()
    """Each way in which it may be refused."""


EVENTS: dict[str, Event] = {
    event.name: event
    for event in (
        Event(
            BALANCE_UPDATE,
            "client_to_server",
            "balance_update",
            (BALANCE_ACK, BALANCE_ERROR),
            (MalformedJson, InvalidPayload, Conflict, PayloadTooLarge, Busy, Unavailable, InternalError),
        ),
        Event(
            PING,
            "client_to_server",
            "ping",
            (PONG, BALANCE_ERROR),
            (MalformedJson, InvalidPayload, PayloadTooLarge),
        ),
        Event(CONNECTED, "server_to_client", "connected"),
        Event(BALANCE_SNAPSHOT, "server_to_client", "balance_snapshot"),
        Event(BALANCE_ACK, "server_to_client", "balance_ack"),
        Event(BALANCE_ERROR, "server_to_client", "balance_error"),
        Event(PONG, "server_to_client", "pong"),
    )
}
"""Every event by its name."""

CONNECT = Event(
    "connect",
    "client_to_server",
    "connect_auth",
    (CONNECTED, "connect_error"),
    (MalformedJson, InvalidPayload, PayloadTooLarge),
)
"""Not an event but the packet by which Socket.IO itself connects; its payload is the option `auth` of a client."""
CONNECT_ERROR = Event("connect_error", "server_to_client", "connect_error")
"""The packet by which Socket.IO itself refuses that."""
HANDSHAKE_ERRORS: tuple[type[ServiceError], ...] = (InvalidPayload, Forbidden, MisdirectedRequest, Busy, Unavailable)
"""By what the HTTP request that begins a connection may be refused, before there is any Socket.IO."""
