"""What a service logs and does when its database is away and returns."""

from __future__ import annotations

import asyncio
from random import Random

from tests.support.payloads import updates
from tests.support.service import Service

# Parts of the log lines; a test that has an outage is marked `expects_log(*OUTAGE)`.
OUTAGE = (
    "the database cannot be reached", "the database cannot save", "the database cannot be read",
    "the database is available",
)  # fmt: skip
# Parts of the log lines of a process that finds fewer rows than it knew, and of each one that follows it.
NEW_EPOCH = ("a new epoch of the feed begins", "the feed goes on in epoch")
BACK_S_MAX = 1.0  # from the database being back to the next save


async def check_back(service: Service) -> None:
    """Check that the service saves and lists again within BACK_S_MAX."""
    update = next(updates(Random(7)))
    async with asyncio.timeout(BACK_S_MAX):
        while (answer := await service.post(update)).status not in (200, 201):
            assert answer.status == 503, answer
            await asyncio.sleep(0.01)
        while (answer := await service.get("?limit=1")).status != 200:
            assert answer.status == 503, answer
            await asyncio.sleep(0.01)
