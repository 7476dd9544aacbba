"""Positions and parameters of every wrong kind are rejected with one error that names the field."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from balance.position import NO_TAG, parse_token, to_token
from protocol import InvalidPayload, check, loads, schema

EPOCH = "3f0c8b52-6a1d-4e7b-9d53-0c2f7a9be614"
ID = "019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51"
SEQ_MAX = 2**53 - 1
TOKEN = to_token(EPOCH, 5, "8e4f7a51")
NOT_AN_INTEGER, NOT_A_UUID = "must be an integer, not a string", f"must be a UUID, such as {ID}"
NOT_A_TOKEN = "must be a position as the server sends it: epoch, seq and eight hex digits, with colons between"
REPORTED = {  # of a position in any of the three requests
    "after": [
        (-1, "after: must be at least 0"),
        (2**53, f"after: must be at most {SEQ_MAX}"),
        (2**63, f"after: must be at most {SEQ_MAX}"),
        (10**400, f"after: must be at most {SEQ_MAX}"),
        *(
            (text, f"after: {NOT_AN_INTEGER}")
            for text in ("", "1e3", " 5", "5 ", "+5", "0x5", "٥", "1.0", "Now", "now\n")
        ),
    ],
    "epoch": [(text, f"epoch: {NOT_A_UUID}") for text in ("", "5", EPOCH[:-1], EPOCH + "\n", f"{{{EPOCH}}}")],
    "id": [(text, f"id: {NOT_A_UUID}") for text in ("", TOKEN, ID.replace("-", ""))],
}
COUNTS = [
    *(("feed_query", "limit", wrong) for wrong in (0, 1001, "", "x", "1e2")),
    *(("feed_query", "wait", wrong) for wrong in (-1, 56, "0.5", "1s")),
    *(("latest_query", "limit", wrong) for wrong in (0, 1001)),
    *(("latest_query", "heard_s", wrong) for wrong in (0, 31_536_001, "1h")),
]


def reported(name: str, payload: object) -> str:
    """Return the error of a payload, or nothing if it is valid."""
    try:
        check(name, payload)
    except InvalidPayload as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["feed_query", "stream_query", "connect_auth"])
@pytest.mark.parametrize("field", REPORTED)
def test_a_part_of_a_position_of_a_wrong_kind_is_named(name: str, field: str) -> None:
    for wrong, error in REPORTED[field]:
        assert reported(name, {"after": 5, "epoch": EPOCH, field: wrong}) == error
        if field == "after":
            assert reported(name, {field: wrong}) == error, "and not the epoch that is missing too"


@pytest.mark.parametrize("name", ["feed_query", "stream_query", "connect_auth"])
def test_an_epoch_is_required_with_each_position_but_the_beginning(name: str) -> None:
    for after in (1, SEQ_MAX, Decimal("1.0")):
        assert reported(name, {"after": after}) == reported(name, {"after": after, "id": ID}) == "epoch: is required"
        assert reported(name, {"after": after, "epoch": EPOCH}) == ""
    for beginning in ({"after": 0}, {"after": 0, "epoch": EPOCH}, {"epoch": EPOCH}, {}):
        assert reported(name, beginning) == ""


def test_now_is_a_position_of_the_feed_only() -> None:
    assert reported("feed_query", {"after": "now"}) == ""
    for name in ("stream_query", "connect_auth"):
        assert reported(name, {"after": "now"}) == f"after: {NOT_AN_INTEGER}"


def test_an_auth_that_is_not_an_object_is_rejected_and_none_is_not() -> None:
    assert reported("connect_auth", None) == ""
    assert reported("connect_auth", {"after": True, "epoch": EPOCH}) == "after: must be an integer, not a boolean"
    assert reported("connect_auth", {"after": None}) == "after: must be an integer, not null"
    assert reported("connect_auth", loads('{"after": 1.5}')) == "after: must be an integer, not 1.5"
    assert reported("connect_auth", {"recovery": 1}) == "recovery: must be a boolean, not a number"
    for wrong in (0, "", TOKEN, [], False):
        assert reported("connect_auth", wrong).startswith("payload: must be an object or null, not ")


def test_what_a_client_library_repeats_by_itself_is_never_rejected() -> None:
    """A client whose CONNECT is rejected does not connect again, and these are not in the hands of its program."""
    for pid, offset in ((EPOCH, "5:8e4f7a51"), (EPOCH, TOKEN), ("of another server", "1699999999-0"), ("", "")):
        assert reported("connect_auth", {"recovery": True, "pid": pid, "offset": offset}) == ""
    assert reported("connect_auth", {"recovery": True, "pid": EPOCH}) == "", "it has received no event"


@pytest.mark.parametrize(
    "wrong", ["", EPOCH, f"{EPOCH}:5", TOKEN.upper(), f"{TOKEN}\n", f"{TOKEN},{TOKEN}", "x" * 10_000]
)
def test_an_event_id_that_is_not_of_this_service_is_rejected(wrong: str) -> None:
    assert reported("stream_query", {"last_event_id": wrong}) == f"last_event_id: {NOT_A_TOKEN}"
    assert reported("stream_headers", {"Last-Event-ID": wrong}) == f"Last-Event-ID: {NOT_A_TOKEN}"


def test_the_tokens_of_the_contract_are_those_that_the_service_writes() -> None:
    for token in (TOKEN, to_token(EPOCH, 0, NO_TAG), to_token(EPOCH, SEQ_MAX, "00000000")):
        assert reported("position_token", token) == reported("recovery_offset", token) == ""
        assert reported("recovery_offset", token.partition(":")[2]) == ""
        assert parse_token(token).epoch == EPOCH
    for name in ("position_token", "recovery_offset"):
        assert parse_token(next(one for one in schema(name)["examples"] if one.startswith(EPOCH))).seq == 1


def near_seq_max() -> list[int]:
    """Return numbers around the largest seq: each of its digits is one less or more, with zeros or nines behind it."""
    found = [SEQ_MAX, SEQ_MAX + 1, 10**15, 10**16 - 1, 10**16]
    for power in [10**n for n in range(len(str(SEQ_MAX)))]:
        for start in [(SEQ_MAX // power + step) * power for step in (-1, 0, 1)]:
            found += [max(0, start), max(0, start + power - 1)]
    return sorted(set(found))


@pytest.mark.parametrize("seq", near_seq_max())
def test_a_token_has_a_seq_up_to_the_largest_exact_integer(seq: int) -> None:
    token = to_token(EPOCH, seq, "8e4f7a51")
    assert (reported("recovery_offset", token) == "") is (seq <= SEQ_MAX)
    assert reported("stream_query", {"last_event_id": token}) == (
        "" if seq <= SEQ_MAX else f"last_event_id: {NOT_A_TOKEN}"
    )
    if seq <= SEQ_MAX:
        assert parse_token(token).seq == seq
    else:
        with pytest.raises(ValueError, match="not a position"):
            parse_token(token)


def test_a_stream_has_up_to_a_hundred_process_ids() -> None:
    assert reported("stream_query", {"pid": [0, 2**53 - 1]}) == ""
    wrong: list[tuple[Any, str]] = [
        (5, "pid: must be an array, not a number"),
        ([-1], "pid.0: must be at least 0"),
        ([1, 2**53], f"pid.1: must be at most {2**53 - 1}"),
        (["x"], f"pid.0: {NOT_AN_INTEGER}"),
        ([1] * 101, "pid: must have at most 100 items, not 101"),
    ]
    for pids, error in wrong:
        assert reported("stream_query", {"pid": pids}) == error


@pytest.mark.parametrize(("name", "field", "wrong"), COUNTS)
def test_a_count_that_is_out_of_its_range_is_named(name: str, field: str, wrong: object) -> None:
    assert reported(name, {field: wrong}).startswith(f"{field}: must be ")
