"""POST /api/balance/snapshot, byte for byte: which requests are saved, and what each of the others is answered.

Every request goes by one path (`balance.web.save`), whatever its target, its headers and the form of its body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import protocol
from balance.feed.pending import PendingSave
from balance.service import Service
from tests.support.http_client import Connection, request_bytes
from tests.support.payloads import CASES, UPDATE, body_of
from tests.support.service import SNAPSHOTS, Database, MakeService
from tests.support.shared_service import SharedService, shared_service
from tests.support.waiting import until

BODY = body_of(CASES[0])
SIZE = len(BODY)
PLAIN = request_bytes("POST", SNAPSHOTS, BODY)
PATH = SNAPSHOTS.encode()
HOST = b"Host: 127.0.0.1\r\n"
JSON = b"application/json"
BYE = b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
WAITS_S = 0.5  # a server that has not answered by then waits for more of the request
ID = "01890a5d-ac96-774b-bcce-b302099a8057"
LOCAL, FOREIGN = "http://localhost:8000", "http://elsewhere.example"


def save(body: bytes = BODY, **headers: str) -> bytes:
    """Write a POST to the address of the snapshots."""
    return request_bytes("POST", SNAPSHOTS, body, **headers)


def chunked(body: bytes, **headers: str) -> bytes:
    """Write a POST whose body is one chunk (RFC 9112, section 7.1)."""
    head = request_bytes("POST", SNAPSHOTS, Content_Type="application/json", Transfer_Encoding="chunked", **headers)
    return head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


SAVED = {
    "plain": PLAIN,
    "empty query": PLAIN.replace(PATH, PATH + b"?"),
    "query": PLAIN.replace(PATH, PATH + b"?limit=0&x=%ff"),
    "999 parameters": PLAIN.replace(PATH, PATH + b"?" + b"a&" * 998),
    "slash": PLAIN.replace(PATH, PATH + b"/"),
    "slash and query": PLAIN.replace(PATH, PATH + b"/?x"),
    "percent-encoded path": PLAIN.replace(PATH, b"/api/balance/%73napshot"),
    "absolute form": PLAIN.replace(PATH, b"http://x.internal:80" + PATH + b"/?x"),
    "HTTP/1.0": PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.0 without Host": PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0").replace(HOST, b""),
    "IPv6": PLAIN.replace(b"127.0.0.1", b"[::1]:3000"),
    "localhost": PLAIN.replace(b"127.0.0.1", b"localhost:3000"),
    "media type in capitals": PLAIN.replace(JSON, b"Application/JSON"),
    "charset": PLAIN.replace(JSON, b'application/json ; Charset="UTF-8"'),
    "page of this machine": save(Origin=LOCAL),
    "identity": save(Content_Encoding="Identity"),
    "last on its connection": save(Connection="close"),
    "length in zeros": save(Content_Length=f"{SIZE:015}"),
    "length twice": save(Content_Length=f"{SIZE}, {SIZE}"),
    "chunked": chunked(BODY),
    "chunked, from a page": chunked(BODY, Origin=LOCAL),
    "at the limit": save(BODY.ljust(16_384)),
}
NOT_JSON = "payload: is not valid JSON"
NO_SHAPE = "Host: must be a host, or a host and a port, such as 127.0.0.1:3000"
NOT_SERVED = "Host: 'elsewhere.example' is not a host of this server; see --hosts"
NO_PAGE = "Origin: pages of this origin may not call; see --cors-origins"
NO_TYPE = "Content-Type: must be application/json"
TOO_LARGE = "payload: is larger than 16384 bytes"
METHOD = protocol.MethodNotAllowed.message()
REJECTED = {
    "small letters": (PLAIN.replace(b"POST", b"post"), "method_not_allowed", METHOD),
    "PUT": (PLAIN.replace(b"POST", b"PUT"), "method_not_allowed", METHOD),
    "1001 parameters": (
        PLAIN.replace(PATH, PATH + b"?" + b"a&" * 1000),
        "invalid_payload",
        "query: must have at most 1000 parameters",
    ),
    "list of hosts": (PLAIN.replace(b"127.0.0.1", b"a,b"), "invalid_payload", NO_SHAPE),
    "host with a user": (PLAIN.replace(b"127.0.0.1", b"me@x"), "invalid_payload", NO_SHAPE),
    "no Host": (PLAIN.replace(HOST, b""), "invalid_payload", "Host: is required (RFC 9112, section 3.2)"),
    "two hosts": (PLAIN.replace(HOST, HOST + HOST), "invalid_payload", "Host: is given more than once"),
    "empty Host": (
        PLAIN.replace(b"127.0.0.1", b""),
        "misdirected_request",
        NOT_SERVED.replace("elsewhere.example", ""),
    ),
    "foreign host": (PLAIN.replace(b"127.0.0.1", b"elsewhere.example"), "misdirected_request", NOT_SERVED),
    "foreign host of a target": (
        PLAIN.replace(PATH, b"http://elsewhere.example" + PATH),
        "misdirected_request",
        NOT_SERVED,
    ),
    "host before page": (save(Host="elsewhere.example", Origin=FOREIGN), "misdirected_request", NOT_SERVED),
    "foreign page": (save(Origin=FOREIGN), "forbidden", NO_PAGE),
    "page before media type": (save(Origin=FOREIGN, Content_Type="text/plain"), "forbidden", NO_PAGE),
    "two origins": (
        PLAIN.replace(HOST, HOST + b"Origin: http://localhost\r\nOrigin: http://localhost\r\n"),
        "forbidden",
        NO_PAGE,
    ),
    "latin1": (
        PLAIN.replace(JSON, b"application/json; charset=latin1"),
        "unsupported_media_type",
        "charset: must be utf-8 (RFC 8259, section 8.1)",
    ),
    "text": (PLAIN.replace(JSON, b"text/plain"), "unsupported_media_type", NO_TYPE),
    "media type before size": (save(b"x" * 20_000, Content_Type="text/plain"), "unsupported_media_type", NO_TYPE),
    "gzip": (save(Content_Encoding="gzip"), "unsupported_media_type", "Content-Encoding: must not be compressed"),
    "shorter than its length": (save(Content_Length=str(SIZE - 1)), "malformed_json", NOT_JSON),
    "length in floating point": (
        save(Content_Length="1e2"),
        "invalid_payload",
        "Content-Length: must be a whole number of bytes",
    ),
    "length of 30 digits": (
        save(Content_Length="9" * 30),
        "payload_too_large",
        "Content-Length: must have at most 18 digits",
    ),
    "over the limit": (save(BODY.ljust(16_385)), "payload_too_large", TOO_LARGE),
    "chunked and over the limit": (
        chunked(BODY.ljust(16_385)),
        "payload_too_large",
        TOO_LARGE,
    ),
    "size before JSON": (save(b"x" * 1_000_001), "payload_too_large", TOO_LARGE),
    "empty": (save(b""), "malformed_json", NOT_JSON),
    "half": (save(b"{"), "malformed_json", NOT_JSON),
    "not UTF-8": (save(b"\xff"), "malformed_json", NOT_JSON),
    "not UTF-8 in a text": (
        save(b'{"onchain":"\xff",' + BODY[1:]),
        "malformed_json",
        "payload: is not valid UTF-8",
    ),
    "half a surrogate pair": (
        save(b'{"onchain":"\\ud800",' + BODY[1:]),
        "malformed_json",
        NOT_JSON,
    ),
}
SENT = [*SAVED.values(), *(data for data, _, _ in REJECTED.values() if len(data) < 2_000)]


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    """One service for all requests."""
    with shared_service(postgres, template) as one:
        yield one


def exchange(shared: SharedService, *pieces: bytes) -> str:
    """Send bytes in these pieces, then one more request; return all that is answered until the server closes."""

    async def scene() -> str:
        async with Connection.to(shared.service.port) as one:
            answer = asyncio.ensure_future(one.read_rest())
            with suppress(OSError):  # it has closed already
                for piece in (*pieces, BYE):
                    await one.send(piece)
                    await asyncio.sleep(0)
                await asyncio.wait([answer], timeout=WAITS_S)
                if not answer.done():  # it waits for more of a body
                    one.end_sending()
            try:
                return (await answer).decode("latin1")
            except OSError:  # it closed before it had read all
                return "reset"

    return shared.run(scene())


@pytest.mark.parametrize("name", SAVED)
def test_an_update_is_saved_however_its_request_is_written(shared: SharedService, name: str) -> None:
    before = shared.stored()
    reply = shared.exchange(SAVED[name])
    assert reply.status == 201
    assert reply.headers["Location"] == f"{SNAPSHOTS}/{reply.body['data']['id']}"
    assert ("Access-Control-Allow-Origin" in reply.headers) == (b"Origin" in SAVED[name])
    assert shared.stored() == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("name", REJECTED)
def test_a_request_with_a_fault_is_rejected_for_its_first_fault(shared: SharedService, name: str) -> None:
    data, code, error = REJECTED[name]
    before = shared.stored()
    reply = shared.exchange(data)
    assert reply.body == {"success": False, "error": error, "code": code}
    assert reply.status == protocol.ERRORS[code].status
    assert shared.stored() == before


@pytest.mark.parametrize("body", [BODY, b"{"], ids=["saved", "rejected"])
def test_a_body_that_is_awaited_is_answered_by_100_first(shared: SharedService, body: bytes) -> None:
    answer = exchange(shared, save(body, Expect="100-continue"))
    first, second, _ = answer.split("HTTP/1.1 ")[1:]
    assert first.startswith("100 Continue")
    assert second.startswith("201 " if body == BODY else "400 ")


def test_every_case_of_the_contract_is_answered_twice_alike_on_one_connection(shared: SharedService) -> None:
    for case in CASES:
        once, again, _ = exchange(shared, save(body_of(case)) * 2).split("HTTP/1.1 ")[1:]
        if case["valid"]:
            assert once.startswith("201 ")
            assert again.startswith("200 " if protocol.loads(body_of(case)).get("id") else "201 ")
        else:
            assert once.endswith(again[again.index("\r\n\r\n") :])
            assert once.startswith(f"{protocol.ERRORS[case['code']].status} ")


@settings(max_examples=150)
@given(st.data())
def test_of_any_bytes_exactly_those_answered_by_201_are_stored(shared: SharedService, data: st.DataObject) -> None:
    sent = data.draw(st.sampled_from(SENT)).decode("latin1")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(sent)))
        cut = data.draw(st.integers(0, 3))
        sent = sent[:at] + data.draw(st.text('0123456789[]{}",:/-ab \r\n', max_size=3)) + sent[at + cut :]
    at = data.draw(st.integers(0, len(sent)))
    before = shared.stored()[0]
    answer = exchange(shared, sent[:at].encode("latin1"), sent[at:].encode("latin1"))
    assert answer == "reset" or shared.stored()[0] - before == answer.count("HTTP/1.1 201 ")
    assert not shared.noise.records


def test_an_id_that_was_saved_before_is_answered_by_its_content(shared: SharedService) -> None:
    first, other = (save(protocol.dumps({**UPDATE, "id": ID, "pid": pid}).encode()) for pid in (1, 2))
    assert [shared.exchange(data).status for data in (first, first, other)] == [201, 200, 409]


@pytest.mark.parametrize("origin", [{}, {"Origin": LOCAL}], ids=["program", "page"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(protocol.Unavailable("gone"), 503, id="unavailable"),
        pytest.param(RuntimeError("ours"), 500, id="unknown", marks=pytest.mark.expects_log(f"POST {SNAPSHOTS}")),
    ],
)
def test_a_save_that_fails_after_its_start_is_answered_and_internal_errors_logged(
    shared: SharedService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    origin: dict[str, str],
) -> None:
    def finish(self: Service, pending: PendingSave) -> Any:
        raise error

    monkeypatch.setattr(Service, "finish_save", finish)
    reply = shared.exchange(save(**origin))
    assert (reply.status, reply.headers.get("Retry-After")) == (status, "1" if status == 503 else None)
    assert reply.headers.get("Access-Control-Allow-Origin") == origin.get("Origin")
    assert len(caplog.records) == (status == 500)
    shared.noise.records.clear()


async def test_the_update_of_a_client_that_leaves_before_its_answer_is_kept(
    make_service: MakeService, database: Database
) -> None:
    service = await make_service()
    pending: list[PendingSave] = []
    begin = service.app.service.begin_save

    def noted(update: Any) -> PendingSave:
        pending.append(begin(update))
        return pending[-1]

    service.app.service.begin_save = noted  # type: ignore[method-assign]
    async with Connection.to(service.port) as one:
        await one.send(PLAIN)
        await until(lambda: bool(pending))
    await until(pending[0].done)
    assert database.count() == 1
    assert (await service.post(UPDATE)).status == 201, "the next client is served"
