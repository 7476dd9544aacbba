"""The value: what becomes of an update's fields, and that it reads the same wherever it is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

import protocol
from balance.service import Place, from_cursor, new_id, to_cursor
from balance.snapshot import Snapshot, format_ts, parse_ts

NOW = datetime(2025, 11, 7, 0, 45, 8, 603000, tzinfo=UTC)
ID = "019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51"


def snapshot(amount: str = "1", **fields: object) -> Snapshot:
    """The snapshot of an update with this amount, as JSON writes it, and these fields."""
    ledgers = protocol.loads(f'{{"onchain": {{"rlb": {amount}, "usdt": 2}}, "onsite": {{"rlb": 3, "usd": 4}}}}')
    protocol.check("balance_update", {**ledgers, **fields})
    return Snapshot.from_update({**ledgers, **fields}, NOW, ID)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2025-11-07T00:45:08.603Z", "2025-11-07T00:45:08.603Z"),
        ("2025-11-07T00:45:08Z", "2025-11-07T00:45:08.000Z"),
        ("2025-11-07T00:45:08.603001Z", "2025-11-07T00:45:08.603001Z"),
        ("2025-11-07T00:45:08.123456789Z", "2025-11-07T00:45:08.123456Z"),
        ("2025-11-07t00:45:08.6z", "2025-11-07T00:45:08.600Z"),
        ("2025-11-07T02:45:08.603+02:00", "2025-11-07T00:45:08.603Z"),
        ("1000-01-01T00:00:00+14:00", "0999-12-31T10:00:00.000Z"),
        ("2999-12-31T23:59:59.999-12:00", "3000-01-01T11:59:59.999Z"),
    ],
)
def test_a_moment_is_written_as_utc_to_the_microsecond(text: str, written: str) -> None:
    assert format_ts(parse_ts(text)) == written


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        ("100074.99978", "100074.99978"),
        ("1.10", "1.10"),
        ("1e5", "100000"),
        ("1.5e3", "1500"),
        ("1e-30", "0." + "0" * 29 + "1"),
        ("0e-7", "0.0000000"),
        ("-0", "0"),
        ("-0.0", "0.0"),
        ("0e-9999", "0"),
        ("0e9999", "0"),
        ("1e30", "1" + "0" * 30),
        ("0." + "123456789" * 5, "0." + "123456789" * 5),
    ],
)
def test_an_amount_is_written_as_the_database_will_write_it(amount: str, written: str) -> None:
    text = protocol.dumps(snapshot(amount).onchain)
    assert text == f'{{"rlb":{written},"usdt":2}}'
    assert Decimal(protocol.loads(text)["rlb"]) == Decimal(amount)


def test_what_an_update_leaves_out_the_server_adds() -> None:
    assert (snapshot().id, snapshot().ts, snapshot().pid) == (ID, NOW, None)
    assert snapshot(ts=None, pid=None, id=None) == snapshot()


def test_a_process_id_written_with_a_point_is_an_integer() -> None:
    assert isinstance(snapshot(pid=Decimal("7.0")).pid, int)


def test_the_same_holdings_in_another_spelling_say_the_same() -> None:
    assert snapshot("1.50", ts="2025-11-07T00:45:08Z").says_the_same(snapshot("1.5", ts="2025-11-07T01:45:08+01:00"))
    assert not snapshot("1.50").says_the_same(snapshot("1.51"))
    assert not snapshot(pid=1).says_the_same(snapshot())


def test_every_shape_fits_its_schema() -> None:
    saved = snapshot("0.1", pid=1).at(7)
    protocol.check("snapshot", protocol.loads(protocol.dumps(saved.to_wire())))
    protocol.check("balance_snapshot", protocol.loads(protocol.dumps(saved.to_wire())))
    protocol.check("balance_ack", protocol.loads(protocol.dumps(saved.to_ack())))


def test_new_ids_are_of_version_7_and_grow_with_time() -> None:
    ids = [UUID(new_id()) for _ in range(100)]
    assert {id_.version for id_ in ids} == {7}
    assert {id_.variant for id_ in ids} == {UUID(ID).variant}
    assert [id_.int >> 80 for id_ in ids] == sorted(id_.int >> 80 for id_ in ids)
    assert len(set(ids)) == 100


def test_a_cursor_names_the_place_of_its_snapshot() -> None:
    for ts in (None, NOW, NOW + timedelta(microseconds=1), datetime(999, 12, 31, 10, tzinfo=UTC)):
        cursor = to_cursor(Place(ts, 5))
        protocol.check("list_query", {"cursor": cursor})
        assert from_cursor(cursor) == Place(ts, 5)


@pytest.mark.parametrize("cursor", ["0_0", "99999999999999999_999999999999999999"])
def test_whatever_looks_like_a_cursor_names_a_place_that_postgresql_can_hold(cursor: str) -> None:
    protocol.check("list_query", {"cursor": cursor})
    ts, seq = from_cursor(cursor)
    assert ts is None or 1 <= ts.year < 294_276
    assert 0 <= seq < 2**63
