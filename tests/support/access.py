"""Tokens for tests: in the database of a service that runs, and known to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from balance.access.tokens import digest, new_token
from balance.auth import Role
from balance.storage.token_store import create_token
from tests.support.service import Service

KNOWN_S_MAX = 10.0


async def add_token(
    service: Service, role: Role = Role.WRITER, name: str | None = None, lifetime: timedelta | None = None
) -> str:
    """Create a token and wait until the service knows it."""
    token = new_token(role)
    await asyncio.to_thread(create_token, service.app._config.database_url, name or role, role, digest(token), lifetime)
    await until(lambda: digest(token) in service.app.authenticator._by_digest)
    return token


async def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds. Raises TimeoutError."""
    async with asyncio.timeout(KNOWN_S_MAX):
        while not holds():
            await asyncio.sleep(0.02)


def bearer(token: str) -> dict[str, str]:
    """Return the header by which a token is sent."""
    return {"Authorization": f"Bearer {token}"}
