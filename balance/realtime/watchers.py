"""The clients that have joined, and the way to them. Nothing here waits for a client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engineio.packet import MESSAGE
from socketio import packet as sio_packet

import protocol
from balance.realtime.engine import Engine
from balance.realtime.outbox import Outbox, Parcel
from balance.snapshot import Snapshot


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
        self._engine.deliver(eio_sid, Parcel(_packet(sio_packet.EVENT, [event, payload])))

    def answer(self, eio_sid: str, event: str, payload: object, ack_id: int | None) -> None:
        """Answer what a client sent by an event, and by the acknowledgement if it asked for one."""
        packets = [_packet(sio_packet.EVENT, [event, payload])]
        if ack_id is not None:
            packets.append(_packet(sio_packet.ACK, [payload], str(ack_id)))
        self._engine.deliver(eio_sid, Parcel(*packets))

    def publish(self, snapshots: Sequence[Snapshot]) -> None:
        """Send `balance:snapshot` for each, in this order, to everyone who has joined."""
        if not self._joined:
            return
        parcel = Parcel(*[_packet(sio_packet.EVENT, [protocol.BALANCE_SNAPSHOT, one.to_wire()]) for one in snapshots])
        self._engine.broadcast(self._joined, parcel)


def _packet(packet_type: int, data: list[Any], ack_id: str = "") -> bytes:
    # Encoded by hand: the library's packets would first walk through all of `data` in search of bytes.
    return f"{MESSAGE}{packet_type}{ack_id}".encode() + protocol.encode(data)
