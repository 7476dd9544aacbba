"""Whether the cost of one watcher, and of one delivery, stays the same up to ten thousand watchers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from bench.fleet import Fleet
from bench.report import Figure
from bench.targets import Target

MEMORY_KIB_MAX = 23  # for an idle watcher
LATENCY_MS_MAX = 400  # of one snapshot to this many watchers:
LATENCY_WATCHERS = 10_000
FLAT = 1.3  # times the cost at the small size counts as the same cost; the rest is noise
DELIVERY = "one delivery, "
UPDATES_MAX = 4_000  # at each step


def idle_memory(target: Target, watchers: int) -> list[Figure]:
    """Connect watchers, send them nothing, and disconnect all of them at once."""
    memory, began = target.rss_bytes, target.cpu_s
    fleet = Fleet(target.port, watchers - 1)
    memory, connected = target.rss_bytes - memory, target.cpu_s
    fleet.close()
    target.wait_until_idle()
    disconnected = target.cpu_s
    return [
        Figure(
            f"memory of {watchers} idle watchers", "KiB each", memory / watchers / 1024, limit=f"≤ {MEMORY_KIB_MAX}"
        ),
        Figure(f"{watchers} connect: CPU", "µs each", (connected - began) / watchers * 1e6),
        Figure(f"{watchers} disconnect at once: CPU", "µs each", (disconnected - connected) / watchers * 1e6),
    ]


def delivery(target: Target, steps: Sequence[int], deliveries: int) -> list[Figure]:
    """Send one update at a time to a growing number of watchers, with at most `deliveries` at each step.

    The cost of a delivery is the CPU that an update costs more than at the step before, for each watcher added.
    """
    fleet = Fleet(target.port, steps[0])
    fleet.time_broadcasts(min(deliveries // steps[0], UPDATES_MAX))  # or the first step would pay for cold caches
    costs, latency = [], 0.0
    for watchers in steps:
        fleet.grow(watchers)
        target.wait_until_idle()
        cost, latency = _cost(target, fleet, min(deliveries // watchers, UPDATES_MAX))
        costs.append(cost)
    fleet.close()
    target.wait_until_idle()
    return [
        *(
            Figure(f"{DELIVERY}{few} to {many} watchers: CPU", "µs", (cost - before) / (many - few) * 1e6)
            for (few, before), (many, cost) in pairwise(zip(steps, costs, strict=True))
        ),
        Figure(
            f"one update to the last of {steps[-1]} watchers: median", "ms", latency * 1e3,
            limit=f"≤ {LATENCY_MS_MAX}" if steps[-1] == LATENCY_WATCHERS else "",
        ),
    ]  # fmt: skip


def compare_to_floor(ours: Sequence[Figure], floor: Sequence[Figure], *, quick: bool) -> list[Figure]:
    """Divide the cost of our dearest delivery by that of our first one, less the growth of the cost of a bare `send`.

    A `send` becomes dearer on every server, since the processor's caches do not hold the sockets of thousands. A
    `quick` run has too few deliveries for a goal.
    """
    deliveries, sends = ([one.value for one in figures if one.name.startswith(DELIVERY)] for figures in (ours, floor))
    growth = [(cost - (send - sends[0])) / deliveries[0] for cost, send in zip(deliveries, sends, strict=True)]
    limit = "" if quick else f"≤ {FLAT}"
    return [Figure("growth of a delivery, less that of a bare send", "times", max(growth[1:]), limit=limit)]


def _cost(target: Target, fleet: Fleet, updates: int) -> tuple[float, float]:
    """Broadcast updates; return the target's seconds of CPU for each, and the median of the seconds that each took."""
    before = target.cpu_s
    times = fleet.time_broadcasts(updates)
    return (target.cpu_s - before) / updates, median(times)
