"""A client that expects 100 Continue gets the final status instead if the head of its request decides it.

RFC 9110, section 10.1.1. Without that it would send a body that nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import protocol
from balance.auth import Role
from balance.rate_limit import BURST_S
from balance.storage.token_store import list_tokens, revoke_token
from protocol import SOCKET_PATH
from protocol.operation import NDJSON
from protocol.operations import FEED, IMPORT, LIVEZ, OPENAPI, STREAM, TICKET
from tests.support.access import add_token, bearer
from tests.support.clock import Clock
from tests.support.http_client import Connection, Reply, request_bytes
from tests.support.payloads import UPDATE
from tests.support.service import SNAPSHOTS, Database, MakeService, Service
from tests.support.shared_service import SharedService, shared_service
from tests.support.waiting import until

BODY = protocol.dumps(UPDATE).encode()
EXPECT = {"Expect": "100-continue"}
CHUNKED = {"Transfer_Encoding": "chunked"}
LARGE = {"Content_Length": "16385"}

pytestmark = pytest.mark.usefixtures("tokens_read_often")


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    with shared_service(postgres, template) as one:
        yield one


async def first_reply(port: int, method: str, target: str, **headers: str) -> Reply:
    """Send a head without its body, and read one reply; fail if the connection stays open behind a final one."""
    async with Connection.to(port) as one:
        lengths = {} if "Transfer_Encoding" in headers else {"Content_Length": str(len(BODY))}
        named = {"Content_Type": "application/json", **lengths, **EXPECT, **headers}
        await one.send(request_bytes(method, target, **named))
        reply = await one.read_reply()
        if reply.status != 100:
            assert reply.headers["Connection"] == "close"
            one.end_sending()
            assert await one.read_rest() == b""
    return reply


@pytest.mark.parametrize(
    ("method", "target", "headers", "code"),
    [
        ("POST", "/nope", {}, "not_found"),
        ("POST", "/nope", CHUNKED, "not_found"),
        ("POST", LIVEZ, {}, "method_not_allowed"),
        ("PUT", SNAPSHOTS, {}, "method_not_allowed"),
        ("POST", SNAPSHOTS, {"Host": "evil.com"}, "misdirected_request"),
        ("POST", LIVEZ, {"Host": "evil.com"}, "misdirected_request"),
        ("POST", SNAPSHOTS, {"Origin": "https://evil.com"}, "forbidden"),
        ("POST", SNAPSHOTS, LARGE, "payload_too_large"),
        ("POST", f"{SOCKET_PATH}?EIO=4&transport=polling&sid=x", {"Content_Length": "100000000"}, "payload_too_large"),
        ("POST", SNAPSHOTS, {"Content_Type": "text/csv"}, "unsupported_media_type"),
        ("POST", IMPORT, {"Content_Type": "text/csv"}, "unsupported_media_type"),
    ],
)
def test_what_the_head_decides_is_answered_instead_of_100(
    shared: SharedService, method: str, target: str, headers: dict[str, str], code: str
) -> None:
    before = shared.stored()
    reply = shared.run(first_reply(shared.service.port, method, target, **headers))
    assert (reply.status, reply.body["code"]) == (protocol.ERRORS[code].status, code)
    assert shared.stored() == before


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("POST", SNAPSHOTS, {}),
        ("POST", SNAPSHOTS, CHUNKED),
        ("POST", SNAPSHOTS, {"Content_Length": "16384"}),
        ("POST", IMPORT, {"Content_Type": NDJSON, "Content_Length": "1000000"}),
        ("POST", TICKET, LARGE),  # of any size, since it is ignored
        ("GET", FEED, {}),
    ],
)
def test_a_body_that_is_wanted_is_asked_for(
    shared: SharedService, method: str, target: str, headers: dict[str, str]
) -> None:
    assert shared.run(first_reply(shared.service.port, method, target, **headers)).status == 100


def test_a_large_body_that_comes_without_waiting_is_answered_too(shared: SharedService) -> None:
    body = b" " * 1_000_000

    async def scene() -> Reply:
        async with Connection.to(shared.service.port) as one:
            await one.send(request_bytes("POST", SNAPSHOTS, body, **EXPECT))
            return await one.read_reply()

    assert shared.run(scene()).status == 413


async def test_a_credential_is_checked_before_the_body_is_asked_for(service: Service) -> None:
    reader, writer = await add_token(service, Role.READER), await add_token(service, Role.WRITER)
    for target, content_type in ((SNAPSHOTS, "application/json"), (IMPORT, NDJSON)):
        replies = [
            await first_reply(service.port, "POST", target, Content_Type=content_type, **headers)
            for headers in ({}, bearer("bal_writer_wrong"), bearer(reader))
        ]
        assert [reply.status for reply in replies] == [401, 401, 403]
    assert (await first_reply(service.port, "POST", SNAPSHOTS, **bearer(writer))).status == 100


async def test_a_save_that_was_asked_for_counts_once(make_service: MakeService) -> None:
    service = await make_service(saves_per_s_max=1)
    async with Connection.to(service.port) as one:
        for _ in range(BURST_S):
            await one.send(request_bytes("POST", SNAPSHOTS, BODY, **EXPECT)[: -len(BODY)])
            assert (await one.read_reply()).status == 100
            await one.send(BODY)
            assert (await one.read_reply()).status == 201
        await one.send(request_bytes("POST", SNAPSHOTS, BODY, **EXPECT)[: -len(BODY)])
        assert (await one.read_reply()).status == 429, "before the body"


async def test_a_ticket_is_used_once_by_a_request_that_waits(service: Service) -> None:
    token = await add_token(service, Role.READER)
    issued = await service.request("POST", TICKET, **bearer(token))
    target = f"{STREAM}?ticket={issued.body['data']['ticket']}"
    async with Connection.to(service.port) as one:
        await one.send(request_bytes("GET", target, b"{}", **EXPECT)[:-2])
        assert (await one.read_reply()).status == 100
        await one.send(b"{}")
        await until(lambda: len(service.app.streams) == 1)


@pytest.mark.parametrize("target", [SNAPSHOTS, TICKET])
async def test_a_token_that_is_revoked_before_the_body_arrives_is_refused(
    service: Service, database: Database, target: str
) -> None:
    writer = await add_token(service, Role.WRITER)
    async with Connection.to(service.port) as one:
        await one.send(request_bytes("POST", target, BODY, **EXPECT, **bearer(writer))[: -len(BODY)])
        assert (await one.read_reply()).status == 100
        revoke_token(database.url, list_tokens(database.url)[0].name)
        while (await service.request("GET", SNAPSHOTS, **bearer(writer))).status == 200:
            pass
        await one.send(BODY)
        assert (await one.read_reply()).status == 401
    assert database.count() == 0


@pytest.mark.parametrize(
    ("method", "target"), [("POST", SNAPSHOTS), ("GET", SNAPSHOTS), ("POST", TICKET), ("GET", FEED), ("GET", STREAM)]
)
async def test_a_server_that_gets_its_first_token_before_the_body_refuses(
    service: Service, database: Database, method: str, target: str
) -> None:
    async with Connection.to(service.port) as one:
        await one.send(request_bytes(method, target, BODY, **EXPECT)[: -len(BODY)])
        assert (await one.read_reply()).status == 100
        await add_token(service, Role.READER)
        await one.send(BODY)
        assert (await one.read_reply()).status == 401
    assert database.count() == 0


@pytest.mark.parametrize("target", [LIVEZ, OPENAPI])
async def test_what_everyone_may_read_is_answered_also_after_the_first_token(service: Service, target: str) -> None:
    async with Connection.to(service.port) as one:
        await one.send(request_bytes("GET", target, BODY, **EXPECT)[: -len(BODY)])
        assert (await one.read_reply()).status == 100
        await add_token(service, Role.READER)
        await one.send(BODY)
        assert (await one.read_reply()).status == 200


async def test_a_stream_that_cannot_be_opened_now_is_an_error_before_the_body(make_service: MakeService) -> None:
    service = await make_service(failed_logins_per_s_max=1)
    service.app.rate_limits.failed_logins.clock = Clock()
    await add_token(service, Role.READER)
    wrong = bearer("bal_reader_wrong")
    while (await service.request("GET", SNAPSHOTS, **wrong)).status != 429:
        pass
    for headers in ({}, CHUNKED):
        reply = await first_reply(service.port, "GET", STREAM, **headers, **wrong)
        assert (reply.status, reply.body["code"]) == (429, "rate_limited")
    reply = await service.request("GET", STREAM, **wrong)
    assert reply.status == 200, "a stream that ends at once"


@pytest.mark.parametrize("target", [SNAPSHOTS, "/nope", IMPORT])
async def test_the_answer_to_a_head_is_read_whole_though_a_malformed_body_follows(
    service: Service, target: str
) -> None:
    head = request_bytes("POST", target, Content_Type="text/csv", **CHUNKED, **EXPECT)
    async with Connection.to(service.port) as one:
        await one.send(head + b"zz\r\n" + 500_000 * b"x")
        one.end_sending()
        assert (await one.read_rest()).count(b"HTTP/1.1 4") == 1
