"""A request that is not HTTP/1.1 is answered with a JSON error, and its client can read the response.

Byte for byte over real sockets, and with the clients that people have: curl, http.client, and senders like urllib3.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders

import protocol
from balance.web.http_connection import HEAD_BYTES_MAX
from balance.web.request_stream import FIRST_BYTES
from tests.support.http_client import Connection, Reply
from tests.support.malformed import BODY_MAX, CHUNKED, HOST, HOST_SHAPE, LINE, MALFORMED, ONE_SPACE, POST, UPDATE, get
from tests.support.service import SNAPSHOTS, MakeService, Service
from tests.support.shared_service import SharedService, shared_service
from tests.support.waiting import until

CURL = shutil.which("curl")


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    with shared_service(postgres, template) as one:
        yield one


def parse(answer: bytes) -> Reply:
    """Parse the only response on a connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line, _, lines = head.decode("latin1").partition("\r\n")
    return Reply(int(line.split()[1]), HTTPHeaders.parse(lines), body)


async def last_answer(port: int, data: bytes) -> bytes:
    """Send bytes, and read until the server closes; the response must come although the client continues to send."""
    async with Connection.to(port) as one:
        await one.send(data)
        return await one.read_rest()


async def swept_answer(service: Service, data: bytes) -> bytes:
    """Send bytes, and read until the server closes; sweep all the time, as soon as any bytes have arrived."""
    http = service.app._http

    def has_begun() -> bool:
        requests = [awaited.exchange for awaited in http._awaited.values()]
        return any(one.stream and (one.stream._read_buffer_size or one._request_start_line) for one in requests)

    answer = asyncio.ensure_future(last_answer(service.port, data))
    await until(lambda: has_begun() or answer.done())
    while not answer.done():
        assert http._sweep_timer
        http._sweep_timer.cancel()
        http._sweep()  # which the service does once a second
        await asyncio.wait([answer], timeout=0.02)
    return await answer


def check_rejection(reply: Reply, status: int, error: str) -> None:
    code = {400: "invalid_payload", 408: "request_timeout", 413: "payload_too_large", 431: "headers_too_large"}[status]
    assert (reply.status, reply.body) == (status, {"success": False, "error": error, "code": code})
    assert ("Retry-After" in reply.headers) == protocol.ERRORS[code].temporary
    protocol.check("error_reply", reply.body)
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Connection"] == "close"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Content-Length"] == str(len(reply.raw))


@pytest.mark.parametrize("name", MALFORMED)
def test_bytes_that_are_not_http_get_an_error_and_a_closed_connection(shared: SharedService, name: str) -> None:
    data, status, error = MALFORMED[name]
    before = shared.stored()
    for _ in range(2):  # as often as they come
        check_rejection(parse(shared.run(last_answer(shared.service.port, data))), status, error)
    assert shared.stored() == before
    assert not shared.noise.records
    assert shared.ask("GET", f"{SNAPSHOTS}?limit=1").status == 200, "the next client is served"


@pytest.mark.parametrize("method", [b"HEAD", b"OPTIONS", b"DELETE"])
def test_every_method_gets_the_status_and_head_gets_no_body(shared: SharedService, method: bytes) -> None:
    reply = parse(shared.run(last_answer(shared.service.port, get(b"Host: a b\r\n", method=method))))
    assert reply.status == 400
    assert reply.headers["Access-Control-Allow-Origin"] == "*", "a page that may not read an error cannot act on it"
    if method == b"HEAD":
        assert (reply.raw, int(reply.headers["Content-Length"]) > 0) == (b"", True)
    else:
        check_rejection(reply, 400, f"Host: {HOST_SHAPE}")


def test_a_rejected_preflight_has_a_reason(shared: SharedService) -> None:
    data = get(b"Origin: http://localhost\r\nAccess-Control-Request-Method: POST\r\n", method=b"OPTIONS")
    reply = parse(shared.run(last_answer(shared.service.port, data)))
    check_rejection(reply, 400, "Host: is required (RFC 9112, section 3.2)")


def test_a_head_of_16_kib_is_served(shared: SharedService) -> None:
    bare = get(HOST + b"X: \r\n", target=SNAPSHOTS.encode() + b"?limit=1")
    data = bare.replace(b"X: ", b"X: " + b"a" * (HEAD_BYTES_MAX - len(bare)))
    assert len(data) == HEAD_BYTES_MAX
    assert shared.exchange(data).status == 200


