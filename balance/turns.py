"""Share out the time of the event loop among the addresses of clients, whatever they send.

What serves a client is a coroutine, driven by `run`. Each of its steps, from one suspension to the next, is timed and
charged to the client's address. An address that has used TURN_S since the last round waits for the next round, which
comes after everything else that is ready on the event loop has had its turn; so many connections of one address
together hold up the others no longer than one does. Within an address the connections go first in, first out. When
nothing else is ready, a round costs one turn of an idle event loop, so a client that is alone loses nothing.

A step that could be long (many frames in one read) asks `is_over` between two parts and suspends itself by
`asyncio.sleep(0)` when it is.

Threads: all of it belongs to the event loop.
Not promised: that what is done for a client elsewhere (in the writer's task, in threads) is charged to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Generator
from itertools import islice
from time import perf_counter
from typing import Any, Generic, TypeVar

from balance.addresses import ADDRESSES_MAX, to_address

T = TypeVar("T")
TURN_S = 0.005
WOKEN_MAX = 64  # of one address in one round; those that the time does not suffice for wait on in their places


class Turns:
    """The time that each address has used since the last round, and the coroutines that wait for the next."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}  # seconds, by address
        self._waiting: dict[str, deque[_Driver[Any]]] = {}
        self._round_is_due = False
        self._running: _Driver[Any] | None = None
        self._began = 0.0  # the running step, or what it is charged for
        self._ends = 0.0  # when it should end

    def run(self, ip: str, coroutine: Coroutine[Any, Any, T]) -> _Driver[T]:
        """Return an awaitable that runs a coroutine for a client of this IP address, in turns."""
        return _Driver(self, to_address(ip), coroutine)

    def is_over(self) -> bool:
        """Tell whether the running step has used what its address has left, and should suspend itself."""
        return perf_counter() >= self._ends

    def charge_to(self, ip: str) -> bool:
        """Charge the coroutine that runs to another client from now on; return whether it should suspend itself.

        A connection of a trusted proxy carries the requests of many clients.
        """
        driver, address = self._running, to_address(ip)
        if driver is None or driver.address == address:
            return False
        now = perf_counter()
        self._charge(driver.address, now - self._began)
        driver.address = address
        self._begin(address, now)
        return self.must_wait(address)

    def must_wait(self, address: str) -> bool:
        """Tell whether the next step for this address must wait for a round."""
        return address in self._waiting or self._used.get(address, 0.0) >= TURN_S

    def wait(self, driver: _Driver[Any]) -> Generator[Any, Any, None]:
        """Wait until a round has come and the drivers of the same address that waited before have had their steps."""
        queue = self._waiting.setdefault(driver.address, deque())
        queue.append(driver)
        try:
            while True:
                driver.woken = asyncio.get_running_loop().create_future()
                self._schedule_round()
                yield from driver.woken
                if self._used.get(driver.address, 0.0) < TURN_S:
                    break
        finally:
            queue.remove(driver)  # the first, unless it was cancelled
            if not queue:
                del self._waiting[driver.address]

    def begin_step(self, driver: _Driver[Any]) -> None:
        """Note that a step begins."""
        self._running = driver
        self._begin(driver.address, perf_counter())

    def end_step(self, driver: _Driver[Any]) -> None:
        """Charge a step that has ended."""
        self._running, self._ends = None, 0.0
        self._charge(driver.address, perf_counter() - self._began)

    def _begin(self, address: str, now: float) -> None:
        self._began = now
        self._ends = now + TURN_S - self._used.get(address, 0.0)

    def _charge(self, address: str, seconds: float) -> None:
        used = self._used[address] = self._used.get(address, 0.0) + seconds
        if used >= TURN_S or len(self._used) > ADDRESSES_MAX:
            self._schedule_round()

    def _schedule_round(self) -> None:
        if not self._round_is_due:
            self._round_is_due = True
            asyncio.get_running_loop().call_soon(self._begin_round)

    def _begin_round(self) -> None:
        self._round_is_due = False
        self._used.clear()
        for queue in self._waiting.values():
            for driver in islice(queue, WOKEN_MAX):
                if not driver.woken.done():
                    driver.woken.set_result(None)


class _Driver(Generic[T]):
    """Runs one coroutine step by step."""

    __slots__ = ("_coroutine", "_turns", "address", "woken")

    woken: asyncio.Future[None]

    def __init__(self, turns: Turns, address: str, coroutine: Coroutine[Any, Any, T]) -> None:
        self._turns = turns
        self._coroutine = coroutine
        self.address = address

    def __await__(self) -> Generator[Any, Any, T]:
        turns, coroutine = self._turns, self._coroutine
        error: BaseException | None = None
        while True:
            if error is None and turns.must_wait(self.address):
                try:
                    yield from turns.wait(self)
                except BaseException as raised:  # the coroutine itself is to see that it is cancelled
                    error = raised
            turns.begin_step(self)
            try:
                awaited = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration as stopped:
                result: T = stopped.value
                return result
            finally:
                turns.end_step(self)
            error = None
            try:
                yield awaited
            except BaseException as raised:
                error = raised
