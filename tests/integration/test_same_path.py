"""One path for every update: REST, WebSocket and long polling give the same verdict, row and broadcast.

Every case of cases/balance_update.json goes over each transport, on one connection. A bad one is
refused with the text of the case, is not stored and not broadcast, and leaves the connection usable. A good one is
stored once, and the event, the list, the single read and SQL agree to the last digit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest

import protocol
from tests.support.http_client import Connection
from tests.support.payloads import CASES, body_of
from tests.support.raw_clients import PollingClient, SocketClient
from tests.support.service import SNAPSHOTS
from tests.support.shared_service import SharedService, shared_service

GOOD = [case for case in CASES if case["valid"]]
BAD = [case for case in CASES if not case["valid"]]
SENTINEL = b'{"ts":"2001-01-01T00:00:00Z","onchain":{"rlb":1,"usdt":1},"onsite":{"rlb":1,"usd":1}}'
FRACTION = re.compile(r"\.([0-9]+)")


class RestSender:
    """Sends updates over one HTTP connection."""

    async def open(self, shared: SharedService) -> None:
        self._connection = await Connection.open(shared.service.port)

    async def save(self, body: bytes) -> dict[str, Any]:
        """Send a good update; return its acknowledgement in the shape of Socket.IO."""
        reply = await self._connection.ask("POST", SNAPSHOTS, body)
        assert reply.status == 201, reply
        assert reply.headers["Location"] == f"{SNAPSHOTS}/{reply.body['data']['id']}"
        return {"success": True, "id": reply.body["data"]["id"], "timestamp": reply.body["data"]["timestamp"]}

    async def send_bad(self, body: bytes) -> dict[str, Any]:
        """Send a bad update; return the refusal."""
        reply = await self._connection.ask("POST", SNAPSHOTS, body)
        assert reply.status == protocol.ERRORS[reply.body["code"]].status, reply
        return reply.body

    async def close(self) -> None:
        await self._connection.close()


class SocketSender:
    """Sends updates over one Socket.IO connection, which is a watcher too."""

    def __init__(self, kind: type[SocketClient | PollingClient]) -> None:
        self._kind = kind

    async def open(self, shared: SharedService) -> None:
        self._client = await self._kind.connect(shared.service.url)

    async def save(self, body: bytes) -> dict[str, Any]:
        ack_id, answer = self._client.new_id()
        await self._send(body, str(ack_id))
        ack = await self._client.expect("balance:ack")
        assert await answer == [ack]
        assert (await self._client.expect("balance:snapshot"))["id"] == ack["id"], "the sender is a watcher too"
        return ack

    async def send_bad(self, body: bytes) -> dict[str, Any]:
        """Send it without and with an acknowledgement id. All three answers must be the same."""
        await self._send(body)
        refusal = await self._client.expect("balance:error")
        ack_id, answer = self._client.new_id()
        await self._send(body, str(ack_id))
        assert await self._client.expect("balance:error") == refusal
        assert await answer == [refusal]
        protocol.check("balance_error", refusal)
        return refusal

    async def _send(self, body: bytes, ack_id: str = "") -> None:
        await self._client.send_raw(f'42{ack_id}["balance:update",{body.decode()}]')

    async def close(self) -> None:
        await self._client.close()


class SenderAndWatchers:
    """A service, one sender for all cases, and two watchers."""

    def __init__(self, shared: SharedService, sender: RestSender | SocketSender) -> None:
        self.shared = shared
        self.sender = sender

    async def open(self) -> None:
        await self.sender.open(self.shared)
        self._watchers = [await kind.connect(self.shared.service.url) for kind in (SocketClient, PollingClient)]

    async def seen(self) -> str:
        """Read the next event of both watchers, which must be the same snapshot; return its JSON text."""
        one, other = [str(await watcher.next_frame()) for watcher in self._watchers]
        assert one == other
        head = '42["balance:snapshot",'
        assert one.startswith(head), one
        return one[len(head) : -1]

    async def close(self) -> None:
        await self.sender.close()
        for watcher in self._watchers:
            await watcher.close()


@pytest.fixture(scope="module", params=["rest", "websocket", "polling"])
def clients(request: pytest.FixtureRequest, postgres: str, template: str) -> Iterator[SenderAndWatchers]:
    """Start one service and one connection for all cases of a transport."""
    senders = {
        "rest": RestSender(),
        "websocket": SocketSender(SocketClient),
        "polling": SocketSender(PollingClient),
    }
    with shared_service(postgres, template) as shared:
        one = SenderAndWatchers(shared, senders[request.param])
        shared.run(one.open())
        yield one
        shared.run(one.close())


def check_same(texts: dict[str, str], expected: dict[str, Any]) -> None:
    """Check that all texts of one snapshot are the same bytes and have the expected fields."""
    assert len(set(texts.values())) == 1, texts
    snapshot = json.loads(next(iter(texts.values())), parse_float=Decimal, parse_int=Decimal)
    assert {field: snapshot[field] for field in expected} == expected


def format_amount(amount: Any) -> str:
    """Return an amount as PostgreSQL writes it: all digits, no exponent, no sign."""
    number = Decimal(amount).copy_abs()
    exponent = number.as_tuple().exponent
    return "0" if not number and (exponent > 0 or exponent < -30) else f"{number:f}"


def expected_ledger(ledger: dict[str, Any]) -> dict[str, str]:
    return {asset: format_amount(amount) for asset, amount in ledger.items()}


def expected_ts(text: str) -> datetime:
    """Return the time of an RFC 3339 text, truncated to microseconds, without using code of the service."""
    text = text.upper().replace("Z", "+00:00")
    fraction = FRACTION.search(text)
    whole = datetime.strptime(FRACTION.sub("", text), "%Y-%m-%dT%H:%M:%S%z")
    return whole.astimezone(UTC) + timedelta(microseconds=int(fraction[1][:6].ljust(6, "0")) if fraction else 0)


def test_there_are_many_cases_and_no_two_have_one_id() -> None:
    assert len(CASES) >= 60
    assert len({case["description"] for case in CASES}) == len(CASES)
    ids = [json.loads(body_of(case)).get("id") for case in GOOD]
    assert len({id_ for id_ in ids if id_}) == len([id_ for id_ in ids if id_])


@pytest.mark.parametrize("case", BAD, ids=lambda case: case["description"])
def test_a_bad_update_is_refused_with_the_same_text_and_leaves_no_trace(
    clients: SenderAndWatchers, case: dict[str, Any]
) -> None:
    if case.get("rest_only") and not isinstance(clients.sender, RestSender):
        return  # such bytes close a WebSocket: see test_properties
    before = clients.shared.stored()

    async def scene() -> tuple[dict[str, Any], dict[str, Any], str]:
        refusal = await clients.sender.send_bad(body_of(case))
        assert clients.shared.stored() == before, "something was stored"
        return refusal, await clients.sender.save(SENTINEL), await clients.seen()

    refusal, ack, seen = clients.shared.run(scene())
    id_ = refusal.pop("id", None)
    assert refusal == {"success": False, "error": case["error"], "code": case["code"]}
    assert id_ is None or id_ == case["data"]["id"]
    snapshot = json.loads(seen)
    assert (snapshot["id"], snapshot["seq"]) == (ack["id"], before[1] + 1), "a watcher received something else first"


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case["description"])
def test_a_good_update_is_stored_broadcast_and_read_back_the_same(
    clients: SenderAndWatchers, case: dict[str, Any]
) -> None:
    update = json.loads(
        body_of(case), parse_float=protocol.loads
    )  # exact, see test_codec; one case has 0e-99999999999999999999
    shared = clients.shared
    count, seq = shared.stored()
    began = datetime.now(UTC)

    async def scene() -> tuple[dict[str, Any], dict[str, str]]:
        ack = await clients.sender.save(body_of(case))
        shown = await clients.seen()
        moment = datetime.fromisoformat(ack["timestamp"])
        query = f"?limit=1&from={quote(moment.isoformat())}"
        if (behind := moment + timedelta(microseconds=1)).year < 3000:
            query += f"&to={quote(behind.isoformat())}"
        page = await shared.service.get(query)
        one = await shared.service.get(f"/{ack['id']}")
        texts = {
            "event": shown,
            "list": page.raw.decode().removeprefix('{"success":true,"data":[').partition('],"pagination"')[0],
            "one": one.raw.decode().removeprefix('{"success":true,"data":')[:-1],
        }
        return ack, texts

    ack, texts = shared.run(scene())
    assert shared.stored() == (count + 1, seq + 1)
    assert set(ack) == {"success", "id", "timestamp"}
    (row,) = shared.rows(
        "SELECT id::text, seq, ts, pid, onchain::text, onsite::text FROM balance_snapshot WHERE seq = %s",
        (seq + 1,),
    )
    assert row["id"] == ack["id"] == (update.get("id") or ack["id"]).lower()
    assert row["ts"] == datetime.fromisoformat(ack["timestamp"])
    if update.get("ts"):
        assert row["ts"] == expected_ts(update["ts"])
    else:
        assert began - timedelta(milliseconds=1) < row["ts"] <= datetime.now(UTC), "truncated to milliseconds"
    assert row["pid"] == update.get("pid")
    for ledger in ("onchain", "onsite"):
        stored = json.loads(row[ledger], parse_float=str, parse_int=str)
        assert stored == expected_ledger(update[ledger])
    check_same(texts, {
        "id": ack["id"], "seq": seq + 1, "ts": ack["timestamp"], "pid": update.get("pid"),
        "onchain": update["onchain"], "onsite": update["onsite"],
    })  # fmt: skip
