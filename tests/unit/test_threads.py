"""What is called in a worker thread comes back to the event loop, and what nobody waits for is not called."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from balance.aio.threads import in_thread


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as thread:
        yield thread


async def test_what_is_returned_or_raised_comes_back(thread: ThreadPoolExecutor) -> None:
    assert await in_thread(thread, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(thread, divmod, 7, 0)


async def test_what_nobody_waits_for_any_more_is_not_called(thread: ThreadPoolExecutor) -> None:
    free, called = threading.Event(), []
    before = in_thread(thread, free.wait, 10)
    given_up, wanted = (in_thread(thread, called.append, name) for name in ("given up", "wanted"))
    given_up.cancel()
    free.set()
    await asyncio.gather(before, wanted)
    assert called == ["wanted"]
