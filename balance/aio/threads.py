"""Run blocking calls in worker threads.

`run_in_thread` is cheaper than `loop.run_in_executor`, which chains two futures. `WorkerThread` is one thread that is
woken by a byte in a pipe, and wakes the event loop by another. Both are cheaper than the usual means: a thread of an
executor has to acquire a lock and then that of the interpreter, and `call_soon_threadsafe` reads its socket twice.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any, TypeVar

log = logging.getLogger("balance.aio")

T = TypeVar("T")


def run_in_thread(executor: Executor, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
    """Call a function in a thread of an executor; the future is done, on the running loop, when it returns or raises.

    The call is not made if the future is cancelled before it begins.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    executor.submit(_run, outcome, loop.call_soon_threadsafe, function, arguments)
    return outcome


class WorkerThread:
    """One thread that makes calls in their order, and delivers to the event loop in their order.

    Threads: `deliver` is for the thread itself; `submit`, `stop` and `join` for any, the rest for the event loop.

    Life cycle: `start()`, `stop()`, `join()`, `close()`, each once; `join` blocks.
    """

    def __init__(self, name: str) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._deliveries: deque[Callable[[], None]] = deque()
        self._is_stopping = False
        self._thread = Thread(target=self._run, name=name, daemon=True)  # a hung call must not hold up the exit
        self._loop: asyncio.AbstractEventLoop
        self._pipes: tuple[int, ...] = ()

    def start(self) -> None:
        """Start the thread, and deliver to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._pipes = (*os.pipe(), *os.pipe())
        self._calls_reader, self._calls_writer, self._deliveries_reader, self._deliveries_writer = self._pipes
        self._loop.add_reader(self._deliveries_reader, self._deliver_one)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, call: Callable[[], None]) -> None:
        """Have the thread make a call; after `stop` it is not made."""
        if not self._is_stopping:  # the descriptor is closed soon, and may then be that of a client's connection
            self._calls.append(call)
            os.write(self._calls_writer, b"\0")

    def deliver(self, call: Callable[[], None]) -> None:
        """Have the event loop make a call."""
        self._deliveries.append(call)
        os.write(self._deliveries_writer, b"\0")

    def run(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        """Call a function in the thread; the future is done, on the event loop, when it returns or raises.

        The call is not made if the future is cancelled before it begins.
        """
        outcome: asyncio.Future[T] = self._loop.create_future()
        self.submit(partial(_run, outcome, self.deliver, function, arguments))
        return outcome

    def stop(self) -> None:
        """End the thread after the call that runs now; the calls behind it are not made."""
        self._is_stopping = True
        if self._pipes:
            os.write(self._calls_writer, b"\0")

    def join(self) -> None:
        """Wait for the end of the thread, if it was started; from any thread."""
        if self._pipes:
            self._thread.join()

    def close(self) -> None:
        """Release the pipes; nothing is delivered from now on."""
        if self._pipes:
            self._loop.remove_reader(self._deliveries_reader)
        for descriptor in self._pipes:
            os.close(descriptor)

    def _run(self) -> None:
        while os.read(self._calls_reader, 1) and not self._is_stopping:
            try:
                self._calls.popleft()()
            except Exception:
                log.exception("a call in thread %s failed", self._thread.name)

    def _deliver_one(self) -> None:
        """Make one delivery: those behind it come in the next turns of the event loop."""
        os.read(self._deliveries_reader, 1)
        try:
            self._deliveries.popleft()()
        except Exception:
            log.exception("a delivery of thread %s failed", self._thread.name)


def _run(
    outcome: asyncio.Future[T],
    deliver: Callable[[Callable[[], None]], object],
    function: Callable[..., T],
    arguments: tuple[object, ...],
) -> None:
    if outcome.cancelled():
        return
    try:
        result = function(*arguments)
    except Exception as error:
        finish = partial(_finish, outcome, outcome.set_exception, error)
    else:
        finish = partial(_finish, outcome, outcome.set_result, result)
    with suppress(RuntimeError):  # the loop has been closed, and nothing awaits the outcome
        deliver(finish)


def _finish(outcome: asyncio.Future[Any], setter: Callable[[Any], None], value: object) -> None:
    if not outcome.done():
        setter(value)
