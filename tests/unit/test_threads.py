"""Calls in worker threads: their results come back to the event loop, and one that is cancelled is not made."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from balance.aio.threads import Submitter, WorkerThread, run_in_thread


@pytest.fixture(params=["executor", "worker thread"])
def one_thread(request: pytest.FixtureRequest) -> Iterator[Submitter]:
    if request.param == "executor":
        with ThreadPoolExecutor(1) as executor:
            yield executor
        return
    worker = WorkerThread("test")
    worker.start()
    yield worker
    worker.stop()
    worker.join()


@pytest.mark.gen_test
async def test_a_result_or_an_exception_comes_back(one_thread: Submitter) -> None:
    assert await run_in_thread(one_thread, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(one_thread, divmod, 7, 0)


@pytest.mark.gen_test
async def test_a_call_that_is_cancelled_before_it_begins_is_not_made(one_thread: Submitter) -> None:
    free, called = threading.Event(), []
    before = run_in_thread(one_thread, free.wait, 10)
    cancelled, wanted = (run_in_thread(one_thread, called.append, name) for name in ("cancelled", "wanted"))
    cancelled.cancel()
    free.set()
    await asyncio.gather(before, wanted)
    assert called == ["wanted"]


def test_a_worker_thread_makes_calls_in_their_order_and_in_one_thread() -> None:
    worker, seen = WorkerThread("test"), list[tuple[int, str]]()
    for number in range(100):
        worker.submit(lambda number=number: seen.append((number, threading.current_thread().name)))  # type: ignore[misc]
    worker.start()
    done = threading.Event()
    worker.submit(done.set)
    assert done.wait(10)
    assert seen == [(number, "test") for number in range(100)]
    worker.stop()
    worker.join()


@pytest.mark.expects_log("a call in thread test failed")
def test_a_worker_thread_survives_a_call_that_fails() -> None:
    worker, done = WorkerThread("test"), threading.Event()
    worker.start()
    worker.submit(lambda: {}["missing"])
    worker.submit(done.set)
    assert done.wait(10)
    worker.stop()
    worker.join()


def test_a_worker_thread_that_is_stopped_ends_its_call_and_makes_no_other() -> None:
    worker, began, go_on, called = WorkerThread("test"), threading.Event(), threading.Event(), list[str]()

    def hang() -> None:
        began.set()
        assert go_on.wait(10)
        called.append("running")

    worker.start()
    worker.submit(hang)
    worker.submit(lambda: called.append("waiting"))
    assert began.wait(10)
    worker.stop()
    go_on.set()
    worker.join()
    assert called == ["running"]


def test_a_worker_thread_that_was_never_started_can_be_stopped() -> None:
    worker = WorkerThread("test")
    worker.stop()
    worker.join()
