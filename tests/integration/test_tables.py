"""The tables reject every row that the schemas reject, and store valid ones to the last digit.

Every test runs in a transaction that is rolled back.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.postgres import temporary_database

Session = psycopg.Connection[tuple[Any, ...]]
GOOD = '{"rlb": 100074.99978, "usdt": 7656.36, "usd": 7646.96}'  # valid in both ledgers


@pytest.fixture(scope="module")
def migrated(postgres: str, template: str) -> Iterator[str]:
    """Make a migrated database and return its conninfo."""
    with temporary_database(postgres, template) as database:
        yield database.url


@pytest.fixture
def session(migrated: str) -> Iterator[Session]:
    """Yield a session in a transaction that is rolled back at the end."""
    with psycopg.connect(migrated) as connection, connection.transaction(force_rollback=True):
        yield connection


def insert(session: Session, **values: Any) -> None:
    """Insert a valid row with some values replaced; an error leaves the transaction usable."""
    row = {"seq": 1, "id": uuid.uuid4(), "ts": "2025-11-07T00:45:08.603Z", "pid": 1132978} | {
        "onchain": GOOD, "onsite": GOOD, "received_at": "2025-11-07T00:45:08.7Z"
    } | values  # fmt: skip
    with session.transaction():
        session.execute(
            """
            INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            """,
            [*row.values()],
        )


BAD_LEDGERS = {
    "negative": '{"rlb": -1, "usdt": 1, "usd": 1}',
    "slightly negative": '{"rlb": -1e-30, "usdt": 1, "usd": 1}',
    "missing rlb": '{"usdt": 1, "usd": 1}',
    "missing the currency": '{"rlb": 1}',
    "empty": "{}",
    "string": '{"rlb": "1", "usdt": 1, "usd": 1}',
    "NaN as a string": '{"rlb": "NaN", "usdt": 1, "usd": 1}',
    "boolean": '{"rlb": true, "usdt": 1, "usd": 1}',
    "null": '{"rlb": null, "usdt": 1, "usd": 1}',
    "array amount": '{"rlb": [1], "usdt": 1, "usd": 1}',
    "empty array amount": '{"rlb": [], "usdt": 1, "usd": 1}',
    "object amount": '{"rlb": {"rlb": 1}, "usdt": 1, "usd": 1}',
    "too large": '{"rlb": 1e31, "usdt": 1, "usd": 1}',
    "just too large": '{"rlb": 1000000000000000000000000000000.1, "usdt": 1, "usd": 1}',
    "too small": '{"rlb": 1e-31, "usdt": 1, "usd": 1}',
    "just too small": '{"rlb": 9.99e-31, "usdt": 1, "usd": 1}',
    "another asset": '{"rlb": 1, "usdt": 1, "usd": 1, "btc": -1}',
    "array ledger": '["rlb", "usdt", "usd"]',
    "array of a ledger": f"[{GOOD}]",
    "string ledger": '"rlb"',
    "number ledger": "1",
    "null ledger": "null",
}

GOOD_LEDGERS = {
    "as in the specification": GOOD,
    "zero": '{"rlb": 0, "usdt": 0.0, "usd": 0e5}',
    "largest": '{"rlb": 1e30, "usdt": 1, "usd": 1}',
    "smallest": '{"rlb": 1e-30, "usdt": 1, "usd": 1}',
    "forty digits": '{"rlb": 1234567890.123456789012345678901234567890, "usdt": 1, "usd": 1}',
    "more assets": '{"rlb": 1, "usdt": 1, "usd": 1, "btc": 0.5, "a.b-c_d": 0, "BTC/USDT:USDT": 1, "$wif": 1}',
}


@pytest.mark.parametrize("ledger", ["onchain", "onsite"])
@pytest.mark.parametrize("text", BAD_LEDGERS.values(), ids=BAD_LEDGERS)
def test_a_bad_ledger_is_not_stored(session: Session, ledger: str, text: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        insert(session, **{ledger: text})
    assert caught.value.diag.constraint_name == f"{ledger}_is_valid"


@pytest.mark.parametrize("text", GOOD_LEDGERS.values(), ids=GOOD_LEDGERS)
def test_a_good_ledger_is_stored_to_the_last_digit(session: Session, text: str) -> None:
    insert(session, onchain=text, onsite=text)
    stored = session.execute("SELECT onchain = %s::jsonb AND onsite = onchain FROM balance_snapshot", [text])
    assert stored.fetchall() == [(True,)]


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ({"seq": 0}, "seq_is_positive"),
        ({"seq": -1}, "seq_is_positive"),
        ({"pid": -1}, "pid_is_in_range"),
        ({"pid": 2**53}, "pid_is_in_range"),
        ({"ts": "infinity"}, "ts_is_in_range"),
        ({"ts": "-infinity"}, "ts_is_in_range"),
        ({"ts": "0999-12-30T23:59:59Z"}, "ts_is_in_range"),
        ({"ts": "3000-01-02T00:00:00Z"}, "ts_is_in_range"),
    ],
    ids=str,
)
def test_a_number_or_a_time_out_of_range_is_not_stored(
    session: Session, values: dict[str, Any], constraint: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        insert(session, **values)
    assert caught.value.diag.constraint_name == constraint


@pytest.mark.parametrize(
    "values",
    [
        {"seq": 2**63 - 1},
        {"pid": None},
        {"pid": 0},
        {"pid": 2**53 - 1},
        {"ts": "1000-01-01T00:00:00+14:00"},
        {"ts": "2999-12-31T23:59:59.999999-12:00"},
    ],
    ids=str,
)
def test_the_ends_of_each_range_are_stored(session: Session, values: dict[str, Any]) -> None:
    insert(session, **values)


@pytest.mark.parametrize("column", ["seq", "id", "ts", "onchain", "onsite", "received_at"])
def test_every_column_but_pid_is_required(session: Session, column: str) -> None:
    with pytest.raises(psycopg.errors.NotNullViolation):
        insert(session, **{column: None})


def test_neither_a_seq_nor_an_id_is_stored_twice(session: Session) -> None:
    name = uuid.uuid4()
    insert(session, seq=1, id=name)
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(session, seq=1)
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(session, seq=2, id=name)


def test_the_feed_keeps_one_row(session: Session) -> None:
    for only_row, error in (("true", psycopg.errors.UniqueViolation), ("false", psycopg.errors.CheckViolation)):
        with pytest.raises(error), session.transaction():
            session.execute(f"INSERT INTO balance_feed VALUES ({only_row}, gen_random_uuid(), 0)")


@pytest.mark.parametrize(
    ("change", "error", "constraint"),
    [
        ("epoch = first.epoch", psycopg.errors.UniqueViolation, "balance_epoch_pkey"),
        ("epoch = NULL", psycopg.errors.NotNullViolation, None),
        ("number = 1", psycopg.errors.UniqueViolation, "balance_epoch_number_key"),
        ("number = 0", psycopg.errors.CheckViolation, "number_is_positive"),
        ("number = NULL", psycopg.errors.NotNullViolation, None),
        ("after_seq = -1", psycopg.errors.CheckViolation, "after_seq_is_not_negative"),
        ("after_seq = NULL", psycopg.errors.NotNullViolation, None),
        ("began_at = NULL", psycopg.errors.NotNullViolation, None),
    ],
)
def test_an_epoch_has_an_order_and_a_beginning_of_its_own(
    session: Session, change: str, error: type[psycopg.Error], constraint: str | None
) -> None:
    session.execute("INSERT INTO balance_epoch (epoch, number, after_seq) VALUES (gen_random_uuid(), 2, 0)")
    second = "FROM (SELECT * FROM balance_epoch WHERE number = 1) AS first WHERE balance_epoch.number = 2"
    with pytest.raises(error) as caught, session.transaction():
        session.execute(f"UPDATE balance_epoch SET {change} {second}".encode())
    assert constraint in (None, caught.value.diag.constraint_name)
    assert session.execute("SELECT number FROM balance_epoch WHERE began_at = now()").fetchall() == [(2,)]


@pytest.mark.parametrize(
    ("where", "index"),
    [("", "balance_snapshot_newest"), ("WHERE pid = 7", "balance_snapshot_newest_of_pid")],
    ids=["all", "of a pid"],
)
def test_a_page_of_the_list_is_read_in_order_from_an_index(session: Session, where: str, index: str) -> None:
    session.execute(
        """
        INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
        SELECT n, gen_random_uuid(), now() - n * interval '1 second', mod(n, 30), good, good, now()
        FROM generate_series(1, 3000) AS n, (SELECT %(good)s::jsonb AS good) AS ledger
        """,
        {"good": GOOD},
    )
    session.execute("ANALYZE balance_snapshot")
    page = f"SELECT seq FROM balance_snapshot {where} ORDER BY ts DESC, seq DESC LIMIT 9"
    plan = session.execute(f"EXPLAIN {page}")
    text = "\n".join(line for (line,) in plan)
    assert f"using {index} " in text
    assert "Sort" not in text
