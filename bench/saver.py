"""A bot that saves by POST in a process of its own, one update at a time, beside what is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import quantiles

from bench.clients import Http, HttpClient, Loop, make_post

BETWEEN_PAIRS_S, IN_PAIR_S = 0.2, 0.003


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


def start_pairs(port: int, pairs: int) -> Connection:
    """Save pairs of updates, one just behind the other; return what then has the seconds that each second one took."""
    context = get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=_save_pairs, args=(port, pairs, there), daemon=True).start()
    return here


class _Saver(HttpClient):
    """A bot that saves when it is asked to."""

    def __init__(self, port: int) -> None:
        super().__init__(port, b"201")
        self.latencies: list[float] = []
        self._sent_at = 0.0

    def save(self, number: int) -> None:
        self._sent_at = time.perf_counter()
        self.socket.sendall(make_post(number))

    def _handle_response(self, body: bytes) -> None:
        self.latencies.append(time.perf_counter() - self._sent_at)


def _save_pairs(port: int, pairs: int, parent: Connection) -> None:
    loop, savers = Loop(), [_Saver(port), _Saver(port)]
    for saver in savers:
        loop.add(saver)
    for number in range(1, pairs + 1):
        time.sleep(BETWEEN_PAIRS_S)
        savers[0].save(number)
        loop.read_for(IN_PAIR_S)
        savers[1].save(number)
        loop.read_until(lambda number=number: all(len(saver.latencies) == number for saver in savers))
    loop.close()
    parent.send(savers[1].latencies)


def p99(times: Sequence[float]) -> float:
    """Return the time that one of a hundred exceeds."""
    return quantiles(times, n=100)[98]
