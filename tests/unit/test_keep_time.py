"""The time for which snapshots are kept, as text."""

from __future__ import annotations

from datetime import timedelta

import pytest

from balance.keep_time import parse_keep


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1h", timedelta(hours=1)),
        ("12h", timedelta(hours=12)),
        ("90d", timedelta(days=90)),
        ("8w", timedelta(days=56)),
        ("36525d", timedelta(days=36_525)),
        ("876600h", timedelta(days=36_525)),
        ("5217w", timedelta(days=36_519)),
    ],
)
def test_a_time_is_a_number_of_hours_days_or_weeks(text: str, time: timedelta) -> None:
    assert parse_keep(text) == time


@pytest.mark.parametrize(
    "text",
    ["", "0d", "01d", "1", "d", "1.5d", "-1d", "90D", "1y", "1d ", " 1d", "1d\n", "1dd", "²d", "36526d", "1000000h"],
)
def test_another_text_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not a time such as 12h, 90d or 8w, of up to 100 years$"):
        parse_keep(text)
