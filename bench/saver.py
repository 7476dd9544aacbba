"""A bot that saves by POST in a process of its own, one update at a time, beside what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import quantiles

from bench.clients import Http, Loop, make_post


@contextmanager
def saving(port: int) -> Iterator[Callable[[], list[tuple[float, float]]]]:
    """Save in the block; yield what ends it and returns when each save began, by `perf_counter`, and took."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_save_until_stopped, args=(port, there))
    process.start()
    here.recv()

    def stop() -> list[tuple[float, float]]:
        here.send(None)
        saves: list[tuple[float, float]] = here.recv()
        return saves

    try:
        yield stop
    finally:
        process.kill()
        process.join()


def _save_until_stopped(port: int, parent: Connection) -> None:
    client = Http(port, (make_post(number) for number in count()), b"201")
    loop = Loop()
    loop.add(client)
    client.send_next()
    loop.read_until(lambda: bool(client.latencies))
    parent.send(None)
    loop.read_until(parent.poll, 600.0)
    loop.close()
    parent.send(list(zip(client.sent, client.latencies, strict=False)))  # the last one may be unanswered


def p99(times: Sequence[float]) -> float:
    """Return the time that one of a hundred exceeds."""
    return quantiles(times, n=100)[98]
