"""The connection of a command: its settings, and the errors that are one line."""

from __future__ import annotations

import psycopg
import pytest

from balance.storage.command_connection import connected
from balance.storage.connect import DatabaseError
from balance.storage.errors import NO_FEED, DatabaseFault
from balance.storage.migrate import SchemaBehind
from tests.support.postgres import execute
from tests.support.service import Database

FAILURE = "the work cannot be done"


def test_each_statement_is_its_own_transaction_and_has_the_limit(shared_database: Database) -> None:
    with connected(shared_database.url, FAILURE, statement_ms_max=1234) as connection:
        assert connection.autocommit
        assert connection.execute("SHOW statement_timeout").fetchone() == ("1234ms",)
        assert connection.execute("SHOW application_name").fetchone() == ("balance",)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert connection.closed


def test_an_error_of_the_block_begins_with_the_failure(shared_database: Database) -> None:
    with (
        pytest.raises(DatabaseError, match=rf'^{FAILURE}: relation "none" does not exist$') as refused,
        connected(shared_database.url, FAILURE, statement_ms_max=1000) as connection,
    ):
        connection.execute("SELECT FROM none")
    assert isinstance(refused.value.__cause__, psycopg.errors.UndefinedTable)
    with (
        pytest.raises(DatabaseError, match=f"^{FAILURE}: {NO_FEED}$"),
        connected(shared_database.url, FAILURE, statement_ms_max=1000),
    ):
        raise DatabaseFault(NO_FEED)
    assert connection.closed


def test_a_database_of_another_version_is_refused_before_the_block(database: Database) -> None:
    execute(database.url, "DELETE FROM schema_migration WHERE version > 1")
    with pytest.raises(SchemaBehind), connected(database.url, FAILURE, statement_ms_max=1000):
        pytest.fail("the block is not entered")


def test_a_database_that_is_away_is_one_line_without_the_failure() -> None:
    with (
        pytest.raises(DatabaseError, match=r"^the database cannot be reached: connection failed: [^\n]*$"),
        connected("postgresql://127.0.0.1:1/none", FAILURE, statement_ms_max=1000),
    ):
        pytest.fail("the block is not entered")
