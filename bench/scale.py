"""Whether what one watcher costs, and one delivery, stays the same up to ten thousand of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from bench.clients import Crowd
from bench.report import Figure
from bench.sides import Side

MEMORY_KIB_MAX = 25  # for a watcher to whom nothing is said
REACH_MS_MAX = 400  # for one snapshot to so many watchers:
REACHED = 10_000
FLAT = 1.3  # times the cost at the small size is still the same cost; what is left is noise
DELIVERY = "one delivery, "
UPDATES_MAX = 4_000  # at each step


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
    """One update at a time to more and more watchers, at most so many deliveries at each step.

    What a delivery costs is the CPU that an update takes more than at the step before, for each watcher that came.
    """
    crowd = Crowd(side.port, steps[0])
    crowd.show(min(deliveries // steps[0], UPDATES_MAX))  # so that the first step does not find everything cold
    costs, took = [], 0.0
    for watchers in steps:
        crowd.grow(watchers)
        side.settle()
        cost, took = _cost(side, crowd, min(deliveries // watchers, UPDATES_MAX))
        costs.append(cost)
    crowd.close()
    side.settle()
    return [
        *(
            Figure(f"{DELIVERY}{few} to {many} watchers: CPU", "µs", (cost - before) / (many - few) * 1e6)
            for (few, before), (many, cost) in pairwise(zip(steps, costs, strict=True))
        ),
        Figure(
            f"one update to the last of {steps[-1]} watchers: median", "ms", took * 1e3,
            limit=f"≤ {REACH_MS_MAX}" if steps[-1] == REACHED else "",
        ),
    ]  # fmt: skip


def beside_bare(ours: Sequence[Figure], bare: Sequence[Figure], *, quick: bool) -> list[Figure]:
    """How many times the first of our deliveries the dearest costs, but for what a bare `send` costs more there.

    A `send` grows on every server: the processor's caches do not hold the sockets of thousands. Of the few deliveries
    of a `quick` run nothing is wanted.
    """
    deliveries, sends = ([one.value for one in figures if one.name.startswith(DELIVERY)] for figures in (ours, bare))
    growth = [(delivery - (send - sends[0])) / deliveries[0] for delivery, send in zip(deliveries, sends, strict=True)]
    limit = "" if quick else f"≤ {FLAT}"
    return [Figure("growth of a delivery, less that of a bare send", "times", max(growth[1:]), limit=limit)]


def _cost(side: Side, crowd: Crowd, updates: int) -> tuple[float, float]:
    """Show updates; return the server's seconds of CPU for each, and the median of the seconds that each took."""
    before = side.cpu_s
    took = crowd.show(updates)
    return (side.cpu_s - before) / updates, median(took)
