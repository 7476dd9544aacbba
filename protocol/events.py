"""The table of Socket.IO events: which there are, who sends them, what they carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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


EVENTS: dict[str, Event] = {
    event.name: event
    for event in (
        Event(BALANCE_UPDATE, "client_to_server", "balance_update", (BALANCE_ACK, BALANCE_ERROR)),
        Event(PING, "client_to_server", "ping", (PONG,)),
        Event(CONNECTED, "server_to_client", "connected"),
        Event(BALANCE_SNAPSHOT, "server_to_client", "balance_snapshot"),
        Event(BALANCE_ACK, "server_to_client", "balance_ack"),
        Event(BALANCE_ERROR, "server_to_client", "balance_error"),
        Event(PONG, "server_to_client", "pong"),
    )
}
"""Every event by its name."""
