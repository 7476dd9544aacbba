"""What waits to be sent to one client, and how many bytes that is; and what is sent together, framed once for all.

The queue of a python-engineio session, with a bound. `engine` decides what goes by it and what goes past it.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable
from functools import cached_property

from engineio.packet import NOOP, Packet

POLL_S_MAX = 2  # between two polls of a client that polls


class Outbox:
    """What waits to be sent to one client, and how many bytes that is.

    Has those methods of asyncio.Queue that the library calls. `get` gives a future, since for a coroutine the
    library's `wait_for` would make a task for each client and packet.
    """

    __slots__ = (
        "_at_once",
        "_ended",
        "_getter",
        "_largest",
        "_packets",
        "_polled",
        "_waiting_since",
        "unsent_bytes",
        "way",
    )

    def __init__(self) -> None:
        self.unsent_bytes = 0
        self.way: Callable[[bytes], int] | None = None
        """Hands bytes to the operating system, while nothing is before them: forgotten whenever anything else is."""
        self._packets: deque[Packet | None] | tuple[()] = ()  # a deque is 600 bytes, and nearly all are empty
        self._at_once: list[bytes] = []
        self._getter: asyncio.Future[Packet | None] | None = None
        self._polled: asyncio.Future[None] | None = None  # done when a poll has taken packets
        self._largest = 0
        self._waiting_since = 0.0
        self._ended = False

    def put_nowait(self, packet: Packet | None) -> None:
        """Add a packet; None ends the writer of a WebSocket. After the end nothing is added."""
        if self._ended:
            return
        self.way = None
        if packet is not None:
            self.add_unsent(len(packet.encode()))
        if self._getter is not None and not self._getter.done():
            self._getter.set_result(packet)
        else:
            self._packets = self._packets or deque()
            self._packets.append(packet)

    async def put(self, packet: Packet | None) -> None:
        """Add a packet; never waits."""
        self.put_nowait(packet)

    def get(self) -> asyncio.Future[Packet | None]:
        """Give the next packet when there is one, or TimeoutError, as the library knows it, when there will be none."""
        getter: asyncio.Future[Packet | None] = asyncio.get_running_loop().create_future()
        if self._ended:
            getter.set_exception(TimeoutError())
        elif self._packets:
            getter.set_result(self.get_nowait())
        else:
            self._getter = getter
            self._waiting_since = time.monotonic()
        return getter

    def wake(self, waited_s_max: float) -> None:
        """Let the writer that has waited so long go round once: the library takes a longer wait for a lost client.

        What goes past the queue it does not see.
        """
        if self.is_idle() and time.monotonic() - self._waiting_since > waited_s_max:
            self.put_nowait(Packet(NOOP))

    def get_nowait(self) -> Packet | None:
        """Give the next packet. Raises asyncio.QueueEmpty."""
        if not self._packets:
            raise asyncio.QueueEmpty
        packet = self._packets.popleft()
        self._packets = self._packets or ()
        return packet

    async def take(self, count_max: int) -> list[Packet]:
        """Wait for packets, and take what there is up to `count_max`. Raises TimeoutError after the end."""
        taken = [await self.get()]
        while self._packets and len(taken) < count_max:
            taken.append(self.get_nowait())
        packets = [packet for packet in taken if packet is not None]
        self.taken(sum([len(packet.encode()) for packet in packets]))
        self._note_polled()
        return packets

    async def wait_for_polls(self, bytes_max: int) -> bool:
        """Wait until polls have left no more than `bytes_max`, or until the end; return False if no poll comes."""
        while self.unsent_bytes > bytes_max:  # 0 after the end
            self._polled = self._polled or asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self._polled, POLL_S_MAX)
            except TimeoutError:
                self._polled = None
                return False
        return True

    def _note_polled(self) -> None:
        if self._polled is not None and not self._polled.done():
            self._polled.set_result(None)
        self._polled = None

    def task_done(self) -> None:
        """Nobody waits for it."""

    def end(self) -> None:
        """Forget what waits, and end the poll that waits for more.

        It is answered by an error, so that every client knows its session to be lost and makes a new one.
        """
        self._ended = True
        self.way = None
        self._packets = ()
        self._at_once.clear()
        self.unsent_bytes = 0
        if self._getter is not None and not self._getter.done():
            self._getter.set_exception(TimeoutError())
        self._note_polled()

    def begin_group(self, size: int, bytes_max: int) -> bool:
        """Begin a group of so many bytes; tell whether what waits is within its bound, beside the largest group in it.

        That one does not count: who reads is not to be cut off because a group is larger than the bound.
        """
        if not self.unsent_bytes:
            self._largest = 0
        fits = self.unsent_bytes <= bytes_max + self._largest
        self._largest = max(size, self._largest)
        return fits

    def is_idle(self) -> bool:
        """Tell whether nothing waits and the writer of the WebSocket waits for more."""
        return self._getter is not None and not self._getter.done()

    def is_clear(self) -> bool:
        """Tell whether nothing is on its way to the client, so that something may go past the queue."""
        return not self.unsent_bytes and self.is_idle()

    @property
    def has_at_once(self) -> bool:
        """Whether there is something that goes out past the queue, at the end of this turn of the event loop."""
        return bool(self._at_once)

    def add_at_once(self, frames: bytes) -> None:
        """Add to what goes out past the queue."""
        self.way = None
        self._at_once.append(frames)
        self.unsent_bytes += len(frames)

    def take_at_once(self) -> bytes:
        """Give what goes out past the queue, in one piece."""
        frames = self._at_once[0] if len(self._at_once) == 1 else b"".join(self._at_once)
        self._at_once.clear()
        self.unsent_bytes -= len(frames)
        return frames

    def add_unsent(self, count: int) -> None:
        """Note that so many bytes wait for the client's side to take them."""
        self.way = None
        self.unsent_bytes += count

    def taken(self, count: int) -> None:
        """Note that the client's side has taken so many bytes."""
        self.unsent_bytes = max(0, self.unsent_bytes - count)  # the end has set it to 0

    def settle(self) -> None:
        """Count anew, after the library has taken packets for the answer to a handshake."""
        self.unsent_bytes = sum([len(packet.encode()) for packet in self._packets if packet is not None])


class Parcel:
    """Engine.IO packets that are sent together, in order: encoded and framed once, for however many get them."""

    def __init__(self, *encoded: bytes) -> None:
        self._encoded = encoded
        self.frames = b"".join([to_frame(one) for one in encoded])

    @cached_property
    def packets(self) -> list[Packet]:
        """The same for a queue; made once for all of them."""
        return [Packet(int(one[:1]), one[1:].decode()) for one in self._encoded]


def to_frame(text: bytes) -> bytes:
    """Frame a text as a server sends it: final, unmasked, not compressed (RFC 6455, section 5.2)."""
    size = len(text)
    if size < 126:
        return b"\x81%c%b" % (size, text)
    if size < 65_536:
        return struct.pack("!BBH", 0x81, 126, size) + text
    return struct.pack("!BBQ", 0x81, 127, size) + text
