"""Engine.IO sessions: what is sent to them, their heartbeats, and their end.

python-engineio's `AsyncServer` implements the protocol; this overrides what has no limit or no end in it. Each session
has a send queue with a limit in bytes, and a client whose backlog is over it is disconnected. One sweep ends the
sessions that do not send CONNECT in time or do not answer the heartbeat.

Threads: the event loop only.
Life cycle: `start` starts the sweep; `close` ends every session.

tests/unit/test_library_internals.py lists the private names of python-engineio that this relies on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import engineio
from engineio.async_socket import AsyncSocket
from engineio.packet import PING, Packet

from balance.realtime.connection import Connection
from balance.realtime.cork import Cork
from balance.realtime.frames import GOING_AWAY, POLICY
from balance.realtime.send_queue import EncodedPackets, SendQueue
from balance.realtime.session import Session
from balance.realtime.transport import NO_PONG, Transport

log = logging.getLogger("balance.realtime")

SWEEP_S = 0.5
PING_PACKET = EncodedPackets(Packet(PING).encode().encode())
GOODBYE_S_MAX = 1  # for a client to receive the last answers at a stop


class Engine(engineio.AsyncServer):
    """Engine.IO with send queues that have a limit and sessions that end."""

    def __init__(self, *, watcher_unsent_bytes_max: int, connect_ms_max: int, **options: Any) -> None:
        super().__init__(**options)
        self._async: dict[str, Any] = {**self._async, "websocket": Transport}
        self._unsent_bytes_max = watcher_unsent_bytes_max
        self._connect_s_max = connect_ms_max / 1000
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_due = 0.0
        self._ending: set[asyncio.Task[None]] = set()
        self.cork = Cork()
        self.sessions: dict[str, Session] = {}
        self.slow_disconnects = 0

    # Sessions

    @property
    def connections(self) -> list[Connection]:
        """The WebSockets of all sessions."""
        return [session.connection for session in self.sessions.values() if session.connection is not None]

    def create_queue(self, *args: Any, **kwargs: Any) -> SendQueue:
        """Make the send queue of a new session."""
        return SendQueue()

    def open_session(self, session_id: str) -> Session:
        """Make the session of a client that the library has accepted; it must send CONNECT in time."""
        session = Session(self.sockets[session_id], time.monotonic() + self._connect_s_max)
        self.sessions[session_id] = session
        return session

    def await_connect(self, session: Session) -> None:
        """End a session unless it sends CONNECT in time."""
        session.connect_by = time.monotonic() + self._connect_s_max

    def abort_session(
        self, session: Session, reason: str = "transport close", *, close: tuple[int, str] | None = None
    ) -> None:
        """End a session at once, whatever its transport is doing.

        `close` is the code and the reason to close its WebSocket with. Without it the stream is closed, which frees
        what the client has not read.
        """
        session.send_queue.close()
        connection = session.connection if session.is_upgraded else None
        if connection is not None and close is None:
            connection.abort()  # its reader ends the session
            return
        if connection is not None and close is not None:
            connection.close(*close)
        task = asyncio.ensure_future(session.socket.close(wait=False, abort=True, reason=reason))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def end_session(self, session: Session) -> None:
        """Discard a session that the library has ended, and end its poll and its probe."""
        session.has_joined = False
        session.resume_reader()
        self.sockets.pop(session.id, None)
        if not session.is_upgraded:
            session.send_queue.close()
            if session.connection is not None:
                session.connection.close(POLICY, "the session of this upgrade has ended")
        self._discard_session(session)

    def end_connection(self, session: Session, connection: Connection) -> None:
        """Note that a WebSocket is closed; a session that was not upgraded goes on polling."""
        session.socket.upgrading = False  # a probe that broke off must not stop the polling
        if session.connection is connection:
            session.connection = None
        self._discard_session(session)

    def _discard_session(self, session: Session) -> None:
        if session.connection is None and session.id not in self.sockets:
            self.sessions.pop(session.id, None)

    async def disconnect(self, sid: str | None = None) -> None:
        """End a client's session; never wait for the client to accept what is queued, as the library would."""
        if sid in self.sessions:
            self.abort_session(self.sessions[sid])

    # Sending

    async def send_packet(self, sid: str, pkt: Packet) -> None:
        """Send a packet of the library's."""
        if sid in self.sessions:
            self.send_packets(self.sessions[sid], EncodedPackets(pkt.encode().encode()))

    def send_packets(self, session: Session, packets: EncodedPackets) -> None:
        """Send packets to one client without waiting; disconnect it if its backlog is over the limit.

        On an idle connection, packets of the same turn of the event loop are coalesced into one write that bypasses the
        queue: the queue costs a future, a turn of the writer's task and another future for each client and packet.
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

    def broadcast(self, packets: EncodedPackets) -> None:
        """Send the same packets to every session that has joined, without waiting.

        Clients with a buffered acknowledgement come first and get both in one write.
        """
        frames, size = packets.frames, len(packets.frames)
        sessions = [session for session in self.sessions.values() if session.has_joined]
        queues = [session.send_queue for session in sessions]
        sends = [None if queue.unsent_bytes else queue.direct_send for queue in queues]
        answered = self.cork.add_to_joined(frames)
        self.cork.flush()
        # The loop body is `send` alone. The system call leaves the caches of the processor cold, so that each further
        # object of a watcher that is touched here comes from memory.
        unfinished = []
        for session, send in zip(sessions, sends, strict=True):
            try:
                sent = send(frames) if send is not None else 0
            except OSError:
                sent = 0
            if sent != size:
                unfinished.append((session, sent))
        for session, sent in unfinished:
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
            self.abort_session(session)
        else:
            self._queue_or_disconnect(session, packets)

    def _queue_or_disconnect(self, session: Session, packets: EncodedPackets) -> None:
        """Queue packets for a client; disconnect it if it is slow: if its backlog is over the limit."""
        queue = session.send_queue
        if not queue.admit(len(packets.frames), self._unsent_bytes_max):
            self.slow_disconnects += 1
            log.warning("disconnected slow client %s: %d bytes unread", session.id, queue.unsent_bytes)
            self.abort_session(session)
            return
        for packet in packets.packets:
            queue.put_nowait(packet)

    async def wait_for_polls(self, session: Session) -> bool:
        """Wait until polls have left at most half of the limit unread; return False if no poll comes."""
        return await session.send_queue.wait_for_polls(self._unsent_bytes_max // 2)

    # Heartbeats

    def start_background_task(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Start a task as the library asks, but for the next heartbeat, which the sweep sends.

        The library would have a task for each client sleep until then, and sleep on when the client has gone.
        """
        if getattr(target, "__func__", None) is not AsyncSocket._send_ping:
            return super().start_background_task(target, *args, **kwargs)
        session = self.sessions.get(target.__self__.sid)
        if session is not None:
            session.awaits_pong = False
            session.heartbeat_at = time.monotonic() + self.ping_interval
        return None

    def touch(self, session: Session) -> None:
        """Note that a client has sent something: its answer to a heartbeat may come after it."""
        if session.awaits_pong:
            session.heartbeat_at = time.monotonic() + self.ping_timeout

    def _continue_heartbeat(self, session: Session) -> None:
        """Send the next ping, or end a session whose pong has not come in time."""
        if session.awaits_pong:
            self.abort_session(session, self.reason.PING_TIMEOUT, close=NO_PONG)
            return
        session.awaits_pong = True
        session.heartbeat_at = time.monotonic() + self.ping_timeout
        session.socket.last_ping = time.time()  # without it the library would ignore the pong
        self.send_packets(session, PING_PACKET)

    def start(self) -> None:
        """Start the sweep."""
        self._sweep_due = time.monotonic() + SWEEP_S
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        # In place of the library's own monitor, which wakes up once for each client and has no limit for CONNECT.
        now = time.monotonic()
        blocked_s = now - self._sweep_due
        if blocked_s > SWEEP_S:  # nothing was read meanwhile, so it counts for no client
            self._postpone(blocked_s)
        self.start()
        for session in list(self.sessions.values()):
            if session.has_ended:
                continue
            if session.is_upgraded:
                session.send_queue.keep_writer_alive(self.ping_interval)
            if now > session.connect_by:
                self.abort_session(session, close=(POLICY, f"no CONNECT came within {self._connect_s_max:g} s"))
            elif now > session.heartbeat_at:
                self._continue_heartbeat(session)

    def _postpone(self, seconds: float) -> None:
        for session in self.sessions.values():
            session.connect_by += seconds
            if session.awaits_pong:
                session.heartbeat_at += seconds

    # The end

    async def close(self, seconds_max: float) -> None:
        """Wait until the queues are sent, then close every transport: a WebSocket with 1001, a poll by its answer."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        deadline = time.monotonic() + seconds_max
        await self._wait_sent(min(deadline, time.monotonic() + GOODBYE_S_MAX))
        for session in list(self.sessions.values()):
            if session.connection is not None and session.is_upgraded:
                session.connection.close(GOING_AWAY, "the server is stopping")
            elif not session.has_ended:
                self.abort_session(session, self.reason.SERVER_DISCONNECT)
        await self._wait_ended(max(0.2, deadline - time.monotonic()))
        for connection in self.connections:  # those whose clients do not answer the close frame
            connection.abort()
        await self._wait_ended(1)

    async def _wait_sent(self, until: float) -> None:
        """Wait until no session has a backlog, or until this moment."""
        while time.monotonic() < until and any(session.send_queue.unsent_bytes for session in self.sessions.values()):
            await asyncio.sleep(0.01)

    async def _wait_ended(self, seconds_max: float) -> None:
        """Wait until every session and every WebSocket has ended, but at most for this time."""
        tasks = [*self._ending, *(one.serving for one in self.connections if one.serving is not None)]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds_max)

    def _log_error_once(self, message: str, message_key: str) -> None:
        log.debug("%s", message)  # a fault of a client is answered; the library would log the first as an error
