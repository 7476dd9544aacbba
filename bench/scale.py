"""Whether what one watcher costs, and one delivery, stays the same up to ten thousand of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from bench.clients import Loop, WebSocket, event_of
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
    clients = [WebSocket(side.port) for _ in range(watchers)]
    memory, came = side.rss_bytes - memory, side.cpu_s
    for client in clients:
        client.socket.close()
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
    crowd = Crowd(side)
    crowd.show(deliveries // steps[0] // 10)  # so that the first step does not find everything cold
    alone, _ = crowd.cost(deliveries // steps[0])
    costs, took = [], 0.0
    for watchers in steps:
        crowd.grow(watchers)
        cpu, took = crowd.cost(max(deliveries // watchers, UPDATES_MIN))
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


class Crowd:
    """A sender, and watchers that become more."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._loop = Loop()
        self._heard = 0  # snapshots, by all of them together
        self._clients: list[WebSocket] = []
        self.grow(0)

    def grow(self, watchers: int) -> None:
        """Connect until there are so many beside the sender."""
        while len(self._clients) < watchers + 1:
            client = WebSocket(self._side.port)
            client.on_snapshot = self._on_snapshot
            self._clients.append(client)
            self._loop.add(client)

    def show(self, updates: int) -> list[float]:
        """Send updates, each when the one before has reached everyone; return the seconds that each took."""
        took = []
        for number in range(updates):
            self._heard = 0
            began = time.perf_counter()
            self._clients[0].send(event_of(number))
            self._loop.until(lambda: self._heard == len(self._clients))
            took.append(time.perf_counter() - began)
        return took

    def cost(self, updates: int) -> tuple[float, float]:
        """Show updates; return the server's seconds of CPU for each, and the median of the seconds that each took."""
        before = self._side.cpu_s
        took = self.show(updates)
        return (self._side.cpu_s - before) / updates, median(took)

    def close(self) -> None:
        for client in self._clients:
            self._loop.remove(client)

    def _on_snapshot(self) -> None:
        self._heard += 1
