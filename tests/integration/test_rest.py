"""REST beyond docs/spec.md: every error on every route has the one shape and leaves the connection usable;
HTTP is spoken as its clients may: HEAD, preflight, kept connections, pipelines.

Most requests go byte for byte over one service and its own connection each (tests/support/shared_service.py), since
what is tested is what an HTTP client of any kind may send.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import protocol
from tests.support.http_client import Connection, Reply, request_bytes
from tests.support.refusals import check_refused
from tests.support.service import SNAPSHOTS
from tests.support.shared_service import SharedService, shared_service

UPDATE = b'{"onchain":{"rlb":1,"usdt":2},"onsite":{"rlb":3,"usd":4}}'
SOCKET = "/api/socket.io/"
ID = "019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51"
NOT_AN_ID = "id: must be a UUID, such as 019a5bb2-4a1b-7c3e-9f10-2b6d8e4f7a51"
NOT_A_TIME = (
    "must be an RFC 3339 date and time with a time zone, of the years 1000 to 2999, with at most 9 "
    "fraction digits and without a leap second, such as 2025-11-07T00:45:08.603Z"
)
TOO_LARGE = "payload: is larger than 16384 bytes"
LISTS = "GET, HEAD, POST, OPTIONS"
READS = "GET, HEAD, OPTIONS"
EACH = {"Date": "", "X-Request-Id": ""}  # of headers, whose values differ from response to response


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    """One service for all tests."""
    with shared_service(postgres, template) as one:
        yield one


def padded(size: int) -> bytes:
    """Return an update of this many bytes."""
    return UPDATE[:-1].ljust(size - 1) + b"}"


def chunked(body: bytes, size: int = 4000) -> bytes:
    """Return a POST without a Content-Length (RFC 9112, section 7.1)."""
    head = request_bytes("POST", SNAPSHOTS, Content_Type="application/json", Transfer_Encoding="chunked")
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "path",
    ["/api", "/api/balance", "/livez/x", SNAPSHOTS + "s", f"{SNAPSHOTS}/{ID}/x", "//api/balance/snapshot"],
)
def test_an_unknown_route_is_not_found(shared: SharedService, method: str, path: str) -> None:
    reply = shared.ask(method, path, b"{}" if method in ("POST", "PUT", "PATCH") else None)
    check_refused(reply, "not_found", f"{path}: there is nothing at this address")


def test_an_unknown_route_is_quoted_in_part(shared: SharedService) -> None:
    reply = shared.ask("GET", "/" + "a" * 5000 + "?query")
    check_refused(reply, "not_found", "/" + "a" * 99 + ": there is nothing at this address")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        *((method, SNAPSHOTS, LISTS) for method in ("PUT", "PATCH", "DELETE", "TRACE", "BREW", "get")),
        *((method, f"{SNAPSHOTS}/{ID}", READS) for method in ("POST", "PUT", "PATCH", "DELETE", "BREW")),
        *((method, path, READS) for path in ("/", "/livez", "/readyz", "/metrics") for method in ("POST", "DELETE")),
        *((method, SOCKET, "GET, POST, OPTIONS") for method in ("HEAD", "PUT", "DELETE", "BREW")),
    ],
)
def test_a_wrong_method_is_answered_with_the_right_ones(
    shared: SharedService, method: str, path: str, allow: str
) -> None:
    reply = shared.ask(method, path)
    assert reply.headers["Allow"] == allow
    if method == "HEAD":
        assert (reply.status, reply.raw) == (405, b"")
    else:
        check_refused(reply, "method_not_allowed", "This address does not support this method")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": ""},
        {"Content_Type": "text/plain"},
        {"Content_Type": "text/json"},
        {"Content_Type": "application/problem+json"},
        {"Content_Type": "application/json-seq"},
        {"Content_Type": "application/json; version=1"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": "multipart/form-data; boundary=x"},
        {"Content_Type": "multipart/form-data"},
    ],
    ids=lambda headers: headers["Content_Type"] or "empty",
)
def test_a_body_of_another_type_is_rejected(shared: SharedService, headers: dict[str, str]) -> None:
    reply = shared.ask("POST", SNAPSHOTS, UPDATE, **headers)
    check_refused(reply, "unsupported_media_type", "Content-Type: must be application/json")


def test_a_body_without_a_type_is_rejected(shared: SharedService) -> None:
    head = b"POST /api/balance/snapshot HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(UPDATE)
    check_refused(shared.exchange(head + UPDATE), "unsupported_media_type", "Content-Type: must be application/json")


@pytest.mark.parametrize("charset", ["latin1", "iso-8859-1", "utf-16", '"utf-7"', ""])
def test_another_charset_is_rejected(shared: SharedService, charset: str) -> None:
    reply = shared.ask("POST", SNAPSHOTS, UPDATE, Content_Type=f"application/json; charset={charset}")
    check_refused(reply, "unsupported_media_type", "charset: must be utf-8 (RFC 8259, section 8.1)")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_a_compressed_body_is_rejected(shared: SharedService, encoding: str) -> None:
    reply = shared.ask("POST", SNAPSHOTS, UPDATE, Content_Encoding=encoding)
    check_refused(reply, "unsupported_media_type", "Content-Encoding: must not be compressed")


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON", "application/json;charset=utf-8", 'application/json ; Charset="UTF-8"'],
)
def test_json_is_accepted_in_every_spelling_of_its_type(shared: SharedService, content_type: str) -> None:
    assert shared.ask("POST", SNAPSHOTS, UPDATE, Content_Type=content_type).status == 201


@pytest.mark.parametrize(
    "write", [lambda body: request_bytes("POST", SNAPSHOTS, body), chunked], ids=["length", "chunked"]
)
@pytest.mark.parametrize("size", [len(UPDATE), 16_383, 16_384])
def test_a_body_up_to_the_limit_is_accepted(shared: SharedService, write: Any, size: int) -> None:
    assert shared.exchange(write(padded(size))).status == 201


@pytest.mark.parametrize(
    "write", [lambda body: request_bytes("POST", SNAPSHOTS, body), chunked], ids=["length", "chunked"]
)
@pytest.mark.parametrize("size", [16_385, 100_000, 1_000_000, 1_000_001, 3_000_000])
def test_a_body_over_the_limit_is_rejected(shared: SharedService, write: Any, size: int) -> None:
    # From frame_bytes_max (1,000,000) on, Tornado has a limit too.
    check_refused(shared.exchange(write(padded(size))), "payload_too_large", TOO_LARGE)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("limit=0", "limit: must be at least 1"),
        ("limit=-1", "limit: must be at least 1"),
        ("limit=1001", "limit: must be at most 1000"),
        ("limit=1000000", "limit: must be at most 1000"),
        ("limit=99999999999999999999", "limit: must be at most 1000"),
        ("limit=abc", "limit: must be an integer"),
        ("limit=", "limit: must be an integer"),
        ("limit", "limit: must be an integer"),
        ("limit=1.0", "limit: must be an integer"),
        ("limit=1e2", "limit: must be an integer"),
        ("limit=+1", "limit: must be an integer"),
        (f"limit={'9' * 31}", "limit: must have at most 30 digits"),
        ("limit=%D9%A1", "limit: must be an integer"),
        ("limit=1%00", "limit: must be an integer"),
        ("limit=1&limit=1", "limit: is given more than once"),
        ("limit=&limit=", "limit: is given more than once"),
        ("offset=-1", "offset: must be at least 0"),
        ("offset=1000001", "offset: must be at most 1000000"),
        ("offset=abc", "offset: must be an integer"),
        ("foo=1", "foo: is not a known field"),
        ("Limit=1", "Limit: is not a known field"),
        ("=1", '"": is not a known field'),
        ("limit=0&foo=1", "foo: is not a known field"),
        ("pid=-1", "pid: must be at least 0"),
        ("pid=9007199254740992", "pid: must be at most 9007199254740991"),
        ("pid=x", "pid: must be an integer"),
        ("from=yesterday", f"from: {NOT_A_TIME}"),
        ("from=2025-11-07T00:00:00", f"from: {NOT_A_TIME}"),
        ("to=", f"to: {NOT_A_TIME}"),
        ("cursor=x", "cursor: must be the `next` of an earlier page"),
        ("cursor=", "cursor: must be the `next` of an earlier page"),
        ("cursor=1_1_1", "cursor: must be the `next` of an earlier page"),
        ("cursor=1_1%0A", "cursor: must be the `next` of an earlier page"),
        ("cursor=1_99999999999999999999", "cursor: must be the `next` of an earlier page"),
        ("cursor=-1_1", "cursor: must be the `next` of an earlier page"),
        ("cursor=1_9999999999999999999", "cursor: must be the `next` of an earlier page"),
    ],
)
def test_a_query_without_a_meaning_is_rejected(shared: SharedService, query: str, error: str) -> None:
    check_refused(shared.ask("GET", f"{SNAPSHOTS}?{query}"), "invalid_payload", error)


@pytest.mark.parametrize("name", ["limit", "from", "cursor", "pid"])
def test_a_query_that_is_not_utf_8_is_rejected_by_its_name(shared: SharedService, name: str) -> None:
    check_refused(shared.ask("GET", f"{SNAPSHOTS}?{name}=%ff"), "invalid_payload", f"{name}: is not valid UTF-8")


@pytest.mark.parametrize(
    "query",
    ["", "&", "limit=%31", "pid=9007199254740991", f"cursor={'9' * 17}_{'9' * 18}", "cursor=0_0&offset=1"],
)
def test_an_unusual_query_with_a_meaning_is_accepted(shared: SharedService, query: str) -> None:
    reply = shared.ask("GET", f"{SNAPSHOTS}?{query}")
    assert reply.status == 200
    protocol.check("list_reply", reply.body)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "id_",
    [
        "1",
        "..",
        "%2e%2e",
        "a%2Fb",
        "%00",
        ID[:-1],
        ID + "0",
        ID.replace("-", ""),
        f"%7B{ID}%7D",
        ID + "%0A",
        "f" * 3000,
    ],
)
def test_a_malformed_id_is_rejected(shared: SharedService, method: str, id_: str) -> None:
    reply = shared.ask(method, f"{SNAPSHOTS}/{id_}")
    assert reply.status == 400
    if method == "GET":
        check_refused(reply, "invalid_payload", NOT_AN_ID)


def test_an_id_that_is_not_utf_8_is_rejected(shared: SharedService) -> None:
    check_refused(shared.ask("GET", f"{SNAPSHOTS}/%ff"), "invalid_payload", NOT_AN_ID)


def test_an_unknown_id_is_not_found(shared: SharedService) -> None:
    check_refused(shared.ask("GET", f"{SNAPSHOTS}/{ID}"), "not_found", "id: no snapshot has this id")


@pytest.mark.parametrize("body", [b"--x\r\nfoo", b"", b"\xff\x00", b"--x--"])
@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("path", [SNAPSHOTS, "/nope", SOCKET + "?EIO=4&transport=polling"])
def test_malformed_multipart_is_rejected_like_any_other_body(
    shared: SharedService, path: str, content_type: str, body: bytes
) -> None:
    reply = shared.ask("POST", path, body, Content_Type=content_type)
    assert reply.status in (400, 404, 415)
    check_refused(reply, reply.body["code"], reply.body["error"])


@pytest.mark.parametrize("body", [None, b"{}", b"x" * 100_000], ids=["no-body", "body", "large-body"])
@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/nope", {}, 404),
        ("PUT", SNAPSHOTS, {}, 405),
        ("POST", f"{SNAPSHOTS}/{ID}", {}, 405),
        ("POST", SNAPSHOTS, {"Origin": "https://evil.example"}, 403),
        ("POST", SNAPSHOTS, {"Content_Type": "text/plain"}, 415),
        ("GET", SNAPSHOTS + "?limit=0", {}, 400),
        ("GET", f"{SNAPSHOTS}/%ff", {}, 400),
        ("DELETE", SOCKET, {}, 405),
        ("POST", SOCKET + "?EIO=4&transport=polling&sid=x", {}, 400),
    ],
)
def test_after_a_rejection_the_connection_serves_the_next_request(
    shared: SharedService, method: str, path: str, headers: dict[str, str], status: int, body: bytes | None
) -> None:
    """Or the response announces its end: a client that keeps connections would lose its next update."""

    async def scene() -> tuple[Reply, Reply | None]:
        async with Connection.to(shared.service.port) as one:
            reply = await one.ask(method, path, body, **headers)
            if reply.headers.get("Connection") == "close":
                return reply, None
            return reply, await one.ask("POST", SNAPSHOTS, UPDATE)

    reply, then = shared.run(scene())
    assert reply.status == status
    assert then is None or then.status == 201


def test_location_leads_to_the_snapshot(shared: SharedService) -> None:
    saved = shared.ask("POST", SNAPSHOTS, UPDATE)
    found = shared.ask("GET", saved.headers["Location"])
    assert found.status == 200
    assert found.body["data"]["id"] == saved.body["data"]["id"]
    assert found.body["data"]["ts"] == saved.body["data"]["timestamp"]
    protocol.check("get_reply", found.body)
    assert shared.ask("GET", saved.headers["Location"].upper().replace(SNAPSHOTS.upper(), SNAPSHOTS)).raw == found.raw


def test_head_has_the_headers_of_get_and_no_body(shared: SharedService) -> None:
    location = shared.ask("POST", SNAPSHOTS, UPDATE).headers["Location"]
    for target in (SNAPSHOTS, SNAPSHOTS + "?limit=1", SNAPSHOTS + "?limit=0", location, f"{SNAPSHOTS}/{ID}"):

        async def scene(target: str = target) -> tuple[Reply, Reply]:
            async with Connection.to(shared.service.port) as one:
                return await one.ask("HEAD", target), await one.ask(
                    "GET", target
                )  # a body of the first would break the second

        head, get = shared.run(scene())
        assert head.status == get.status
        assert {**head.headers, **EACH} == {**get.headers, **EACH}
        assert int(head.headers["Content-Length"]) == len(get.raw)


def test_options_without_an_origin_names_the_methods(shared: SharedService) -> None:
    for path, methods in ((SNAPSHOTS, LISTS), (f"{SNAPSHOTS}/{ID}", READS)):
        reply = shared.ask("OPTIONS", path)
        assert (reply.status, reply.headers["Allow"], reply.raw) == (204, methods, b"")


def test_pipelined_requests_are_answered_in_order(shared: SharedService) -> None:
    async def scene() -> list[Reply]:
        async with Connection.to(shared.service.port) as one:
            bodies = [UPDATE, b"{", padded(20_000), UPDATE]
            await one.send(
                b"".join(request_bytes("POST", SNAPSHOTS, body) for body in bodies) + request_bytes("GET", SNAPSHOTS)
            )
            return [await one.read_reply() for _ in range(5)]

    replies = shared.run(scene())
    assert [reply.status for reply in replies] == [201, 400, 413, 201, 200]
    ids = [one["id"] for one in replies[4].body["data"]]
    assert replies[0].body["data"]["id"] in ids
    assert ids[0] == replies[3].body["data"]["id"]


@pytest.mark.parametrize(("body", "status"), [(UPDATE, 201), (b"{", 400)])
def test_a_client_that_expects_100_continue_gets_it_before_the_response(
    shared: SharedService, body: bytes, status: int
) -> None:
    async def scene() -> tuple[Reply, Reply]:
        async with Connection.to(shared.service.port) as one:
            await one.send(request_bytes("POST", SNAPSHOTS, body, Expect="100-continue")[: -len(body)])
            first = await one.read_reply()
            await one.send(body)
            return first, await one.read_reply()

    first, second = shared.run(scene())
    assert (first.status, second.status) == (100, status)
