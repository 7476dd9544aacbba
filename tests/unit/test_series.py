"""What the query of a series asks for, if it fits its schema."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import protocol
from balance.series import to_series_query
from balance.storage.series_query import Line, SeriesQuery

NOW = datetime(2025, 11, 7, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def instants(first: datetime, step: timedelta, count: int) -> tuple[datetime, ...]:
    return tuple(first + step * i for i in range(count))


def test_without_a_field_it_is_the_last_day_of_the_account() -> None:
    query = to_series_query({}, NOW)
    assert query == SeriesQuery(instants=query.instants, line=Line.ACCOUNT, pids=(), assets=(), stale_s=600)
    assert (query.instants[0], query.instants[-1], len(query.instants)) == (NOW - timedelta(days=1), NOW, 500)


def test_the_instants_divide_the_range_evenly_and_include_both_ends() -> None:
    range_ = {"from": "2025-11-07T00:00:10Z", "to": "2025-11-07T00:00:20Z"}
    first = datetime(2025, 11, 7, 0, 0, 10, tzinfo=UTC)
    assert to_series_query({**range_, "points": 2}, NOW).instants == instants(first, 10 * SECOND, 2)
    assert to_series_query({**range_, "points": 6}, NOW).instants == instants(first, 2 * SECOND, 6)


def test_an_instant_between_two_microseconds_is_the_earlier_one() -> None:
    query = to_series_query({"from": "2025-11-07T00:00:00Z", "to": "2025-11-07T00:00:10Z", "points": 4}, NOW)
    assert [one.microsecond for one in query.instants] == [0, 333_333, 666_666, 0]


def test_a_range_without_its_beginning_is_a_day_and_without_its_end_it_ends_now() -> None:
    day = to_series_query({"to": "2025-11-03T00:00:00Z", "points": 2}, NOW).instants
    assert day == instants(datetime(2025, 11, 2, tzinfo=UTC), timedelta(days=1), 2)
    open_ = to_series_query({"from": "2025-11-07T11:59:59Z", "points": 2}, NOW).instants
    assert open_ == instants(NOW - SECOND, SECOND, 2)


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_range_that_is_empty_or_negative_is_refused_by_its_field(seconds: int) -> None:
    with pytest.raises(protocol.InvalidPayload) as refused:
        to_series_query({"from": (NOW + seconds * SECOND).isoformat()}, NOW)
    assert str(refused.value) == "from: must be earlier than to, which is now if it is absent"


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ({}, Line.ACCOUNT),
        ({"pid": [7]}, Line.PIDS),
        ({"by": "pid"}, Line.EACH),
        ({"by": "pid", "pid": [7]}, Line.EACH),
        ({"sum": "pid"}, Line.SUM),
        ({"sum": "pid", "pid": [7]}, Line.SUM),
    ],
)
def test_the_lines_are_of_the_account_of_some_pids_of_each_or_their_sum(query: dict[str, Any], line: Line) -> None:
    found = to_series_query({**query, "asset": ["onsite.usd"], "stale_s": 9}, NOW)
    assert (found.line, found.pids, found.assets, found.stale_s) == (
        line, tuple(query.get("pid", ())), ("onsite.usd",), 9
    )  # fmt: skip
