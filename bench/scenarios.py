"""What is measured beside the Node server.

Every scenario counts what came back: a figure of work that was not done is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count
from statistics import quantiles

from bench.clients import GET, Crowd, Http, Loop, event_of, post_of
from bench.report import Figure
from bench.sides import Side

SAVE_RATE = "save, 128 in flight: rate"


def saving(side: Side, updates: int) -> list[Figure]:
    """One client keeps 128 updates in flight."""
    took, cpu = _send(side, updates, 0, 128)
    return [
        Figure("save, 128 in flight: CPU", "µs/update", cpu / updates * 1e6, "≤ 0.5"),
        Figure(SAVE_RATE, "updates/s", updates / took, "≥ 3"),
    ]


def beside_pgbench(figures: Sequence[Figure], single_inserts: float) -> list[Figure]:
    """The rate of our saves, in what PostgreSQL's own tool reaches with single-row INSERTs."""
    rates = [figure.value for figure in figures if figure.name == SAVE_RATE]
    return [Figure("saves to each INSERT of pgbench", "times", rate / single_inserts, limit="≥ 1") for rate in rates]


def broadcasting(side: Side, updates: int, watchers: int, in_flight: int) -> list[Figure]:
    """Some updates in flight, each shown to many."""
    _, cpu = _send(side, updates, watchers, in_flight)
    what = f"broadcast to {watchers}, {in_flight} in flight: CPU"
    return [Figure(what, "µs/delivery", cpu / updates / watchers * 1e6, "≤ 0.25" if in_flight > 1 else "≤ 0.8")]


def last_of(side: Side, updates: int, watchers: int) -> list[Figure]:
    """One update at a time: from the moment it is sent, to the last of many watchers."""
    crowd = Crowd(side.port, watchers)
    took = crowd.show(updates)
    crowd.close()
    p99 = quantiles(took, n=100)[98] if len(took) > 1 else took[0]
    return [Figure(f"update to the last of {watchers} watchers: p99", "ms", p99 * 1e3, "≤ 1")]


def posting(side: Side, requests: int, connections: int) -> list[Figure]:
    """Many connections, each with one POST at a time."""
    numbers = count()
    return [_http(side, "POST, 64 connections", "≥ 1.5", requests, connections, lambda: post_of(next(numbers)), b"201")]


def listing(side: Side, requests: int, connections: int) -> list[Figure]:
    """The latest hundred, again and again."""
    return [_http(side, "GET of the latest 100", "≥ 2", requests, connections, lambda: GET, b"200")]


def _send(side: Side, updates: int, watchers: int, in_flight: int) -> tuple[float, float]:
    """Send updates, so many in flight, and show them to watchers; return the seconds that passed, and those of CPU."""
    frames = [event_of(number) for number in range(updates)]
    crowd = Crowd(side.port, watchers)
    began, cpu = time.perf_counter(), side.cpu_s
    crowd.send(frames, in_flight)
    took, cpu = time.perf_counter() - began, side.cpu_s - cpu
    crowd.close()
    return took, cpu


def _http(
    side: Side, name: str, goal: str, requests: int, connections: int, ask: Callable[[], bytes], status: bytes
) -> Figure:
    loop = Loop()
    shares = [requests // connections] * connections
    clients = [Http(side.port, (ask() for _ in range(share)), status) for share in shares]
    began = time.perf_counter()
    for client in clients:
        loop.add(client)
        client.ask()
    loop.until(lambda: all(client.done for client in clients))
    took = time.perf_counter() - began
    loop.close()
    assert sum(client.answered for client in clients) == sum(shares)
    return Figure(f"{name}: rate", "requests/s", sum(shares) / took, goal)
