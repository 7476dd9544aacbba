"""Share out the time of the event loop among the addresses of clients, whatever they send.

What serves a client is a coroutine, driven by `run`. Each of its steps, from one suspension to the next, is timed and
charged to the client's address. An address that has used TURN_S since the last round waits for the next round, which
comes after everything else that is ready on the event loop has had its turn; so many connections of one address
together hold up the others no longer than one does. Within an address the connections go first in, first out. When
nothing else is ready, a round costs one turn of an idle event loop, so a client that is alone loses nothing.
Between two rounds the threads get the interpreter's lock.

A step that could be long (many frames in one read) asks `is_over` between two parts and suspends itself by
`asyncio.sleep(0)` when it is.

Threads: all of it belongs to the event loop.
Not promised: that what is done for a client elsewhere (in the writer's task, in threads) is charged to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Generator
from itertools import islice
from time import perf_counter
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from balance.aio.addresses import to_address

T = TypeVar("T")
TURN_S = 0.005
PAUSE_S = 0.00001  # in which a thread that waits for the interpreter's lock wakes up; the system makes it 0.06 ms
WOKEN_MAX = 64  # of one address in one round; those that the time does not suffice for wait on in their places


class _Share:
    """The share of one address: what it has used, and who waits for its next turn."""

    __slots__ = ("__weakref__", "address", "must_wait", "queue", "used")

    def __init__(self, address: str) -> None:
        self.address = address
        self.used = 0.0  # seconds, since its last round
        self.must_wait = False  # until its next round, with whatever it does
        self.queue: list[_Driver[Any]] = []


class Turns:
    """The shares of all addresses."""

    def __init__(self) -> None:
        self._shares: WeakValueDictionary[str, _Share] = WeakValueDictionary()  # of addresses that are served
        self._due: dict[_Share, None] = {}  # those that the next round is for, in order
        self.running: _Driver[Any] | None = None
        self.began = 0.0  # the step that runs, or what of it the driver's address is charged for

    def run(self, ip: str, coroutine: Coroutine[Any, Any, T]) -> _Driver[T]:
        """Return an awaitable that runs a coroutine for a client of this IP address, in turns."""
        return _Driver(self, self._share(to_address(ip)), coroutine)

    def is_over(self) -> bool:
        """Tell whether the running step has used a whole turn, and should suspend itself."""
        return perf_counter() - self.began >= TURN_S

    def charge_to(self, ip: str) -> bool:
        """Charge the coroutine that runs to another client from now on; return whether it should suspend itself.

        A connection of a trusted proxy carries the requests of many clients.
        """
        driver, address = self.running, to_address(ip)
        if driver is None or driver.share.address == address:
            return False
        self.charge(driver.share)
        driver.share = self._share(address)
        return driver.share.must_wait

    def charge(self, share: _Share) -> None:
        """Charge a share for the time since `began`."""
        now = perf_counter()
        share.used += now - self.began
        self.began = now
        if share.used >= TURN_S and not share.must_wait:
            self._end_turn(share)

    def wait(self, driver: _Driver[Any]) -> Generator[Any, Any, None]:
        """Wait until a round has come and the drivers of the same address that waited before have had their steps."""
        share = driver.share
        share.queue.append(driver)
        try:
            while True:
                driver.woken = asyncio.get_running_loop().create_future()
                self._end_turn(share)
                yield from driver.woken
                if share.used < TURN_S:
                    break
        finally:
            share.queue.remove(driver)  # the first, unless it was cancelled

    def _share(self, address: str) -> _Share:
        share = self._shares.get(address)
        if share is None:
            share = self._shares[address] = _Share(address)
        return share

    def _end_turn(self, share: _Share) -> None:
        """Let a share wait for the next round."""
        share.must_wait = True
        if not self._due:
            asyncio.get_running_loop().call_soon(self._begin_round)
        self._due[share] = None

    def _begin_round(self) -> None:
        # The thread that saves must get the interpreter's lock too. The event loop releases it at each system call, but
        # takes it again before a waiting thread has woken up; under a flood of frames a save took 200 ms for that.
        time.sleep(PAUSE_S)
        due, self._due = self._due, {}
        for share in due:
            share.used = 0.0
            share.must_wait = bool(share.queue)
            if share.queue:
                self._end_turn(share)
            for driver in islice(share.queue, WOKEN_MAX):
                if not driver.woken.done():
                    driver.woken.set_result(None)


class _Driver(Generic[T]):
    """Runs one coroutine step by step."""

    __slots__ = ("_coroutine", "_turns", "share", "woken")

    woken: asyncio.Future[None]

    def __init__(self, turns: Turns, share: _Share, coroutine: Coroutine[Any, Any, T]) -> None:
        self._turns = turns
        self._coroutine = coroutine
        self.share = share

    def __await__(self) -> Generator[Any, Any, T]:
        turns, coroutine = self._turns, self._coroutine
        error: BaseException | None = None
        while True:
            if self.share.must_wait and error is None:
                try:
                    yield from turns.wait(self)
                except BaseException as raised:  # the coroutine itself is to see that it is cancelled
                    error = raised
            turns.running, turns.began = self, perf_counter()
            try:
                awaited = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration as stopped:
                result: T = stopped.value
                return result
            finally:
                turns.charge(self.share)
                turns.running = error = None  # an exception that is kept would keep this frame
            try:
                yield awaited
            except BaseException as raised:
                error = raised
