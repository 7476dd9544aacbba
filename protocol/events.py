"""The table of Socket.IO events: the sender, the payload, the answers and the errors of each."""

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
    RateLimited,
    ServiceError,
    Unauthorized,
    Unavailable,
)

SOCKET_PATH = "/api/socket.io"
"""The path of Socket.IO, which its clients need as the option `path`."""
NAMESPACE = "/"
"""The only namespace, and the one that clients join by default."""

BALANCE_UPDATE = "balance:update"
PING = "ping"
CONNECTED = "connected"
BALANCE_SNAPSHOT = "balance:snapshot"
BALANCE_ACK = "balance:ack"
BALANCE_ERROR = "balance:error"
PONG = "pong"


@dataclass(frozen=True, slots=True)
class Event:
    """One event (docs/spec.md, Events)."""

    name: str
    """The name on the wire."""
    direction: Literal["client_to_server", "server_to_client"]
    """Which side sends it."""
    schema: str
    """The name of the schema of its payload, for `check`."""
    answered_by: tuple[str, ...] = ()
    """The server answers with one of these events; the acknowledgement has the same payload."""
    errors: tuple[type[ServiceError], ...] = ()
    """The errors with which the server may reject it."""
    offset: str = ""
    """The schema of a last argument, which only a client that asked for recovery gets; empty if there is none."""


EVENTS: dict[str, Event] = {
    event.name: event
    for event in (
        Event(
            BALANCE_UPDATE,
            "client_to_server",
            "balance_update",
            (BALANCE_ACK, BALANCE_ERROR),
            (
                *(MalformedJson, InvalidPayload, Unauthorized, Forbidden, Conflict, PayloadTooLarge),
                *(RateLimited, Busy, Unavailable, InternalError),
            ),
        ),
        Event(
            PING,
            "client_to_server",
            "ping",
            (PONG, BALANCE_ERROR),
            (MalformedJson, InvalidPayload, PayloadTooLarge),
        ),
        Event(CONNECTED, "server_to_client", "connected", offset="recovery_offset"),
        Event(BALANCE_SNAPSHOT, "server_to_client", "balance_snapshot", offset="recovery_offset"),
        Event(BALANCE_ACK, "server_to_client", "balance_ack"),
        Event(BALANCE_ERROR, "server_to_client", "balance_error"),
        Event(PONG, "server_to_client", "pong"),
    )
}
"""Each event by its name."""

CONNECT = Event(
    "connect",
    "client_to_server",
    "connect_auth",
    (CONNECTED, "connect_error"),
    (MalformedJson, InvalidPayload, Unauthorized, Forbidden, PayloadTooLarge, RateLimited),
)
"""The CONNECT packet of Socket.IO, described as an event; its payload is the option `auth` of a client."""
CONNECT_ERROR = Event("connect_error", "server_to_client", "connect_error")
"""The packet by which Socket.IO rejects a CONNECT."""
HANDSHAKE_ERRORS: tuple[type[ServiceError], ...] = (
    *(InvalidPayload, Unauthorized, Forbidden, MisdirectedRequest, RateLimited, Busy, Unavailable),
)
"""The errors with which the HTTP request that opens a connection may be rejected, before Socket.IO begins."""
