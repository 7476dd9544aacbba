"""A resend is safe: one id is one snapshot, whether updates come one after another or at once.

The same content, in any spelling, is answered with the stored snapshot and not broadcast again; other content is a
conflict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import protocol
from tests.support.http_client import Connection, Reply
from tests.support.raw_clients import SocketClient
from tests.support.refusals import check_refused
from tests.support.service import SNAPSHOTS
from tests.support.shared_service import SharedService, shared_service

UPDATE = b'{"onchain":{"rlb":1,"usdt":2},"onsite":{"rlb":3,"usd":4}}'

ORIGINAL = (
    b'{"id":"%b","ts":"2025-11-07T00:45:08.603Z","pid":7,'
    b'"onchain":{"rlb":100,"usdt":7656.36},"onsite":{"rlb":0.5,"usd":0}}'
)
RESENDS = {
    "the same bytes": ORIGINAL,
    "numbers spelt otherwise": (
        b'{"id":"%b","ts":"2025-11-07T00:45:08.603Z","pid":7,'
        b'"onchain":{"rlb":1e2,"usdt":7656.3600},"onsite":{"rlb":5e-1,"usd":-0.0}}'
    ),
    "another zone": ORIGINAL.replace(b"2025-11-07T00:45:08.603Z", b"2025-11-07t02:15:08.603000+01:30"),
    "digits below the microsecond": ORIGINAL.replace(b".603Z", b".603000999Z"),
    "fields in another order": (
        b'{"onsite":{"usd":0,"rlb":0.5},"pid":7,"ts":"2025-11-07T00:45:08.603Z",'
        b'"onchain":{"usdt":7656.36,"rlb":100},"id":"%b"}'
    ),
    "pid with a point": ORIGINAL.replace(b'"pid":7', b'"pid":7.0'),
    "the id in upper case": ORIGINAL,
    "without ts": ORIGINAL.replace(b'"ts":"2025-11-07T00:45:08.603Z",', b""),
}
OTHERS = {
    "a digit": ORIGINAL.replace(b"7656.36", b"7656.360000000000000000000000000000000001"),
    "the moment": ORIGINAL.replace(b".603Z", b".603001Z"),
    "the pid": ORIGINAL.replace(b'"pid":7', b'"pid":8'),
    "no pid": ORIGINAL.replace(b'"pid":7,', b""),
    "a further asset": ORIGINAL.replace(b'"usd":0', b'"usd":0,"eur":0'),
    "the ledgers": ORIGINAL.replace(b'"onchain":{"rlb":100', b'"onchain":{"rlb":0.5'),
}


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    with shared_service(postgres, template) as one:
        yield one


def new_id(shared: SharedService) -> bytes:
    return shared.rows("SELECT gen_random_uuid()::text AS id")[0]["id"].encode()


@pytest.mark.parametrize("resend", RESENDS)
def test_the_same_content_under_the_same_id_is_a_duplicate(shared: SharedService, resend: str) -> None:
    id_ = new_id(shared)
    again = RESENDS[resend] % (id_.upper() if "upper" in resend else id_)

    async def scene() -> tuple[Reply, Reply, list[Any]]:
        watcher = await SocketClient.connect(shared.service.url)
        async with Connection.to(shared.service.port) as one:
            first, second = [await one.ask("POST", SNAPSHOTS, body) for body in (ORIGINAL % id_, again)]
            last = await one.ask("POST", SNAPSHOTS, UPDATE)
        seen = [(await watcher.expect("balance:snapshot"))["id"] for _ in range(2)]
        await watcher.close()
        assert seen == [first.body["data"]["id"], last.body["data"]["id"]], "the duplicate was broadcast"
        return first, second, seen

    before = shared.stored()
    first, second, _ = shared.run(scene())
    assert (first.status, second.status) == (201, 200)
    assert second.body == {**first.body, "duplicate": True}
    assert second.headers["Location"] == first.headers["Location"]
    assert shared.stored() == (before[0] + 2, before[1] + 2)
    protocol.check("save_reply", second.body)


@pytest.mark.parametrize("change", OTHERS)
def test_other_content_under_the_same_id_is_a_conflict(shared: SharedService, change: str) -> None:
    id_ = new_id(shared)
    shared.ask("POST", SNAPSHOTS, ORIGINAL % id_)
    before = shared.stored()
    check_refused(shared.ask("POST", SNAPSHOTS, OTHERS[change] % id_), "conflict", "id: another snapshot has this id")
    assert shared.stored() == before
    assert shared.ask("POST", SNAPSHOTS, ORIGINAL % id_).body["duplicate"] is True


@pytest.mark.parametrize("count", [2, 50])
def test_of_equal_updates_with_one_id_at_once_one_is_stored(shared: SharedService, count: int) -> None:
    id_ = new_id(shared)
    before = shared.stored()

    async def scene() -> list[Reply]:
        watcher = await SocketClient.connect(shared.service.url)
        senders = [await Connection.open(shared.service.port) for _ in range(count)]
        replies = await asyncio.gather(*(one.ask("POST", SNAPSHOTS, ORIGINAL % id_) for one in senders))
        last = await senders[0].ask("POST", SNAPSHOTS, UPDATE)
        seen = [(await watcher.expect("balance:snapshot"))["id"] for _ in range(2)]
        assert seen == [id_.decode(), last.body["data"]["id"]]
        for one in (*senders, watcher):
            await one.close()
        return replies

    replies = shared.run(scene())
    assert sorted(reply.status for reply in replies) == [200] * (count - 1) + [201]
    assert all(reply.body["data"]["id"] == id_.decode() for reply in replies)
    assert shared.stored() == (before[0] + 2, before[1] + 2)


def test_of_different_updates_with_one_id_at_once_one_is_stored(shared: SharedService) -> None:
    id_ = new_id(shared)
    bodies = [(ORIGINAL % id_).replace(b'"pid":7', b'"pid":%d' % pid) for pid in range(20)]

    async def scene() -> list[Reply]:
        senders = [await Connection.open(shared.service.port) for _ in bodies]
        replies = await asyncio.gather(
            *(one.ask("POST", SNAPSHOTS, body) for one, body in zip(senders, bodies, strict=True))
        )
        for one in senders:
            await one.close()
        return replies

    assert sorted(reply.status for reply in shared.run(scene())) == [201] + [409] * 19
