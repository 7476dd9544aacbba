"""The contract watcher (`tests.support.contract`) reports every deviation from the contract, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partialmethod
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

import protocol
from balance.snapshot import Snapshot
from protocol.operations import CONTRACT, FEED, LATEST, OPENAPI, SERIES, SNAPSHOTS, STREAM
from tests.support import contract
from tests.support.http_client import request
from tests.support.payloads import UPDATE
from tests.support.raw_clients import SocketClient
from tests.support.repository import ROOT
from tests.support.service import Database, MakeService, Process

SAVED: dict[str, Any] = protocol.schema("save_reply")["examples"][0]
PAGE: dict[str, Any] = protocol.schema("list_reply")["examples"][0]
PART: dict[str, Any] = protocol.schema("feed_reply")["examples"][0]
EPOCH: str = PART["feed"]["epoch"]
SNAPSHOT: dict[str, Any] = protocol.schema("snapshot")["examples"][0]
REFUSED = protocol.InvalidPayload("must be at least 0", "onchain.rlb").body()
BODY = protocol.dumps(UPDATE).encode()
LOCATION = f"{SNAPSHOTS}/{SAVED['data']['id']}"
ETAG = {"ETag": '"' + 32 * "0" + '"'}
JSON = {"Content-Type": "application/json", "X-Request-Id": "a-1"}
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="balance"'}


def complaints(
    method: str, path: str, status: int, answer: object, headers: dict[str, str], body: bytes = BODY
) -> list[str]:
    """Return what the watcher reports of an HTTP reply."""
    text = answer if isinstance(answer, bytes) else protocol.dumps(answer).encode()
    return [*contract.check_answer(method, path, body, status, headers, text)]


@pytest.mark.parametrize(
    ("method", "path", "status", "answer", "headers"),
    [
        ("POST", SNAPSHOTS, 201, SAVED, {"Location": LOCATION}),
        ("POST", SNAPSHOTS, 200, {**SAVED, "duplicate": True}, {"Location": LOCATION}),
        ("POST", SNAPSHOTS, 503, protocol.Busy().body(), {"Retry-After": "1"}),
        ("GET", LOCATION, 200, {"success": True, "data": SNAPSHOT}, {}),
        ("GET", f"{SNAPSHOTS}?limit=7&pid=1&from=2025-11-07T00:00:00Z", 200, PAGE, {}),
        ("GET", f"{SNAPSHOTS}?limit=x", 400, REFUSED, {}),
        ("GET", f"{SNAPSHOTS}?limit=1&limit=1", 400, REFUSED, {}),
        ("GET", FEED, 200, PART, {}),
        ("GET", f"{FEED}?after=1&epoch={EPOCH}&limit=1&wait=55", 200, PART, {}),
        ("GET", f"{FEED}?after=now", 200, PART, {}),
        ("GET", f"{FEED}?after=1e3", 400, REFUSED, {}),
        ("GET", f"{FEED}?after=1", 409, protocol.PositionUnknown.as_example(), {}),
        ("GET", FEED, 410, protocol.PositionPruned.as_example(), {}),
        ("GET", f"{LATEST}?limit=7&heard_s=60", 200, protocol.schema("latest_reply")["examples"][0], {}),
        ("GET", f"{SERIES}?sum=pid&points=2", 200, protocol.schema("series_reply")["examples"][0], {}),
        ("GET", f"{SERIES}?by=pid&sum=pid", 400, REFUSED, {}),
        ("GET", f"{STREAM}?pid=x", 400, REFUSED, {}),
        ("HEAD", LOCATION, 404, protocol.NotFound().body(), {}),
        ("PUT", SNAPSHOTS, 405, protocol.MethodNotAllowed().body(), {"Allow": "GET"}),
        ("GET", "/nothing", 404, protocol.NotFound().body(), {}),
        ("GET", OPENAPI, 304, b"", ETAG),
        ("OPTIONS", SNAPSHOTS, 204, b"", {}),
    ],
)
def test_a_reply_of_the_contract_is_not_reported(
    method: str, path: str, status: int, answer: object, headers: dict[str, str]
) -> None:
    assert complaints(method, path, status, answer, JSON | headers) == []


@pytest.mark.parametrize(
    ("method", "path", "status", "answer", "headers", "complaint"),
    [
        ("POST", SNAPSHOTS, 201, {**SAVED, "more": 1}, {"Location": LOCATION}, "save_reply: : Additional properties"),
        (
            "POST",
            SNAPSHOTS,
            201,
            {**SAVED, "data": {**SAVED["data"], "seq": 1}},
            {"Location": LOCATION},
            "save_reply: data:",
        ),
        ("POST", SNAPSHOTS, 201, SAVED, {}, "has no header Location"),
        ("POST", SNAPSHOTS, 204, b"", {}, "204 is not among its replies"),
        ("POST", SNAPSHOTS, 400, {**REFUSED, "more": 1}, {}, "error_reply: : Additional properties"),
        ("POST", SNAPSHOTS, 409, REFUSED, {}, "invalid_payload has the status 409"),
        ("POST", SNAPSHOTS, 400, REFUSED, {}, "a valid request was refused by invalid_payload"),
        ("POST", SNAPSHOTS, 404, protocol.NotFound().body(), {}, "not_found is not among its errors"),
        ("POST", SNAPSHOTS, 201, SAVED, {"Location": "nonsense"}, "Location is 'nonsense'"),
        (
            "POST",
            SNAPSHOTS,
            201,
            {**SAVED, "duplicate": True},
            {"Location": LOCATION},
            "duplicate is missing or unexpected",
        ),
        ("POST", SNAPSHOTS, 503, protocol.Busy().body(), {"Retry-After": "soon"}, "Retry-After is 'soon'"),
        ("GET", f"{SNAPSHOTS}?limit=0", 200, PAGE, {}, "an invalid request was accepted"),
        ("GET", f"{SNAPSHOTS}?limit=1", 400, REFUSED, {}, "a valid request was refused"),
        ("GET", f"{FEED}?after=1", 200, PART, {}, "an invalid request was accepted"),
        ("GET", f"{FEED}?after=0", 400, REFUSED, {}, "a valid request was refused"),
        ("GET", f"{STREAM}?pid=1&pid=2", 400, REFUSED, {}, "a valid request was refused"),
        ("GET", STREAM, 409, protocol.PositionUnknown.as_example(), {}, "position_unknown is not among its errors"),
        ("GET", f"{SNAPSHOTS}/x", 200, {"success": True, "data": SNAPSHOT}, {}, "an invalid request was accepted"),
        ("GET", OPENAPI, 403, protocol.Forbidden().body(), {}, "forbidden is not among its errors"),
        ("GET", "/api/socket.io/", 409, protocol.Conflict().body(), {}, "conflict is not among its errors"),
        ("GET", "/api/docsXYZ", 200, {}, {}, "there is no operation"),
        ("POST", SNAPSHOTS, 401, protocol.Unauthorized().body(), {}, "WWW-Authenticate"),
        ("GET", OPENAPI, 401, protocol.Unauthorized().body(), CHALLENGE, "unauthorized is not among its errors"),
        ("POST", SNAPSHOTS, 503, protocol.Busy().body(), {}, "Retry-After"),
        ("GET", SNAPSHOTS, 409, protocol.Conflict().body(), {}, "conflict is not among its errors"),
        ("GET", f"{SNAPSHOTS}/x", 200, {"success": True, "data": {**SNAPSHOT, "more": 1}}, {}, "get_reply: data"),
        ("PUT", SNAPSHOTS, 405, protocol.MethodNotAllowed().body(), {}, "Allow"),
        ("GET", "/nothing", 200, {}, {}, "there is no operation"),
        ("GET", CONTRACT, 200, {}, ETAG, "contract_reply"),
        ("GET", OPENAPI, 200, {}, {**ETAG, "Content-Type": "text/html"}, "is of the media type text/html"),
        ("GET", OPENAPI, 304, b"x", ETAG, "has a body"),
    ],
)
def test_a_reply_against_the_contract_is_reported(
    method: str, path: str, status: int, answer: object, headers: dict[str, str], complaint: str
) -> None:
    found = complaints(method, path, status, answer, JSON | headers)
    assert any(text.startswith(complaint) for text in found), found


def test_an_invalid_update_that_was_accepted_is_reported() -> None:
    body = protocol.dumps({**UPDATE, "onchain": {}}).encode()
    assert complaints("POST", SNAPSHOTS, 201, SAVED, JSON | {"Location": LOCATION}, body) == [
        "an invalid request was accepted"
    ]


def complaints_of_packets(*packets: str, after: str | tuple[str, ...] = "") -> list[str]:
    """Return what the watcher reports of packets to a client that sent one or several packets before."""
    conversation = contract.Conversation()
    for packet in [after] if isinstance(after, str) else after:
        conversation.note_received(packet)
    return [text for packet in packets for text in conversation.check_sent(packet)]


ACK = '{"success":true,"id":"019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51","timestamp":"2025-11-07T00:45:08.603Z"}'
ERROR = protocol.dumps(REFUSED)
GOOD = f'27["balance:update",{BODY.decode()}]'
BAD = '27["balance:update",{}]'


def test_packets_of_the_contract_are_not_reported() -> None:
    assert complaints_of_packets(f'2["balance:snapshot",{protocol.dumps(SNAPSHOT)}]', '0{"sid":"x"}') == []
    assert complaints_of_packets(f'2["balance:ack",{ACK}]', f"37[{ACK}]", after=GOOD) == []
    assert complaints_of_packets(f'2["balance:error",{ERROR}]', f"37[{ERROR}]", after=BAD) == []
    assert complaints_of_packets(f'2["balance:error",{ERROR}]', f"37[{ERROR}]", after='27["surprise"]') == []
    assert complaints_of_packets('0{"sid":"x"}', after="0{}") == []
    recovered = f'2["balance:snapshot",{protocol.dumps(SNAPSHOT)},"1:8e4f7a51"]'
    assert complaints_of_packets('0{"sid":"x","pid":"y"}', recovered, after='0{"recovery":true}') == []
    assert complaints_of_packets(f"37[{ACK}]", after=GOOD) == []
    assert complaints_of_packets(f"37[{ERROR}]", after=BAD) == []
    assert complaints_of_packets(f"37[{protocol.dumps(protocol.Busy().body())}]", after=GOOD) == []


PING, PONG = '27["ping"]', '37[{"timestamp":"2025-11-07T00:45:08.603Z"}]'


@pytest.mark.parametrize("after", list(permutations((GOOD, BAD, '27["surprise"]', PING))))
def test_packets_that_share_an_id_may_be_answered_in_any_order(after: tuple[str, ...]) -> None:
    right = f"37[{ACK}]", f"37[{ERROR}]", f"37[{ERROR}]", PONG
    for answers in permutations(right):
        assert complaints_of_packets(*answers, after=after) == []
    assert complaints_of_packets(*right, f"37[{ERROR}]", after=after) == ["an acknowledgement without an event"]
    assert complaints_of_packets(*right[1:], f"37[{ERROR}]", after=after) == [
        "a valid payload was refused by invalid_payload"
    ]


@pytest.mark.parametrize(
    ("packet", "after", "complaint"),
    [
        ('2["surprise",1]', "", "surprise is not an event"),
        ('2["balance:update",1]', "", "balance:update is not an event of the server"),
        ("37[1]", "", "an acknowledgement without an event"),
        (f'2["balance:ack",{ACK}]', BAD, "balance:ack does not answer"),
        ('2["balance:error",{"success":false,"error":"x","code":"not_found"}]', BAD, "balance:error has the code"),
        ('0{"sid":"x"}', '0{"token":1}', "an invalid CONNECT was accepted"),
        ('0{"sid":"x","pid":"y"}', "0{}", "a client that did not ask for recovery got a pid"),
        (f'2["balance:snapshot",{protocol.dumps(SNAPSHOT)},"1:8e4f7a51"]', "0{}", "a client that did not ask"),
        (f'2["balance:snapshot",{protocol.dumps(SNAPSHOT)},"1"]', '0{"recovery":true}', "recovery_offset: "),
        ('4{"message":"x","data":{"success":false,"error":"x","code":"conflict"}}', "", "connect_error has the code"),
        ('51-["x",{"_placeholder":true,"num":0}]', "", "a packet of a type"),
        ('37[{"garbage":1}]', '27["surprise"]', "pong: "),
        ('2["pong",1,2]', "", "pong has 2 payloads"),
        ('2["pong",{"timestamp":"now"}]', "", "pong: timestamp:"),
        ('2["balance:snapshot",{"seq":1}]', "", "balance_snapshot"),
        (f'2["balance:snapshot",{protocol.dumps({**SNAPSHOT, "more": 1})}]', "", "balance_snapshot"),
        ('4"Unable to connect"', "", "connect_error"),
        (f"37[{ACK}]", BAD, "an invalid payload was accepted"),
        (f"37[{ERROR}]", GOOD, "a valid payload was refused by invalid_payload"),
        (f"37[{ACK},{ACK}]", GOOD, "an acknowledgement is not one payload"),
        (f"37{ACK}", GOOD, "an acknowledgement is not one payload"),
        (f'37[{ACK[:-1]},"more":1}}]', GOOD, "balance_ack: "),
        (f"37[{protocol.dumps(protocol.NotFound().body())}]", GOOD, "not_found is not among the errors"),
    ],
)
def test_a_packet_against_the_contract_is_reported(packet: str, after: str, complaint: str) -> None:
    found = complaints_of_packets(packet, after=after)
    assert any(text.startswith(complaint) for text in found), found


def extended(snapshot: Snapshot, shape: Callable[[Snapshot], dict[str, Any]], field: str) -> dict[str, Any]:
    """Return a shape of a snapshot with a field that no schema names."""
    return {**shape(snapshot), field: 1}


@pytest.mark.expects_log(contract.AGAINST)
async def test_every_entry_of_a_running_service_is_watched(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = await make_service()
    for shape, field in (("to_save_reply", "in_rest"), ("to_wire", "in_event"), ("to_ack", "in_ack")):
        monkeypatch.setattr(Snapshot, shape, partialmethod(extended, getattr(Snapshot, shape), field))
    client = await SocketClient.connect(service.url)
    await client.call("balance:update", UPDATE)
    assert (await service.post(UPDATE)).status == 201
    logged = "\n".join(record.getMessage() for record in caplog.records)
    for field in ("in_rest", "in_event", "in_ack"):
        assert f"'{field}' was unexpected" in logged
    await client.close()


WRONG_SERVER = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
from balance.snapshot import Snapshot
right = Snapshot.to_save_reply
Snapshot.to_save_reply = lambda self: {{**right(self), "surprise": 1}}
runpy.run_path({str(ROOT / "tests" / "support" / "checked_server.py")!r}, run_name="__main__")
"""


async def test_a_server_in_a_process_of_its_own_is_watched_too(
    processes: Callable[..., Process], database: Database, tmp_path: Path
) -> None:
    (tmp_path / "wrong_server.py").write_text(WRONG_SERVER)
    process = processes("--port=0", DATABASE_URL=database.url, script=str(tmp_path / "wrong_server.py"))
    answer = await request(await asyncio.to_thread(process.url), "POST", SNAPSHOTS, UPDATE)
    assert answer.body["data"]["surprise"] == 1
    with pytest.raises(AssertionError, match=r"surprise.* was unexpected"):
        await asyncio.to_thread(process.terminate)
    process.stderr.clear()
