"""What a watcher of the tests receives."""

from __future__ import annotations

from typing import Any

from tests.support.payloads import UPDATE
from tests.support.service import Database, Service


def feed_epoch(database: Database) -> str:
    """Return the current epoch of the feed."""
    return str(database.rows("SELECT epoch FROM balance_feed")[0]["epoch"])


async def seqs(client: Any, count: int) -> list[int]:
    """Return the seq of the next snapshots."""
    return [(await client.expect("balance:snapshot"))["seq"] for _ in range(count)]


async def check_live(service: Service, client: Any, seq: int) -> None:
    """Check that the next snapshot that is saved is the next one that the client receives."""
    assert (await service.post(UPDATE)).status == 201
    assert await seqs(client, 1) == [seq]
