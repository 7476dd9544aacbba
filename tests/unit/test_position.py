"""Positions in the feed and their tokens."""

from __future__ import annotations

import pytest

from balance.position import ClaimedPosition, parse_token, to_tag, to_token

EPOCH = "3f0c8b52-6a1d-4e7b-9d53-0c2f7a9be614"
ID = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.mark.parametrize(("seq", "id_"), [(0, None), (1, ID), (2**53 - 1, ID)])
def test_a_position_is_read_as_it_was_written(seq: int, id_: str | None) -> None:
    token = to_token(EPOCH, seq, to_tag(id_))
    assert parse_token(token) == ClaimedPosition(EPOCH, seq, "00000000" if id_ is None else "099a8057")


@pytest.mark.parametrize(
    "text",
    [
        "",
        EPOCH,
        f"{EPOCH}:1",
        f"{EPOCH}:1:099a805",
        f"{EPOCH}:1:099a80577",
        f"{EPOCH}:-1:099a8057",
        f"{EPOCH}:01:099a8057",
        f"{EPOCH}:1e3:099a8057",
        f"{EPOCH}: 5:099a8057",
        f"{EPOCH}:٥:099a8057",
        f"{EPOCH}:{2**53}:099a8057",
        f"{EPOCH}:{2**63}:099a8057",
        f"{EPOCH.upper()}:1:099a8057",
        f"{EPOCH}:1:099A8057",
        f"{EPOCH}:1:099a8057\n",
        f" {EPOCH}:1:099a8057",
        f"{EPOCH}:1:099a8057, {EPOCH}:1:099a8057",
        "x" * 10_000,
    ],
)
def test_any_other_text_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a position$"):
        parse_token(text)


def test_the_fields_of_a_client_are_a_position_in_any_case_of_their_letters() -> None:
    claimed = ClaimedPosition.of(5.0, EPOCH.upper(), ID.upper())  # type: ignore[arg-type]  # JSON has no integers
    assert (claimed, type(claimed.seq)) == (ClaimedPosition(EPOCH, 5, "099a8057"), int)
    assert ClaimedPosition.of(0, None, None) == ClaimedPosition(None, 0, None)
