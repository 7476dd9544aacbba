"""Wait for a condition that gives no event, by checking it again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

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
