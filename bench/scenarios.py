"""What is measured against the Node server, and the goal of each ratio.

Every scenario counts what came back, so that no figure covers work that was not done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import TypeVar

from bench.clients import make_event, make_get, make_post, send_requests
from bench.fleet import Fleet
from bench.report import Figure
from bench.targets import Target

T = TypeVar("T")
SAVE_RATE = "save, 128 in flight: rate"
BOTS_GOALS = {2: "≤ 1.25", 5: "≤ 1.0", 20: "≤ 0.55"}  # of the time, by the number of bots
WARM_UP = 0.2  # of the updates are sent first and not measured, where a target would otherwise run code that is cold


def save(target: Target, updates: int) -> list[Figure]:
    """Measure one client that keeps 128 updates in flight."""
    took, cpu = _send(target, updates, 0, 128)
    return [
        Figure("save, 128 in flight: CPU", "µs/update", cpu / updates * 1e6, "≤ 0.30"),
        Figure(SAVE_RATE, "updates/s", updates / took, "≥ 3"),
    ]


def compare_to_pgbench(figures: Sequence[Figure], single_inserts: float) -> list[Figure]:
    """Divide the rate of our saves by the rate at which PostgreSQL's own tool commits single-row INSERTs."""
    rates = [figure.value for figure in figures if figure.name == SAVE_RATE]
    return [Figure("saves per INSERT of pgbench", "times", rate / single_inserts, limit="≥ 1") for rate in rates]


def alone(target: Target, updates: int) -> list[Figure]:
    """Measure one client with one update in flight, by Socket.IO and then by POST. Nothing else is connected."""
    fleet = Fleet(target.port)
    by_event = _lone_figures("Socket.IO", target, fleet.time_acks, updates)
    fleet.close()
    return [*by_event, *_lone_figures("POST", target, lambda posts: _post(target, posts), updates)]


def _post(target: Target, requests: int) -> list[float]:
    return send_requests(target.port, [[make_post(number) for number in range(requests)]], b"201")


def _lone_figures(transport: str, target: Target, send: Callable[[int], list[float]], updates: int) -> list[Figure]:
    """Send updates one at a time by `send`, which returns their latencies in seconds."""
    send(int(updates * WARM_UP))
    target.wait_until_idle()
    latencies, _, cpu = _measure(target, lambda: send(updates))
    return [
        Figure(f"alone, by {transport}: CPU", "µs/update", cpu / updates * 1e6, "≤ 1.2"),
        Figure(f"alone, by {transport}: p50", "µs", median(latencies) * 1e6, "≤ 1.5"),
    ]


def bots(target: Target, updates: int) -> list[Figure]:
    """Measure 2, 5 and 20 bots, each with one update in flight. All of them watch, so each receives every snapshot."""
    figures = []
    for count, goal in BOTS_GOALS.items():
        fleet = Fleet(target.port, senders=count)
        frames = [make_event(number) for number in range(updates)]
        fleet.send(frames[: int(updates * WARM_UP)], 1)
        _, took, _ = _measure(target, lambda fleet=fleet, frames=frames: fleet.send(frames, 1))
        fleet.close()
        figures.append(Figure(f"{count} bots, each one in flight: time", "µs/update", took / updates * 1e6, goal))
    return figures


def broadcast(target: Target, updates: int, watchers: int, in_flight: int) -> list[Figure]:
    """Measure a broadcast to many watchers, with some updates in flight."""
    _, cpu = _send(target, updates, watchers, in_flight)
    name = f"broadcast to {watchers}, {in_flight} in flight: CPU"
    return [Figure(name, "µs/delivery", cpu / updates / watchers * 1e6, "≤ 0.25" if in_flight > 1 else "≤ 0.65")]


def last_delivery_latency(target: Target, updates: int, watchers: int) -> list[Figure]:
    """Measure the time from the sending of an update, one at a time, to its receipt by the last of many watchers."""
    fleet = Fleet(target.port, watchers)
    times = fleet.time_broadcasts(updates)
    fleet.close()
    p99 = quantiles(times, n=100)[98] if len(times) > 1 else times[0]
    return [Figure(f"update to the last of {watchers} watchers: p99", "ms", p99 * 1e3, "≤ 1")]


def post(target: Target, requests: int, connections: int) -> list[Figure]:
    """Measure many connections, each with one POST in flight."""
    share = requests // connections
    shares = [[make_post(first * share + number) for number in range(share)] for first in range(connections)]
    return [_request_rate("POST, 64 connections", target, shares, b"201")]


def list_latest(target: Target, requests: int, connections: int) -> list[Figure]:
    """Measure many connections that read the latest 100 snapshots."""
    shares = [[make_get("?limit=100")] * (requests // connections)] * connections
    return [_request_rate("GET of the latest 100", target, shares, b"200")]


def _request_rate(name: str, target: Target, shares: Sequence[Sequence[bytes]], status: bytes) -> Figure:
    latencies, took, _ = _measure(target, lambda: send_requests(target.port, shares, status))
    return Figure(f"{name}: rate", "requests/s", len(latencies) / took, "≥ 2")


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
