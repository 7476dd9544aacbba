"""The table of tokens: what the service reads of it and writes to it, and what the command does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from balance.storage import token_store as module
from balance.storage.connect import DatabaseError
from balance.storage.pool import Pool
from balance.storage.token_store import (
    StoredToken,
    TokenError,
    TokenStore,
    create_token,
    list_tokens,
    read_tokens,
    revoke_token,
)
from tests.support.postgres import execute, locked, note_updates
from tests.support.service import Database

ONE, TWO, THREE = b"1" * 32, b"2" * 32, b"3" * 32
MINUTE = timedelta(minutes=1)


@pytest.fixture
def store(database: Database) -> Iterator[TokenStore]:
    """A store on an open pool."""
    pool = Pool(database.url, pool_max=1, pool_wait_ms_max=5000, statement_ms_max=5000)
    pool.open()
    yield TokenStore(pool)
    pool.close()


def test_all_tokens_are_read_in_the_order_of_their_creation(store: TokenStore, database: Database) -> None:
    assert store.read() == []
    began = time.time()
    create_token(database.url, "b", "writer", TWO, MINUTE)
    create_token(database.url, "a", "admin", ONE, None)
    create_token(database.url, "c", "reader", THREE, timedelta(microseconds=1))
    revoke_token(database.url, "a")
    first, second, third = store.read()
    assert first.expires_at is not None
    assert third.expires_at is not None
    assert began + 59 <= first.expires_at <= time.time() + 61
    assert third.expires_at <= time.time()
    assert (first, second, third) == (
        StoredToken("1", "b", "writer", TWO, first.expires_at, False),
        StoredToken("2", "a", "admin", ONE, None, True),
        StoredToken("3", "c", "reader", THREE, third.expires_at, False),
    )
    assert read_tokens(database.url) == [first, second, third]


def test_a_use_is_stored_to_the_minute_once_in_it_and_without_a_wait(store: TokenStore, database: Database) -> None:
    for number, sha256 in enumerate((ONE, TWO, THREE)):
        create_token(database.url, f"n{number}", "reader", sha256, None)
    note_updates(database.url, "balance_token")
    before = datetime.now(UTC).replace(second=0, microsecond=0)
    store.note_used(["1", "3"])
    used = [one.last_used_at for one in list_tokens(database.url)]
    assert used[1] is None
    assert used[0] == used[2]
    assert used[0] in (before, before + MINUTE)
    assert database.rows("SELECT * FROM noted") == [{"id": "1", "level": "off"}, {"id": "3", "level": "off"}]
    execute(database.url, "UPDATE balance_token SET last_used_at = last_used_at - interval '1 minute' WHERE id = 3")
    execute(database.url, "TRUNCATE noted")
    store.note_used(["1", "3"])
    noted = [row["id"] for row in database.rows("SELECT id FROM noted")]
    assert noted == (["3"] if datetime.now(UTC) < before + MINUTE else noted)
    assert "3" in noted


def test_a_name_is_of_one_token_at_a_time(database: Database) -> None:
    create_token(database.url, "x", "reader", ONE, None)
    with pytest.raises(TokenError) as refused:
        create_token(database.url, "x", "writer", TWO, None)
    assert str(refused.value) == "there is a token x already: revoke it first, or choose another name"
    assert isinstance(refused.value.__cause__, psycopg.errors.UniqueViolation)
    revoke_token(database.url, "x")
    create_token(database.url, "x", "writer", TWO, None)
    assert [one.role for one in list_tokens(database.url)] == ["reader", "writer"]


def test_a_token_is_stored_only_after_it_was_announced(database: Database) -> None:
    seen: list[list[StoredToken]] = []
    create_token(database.url, "x", "reader", ONE, None, lambda: seen.append(read_tokens(database.url)))
    assert (seen, [one.name for one in list_tokens(database.url)]) == ([[]], ["x"])

    def fail() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        create_token(database.url, "y", "reader", TWO, None, fail)
    assert [one.name for one in list_tokens(database.url)] == ["x"]


def test_a_token_is_revoked_by_its_name_and_once(database: Database) -> None:
    for name, sha256 in (("x", ONE), ("y", TWO)):
        create_token(database.url, name, "reader", sha256, None)
    revoke_token(database.url, "x")
    x, y = list_tokens(database.url)
    assert x.revoked_at is not None
    assert x.created_at <= x.revoked_at
    assert y.revoked_at is None
    for name in ("x", "z", "X"):
        with pytest.raises(TokenError) as refused:
            revoke_token(database.url, name)
        assert str(refused.value) == f"there is no token {name} that could be revoked"
    assert list_tokens(database.url)[0] == x


def test_a_list_has_all_that_is_stored_but_the_digest(database: Database) -> None:
    create_token(database.url, "b", "writer", TWO, MINUTE)
    create_token(database.url, "a", "admin", ONE, None)
    first, second = list_tokens(database.url)
    assert first == ("b", "writer", first.created_at, first.created_at + MINUTE, None, None)
    assert second == ("a", "admin", second.created_at, None, None, None)
    assert abs(first.created_at - datetime.now(UTC)) < MINUTE


def test_a_command_that_cannot_be_done_is_one_line(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = "^the tokens cannot be read or changed: "
    assert module.COMMAND_MS_MAX == 10_000
    monkeypatch.setattr(module, "COMMAND_MS_MAX", 50)
    with locked(database, "LOCK TABLE balance_token"), pytest.raises(DatabaseError, match=f"{prefix}.*timeout$"):
        list_tokens(database.url)
    execute(database.url, "ALTER TABLE balance_token RENAME TO elsewhere")
    with pytest.raises(DatabaseError, match=f'{prefix}relation "balance_token" does not exist$'):
        revoke_token(database.url, "x")
    with pytest.raises(DatabaseError, match=f'{prefix}relation "balance_token" does not exist$'):
        create_token(database.url, "x", "reader", ONE, None)