@pytest.mark.parametrize("first", [byte for byte in range(256) if byte not in FIRST_BYTES and byte != 0x16])
def test_a_byte_that_cannot_begin_a_request_is_answered_at_once(shared: SharedService, first: int) -> None:
    check_rejection(parse(shared.run(last_answer(shared.service.port, bytes([first])))), 400, f"{LINE}: {ONE_SPACE}")


def test_a_client_that_speaks_tls_is_closed_at_once(shared: SharedService) -> None:
    assert shared.run(last_answer(shared.service.port, b"\x16\x03\x01\x02\x00\x01\x00")) == b""


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["-k", "https://{}/api/balance/snapshot"], ""),
        (["--http2-prior-knowledge", "http://{}/api/balance/snapshot"], ""),
        (["-x", "http://{}", "https://x.internal/"], ""),
        (["-H", "Host:", "http://{}/api/balance/snapshot"], '{"success":false,"error":"Host: is required (RFC 9112'),
        (["-H", "X: " + "a" * 20_000, "http://{}/api/docs"], '{"success":false,"error":"head: must be at most 16384'),
        (
            ["-H", "Expect:", "--data-binary", "@{file}", "http://{}/api/balance/snapshot"],
            '{"success":false,"error":"Content-Length: must be at m',
        ),
        (
            ["-H", "Content-Type: application/json", "--data-binary", "@{file}", "http://{}/api/balance/snapshot"],
            '{"success":false,"error":"payload: is larger than 16384',
        ),
    ],
    ids=["https", "http2", "tunnel", "no host", "large head", "large body", "awaited body"],
)
def test_curl_gets_a_response_at_once(shared: SharedService, tmp_path, arguments: list[str], printed: str) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "body"
    if "@{file}" in arguments:
        with file.open("wb") as body:
            body.truncate(BODY_MAX + 1_000_000)
    address = f"127.0.0.1:{shared.service.port}"
    words = [word.replace("{}", address).replace("{file}", str(file)) for word in arguments]

    async def scene() -> tuple[bytes, bytes]:
        process = await asyncio.create_subprocess_exec(
            str(CURL), "-sS", "--max-time", "10", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        return await process.communicate()

    stdout, stderr = shared.run(scene())
    assert stdout.decode().startswith(printed)
    assert bool(stdout) == bool(printed)
    assert b"timed out" not in stderr
    assert printed or stderr


async def test_a_client_that_sends_a_large_body_first_reads_the_error(service: Service) -> None:
    """As http.client does, and all that uses it: it sends the whole body before it reads the response."""

    def send(method: str, size: int, sent: int) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=15)) as connection:
            connection.putrequest(method, SNAPSHOTS)
            connection.putheader("Content-Length", str(size))
            connection.endheaders()
            for _ in range(sent // 65_536):
                connection.send(b"x" * 65_536)
            with connection.getresponse() as answer:
                return answer.status, answer.read()

    status, body = await asyncio.to_thread(send, "POST", BODY_MAX + 1, 32 * 1024 * 1024)
    assert (status, protocol.loads(body)["code"]) == (413, "payload_too_large")
    status, body = await asyncio.to_thread(send, "BREW", 8 * 1024 * 1024, 8 * 1024 * 1024)
    assert (status, protocol.loads(body)["code"]) == (405, "method_not_allowed")
    await until(lambda: not service.app._http._closer._tasks)


async def test_a_client_that_never_stops_sending_is_disconnected(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balance.web.lingering_close.LINGER_S", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"nonsense\r\n\r\n")
    async with asyncio.timeout(15):
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        with suppress(OSError):  # until the connection is reset
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
    writer.close()


async def test_a_stop_does_not_wait_for_clients_that_were_rejected(make_service: MakeService) -> None:
    service = await make_service()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"nonsense\r\n\r\n")
    async with asyncio.timeout(15):
        await reader.read()
    assert service.app._http._closer._tasks, "it waits for the client to close"
    async with asyncio.timeout(3):
        await service.stop()
    assert not service.app._http._closer._tasks
    writer.close()


@pytest.mark.parametrize(
    ("begun", "error"),
    [
        (b"G", "head: did not arrive in time"),
        (b"\r\n", "head: did not arrive in time"),
        (get()[:-1], "head: did not arrive in time"),
        (POST + b"Content-Length: 9\r\n\r\n1234", "payload: did not arrive in time"),
        (CHUNKED + b"5\r\n12", "payload: did not arrive in time"),
    ],
    ids=["one byte", "an empty line", "a head", "a body", "a chunk"],
)
async def test_a_request_that_does_not_arrive_is_answered_408(service: Service, begun: bytes, error: str) -> None:
    http = service.app._http
    http.head_s_max, http.body_s_max = (0.0, 30.0) if error.startswith("head") else (30.0, 0.0)
    reply = parse(await swept_answer(service, begun))
    check_rejection(reply, 408, error)


async def test_an_expected_continue_comes_only_for_a_body_that_will_be_read(service: Service) -> None:
    expecting = POST + b"Expect: 100-Continue\r\n"
    async with Connection.to(service.port) as one:
        await one.send(expecting + b"Content-Length: %d\r\n\r\n" % len(UPDATE))
        assert (await one.read_reply()).status == 100
        await one.send(UPDATE)
        assert (await one.read_reply()).status == 201
    refused = parse(await last_answer(service.port, expecting + b"Content-Length: %d\r\n\r\n" % (BODY_MAX + 1)))
    assert refused.status == 413
    old = expecting.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Content-Length: %d\r\n\r\n" % len(UPDATE) + UPDATE
    assert parse(await last_answer(service.port, old)).status == 201


@pytest.mark.parametrize("version", [b"HTTP/1.2", b"HTTP/1.9"])
def test_a_later_version_of_http_1_is_served_as_1_1(shared: SharedService, version: bytes) -> None:
    chunked = CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(UPDATE), UPDATE)

    async def scene() -> list[int]:
        async with Connection.to(shared.service.port) as one:
            await one.send((get() + chunked + get()).replace(b"HTTP/1.1", version))
            return [(await one.read_reply()).status for _ in range(3)]

    assert shared.run(scene()) == [200, 201, 200]


