"""Share the time of the event loop fairly among the addresses of clients, whatever they send.

The code that serves a client is a coroutine, driven by `LoopBudget.run`. Each of its steps, from one suspension to the
next, is timed and charged to the account of the client's address. An address that has used TURN_S since the last round
waits for the next round, which starts after everything else that is ready on the event loop has run. Therefore many
connections of one address delay the others no longer than one connection does. Within an address the coroutines
continue first in, first out. When nothing else is ready, a round costs one turn of an idle event loop, so that a
client that is alone loses nothing.

A step that could be long (many frames in one read) calls `is_turn_over` between two parts, and suspends itself by
`asyncio.sleep(0)` when that returns True. A callback of the event loop that does a part of a client's work while its
coroutine waits does it by `run_step`.

Threads: event loop only. Between two rounds the other threads get the interpreter's lock.
Not promised: that work for a client in other tasks (of the writer) or in threads is charged to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator
from itertools import islice
from time import perf_counter
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from balance.aio.addresses import to_address

T = TypeVar("T")
TURN_S = 0.005
GIL_PAUSE_S = 0.00001  # long enough for a thread that waits for the interpreter's lock; in effect 0.06 ms
WAKEUPS_MAX = 64  # of one address in one round; those that get no time keep their order in the queue


class _Account:
    """The time that one address has used, and the drivers that wait for its next turn."""

    __slots__ = ("__weakref__", "address", "must_wait", "queue", "used")

    def __init__(self, address: str) -> None:
        self.address = address
        self.used = 0.0  # seconds, since its last round
        self.must_wait = False  # for its next round
        self.queue: list[_Driver[Any]] = []


class LoopBudget:
    """The accounts of all addresses."""

    def __init__(self) -> None:
        self._accounts: WeakValueDictionary[str, _Account] = WeakValueDictionary()  # of addresses with a driver
        self._due: dict[_Account, None] = {}  # in the next round, in this order
        self.running: _Driver[Any] | None = None
        self.charged_until = 0.0  # when the running step started, or was charged last

    def run(self, ip: str, coroutine: Coroutine[Any, Any, T]) -> _Driver[T]:
        """Return an awaitable that runs a coroutine for a client of this IP address, in turns with other addresses."""
        return _Driver(self, self._account(to_address(ip)), coroutine)

    def is_turn_over(self) -> bool:
        """Return whether the running step has used a whole turn, and should suspend itself."""
        return perf_counter() - self.charged_until >= TURN_S

    def run_step(self, driver: _Driver[Any], step: Callable[[], object]) -> None:
        """Run a step for a client outside its coroutine, which waits, and charge it; run none if it must wait."""
        if not driver.account.must_wait:
            self.charged_until = perf_counter()
            try:
                step()
            finally:
                self.charge(driver.account)

    def charge_to(self, ip: str) -> bool:
        """Charge the running coroutine to another client from now on; return whether it should suspend itself.

        A connection of a trusted proxy carries the requests of many clients.
        """
        driver, address = self.running, to_address(ip)
        if driver is None or driver.account.address == address:
            return False
        self.charge(driver.account)
        driver.account = self._account(address)
        return driver.account.must_wait

    def charge(self, account: _Account) -> None:
        """Charge an account for the time since `charged_until`."""
        now = perf_counter()
        account.used += now - self.charged_until
        self.charged_until = now
        if account.used >= TURN_S and not account.must_wait:
            self._end_turn(account)

    def wait(self, driver: _Driver[Any]) -> Generator[Any, Any, None]:
        """Wait for a round that has time left after the drivers that came to this address earlier."""
        account = driver.account
        account.queue.append(driver)
        try:
            while True:
                driver.wakeup = asyncio.get_running_loop().create_future()
                self._end_turn(account)
                yield from driver.wakeup
                if account.used < TURN_S:
                    break
        finally:
            account.queue.remove(driver)  # the first, unless it was cancelled

    def _account(self, address: str) -> _Account:
        account = self._accounts.get(address)
        if account is None:
            account = self._accounts[address] = _Account(address)
        return account

    def _end_turn(self, account: _Account) -> None:
        """Make an account wait for the next round."""
        account.must_wait = True
        if not self._due:
            asyncio.get_running_loop().call_soon(self._start_round)
        self._due[account] = None

    def _start_round(self) -> None:
        # The write thread needs the interpreter's lock too. The event loop releases it at each system call, but
        # acquires it again before a waiting thread has woken up; under a flood of frames a save took 200 ms for that.
        time.sleep(GIL_PAUSE_S)
        due, self._due = self._due, {}
        for account in due:
            account.used = 0.0
            account.must_wait = bool(account.queue)
            if account.queue:
                self._end_turn(account)
            for driver in islice(account.queue, WAKEUPS_MAX):
                if not driver.wakeup.done():
                    driver.wakeup.set_result(None)


class _Driver(Generic[T]):
    """Runs one coroutine step by step."""

    __slots__ = ("_budget", "_coroutine", "account", "wakeup")

    wakeup: asyncio.Future[None]

    def __init__(self, budget: LoopBudget, account: _Account, coroutine: Coroutine[Any, Any, T]) -> None:
        self._budget = budget
        self._coroutine = coroutine
        self.account = account

    def __await__(self) -> Generator[Any, Any, T]:
        budget, coroutine = self._budget, self._coroutine
        error: BaseException | None = None
        while True:
            if self.account.must_wait and error is None:
                try:
                    yield from budget.wait(self)
                except BaseException as raised:  # the coroutine itself must see its cancellation
                    error = raised
            budget.running, budget.charged_until = self, perf_counter()
            try:
                awaited = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration as stopped:
                result: T = stopped.value
                return result
            finally:
                budget.charge(self.account)
                budget.running = error = None  # a reference to the exception would keep this frame alive
            try:
                yield awaited
            except BaseException as raised:
                error, awaited = raised, None  # of a future, whose exception refers to this frame
