"""The tokens by which callers are known: read by the service; created, listed and revoked by the command `token`.

Only the SHA-256 of a token is stored, so that nobody who reads the table can use one.

Threads: every call blocks. The methods of TokenStore borrow a connection; each function opens one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import LiteralString, NamedTuple

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow, class_row

from balance.storage.command_connection import connected
from balance.storage.pool import Pool

COMMAND_MS_MAX = 10_000  # of one statement of a command


class TokenError(Exception):
    """A token cannot be created or revoked; the text is one line."""


class StoredToken(NamedTuple):
    """A token as the service needs it."""

    id: str
    name: str
    role: str
    sha256: bytes
    expires_at: float | None
    """In seconds since 1970; None if it does not expire."""
    is_revoked: bool


class ListedToken(NamedTuple):
    """A token as a person wants to see it."""

    name: str
    role: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""


class TokenStore:
    """The tokens, for the service."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def read(self) -> list[StoredToken]:
        """Read all tokens, also those that are revoked or have expired. Raises StoreUnavailable."""
        with self._pool.connection() as session:
            return session.cursor(row_factory=class_row(StoredToken)).execute(TOKENS).fetchall()

    def note_used(self, ids: Sequence[str]) -> None:
        """Store that tokens were used now. Raises StoreUnavailable."""
        with self._pool.connection() as session, session.transaction():
            session.execute("SET LOCAL synchronous_commit = off")  # must not wait for the disk or a standby
            session.execute(NOTE_USED, {"ids": list(ids)})


def create_token(
    url: str,
    name: str,
    role: str,
    sha256: bytes,
    lifetime: timedelta | None,
    announce: Callable[[], object] = lambda: None,
) -> None:
    """Store a token by its digest; `lifetime` is None if it does not expire.

    `announce` is called before the commit. If it raises, nothing is stored, and no server has seen the token: even
    a row that is revoked or deleted at once could close a server without tokens, or let one on a public address start.
    Raises TokenError if the name is that of a token which is not revoked, DatabaseError and SchemaError.
    """
    parameters = {"name": name, "role": role, "sha256": sha256, "lifetime": lifetime}
    with _connection(url) as connection:
        try:
            with connection.transaction():
                connection.execute(CREATE, parameters)
                announce()
        except psycopg.errors.UniqueViolation as error:
            raise TokenError(f"there is a token {name} already: revoke it first, or choose another name") from error


def read_tokens(url: str) -> list[StoredToken]:
    """Return all tokens as the service reads them. Raises DatabaseError and SchemaError."""
    with _connection(url) as connection:
        return connection.cursor(row_factory=class_row(StoredToken)).execute(TOKENS).fetchall()


def list_tokens(url: str) -> list[ListedToken]:
    """Return all tokens in the order of their creation. Raises DatabaseError and SchemaError."""
    with _connection(url) as connection:
        return connection.cursor(row_factory=class_row(ListedToken)).execute(LIST).fetchall()


def revoke_token(url: str, name: str) -> None:
    """Revoke the token of a name. Raises TokenError if there is none, DatabaseError and SchemaError."""
    with _connection(url) as connection:
        if not connection.execute(REVOKE, {"name": name}).rowcount:
            raise TokenError(f"there is no token {name} that could be revoked")


def _connection(url: str) -> AbstractContextManager[Connection[TupleRow]]:
    return connected(url, "the tokens cannot be read or changed", statement_ms_max=COMMAND_MS_MAX)


TOKENS: LiteralString = """
SELECT id::text, name, role, sha256, extract(epoch FROM expires_at)::float8 AS expires_at,
       revoked_at IS NOT NULL AS is_revoked
FROM balance_token ORDER BY id
"""

NOTE_USED: LiteralString = """
UPDATE balance_token SET last_used_at = date_trunc('minute', now())
WHERE id = ANY (%(ids)s::bigint[]) AND last_used_at IS DISTINCT FROM date_trunc('minute', now())
"""

CREATE: LiteralString = """
INSERT INTO balance_token (name, role, sha256, expires_at)
VALUES (%(name)s, %(role)s, %(sha256)s, now() + %(lifetime)s::interval)
"""

LIST: LiteralString = """
SELECT name, role, created_at, expires_at, revoked_at, last_used_at FROM balance_token ORDER BY id
"""

REVOKE: LiteralString = """
UPDATE balance_token SET revoked_at = now() WHERE name = %(name)s AND revoked_at IS NULL
"""
