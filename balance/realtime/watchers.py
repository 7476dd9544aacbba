"""Send events to the clients that have joined: to one of them, or to all. Nothing here waits for a client."""

from __future__ import annotations

from collections.abc import Sequence

from engineio.packet import MESSAGE
from socketio import packet as sio_packet

import protocol
from balance.realtime.engine import Engine
from balance.realtime.frames import SERVICE_RESTART
from balance.realtime.send_queue import EncodedPackets
from balance.realtime.session import Session
from balance.snapshot import EncodedSnapshot

# How a packet begins. The packets are encoded here: the library would first search each payload for bytes.
EVENT, ACK = (f"{MESSAGE}{packet_type}".encode() for packet_type in (sio_packet.EVENT, sio_packet.ACK))
SNAPSHOT_EVENT = EVENT + b'["%b",' % protocol.BALANCE_SNAPSHOT.encode()
FEED_CHANGED = SERVICE_RESTART, "the feed has changed"


class Watchers:
    """The clients that have joined."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __len__(self) -> int:
        return sum([session.has_joined for session in self._engine.sessions.values()])

    def send(self, session: Session, event: str, payload: object) -> None:
        """Send one event to one client."""
        self._engine.send_packets(session, EncodedPackets(_event(event, payload)))

    def answer(self, session: Session, event: str, payload: object, ack_id: int | None) -> None:
        """Answer what a client sent by an event, and by the acknowledgement if it asked for one.

        A client that has not joined, or has left, is sent no event.
        """
        if not session.has_joined:
            return
        packets = [_event(event, payload)]
        if ack_id is not None:
            packets.append(b"%b%d%b" % (ACK, ack_id, protocol.encode([payload])))
        self._engine.send_packets(session, EncodedPackets(*packets))

    @property
    def has_watchers(self) -> bool:
        """Whether a client has joined."""
        return any(session.has_joined for session in self._engine.sessions.values())

    def publish(self, snapshots: Sequence[EncodedSnapshot]) -> None:
        """Send `balance:snapshot` for each, in this order, to every client that has joined."""
        self._engine.broadcast(EncodedPackets(*[b"%b%b]" % (SNAPSHOT_EVENT, one.json) for one in snapshots]))

    def end_all(self) -> None:
        """Disconnect every client, so that it resumes."""
        for session in list(self._engine.sessions.values()):
            if session.has_joined:
                self._engine.abort_session(session, close=FEED_CHANGED)


def _event(event: str, payload: object) -> bytes:
    return EVENT + protocol.encode([event, payload])
