"""The clients that have joined, and the way to them. Nothing here waits for a client."""

from __future__ import annotations

from collections.abc import Sequence

from engineio.packet import MESSAGE
from socketio import packet as sio_packet

import protocol
from balance.realtime.engine import Engine
from balance.realtime.send_queue import Outbox, Parcel
from balance.snapshot import Snapshot

# How a packet begins. They are encoded by hand: the library's would first walk through a payload in search of bytes.
EVENT, ACK = (f"{MESSAGE}{packet_type}".encode() for packet_type in (sio_packet.EVENT, sio_packet.ACK))


class Watchers:
    """The clients that have joined, by their Engine.IO session."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._joined: dict[str, Outbox] = {}

    def __len__(self) -> int:
        return len(self._joined)

    def __contains__(self, eio_sid: object) -> bool:
        return eio_sid in self._joined

    def add(self, eio_sid: str) -> None:
        """Show a client every snapshot that is published from now on."""
        self._joined[eio_sid] = self._engine.sockets[eio_sid].queue

    def discard(self, eio_sid: str) -> None:
        """Show a client no more."""
        self._joined.pop(eio_sid, None)

    def send(self, eio_sid: str, event: str, payload: object) -> None:
        """Send one event to one client."""
        self._engine.deliver(eio_sid, Parcel(_event(event, payload)))

    def answer(self, eio_sid: str, event: str, payload: object, ack_id: int | None) -> None:
        """Answer what a client sent by an event, and by the acknowledgement if it asked for one.

        Not if it has not joined, or has left: then no event is meant for it.
        """
        if eio_sid not in self._joined:
            return
        packets = [_event(event, payload)]
        if ack_id is not None:
            packets.append(b"%b%d%b" % (ACK, ack_id, protocol.encode([payload])))
        self._engine.deliver(eio_sid, Parcel(*packets))

    def publish(self, snapshots: Sequence[Snapshot]) -> None:
        """Send `balance:snapshot` for each, in this order, to everyone who has joined."""
        if not self._joined:
            return
        parcel = Parcel(*[_event(protocol.BALANCE_SNAPSHOT, one.to_wire()) for one in snapshots])
        self._engine.broadcast(self._joined, parcel)


def _event(event: str, payload: object) -> bytes:
    return EVENT + protocol.encode([event, payload])
