"""Whether what one watcher costs, and one delivery, stays the same up to ten thousand of them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.clients import Crowd
from bench.report import Figure
from bench.sides import Side

MEMORY_KIB_MAX = 25  # for a watcher to whom nothing is said
REACH_MS_MAX = 400  # for one snapshot to so many watchers:
REACHED = 10_000
FLAT = 1.3  # times the cost at the small size is still the same cost; what is left is noise
UPDATES_MIN = 10


def idling(side: Side, watchers: int) -> list[Figure]:
    """Watchers that connect, are told nothing, and go all at once."""
    memory, began = side.rss_bytes, side.cpu_s
    crowd = Crowd(side.port, watchers - 1)
    memory, came = side.rss_bytes - memory, side.cpu_s
    crowd.close()
    side.settle()
    gone = side.cpu_s
    return [
        Figure(
            f"memory of {watchers} idle watchers", "KiB each", memory / watchers / 1024, limit=f"≤ {MEMORY_KIB_MAX}"
        ),
        Figure(f"{watchers} come: CPU", "µs each", (came - began) / watchers * 1e6),
        Figure(f"{watchers} go at once: CPU", "µs each", (gone - came) / watchers * 1e6),
    ]


def delivering(side: Side, steps: Sequence[int], deliveries: int) -> list[Figure]:
    """One update at a time to more and more watchers, about so many deliveries at each step.

    What a delivery costs is the CPU above that of an update that nobody but its sender sees.
    """
    crowd = Crowd(side.port)
    crowd.show(deliveries // steps[0] // 10)  # so that the first step does not find everything cold
    alone, _ = _cost(side, crowd, deliveries // steps[0])
    costs, took = [], 0.0
    for watchers in steps:
        crowd.grow(watchers)
        cpu, took = _cost(side, crowd, max(deliveries // watchers, UPDATES_MIN))
        costs.append((cpu - alone) / watchers * 1e6)
    crowd.close()
    side.settle()
    return [
        *(
            Figure(f"one delivery, of {watchers}: CPU", "µs", cost)
            for watchers, cost in zip(steps, costs, strict=True)
        ),
        Figure(f"one delivery, of {steps[-1]} to of {steps[0]}", "times", costs[-1] / costs[0], limit=f"≤ {FLAT}"),
        Figure(
            f"one update to the last of {steps[-1]} watchers: median", "ms", took * 1e3,
            limit=f"≤ {REACH_MS_MAX}" if steps[-1] == REACHED else "",
        ),
    ]  # fmt: skip


def _cost(side: Side, crowd: Crowd, updates: int) -> tuple[float, float]:
    """Show updates; return the server's seconds of CPU for each, and the median of the seconds that each took."""
    before = side.cpu_s
    took = crowd.show(updates)
    return (side.cpu_s - before) / updates, median(took)
