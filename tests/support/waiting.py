"""Wait for a condition that gives no event, by checking it again and again, or for one of several coroutines."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

STEP_S = 0.001


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    """Let the event loop run until the condition is true. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(STEP_S)


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Block until the condition is true. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the condition was not met within {seconds} s")
        time.sleep(STEP_S)


async def until_one_ends(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines until one of them ends, and cancel the others."""
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def repeating(call: Callable[[], object], pause_s: float) -> Iterator[None]:
    """Make a call again and again in a thread within the block, with pauses in between.

    A call that raises is the last one; its exception is raised at the end of the block, if the block did not raise.
    """
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.wait(pause_s):
            call()

    with ThreadPoolExecutor(1) as thread:
        repeated = thread.submit(repeat)
        try:
            yield
        finally:
            is_over.set()
        repeated.result()
