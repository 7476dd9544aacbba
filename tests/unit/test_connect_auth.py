"""From which position a client that connects resumes, and the `pid` of the answer with native recovery."""

from __future__ import annotations

from typing import Any

import pytest

from balance.position import ClaimedPosition
from balance.realtime.connect_auth import ConnectAuth

EPOCH, OTHER = "3f0c8b52-6a1d-4e7b-9d53-0c2f7a9be614", "7d0c8b52-6a1d-4e7b-9d53-0c2f7a9be614"
ID = "01890A5D-AC96-774B-BCCE-B302099A8057"
NATIVE = {"recovery": True, "pid": EPOCH}


@pytest.mark.parametrize(
    ("auth", "claimed"),
    [
        ({}, None),
        ({"epoch": EPOCH}, None),
        ({"recovery": True}, None),
        ({"recovery": True, "pid": EPOCH}, None),
        ({"after": 0}, ClaimedPosition(None, 0)),
        ({"after": 7, "epoch": EPOCH.upper()}, ClaimedPosition(EPOCH, 7)),
        ({"after": 7, "epoch": EPOCH, "id": ID}, ClaimedPosition(EPOCH, 7, "099a8057")),
        ({**NATIVE, "offset": "7:099a8057"}, ClaimedPosition(EPOCH, 7, "099a8057")),
        ({**NATIVE, "pid": EPOCH.upper(), "offset": "7:099a8057"}, ClaimedPosition(EPOCH, 7, "099a8057")),
        ({**NATIVE, "offset": f"{OTHER}:7:099a8057"}, ClaimedPosition(OTHER, 7, "099a8057")),
        ({**NATIVE, "offset": "9:099a8057", "after": 7, "epoch": EPOCH}, ClaimedPosition(EPOCH, 9, "099a8057")),
    ],
)
def test_a_client_resumes_from_the_newest_position_that_it_sends(
    auth: dict[str, Any], claimed: ClaimedPosition | None
) -> None:
    assert ConnectAuth.read(auth).claimed == claimed


@pytest.mark.parametrize(
    ("pid", "offset"),
    [(EPOCH, "x"), (EPOCH, "-1:099a8057"), (EPOCH, f"{OTHER}:7"), ("hW3uWT9cAAAA", "7:099a8057"), ("", "")],
)
def test_what_another_server_gave_to_the_client_is_a_position_of_another_feed(pid: str, offset: str) -> None:
    claimed = ConnectAuth.read({"recovery": True, "pid": pid, "offset": offset}).claimed
    assert claimed == ("00000000-0000-0000-0000-000000000000", 0, None)


@pytest.mark.parametrize(
    ("auth", "recovered", "pid"),
    [
        ({"after": 0}, True, None),  # not native
        ({"recovery": True}, False, EPOCH),
        ({"recovery": True, "after": 7, "epoch": OTHER}, True, EPOCH),
        ({**NATIVE, "offset": "7:099a8057"}, True, EPOCH),
        ({**NATIVE, "pid": OTHER, "offset": "7:099a8057"}, True, OTHER),
        ({**NATIVE, "pid": OTHER, "offset": "7:099a8057"}, False, EPOCH),
        ({**NATIVE, "offset": "7:099a8057"}, False, EPOCH.upper()),
        ({**NATIVE, "pid": EPOCH.upper(), "offset": "7:099a8057"}, False, EPOCH),
    ],
)
def test_the_client_gets_the_pid_that_it_had_if_and_only_if_it_has_recovered(
    auth: dict[str, Any], recovered: bool, pid: str | None
) -> None:
    answer = ConnectAuth.read(auth).answer_pid(EPOCH, recovered=recovered)
    assert answer == pid
    if auth.get("pid"):
        assert (answer == auth["pid"]) == recovered
