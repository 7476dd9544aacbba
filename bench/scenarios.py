"""What is measured against the Node server, and the goal of each ratio.

Every scenario counts what came back, so that no figure covers work that was not done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import quantiles
from typing import TypeVar

from bench.clients import make_event, make_get, make_post, send_requests
from bench.fleet import Fleet
from bench.report import Figure
from bench.targets import Target

T = TypeVar("T")
SAVE_RATE = "save, 128 in flight: rate"


def save(target: Target, updates: int) -> list[Figure]:
    """One client keeps 128 updates in flight."""
    took, cpu = _send(target, updates, 0, 128)
    return [
        Figure("save, 128 in flight: CPU", "µs/update", cpu / updates * 1e6, "≤ 0.5"),
        Figure(SAVE_RATE, "updates/s", updates / took, "≥ 3"),
    ]


def compare_to_pgbench(figures: Sequence[Figure], single_inserts: float) -> list[Figure]:
    """Divide the rate of our saves by the rate at which PostgreSQL's own tool commits single-row INSERTs."""
    rates = [figure.value for figure in figures if figure.name == SAVE_RATE]
    return [Figure("saves per INSERT of pgbench", "times", rate / single_inserts, limit="≥ 1") for rate in rates]


def broadcast(target: Target, updates: int, watchers: int, in_flight: int) -> list[Figure]:
    """Broadcast each of some updates in flight to many watchers."""
    _, cpu = _send(target, updates, watchers, in_flight)
    name = f"broadcast to {watchers}, {in_flight} in flight: CPU"
    return [Figure(name, "µs/delivery", cpu / updates / watchers * 1e6, "≤ 0.25" if in_flight > 1 else "≤ 0.8")]


def last_delivery_latency(target: Target, updates: int, watchers: int) -> list[Figure]:
    """One update at a time: the time from its sending to the last of many watchers."""
    fleet = Fleet(target.port, watchers)
    times = fleet.time_broadcasts(updates)
    fleet.close()
    p99 = quantiles(times, n=100)[98] if len(times) > 1 else times[0]
    return [Figure(f"update to the last of {watchers} watchers: p99", "ms", p99 * 1e3, "≤ 1")]


def post(target: Target, requests: int, connections: int) -> list[Figure]:
    """Many connections, each with one POST in flight."""
    share = requests // connections
    shares = [[make_post(first * share + number) for number in range(share)] for first in range(connections)]
    return [_request_rate("POST, 64 connections", "≥ 1.5", target, shares, b"201")]


def list_latest(target: Target, requests: int, connections: int) -> list[Figure]:
    """The latest 100 snapshots, read by many connections."""
    shares = [[make_get("?limit=100")] * (requests // connections)] * connections
    return [_request_rate("GET of the latest 100", "≥ 2", target, shares, b"200")]


def _request_rate(name: str, goal: str, target: Target, shares: Sequence[Sequence[bytes]], status: bytes) -> Figure:
    latencies, took, _ = _measure(target, lambda: send_requests(target.port, shares, status))
    return Figure(f"{name}: rate", "requests/s", len(latencies) / took, goal)


def _send(target: Target, updates: int, watchers: int, in_flight: int) -> tuple[float, float]:
    """Send updates and broadcast them to watchers; return the seconds that passed, and the target's seconds of CPU."""
    frames = [make_event(number) for number in range(updates)]
    fleet = Fleet(target.port, watchers)
    _, took, cpu = _measure(target, lambda: fleet.send(frames, in_flight))
    fleet.close()
    return took, cpu


def _measure(target: Target, work: Callable[[], T]) -> tuple[T, float, float]:
    """Run `work`; return its result, the seconds that passed, and the target's seconds of CPU."""
    began, cpu = time.perf_counter(), target.cpu_s
    result = work()
    return result, time.perf_counter() - began, target.cpu_s - cpu
