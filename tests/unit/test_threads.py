"""Calls in worker threads: their results come back to the event loop, and one that is cancelled is not made."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from balance.aio.threads import WorkerThread, run_in_thread

Run = Callable[..., "asyncio.Future[Any]"]


@pytest.fixture
def worker() -> Iterator[WorkerThread]:
    """A thread that the test starts."""
    worker = WorkerThread("test")
    yield worker
    worker.stop()
    worker.join()
    worker.close()


@pytest.fixture(params=["executor", "worker thread"])
def start(request: pytest.FixtureRequest, worker: WorkerThread) -> Iterator[Callable[[], Run]]:
    """Start one thread, and return what runs a call in it."""

    def start_worker() -> Run:
        worker.start()
        return worker.run

    with ThreadPoolExecutor(1) as executor:
        yield start_worker if request.param == "worker thread" else lambda: partial(run_in_thread, executor)


async def test_a_result_or_an_exception_comes_back(start: Callable[[], Run]) -> None:
    run = start()
    assert await run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await run(divmod, 7, 0)


async def test_a_call_that_is_cancelled_before_it_begins_is_not_made(start: Callable[[], Run]) -> None:
    run, free, called = start(), threading.Event(), list[str]()
    before = run(free.wait, 10)
    cancelled, wanted = (run(called.append, name) for name in ("cancelled", "wanted"))
    cancelled.cancel()
    free.set()
    await asyncio.gather(before, wanted)
    assert called == ["wanted"]


async def test_a_call_that_is_cancelled_while_it_runs_is_dropped(start: Callable[[], Run]) -> None:
    run, began, free = start(), threading.Event(), threading.Event()

    def call() -> None:
        began.set()
        assert free.wait(10)

    cancelled = run(call)
    while not began.is_set():
        await asyncio.sleep(0)
    cancelled.cancel()
    free.set()
    await run(int)
    assert cancelled.cancelled()


async def test_a_worker_thread_makes_calls_and_deliveries_in_their_order(worker: WorkerThread) -> None:
    worker.start()
    made, delivered = list[int](), list[int]()

    def call(number: int) -> None:
        assert threading.current_thread().name == "test"
        made.append(number)
        worker.deliver(partial(delivered.append, number))

    for number in range(5_000):
        worker.submit(partial(call, number))
    await worker.run(int)
    assert made == delivered == list(range(5_000))


@pytest.mark.expects_log("a call in thread test failed", "a delivery of thread test failed")
async def test_a_worker_thread_survives_what_fails(worker: WorkerThread) -> None:
    worker.start()
    worker.submit(lambda: {}["missing"])
    worker.submit(lambda: worker.deliver(lambda: {}["missing"]))
    assert await worker.run(divmod, 7, 2) == (3, 1)


async def test_a_worker_thread_that_is_stopped_ends_its_call_and_makes_no_other(worker: WorkerThread) -> None:
    began, go_on, called = threading.Event(), threading.Event(), list[str]()
    worker.start()

    def hang() -> None:
        began.set()
        assert go_on.wait(10)
        called.append("running")

    worker.submit(hang)
    worker.submit(partial(called.append, "waiting"))
    assert began.wait(10)
    worker.stop()
    go_on.set()
    worker.join()
    assert called == ["running"]


async def test_a_call_that_comes_after_the_end_is_not_made_and_writes_to_no_descriptor(worker: WorkerThread) -> None:
    """The numbers of the closed pipes are soon those of other files, such as the connection of a client."""
    ended = WorkerThread("ended")
    ended.start()
    numbers = set(ended._pipes)
    ended.stop()
    ended.join()
    ended.close()
    loop = asyncio.get_running_loop()
    assert not any(loop.remove_reader(number) for number in numbers)
    reused = [os.pipe() for _ in range(2)]
    assert {descriptor for pipe in reused for descriptor in pipe} == numbers
    late = ended.run(int)
    for reader, writer in reused:
        os.close(writer)
        assert os.read(reader, 1) == b""
        os.close(reader)
    assert not late.done()


async def test_a_worker_thread_that_was_never_started_can_be_stopped(worker: WorkerThread) -> None:
    assert worker._pipes == ()
