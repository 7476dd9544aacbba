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
from heapq import nlargest
from typing import Any

import engineio
from engineio.async_socket import AsyncSocket
from engineio.packet import PING, Packet

from balance.aio.turn_limit import TurnLimit
from balance.open_connection import OpenConnection
from balance.realtime.connection import Connection
from balance.realtime.frames import GOING_AWAY, POLICY
from balance.realtime.send_queue import EncodedPackets, SendQueue
from balance.realtime.sender import Sender
from balance.realtime.session import Session
from balance.realtime.transport import NO_PONG, Transport
from balance.request_context import RequestContext

log = logging.getLogger("balance.realtime")

SWEEP_S = 0.5
PING_PACKET = EncodedPackets(Packet(PING).encode().encode())
POLLS_MAX = 8  # that are answered in one turn of the event loop: a broadcast ends the waits of all
GOODBYE_S_MAX = 1  # for a client to receive the last answers at a stop


class Engine(engineio.AsyncServer):
    """Engine.IO with send queues that have a limit and sessions that end."""

    def __init__(self, *, watcher_unsent_bytes_max: int, connect_ms_max: int, **options: Any) -> None:
        super().__init__(**options)
        self._async: dict[str, Any] = {**self._async, "websocket": Transport}
        self._connect_s_max = connect_ms_max / 1000
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_due = 0.0
        self._ending: set[asyncio.Task[None]] = set()
        self.sessions: dict[str, Session] = {}
        self.sender = Sender(self, unsent_bytes_max=watcher_unsent_bytes_max)
        self.poll_turns = TurnLimit(POLLS_MAX)
        """In which polls are answered."""

    # Sessions

    @property
    def connections(self) -> list[Connection]:
        """The WebSockets of all sessions."""
        return [session.connection for session in self.sessions.values() if session.connection is not None]

    def create_queue(self, *args: Any, **kwargs: Any) -> SendQueue:
        """Make the send queue of a new session."""
        return SendQueue()

    def largest_backlogs(self, count: int) -> list[OpenConnection]:
        """Describe the clients with the largest backlogs, at most this number, the largest first."""
        found = nlargest(count, self.sessions.values(), key=lambda session: session.send_queue.unsent_bytes)
        return [session.describe() for session in found]

    def open_session(self, session_id: str, context: RequestContext) -> Session:
        """Make the session of a client that the library has accepted; it must send CONNECT in time."""
        session = Session(self.sockets[session_id], context, time.monotonic() + self._connect_s_max)
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
        session.leave()
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
            self.sender.send(self.sessions[sid], EncodedPackets(pkt.encode().encode()))

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
        self.sender.send(session, PING_PACKET)

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
