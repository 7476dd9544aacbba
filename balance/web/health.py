"""Handlers for those that watch the service itself: `/livez`, `/readyz`, `/healthz`, `/version` and `/metrics`.

The first four need no permission and no slot of a limiter, so that they are answered under any load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import balance
import protocol
from balance.aio.limiter import CapacityLimiter
from balance.auth import Operation
from balance.health import Health, Problem
from balance.web.snapshots import RestHandler
from protocol.documents import VERSION


class HealthHandler(RestHandler):
    """A route about the process."""

    operation = None

    def initialize(  # type: ignore[override]  # Tornado passes the arguments of the route
        self, *, health: Health, **common: Any
    ) -> None:
        super().initialize(**common)
        self.health = health

    async def on_get(self, *path: str) -> None:
        await self.finish_in_time(self.write_json(await self.read(*path)))


class LiveHandler(HealthHandler):
    """`/livez`: whether the process works. It fails only if a restart would help."""

    async def read(self, *_path: str) -> dict[str, Any]:
        check_none(self.health.check_live())
        return {"success": True, "data": {"status": "live"}}


class ReadyHandler(HealthHandler):
    """`/readyz` and `/healthz`: whether the process should get requests now."""

    async def read(self, *_path: str) -> dict[str, Any]:
        check_none(await self.health.check_ready())
        return {"success": True, "data": {"status": "ready"}}


class VersionHandler(HealthHandler):
    """`/version`: which version runs."""

    async def read(self, *_path: str) -> dict[str, Any]:
        return {"success": True, "data": {"version": balance.__version__, "contract": VERSION}}


class MetricsHandler(RestHandler):
    """`/metrics`: the numbers of `balance.metrics`."""

    operation = Operation.READ_METRICS

    def initialize(  # type: ignore[override]  # Tornado passes the arguments of the route
        self, *, scrape: Callable[[], Awaitable[bytes]], media_type: str, limiter: CapacityLimiter, **common: Any
    ) -> None:
        super().initialize(**common)
        self.limiter = limiter
        self._scrape = scrape
        self._media_type = media_type

    async def respond(self, *_path: str) -> asyncio.Future[None]:
        body = await self._scrape()
        self.set_header("Content-Type", self._media_type)
        return self.finish(body)


def check_none(problems: Sequence[Problem]) -> None:
    """Raise Unavailable with all problems, if there are any."""
    if problems:
        error = protocol.Unavailable("; ".join([problem.reason for problem in problems]))
        error.fields = {"reasons": [problem._asdict() for problem in problems]}
        raise error
