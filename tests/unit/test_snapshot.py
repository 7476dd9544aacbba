"""The snapshot of an update: its fields, their text in each shape, what a resend may change; and cursors of lists."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest

import protocol
from balance.service import Cursor, decode_cursor, encode_cursor
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
def test_a_moment_is_formatted_as_utc_to_the_microsecond(text: str, written: str) -> None:
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
        ("0e-30", "0." + "0" * 30),
        ("0e-31", "0"),
        ("0e-9999", "0"),
        ("0e9999", "0"),
        ("1e1", "10"),
        ("1e30", "1" + "0" * 30),
        ("0." + "123456789" * 5, "0." + "123456789" * 5),
    ],
)
def test_an_amount_is_formatted_as_the_database_returns_it(amount: str, written: str) -> None:
    text = protocol.dumps(snapshot(amount).onchain)
    assert text == f'{{"rlb":{written},"usdt":2}}'
    assert Decimal(protocol.loads(text)["rlb"]) == Decimal(amount)


def test_the_server_adds_the_fields_that_an_update_leaves_out() -> None:
    assert (snapshot().id, snapshot().ts, snapshot().pid) == (ID, NOW, None)
    assert snapshot(ts=None, pid=None, id=None) == snapshot()


def test_a_process_id_written_with_a_point_is_an_integer() -> None:
    assert isinstance(snapshot(pid=Decimal("7.0")).pid, int)


TS = "2025-11-07T00:45:08Z"
OTHER_TS = "2025-11-07T00:45:09Z"


@pytest.mark.parametrize(
    ("amount", "fields", "same"),
    [
        ("1.5", {"ts": TS, "pid": 1}, True),
        ("1.50", {"ts": "2025-11-07T01:45:08.000+01:00", "pid": 1}, True),
        ("1.5", {"pid": 1}, True),  # without ts: the same moment, sent again
        ("1.51", {"ts": TS, "pid": 1}, False),
        ("1.51", {"pid": 1}, False),
        ("1.5", {"ts": OTHER_TS, "pid": 1}, False),
        ("1.5", {"ts": TS, "pid": 2}, False),
        ("1.5", {"ts": TS}, False),
        ("1.5", {"ts": format_ts(NOW), "pid": 1}, False),  # the same moment at which it is received, but given
    ],
)
def test_a_resend_has_the_same_content_in_any_spelling(amount: str, fields: dict[str, object], same: bool) -> None:
    assert snapshot("1.5", ts=TS, pid=1).has_same_content(snapshot(amount, **fields)) is same


def test_a_resend_must_have_the_same_amounts_in_both_ledgers() -> None:
    stored = snapshot()
    for ledger in ("onchain", "onsite"):
        changed = msgspec.structs.replace(stored, **{ledger: protocol.Encoded('{"rlb":9}')})
        assert not stored.has_same_content(changed)


def test_every_shape_fits_its_schema() -> None:
    saved = snapshot("0.1", pid=1).with_seq(7)
    protocol.check("saved_snapshot", protocol.loads(protocol.dumps(saved.to_save_reply())))
    protocol.check("snapshot", protocol.loads(protocol.dumps(saved.to_wire())))
    protocol.check("balance_snapshot", protocol.loads(protocol.dumps(saved.to_wire())))
    protocol.check("balance_ack", protocol.loads(protocol.dumps(saved.to_ack())))


def test_a_cursor_is_decoded_to_what_was_encoded() -> None:
    for ts in (None, NOW, NOW + timedelta(microseconds=1), datetime(999, 12, 31, 10, tzinfo=UTC)):
        cursor = encode_cursor(Cursor(ts, 5))
        protocol.check("list_query", {"cursor": cursor})
        assert decode_cursor(cursor) == Cursor(ts, 5)


@pytest.mark.parametrize("cursor", ["0_0", "99999999999999999_999999999999999999"])
def test_any_text_that_fits_the_schema_is_a_cursor_that_postgresql_can_compare(cursor: str) -> None:
    protocol.check("list_query", {"cursor": cursor})
    ts, seq = decode_cursor(cursor)
    assert ts is None or 1 <= ts.year < 294_276
    assert 0 <= seq < 2**63


def test_the_id_of_a_client_is_kept_in_lower_case() -> None:
    assert snapshot(id="01890A5D-AC96-774B-BCCE-B302099A8057").id == "01890a5d-ac96-774b-bcce-b302099a8057"


def test_a_snapshot_keeps_its_content_when_it_gets_its_position() -> None:
    sent = snapshot("1.5", ts=TS, pid=1)
    assert sent.with_seq(7) == msgspec.structs.replace(sent, seq=7)


def test_a_reply_to_a_save_has_what_was_saved_under_the_names_of_its_schema() -> None:
    reply = protocol.loads(protocol.dumps(snapshot("1.5", ts=TS).to_save_reply()))
    ledgers = {"onchain": {"rlb": Decimal("1.5"), "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}}
    assert reply == {"id": ID, "timestamp": "2025-11-07T00:45:08.000Z", **ledgers}


def test_the_asset_with_the_shorter_name_is_first_as_the_database_returns_it() -> None:
    ledgers = {"onchain": {"aaaaa": 1, "usdt": 2, "rlb": 3, "b": 4}, "onsite": {"rlb": 1, "usd": 1}}
    protocol.check("balance_update", ledgers)
    onchain = Snapshot.from_update(ledgers, NOW, ID).onchain
    assert protocol.dumps(onchain) == '{"b":4,"rlb":3,"usdt":2,"aaaaa":1}'


def test_a_moment_is_parsed_to_utc() -> None:
    assert parse_ts("2025-11-07T02:45:08+02:00").tzinfo is UTC


@pytest.mark.parametrize("pid", [None, 0, 1, 2**53 - 1])
def test_an_encoded_snapshot_is_the_json_of_the_event_with_its_tag_and_its_pid(pid: int | None) -> None:
    sent = snapshot("1.5", ts=TS, pid=pid).with_seq(7)
    encoded = sent.encode()
    assert encoded == (7, protocol.encode(sent.to_wire()))
    assert (encoded.tag.decode(), encoded.pid) == (ID[-8:], pid)
