"""Requests for the feed that are wrong: each is refused alike by the long poll, the stream and Socket.IO."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from protocol.operations import FEED, LATEST, STREAM
from tests.support.history import append_history
from tests.support.payloads import LARGE_UPDATE, UPDATE
from tests.support.raw_clients import Refused, SocketClient
from tests.support.refusals import check_refused
from tests.support.service import Database, MakeService, Service
from tests.support.shared_service import SharedService, shared_service
from tests.support.sse import StreamClient
from tests.support.waiting import until
from tests.support.watching import feed_epoch, seqs

EPOCH = "00000000-0000-4000-8000-000000000000"
AN_INTEGER, IN_RANGE = "after: must be an integer, not a string", "after: must be at most 9007199254740991"
# Each with the query, and the auth as JSON.
WRONG = {
    "2^63": (f"after={2**63}", f'"after":{2**63}', IN_RANGE),
    "2^53": (f"after={2**53}", f'"after":{2**53}', IN_RANGE),
    "negative": ("after=-1", '"after":-1', "after: must be at least 0"),
    "exponent": ("after=1e3", '"after":"1e3"', AN_INTEGER),
    "space": ("after=%205", '"after":" 5"', AN_INTEGER),
    "plus": ("after=%2B5", '"after":"+5"', AN_INTEGER),
    "plus that means a space": ("after=+5", '"after":" 5"', AN_INTEGER),
    "fraction": ("after=5.0", '"after":"5.0"', AN_INTEGER),
    "empty": ("after=", '"after":""', AN_INTEGER),
    "other digits": ("after=%D9%A5", '"after":"٥"', AN_INTEGER),
}


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    """One service for requests that change nothing."""
    with shared_service(postgres, template) as one:
        yield one


async def refusal(service: Service, auth: str) -> str:
    """Connect to Socket.IO with an auth that is written as JSON; return the error."""
    client = await SocketClient.open(service.url)
    try:
        await client.send_raw("40" + auth)
        with pytest.raises(Refused) as refused:
            await client.take_connect()
    finally:
        await client.close()
    assert refused.value.payload["data"]["code"] in ("invalid_payload", "malformed_json")
    return str(refused.value.payload["message"])


@pytest.mark.parametrize(("query", "auth", "error"), WRONG.values(), ids=WRONG)
def test_an_after_that_is_wrong_is_refused_on_each_transport_with_what_it_must_be(
    shared: SharedService, query: str, auth: str, error: str
) -> None:
    for path, more in ((FEED, " or now"), (STREAM, "")):  # each value of a query is a string, and the head has a word
        expected = error.replace(", not a string", more)
        check_refused(shared.ask("GET", f"{path}?{query}&epoch={EPOCH}"), "invalid_payload", expected)
    assert shared.run(refusal(shared.service, f'{{{auth},"epoch":"{EPOCH}"}}')) == error
    assert not len(shared.service.app.streams)
    assert not len(shared.service.app.watchers)


async def test_an_epoch_or_an_id_without_after_is_accepted(service: Service, database: Database) -> None:
    """As docs/clients.md has it; to refuse them would break clients of `v1`."""
    saved = (await service.post(UPDATE)).body["data"]
    for parts, reason in (
        ({"epoch": EPOCH}, "other_feed"),
        ({"id": saved["id"]}, "diverged"),
        ({"epoch": feed_epoch(database)}, None),
    ):
        query = "&".join(f"{name}={value}" for name, value in parts.items())
        polled = (await service.request("GET", f"{FEED}?{query}")).body
        assert polled.get("reason") == reason, "the long poll takes them for those of after=0"
        assert reason or [one["seq"] for one in polled["data"]] == [1]
        async with StreamClient.to(service.port, f"?{query}") as stream:
            connected = (await stream.expect("connected")).data
            assert (connected["seq"], connected["recovered"]) == (1, False)
            assert "reason" not in connected
        client = await SocketClient.connect(service.url, parts)
        assert client.connected["recovered"] is False
        await client.close()


@pytest.mark.parametrize("path", [FEED, STREAM])
@pytest.mark.parametrize("name", ["after", "epoch"])
def test_a_parameter_that_is_repeated_is_refused(shared: SharedService, path: str, name: str) -> None:
    query = f"?after=5&epoch={EPOCH}&{name}={ {'after': '5', 'epoch': EPOCH}[name] }"
    check_refused(shared.ask("GET", path + query), "invalid_payload", f"{name}: is given more than once")


async def test_in_an_auth_the_last_of_a_repeated_name_counts_and_integers_have_any_form(
    service: Service, database: Database
) -> None:
    append_history(database, 3)
    for after in ('9,"after":1', "1.0", "1e0"):
        client = await SocketClient.open(service.url)
        await client.send_raw(f'40{{"after":{after},"epoch":"{feed_epoch(database)}"}}')
        await client.take_connect()
        assert (await client.expect("connected"))["recovered"] is True
        assert await seqs(client, 2) == [2, 3]
        await client.close()


async def test_a_last_event_id_of_another_host_is_of_another_feed_on_each_transport(service: Service) -> None:
    token = f"{EPOCH}:1:00000001"
    async with StreamClient.to(service.port, Last_Event_ID=token) as client:
        streamed = (await client.expect("connected")).data
    greeted = await SocketClient.connect(service.url, {"after": 1, "epoch": EPOCH})
    await greeted.close()
    for connected in (streamed, greeted.connected):
        assert {"seq": 0, "recovered": False, "reason": "other_feed"}.items() <= connected.items()
        assert "goodUntil" not in connected
    reply = await service.request("GET", f"{FEED}?after=1&epoch={EPOCH}")
    assert (reply.status, reply.body["reason"]) == (409, "other_feed")


async def test_a_client_that_comes_back_while_its_old_connection_drains_gets_all_once(
    make_service: MakeService,
) -> None:
    service = await make_service(watchers_max=1)
    async with StreamClient.to(service.port) as old:
        await old.expect("connected")
        (stream,) = service.app.streams._streams
        stream._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        old.stop_reading()
        while not stream.unsent_bytes:
            assert (await service.post(LARGE_UPDATE)).status == 201
        last = service.app.feed.head
        assert last is not None
        service.app.streams.end_all()
        await until(lambda: not len(service.app.streams))
        assert stream.unsent_bytes, "it drains"
        async with StreamClient.to(service.port, "?after=0") as new:
            assert (await new.expect("connected")).data["recovered"] is True
            assert await new.snapshots(last.seq) == list(range(1, last.seq + 1))
            assert (await service.post(UPDATE)).status == 201
            assert await new.snapshots(1) == [last.seq + 1]
            old.resume_reading()
            *snapshots, bye = await old.read_to_end()
            assert [event.data["seq"] for event in snapshots] == list(range(1, last.seq + 1))
            assert bye.data == {"reason": "reset"}


@pytest.mark.parametrize("path", [FEED, LATEST, STREAM])
def test_each_address_answers_get_head_and_options_only(shared: SharedService, path: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"):
        reply = shared.ask(method, path, b"{}" if method in ("POST", "PUT", "PATCH") else None)
        assert reply.status in (405, 501), method
        if reply.status == 405:
            check_refused(reply, "method_not_allowed", reply.body["error"])
            assert reply.headers["Allow"] == "GET, HEAD, OPTIONS"
    options = shared.ask("OPTIONS", path)
    assert (options.status, options.headers["Allow"], options.raw) == (204, "GET, HEAD, OPTIONS", b"")
    head = shared.ask("HEAD", path)
    assert (head.status, head.raw) == (200, b"")
    assert shared.ask("HEAD", f"{path}?zzz=1").status == 400
    assert not len(shared.service.app.streams)