@pytest.mark.parametrize(
    "body",
    [
        b"%x;name=value\r\n%s\r\n0;last\r\n\r\n" % (len(UPDATE), UPDATE),
        b'%X ; a="b;\\"c" ;d\r\n%s\r\n000\r\n\r\n' % (len(UPDATE), UPDATE),
        b"%x\r\n%s\r\n0\r\nX-Checksum: 1\r\nExpires: \xe9\r\n\r\n" % (len(UPDATE), UPDATE),
        b"".join(b"1;%d\r\n%c\r\n" % (at, byte) for at, byte in enumerate(UPDATE)) + b"0\r\nA: b\r\n\r\n",
    ],
    ids=["extension", "quoted extension", "trailers", "one byte each"],
)
def test_chunk_extensions_and_trailers_are_read_and_ignored(shared: SharedService, body: bytes) -> None:
    async def scene() -> list[int]:
        async with Connection.to(shared.service.port) as one:
            await one.send((CHUNKED + body) * 2 + get(target=b"/nope"))
            return [(await one.read_reply()).status for _ in range(3)]

    assert shared.run(scene()) == [201, 201, 404], "each request ends where it should"


def test_a_trailer_is_not_a_header(shared: SharedService) -> None:
    body = b"%x\r\n%s\r\n0\r\nContent-Type: text/plain\r\nOrigin: http://evil.example\r\nHost: a b\r\n\r\n"
    assert shared.exchange(CHUNKED + body % (len(UPDATE), UPDATE)).status == 201


def test_a_bug_in_a_delegate_is_answered_500_and_logged_once(
    shared: SharedService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("balance.web.save.is_save", fail)
    with caplog.at_level(logging.CRITICAL, "balance.web"):
        reply = parse(shared.run(last_answer(shared.service.port, get())))
    assert (reply.status, reply.body["code"]) == (500, "internal_error")
    assert len(shared.noise.records) == 0


@settings(max_examples=60)
@given(st.data())
def test_no_bytes_leave_a_connection_unanswered_or_break_the_next(shared: SharedService, data: st.DataObject) -> None:
    sent = data.draw(
        st.one_of(
            st.binary(min_size=1, max_size=300),
            st.tuples(st.sampled_from([data for data, _, _ in MALFORMED.values()]), st.binary(max_size=20)).map(
                b"".join
            ),
            st.lists(
                st.sampled_from([b"GET / HTTP/1.1", b"\r\n", b"\n", b":", b" ", b"Host: x", b"\0", b"0", b";"])
            ).map(b"".join),
        )
    )

    http = shared.service.app._http
    http.head_s_max = http.body_s_max = 0.0
    answer = shared.run(swept_answer(shared.service, sent or b"x"))
    assert answer.startswith(b"HTTP/1.1 ") or sent[:1] == b"\x16"
    http.head_s_max = http.body_s_max = 30.0
    assert not shared.noise.records
    assert shared.ask("GET", f"{SNAPSHOTS}?limit=1").status == 200
