"""Encode snapshots as events, once for however many clients receive them.

`balance:snapshot` has three forms. Most clients receive `plain`. A client of native recovery receives the position of
each snapshot as a second argument, which socket.io-client sends back when it reconnects: `with_offset` within the epoch
that the client received as its `pid`, `with_token` in a later epoch. One form encodes what a client has missed and what
is live.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engineio.packet import MESSAGE
from socketio import packet as sio_packet

import protocol
from balance.position import to_token
from balance.realtime.send_queue import EncodedPackets
from balance.snapshot import EncodedSnapshot

# How a packet begins. The packets are encoded here: the library would first search each payload for bytes.
EVENT, ACK = (f"{MESSAGE}{packet_type}".encode() for packet_type in (sio_packet.EVENT, sio_packet.ACK))
SNAPSHOT = EVENT + protocol.encode([protocol.BALANCE_SNAPSHOT])[:-1] + b","

Form = Callable[[Sequence[EncodedSnapshot], str], EncodedPackets]
"""Encodes snapshots of an epoch as packets."""


def event(name: str, *arguments: object) -> bytes:
    """Encode an event."""
    return EVENT + protocol.encode([name, *arguments])


def acknowledgement(ack_id: int, payload: object) -> bytes:
    """Encode the acknowledgement of an event."""
    return b"%b%d%b" % (ACK, ack_id, protocol.encode([payload]))


def form_and_offset(pid: str | None, epoch: str, seq: int, tag: str) -> tuple[Form, tuple[str, ...]]:
    """Return the form of a stream to a client that received this `pid`, and what `connected` has as second argument."""
    if pid is None:
        return plain, ()
    if pid.lower() == epoch:
        return with_offset, (f"{seq}:{tag}",)
    return with_token, (to_token(epoch, seq, tag),)


def plain(snapshots: Sequence[EncodedSnapshot], _epoch: str) -> EncodedPackets:
    """Encode snapshots as `["balance:snapshot",{…}]`."""
    return EncodedPackets(*[b"%b%b]" % (SNAPSHOT, one.json) for one in snapshots])


def with_offset(snapshots: Sequence[EncodedSnapshot], _epoch: str) -> EncodedPackets:
    """Encode snapshots as `["balance:snapshot",{…},"<seq>:<tag>"]`."""
    return EncodedPackets(*[b'%b%b,"%d:%b"]' % (SNAPSHOT, one.json, one.seq, one.tag) for one in snapshots])


def with_token(snapshots: Sequence[EncodedSnapshot], epoch: str) -> EncodedPackets:
    """Encode snapshots as `["balance:snapshot",{…},"<epoch>:<seq>:<tag>"]`."""
    head = epoch.encode()
    return EncodedPackets(*[b'%b%b,"%b:%d:%b"]' % (SNAPSHOT, one.json, head, one.seq, one.tag) for one in snapshots])
