"""What waits to be sent to one client, counted in bytes; and packets that are encoded once for all their receivers.

`SendQueue` is the queue of a python-engineio session, with a limit. The engine decides what goes through the queue and
what bypasses it; everything that waits is counted here, wherever it waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import cached_property

from engineio.packet import NOOP, Packet

from balance.aio.backlog import Backlog
from balance.aio.turn_limit import TurnLimit
from balance.realtime.frames import to_frame

POLL_S_MAX = 2  # between two polls of a client that polls


class SendQueue(Backlog):
    """The backlog of one client.

    It has the methods of asyncio.Queue that the library calls. `get` returns a future and not a coroutine, since the
    library waits for it by `wait_for`, which makes a task of a coroutine: one for each client and packet.
    """

    __slots__ = (
        "_arrival",
        "_buffered",
        "_getter",
        "_packets",
        "_shrunk",
        "_waiting_since",
        "direct_send",
        "is_closed",
        "unsent_bytes",
    )

    unsent_bytes: int

    def __init__(self) -> None:
        super().__init__()
        self.unsent_bytes = 0
        """Bytes that wait: in the queue, in the buffer, and in the stream of a WebSocket."""
        self.direct_send: Callable[[bytes], int] | None = None
        """`send` of the client's socket, from the first broadcast to the close frame; valid while nothing is unsent."""
        self.is_closed = False
        self._packets: deque[Packet | None] | tuple[()] = ()  # a deque is 600 bytes, and nearly all are empty
        self._buffered: list[bytes] | tuple[()] = ()
        self._getter: asyncio.Future[Packet | None] | None = None
        self._arrival: asyncio.Future[None] | None = None  # of something for the poll that waits, or of the end
        self._shrunk: asyncio.Future[None] | None = None  # done when fewer bytes wait than before
        self._waiting_since = 0.0

    def put_nowait(self, packet: Packet | None) -> None:
        """Add a packet, unless the queue is closed; None ends the writer of a WebSocket."""
        if self.is_closed:
            return
        if packet is not None:
            self.unsent_bytes += len(packet.encode())
        if self._getter is not None and not self._getter.done():
            self._getter.set_result(packet)
        else:
            self._packets = self._packets or deque()
            self._packets.append(packet)
            self._note_arrival()

    async def put(self, packet: Packet | None) -> None:
        """Add a packet; never waits."""
        self.put_nowait(packet)

    def get(self) -> asyncio.Future[Packet | None]:
        """Return a future for the next packet, None once closed, which ends the library's writer.

        An exception in a future that its reader refers to would be a reference cycle.
        """
        getter: asyncio.Future[Packet | None] = asyncio.get_running_loop().create_future()
        if self.is_closed:
            getter.set_result(None)
        elif self._packets:
            getter.set_result(self.get_nowait())
        else:
            self._getter = getter
            self._waiting_since = time.monotonic()
        return getter

    def get_nowait(self) -> Packet | None:
        """Return the next packet. Raises asyncio.QueueEmpty."""
        if not self._packets:
            raise asyncio.QueueEmpty
        packet = self._packets.popleft()
        self._packets = self._packets or ()
        return packet

    def task_done(self) -> None:
        """Do nothing: no caller waits for the end of all tasks."""

    def keep_writer_alive(self, idle_s_max: float) -> None:
        """Send a NOOP to a writer that has been idle for longer than this.

        python-engineio drops a client whose writer has been idle for a heartbeat and its timeout, and does not see what
        bypasses the queue.
        """
        if self.is_idle() and time.monotonic() - self._waiting_since > idle_s_max:
            self.put_nowait(Packet(NOOP))

    async def get_batch(self, count_max: int, turns: TurnLimit, ip: str) -> list[Packet]:
        """Wait for packets, and for a turn of this IP address; return those that there are then, at most `count_max`.

        They stay in the queue until the turn; if they are discarded meanwhile, return a NOOP. Once closed, return the
        last packet, or none without one.
        """
        if not self._packets and not self.is_closed:
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        await turns.acquire(ip)
        found = [self.get_nowait() for _ in range(min(count_max, len(self._packets)))]
        packets = [packet for packet in found if packet is not None]
        self.note_written(sum([len(packet.encode()) for packet in packets]))
        return packets if packets or self.is_closed else [Packet(NOOP)]

    async def wait_below(self, bytes_max: int) -> None:
        """Wait until at most `bytes_max` wait to be sent, or until the queue is closed."""
        while self.unsent_bytes > bytes_max:  # 0 once closed
            await self._next_shrink()

    async def wait_for_polls(self, bytes_max: int) -> bool:
        """Wait until polls have left at most `bytes_max`, or until the end; return False if no poll comes."""
        while self.unsent_bytes > bytes_max:
            try:
                await asyncio.wait_for(self._next_shrink(), POLL_S_MAX)
            except TimeoutError:
                return False
        return True

    def _next_shrink(self) -> asyncio.Future[None]:
        self._shrunk = self._shrunk or asyncio.get_running_loop().create_future()
        return asyncio.shield(self._shrunk)  # another task may wait for it too

    def _note_shrunk(self) -> None:
        if self._shrunk is not None and not self._shrunk.done():
            self._shrunk.set_result(None)
        self._shrunk = None

    def close(self, last: Packet | None = None) -> None:
        """Discard the backlog and accept nothing more.

        A poll that waits is answered by `last`, or by an error without it, so that every client sees that its session
        is lost and makes another.
        """
        if self.is_closed:
            return
        self.is_closed = True
        self._packets = () if last is None else deque([last])
        self._buffered = ()
        self.unsent_bytes = 0
        if self._getter is not None and not self._getter.done():
            self._getter.set_result(None)
        self._note_arrival()
        self._note_shrunk()

    def _note_arrival(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        self._arrival = None

    def is_idle(self) -> bool:
        """Return whether nothing is queued and the library waits for more."""
        return self._getter is not None and not self._getter.done()

    def can_bypass(self) -> bool:
        """Return whether nothing is on its way to the client, so that something may bypass the queue."""
        return not self.unsent_bytes and self.is_idle()

    @property
    def has_buffered(self) -> bool:
        """Whether something is buffered for the end of this turn of the event loop."""
        return bool(self._buffered)

    def add_buffered(self, frames: bytes) -> None:
        """Add to what bypasses the queue at the end of this turn of the event loop."""
        self._buffered = self._buffered or []
        self._buffered.append(frames)
        self.unsent_bytes += len(frames)

    def pop_buffered(self) -> bytes:
        """Remove and return what is buffered, as one piece."""
        frames = b"".join(self._buffered)  # a single one is not copied
        self._buffered = ()
        self.note_written(len(frames))
        return frames

    def note_unsent(self, count: int, batch: int) -> None:
        """Count bytes of a batch that the operating system has not accepted."""
        self.note_batch(batch)
        self.unsent_bytes += count

    def note_written(self, count: int) -> None:
        """Count bytes that the operating system, or a poll, has accepted."""
        self.unsent_bytes = max(0, self.unsent_bytes - count)  # `close` has set it to 0
        if self._shrunk is not None:
            self._note_shrunk()

    def discard(self, is_outdated: Callable[[Packet], bool]) -> None:
        """Discard some of the packets that are queued."""
        queued, self._packets = self._packets, ()
        for packet in queued:
            if packet is not None and is_outdated(packet):
                self.note_written(len(packet.encode()))
            else:
                self._packets = self._packets or deque()
                self._packets.append(packet)

    def recount(self) -> None:
        """Count again, after the library has removed packets for the answer to a handshake."""
        self.unsent_bytes = sum([len(packet.encode()) for packet in self._packets if packet is not None])


class EncodedPackets:
    """Engine.IO packets that are sent together, in order: encoded and framed once, for however many receive them."""

    def __init__(self, *encoded: bytes) -> None:
        self._encoded = encoded
        self.frames = b"".join([to_frame(one) for one in encoded])

    @cached_property
    def packets(self) -> list[Packet]:
        """The same packets for a queue; made once for all of them."""
        return [Packet(int(one[:1]), one[1:].decode()) for one in self._encoded]
