"""Run blocking calls in worker threads.

`run_in_thread` is cheaper than `loop.run_in_executor`, which chains two futures. `WorkerThread` is cheaper than an
executor of one thread, which makes a future for each call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

log = logging.getLogger("balance.aio")

T = TypeVar("T")


class Submitter(Protocol):
    """An executor, or a WorkerThread."""

    def submit(self, call: Callable[[], None], /) -> object:
        """Have a worker thread make a call."""


def run_in_thread(executor: Submitter, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
    """Call a function in a worker thread; the future is done, on the running loop, when it returns or raises.

    The call is not made if the future is cancelled before it begins.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        if outcome.cancelled():
            return
        try:
            result = function(*arguments)
        except Exception as error:
            finish(outcome.set_exception, error)
        else:
            finish(outcome.set_result, result)

    def finish(setter: Callable[[Any], None], value: object) -> None:
        with suppress(RuntimeError):  # the loop has been closed, and nothing awaits the outcome
            loop.call_soon_threadsafe(lambda: None if outcome.done() else setter(value))

    executor.submit(run)
    return outcome


class WorkerThread:
    """One thread that makes calls in the order in which they were submitted.

    Life cycle: `start`, `stop`, `join`, each once. Calls submitted before `start` wait for it.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_stopping = False
        self._thread = Thread(target=self._run, name=name, daemon=True)  # a hung call must not hold up the exit

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, call: Callable[[], None], /) -> None:
        """Have the thread make a call; from any thread."""
        self._calls.put(call)

    def stop(self) -> None:
        """End the thread after the call that runs now; the calls behind it are not made."""
        self._is_stopping = True
        self._calls.put(None)

    def join(self) -> None:
        """Wait for the end of the thread, if it was started."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None and not self._is_stopping:
            try:
                call()
            except Exception:
                log.exception("a call in thread %s failed", self._thread.name)
            del call  # or what it holds would live until the next call
