"""Engine.IO: sessions, what waits to be sent to each, and the end of those that are gone.

Of python-engineio's `AsyncServer` this overrides what has no bound or no end; the protocol stays the library's.
Each session has an outbox with a bound in bytes, and who does not read is cut off; a session that never becomes
a client, or does not answer the heartbeat, is ended by one sweep for all.

Relied on inside python-engineio 4.15, each pinned by a test in tests/integration/test_library_*.py:
`AsyncServer.sockets`, `._async`, `._log_error_once`;
`AsyncSocket.queue`, `.closed`, `.closing`, `.upgraded`, `.upgrading`, `.last_ping`, `.receive`,
`._send_ping`; `WebSocket.tornado_handler`, `.handler`; that of a handshake's environ no more than `tornado.handler` is
used once the WebSocket is handed over, and that an OSError of `WebSocket.wait` is the end. That a session is given up
when its reader or its writer has had nothing to do for a heartbeat and its timeout,
tests/integration/test_fast_update_parity.py pins.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import engineio
from engineio.async_drivers import tornado as driver
from engineio.async_socket import AsyncSocket
from engineio.exceptions import EngineIOError
from engineio.packet import NOOP, PING, Packet
from tornado.iostream import IOStream, StreamClosedError

from balance.realtime.frames import GOING_AWAY, POLICY
from balance.realtime.send_queue import Outbox, Parcel, to_frame

if TYPE_CHECKING:
    from balance.realtime.handler import EngineHandler

log = logging.getLogger("balance.realtime")

SWEEP_S = 0.5
NOOP_TEXT = Packet(NOOP).encode()
PING_PARCEL = Parcel(Packet(PING).encode().encode())
GOODBYE_S_MAX = 1  # for a client to take the last answers at a stop
NO_PONG = (POLICY, "no answer to the heartbeat came in time")


class Transport(driver.WebSocket):
    """One WebSocket under Engine.IO, whose `send` waits until the operating system has taken the bytes.

    It writes frames of its own: Tornado's `write_message` makes a task for each.
    """

    def __init__(self, handler: Any, server: Any) -> None:
        super().__init__(handler, server)
        self._engine: Engine = server
        self._client: AsyncSocket = handler.__self__

    async def __call__(self, environ: dict[str, Any]) -> None:
        handler: EngineHandler = environ["tornado.handler"]
        handler.forget_request()
        environ.clear()  # the library's copy of it
        environ["tornado.handler"] = handler
        handler.client = self._client
        self._engine.websockets[self._client.sid] = handler
        self.tornado_handler: Any = handler  # as the library names it
        await self.handler(self)

    def wait(self) -> asyncio.Future[str | bytes]:
        """Give the next frame. It raises OSError, as the library knows it, when there will be none."""
        frame: asyncio.Future[str | bytes] = self.tornado_handler.get_next_message()
        return frame

    async def close(self) -> None:
        """Close a connection whose reader has had no frame for a heartbeat and its timeout."""
        self.tornado_handler.close(*NO_PONG)

    async def send(self, message: str) -> None:
        """Send one frame. Raises EngineIOError when the client is gone."""
        if self._client.upgraded and message == NOOP_TEXT:
            self._client.queue.taken(len(message))  # it only woke the writer
            return
        stream = self.tornado_handler.iostream
        try:
            if self.tornado_handler.ws_connection is None:  # closing: no data may follow the close frame
                raise StreamClosedError
            written = stream.write(to_frame(message.encode()))
            if stream.writing():
                await written
        except StreamClosedError as error:
            if self._client.upgraded:
                raise EngineIOError from error
            return  # the answer to a probe: it broke off, and its session goes on polling
        if self._client.upgraded:  # what answers a probe was not queued
            self._client.queue.taken(len(message))


class Engine(engineio.AsyncServer):
    """Engine.IO, with an outbox that has a bound and sessions that end."""

    def __init__(self, *, watcher_unsent_bytes_max: int, connect_ms_max: int, **options: Any) -> None:
        super().__init__(**options)
        self._async: dict[str, Any] = {**self._async, "websocket": Transport}
        self._unsent_bytes_max = watcher_unsent_bytes_max
        self._connect_s_max = connect_ms_max / 1000
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_due = 0.0
        self._ending: set[asyncio.Task[None]] = set()
        self.websockets: dict[str, EngineHandler] = {}  # by session
        # By session, all of the clock that nobody sets: when the next heartbeat is due, or since when an answer to the
        # last one is awaited; and since when it has been without CONNECT.
        self._next_ping: dict[str, float] = {}
        self._unanswered: dict[str, float] = {}
        self._nameless: dict[str, float] = {}
        self._to_flush: list[AsyncSocket] = []  # for whom `_flush` has something
        self._polling: set[tuple[str, str]] = set()  # polling requests under way, by session and method
        self.evictions = 0

    def create_queue(self, *args: Any, **kwargs: Any) -> Outbox:
        """Make the outbox of a new session."""
        return Outbox()

    async def send_packet(self, sid: str, pkt: Packet) -> None:
        """Send as the library does, by the one way out."""
        self.deliver(sid, Parcel(pkt.encode().encode()))

    def deliver(self, sid: str, parcel: Parcel) -> None:
        """Send packets to a client, or cut it off if it has left too much unread. Never waits.

        Where nothing is before them they go past the queue, at the end of this turn of the event loop or with a
        `broadcast` that comes before it: by the queue there would be a future, a turn of the writer's task and another
        future for each client and packet.
        """
        client = self.sockets.get(sid)
        if client is None or client.closed or client.closing:
            return
        if client.queue.has_at_once:
            client.queue.add_at_once(parcel.frames)
        elif client.upgraded and client.queue.is_clear():
            if not self._to_flush:
                asyncio.get_running_loop().call_soon(self._flush)
            self._to_flush.append(client)
            client.queue.add_at_once(parcel.frames)
        else:
            self._put(client, parcel)

    def broadcast(self, outboxes: Mapping[str, Outbox], parcel: Parcel) -> None:
        """Send the same packets to many sessions. Never waits.

        Who is being answered in this turn of the event loop comes first, and gets both in one.
        """
        frames, done = parcel.frames, set()
        for client in self._to_flush:
            if client.sid in outboxes and client.queue.has_at_once:
                client.queue.add_at_once(frames)
                done.add(client.sid)
        self._flush()
        # Nothing but `send` between two of them: the system's part leaves the processor's caches cold, and whatever
        # else is touched for each watcher comes from memory.
        ways, size = [outbox.way for outbox in outboxes.values()], len(frames)
        begun = []
        for sid, way in zip(outboxes, ways, strict=True):
            try:
                sent = way(frames) if way is not None else 0
            except OSError:
                sent = 0
            if sent != size:
                begun.append((sid, sent))
        for sid, sent in begun:
            client = self.sockets.get(sid)
            if client is not None and not client.closed and not client.closing and sid not in done:
                self._begin_way(client, parcel, sent)

    def _begin_way(self, client: AsyncSocket, parcel: Parcel, sent: int) -> None:
        """Send what a broadcast could not, past the queue if nothing is before it: then the next goes straight out.

        Of what went in part the rest never comes to the queue: it had a `way`, so nothing was before it, nor is now.
        """
        stream = self._stream(client) if client.upgraded and client.queue.is_clear() else None
        if stream is None or stream.writing():
            self._put(client, parcel)
        else:
            client.queue.way = stream.socket.send
            self._write(client, parcel.frames, sent)

    def _put(self, client: AsyncSocket, parcel: Parcel) -> None:
        """Queue packets for a client, or cut it off."""
        if not client.queue.begin_group(len(parcel.frames), self._unsent_bytes_max):
            self.evictions += 1
            log.warning("cut off client %s: %d bytes unread", client.sid, client.queue.unsent_bytes)
            self.end(client)
            return
        for packet in parcel.packets:
            client.queue.put_nowait(packet)

    def _flush(self) -> None:
        """Send what this turn of the event loop has left for each client."""
        clients, self._to_flush = self._to_flush, []
        for client in clients:
            if client.queue.has_at_once:
                self._write(client, client.queue.take_at_once())

    def _stream(self, client: AsyncSocket) -> IOStream | None:
        """Find the connection under a client's WebSocket; None when it is gone."""
        handler = self.websockets.get(client.sid)
        stream = handler.iostream if handler is not None and handler.ws_connection is not None else None
        return stream if stream is not None and stream.socket is not None else None

    def _write(self, client: AsyncSocket, frames: bytes, sent: int = 0) -> None:
        """Hand frames, of which so many bytes are sent already, to the operating system.

        An IOStream makes a future for each write, so it gets only what there is no room for.
        """
        stream = self._stream(client)
        if stream is None:
            return
        if not sent and not stream.writing():
            with suppress(OSError):  # there is no room, or it is gone: the stream finds out which
                sent = stream.socket.send(frames)
                if sent == len(frames):
                    return
        client.queue.begin_group(len(frames), self._unsent_bytes_max)
        client.queue.add_unsent(len(frames) - sent)
        rest = stream.write(memoryview(frames)[sent:])
        rest.add_done_callback(lambda _: client.queue.taken(len(frames) - sent))

    async def disconnect(self, sid: str | None = None) -> None:
        """End a client's session; never waits for it to take what is queued, as the library would."""
        if sid in self.sockets:
            self.end(self.sockets[sid])

    def end(
        self, client: AsyncSocket, reason: str = "transport close", *, close: tuple[int, str] | None = None
    ) -> None:
        """End a session at once, whatever its transport is doing.

        `close` is the code and the reason to close its WebSocket with; without it the connection is cut, which frees
        what a client has not read.
        """
        client.queue.end()
        handler = self.websockets.get(client.sid) if client.upgraded else None
        if handler is not None and close is None:
            handler.abort()  # its reader ends the session
            return
        if handler is not None and close is not None:
            handler.close(*close)
        task = asyncio.ensure_future(client.close(wait=False, abort=True, reason=reason))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def wait_for_polls(self, client: AsyncSocket) -> bool:
        """Wait until polls have left half of what a client may leave unread, or less; return False if none comes."""
        is_polling: bool = await client.queue.wait_for_polls(self._unsent_bytes_max // 2)
        return is_polling

    def acquire_polling(self, sid: str, method: str) -> bool:
        """Note that a polling request of a session is under way; return False if one of this method is already."""
        if (sid, method) in self._polling:
            return False
        self._polling.add((sid, method))
        return True

    def release_polling(self, sid: str, method: str) -> None:
        """Note that the polling request is over for which `acquire_polling` returned True."""
        self._polling.discard((sid, method))

    def start_background_task(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Start a task as the library asks, but for the next heartbeat, which the sweep sends.

        The library would have a task per client sleep towards it, and sleep on when the client has gone.
        """
        if getattr(target, "__func__", None) is not AsyncSocket._send_ping:
            return super().start_background_task(target, *args, **kwargs)
        sid = target.__self__.sid
        self._unanswered.pop(sid, None)
        self._next_ping[sid] = time.monotonic() + self.ping_interval
        return None

    def note_alive(self, sid: str) -> None:
        """Take what a client has sent for a sign of life: the answer to a heartbeat may wait behind it."""
        if sid in self._unanswered:
            self._unanswered[sid] = time.monotonic()

    def await_name(self, sid: str) -> None:
        """End a session if it does not send CONNECT in time."""
        self._nameless[sid] = time.monotonic()

    def note_named(self, sid: str) -> None:
        """Note that a session has sent CONNECT."""
        self._nameless.pop(sid, None)

    def forget(self, sid: str) -> None:
        """Drop what is kept for a session that has ended, and end its poll."""
        if sid in self.sockets and not self.sockets[sid].upgraded:
            self.sockets[sid].queue.end()
            if sid in self.websockets:
                self.websockets[sid].close(POLICY, "the session of this upgrade has ended")
        for times in (self._nameless, self._next_ping, self._unanswered):
            times.pop(sid, None)

    def _log_error_once(self, message: str, message_key: str) -> None:
        log.debug("%s", message)  # what clients do wrong they are told; the library would log the first as an error

    def start(self) -> None:
        """Begin to end the sessions of clients that are gone or never became one."""
        self._sweep_due = time.monotonic() + SWEEP_S
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        # In place of the library's own monitor, which wakes up once per client and knows no time to connect.
        now = time.monotonic()
        blocked = now - self._sweep_due
        if blocked > SWEEP_S:  # nobody was heard meanwhile, so it counts for nobody
            for times in (self._nameless, self._unanswered):
                times.update({sid: since + blocked for sid, since in times.items()})
        self.start()
        for sid, client in list(self.sockets.items()):
            if client.closed:
                self.sockets.pop(sid, None)
            elif now - self._unanswered.get(sid, now) > self.ping_timeout:
                self.end(client, self.reason.PING_TIMEOUT, close=NO_PONG)
            elif now - self._nameless.get(sid, now) > self._connect_s_max:
                self.end(client, close=(POLICY, f"no CONNECT came within {self._connect_s_max:g} s"))
            else:
                if client.upgraded:
                    client.queue.wake(self.ping_interval)
                if now >= self._next_ping.get(sid, math.inf):
                    del self._next_ping[sid]
                    self._unanswered[sid] = now
                    client.last_ping = time.time()  # without it the library would take no answer
                    self.deliver(sid, PING_PARCEL)

    async def close(self, seconds_max: float) -> None:
        """Let what is queued go out, then close every transport: a WebSocket with 1001, a poll by its answer."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        deadline = time.monotonic() + seconds_max
        clients = [client for client in self.sockets.values() if not client.closed]
        patience = min(deadline, time.monotonic() + GOODBYE_S_MAX)
        while any(client.queue.unsent_bytes for client in clients if not client.closed):
            if time.monotonic() > patience:
                break
            await asyncio.sleep(0.01)
        for client in clients:
            if client.sid in self.websockets and client.upgraded:
                self.websockets[client.sid].close(GOING_AWAY, "the server is stopping")
            else:
                self.end(client, self.reason.SERVER_DISCONNECT)
        await self._ended(max(0.2, deadline - time.monotonic()))
        for handler in list(self.websockets.values()):  # it does not answer the close frame
            handler.abort()
        await self._ended(1)

    async def _ended(self, seconds_max: float) -> None:
        tasks = [*self._ending, *(one.reader for one in self.websockets.values() if one.reader is not None)]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds_max)
