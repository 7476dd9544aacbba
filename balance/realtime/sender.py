"""Sends packets to one client or to many, without waiting; disconnects a client whose backlog is over the limit.

What is sent on an idle connection bypasses the send queue of its session: the queue costs a future, a turn of the
writer's task and another future for each client and packet.

Threads: event loop only.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Protocol

from balance.aio.send import send_to_each
from balance.realtime.cork import Cork
from balance.realtime.send_queue import EncodedPackets
from balance.realtime.session import Session

log = logging.getLogger("balance.realtime")


class SessionOwner(Protocol):
    """What a sender needs of the engine."""

    def abort_session(self, session: Session) -> None:
        """End a session at once."""


class Sender:
    """Sends to the sessions of one engine."""

    def __init__(self, engine: SessionOwner, *, unsent_bytes_max: int) -> None:
        self._engine = engine
        self._unsent_bytes_max = unsent_bytes_max
        self.cork = Cork()
        self.slow_disconnects = 0

    def send(self, session: Session, packets: EncodedPackets) -> None:
        """Send packets to one client; disconnect it if its backlog is over the limit.

        On an idle connection, packets of the same turn of the event loop are coalesced into one write.
        """
        queue = session.send_queue
        if session.has_ended:
            return
        if queue.has_buffered:
            queue.add_buffered(packets.frames)
        elif session.is_upgraded and queue.can_bypass():
            self.cork.add(session, packets.frames)
        else:
            self._queue_or_disconnect(session, packets)

    async def send_paced(self, session: Session, packets: EncodedPackets) -> None:
        """Send packets of which many follow, and wait until the client has read nearly all that is sent to it."""
        self.send(session, packets)
        await session.send_queue.wait_below(self._unsent_bytes_max // 4)

    def broadcast(self, packets: EncodedPackets, group: Collection[Session]) -> None:
        """Send the same packets to each session of a group, which finds a session fast.

        Clients with a buffered acknowledgement come first and get both in one write.
        """
        sessions = list(group)  # a session that ends leaves the group
        queues = [session.send_queue for session in sessions]
        sends = [None if queue.unsent_bytes else queue.direct_send for queue in queues]
        answered = self.cork.add_to(group, packets.frames)
        self.cork.flush()
        for session, sent in send_to_each(sessions, sends, packets.frames):
            if session not in answered and not session.has_ended:
                self._send_rest(session, packets, sent)

    def _send_rest(self, session: Session, packets: EncodedPackets, sent: int) -> None:
        """Send the part of a broadcast that the operating system did not accept; `sent` bytes are sent already.

        After a part of a frame nothing but its rest may be sent. Both bypass the queue, or the session ends: then its
        writer has ended, although nothing waits.
        """
        connection = session.connection if session.is_upgraded and session.send_queue.can_bypass() else None
        if connection is not None and connection.is_idle:
            session.send_queue.direct_send = connection.stream.socket.send
            connection.write(packets.frames, sent)
        elif sent:
            self._engine.abort_session(session)
        else:
            self._queue_or_disconnect(session, packets)

    def _queue_or_disconnect(self, session: Session, packets: EncodedPackets) -> None:
        """Queue packets for a client; disconnect it if it is slow: if its backlog is over the limit."""
        queue = session.send_queue
        if not queue.admit(len(packets.frames), self._unsent_bytes_max):
            self.disconnect_slow(session)
            return
        for packet in packets.packets:
            queue.put_nowait(packet)

    def disconnect_slow(self, session: Session) -> None:
        """Disconnect a client that does not read, and free what it has not read."""
        self.slow_disconnects += 1
        log.warning("disconnected slow client %s: %d bytes unread", session.id, session.send_queue.unsent_bytes)
        self._engine.abort_session(session)

    async def wait_for_polls(self, session: Session) -> bool:
        """Wait until polls have left at most half of the limit unread; return False if no poll comes."""
        return await session.send_queue.wait_for_polls(self._unsent_bytes_max // 2)
