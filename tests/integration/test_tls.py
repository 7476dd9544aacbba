"""TLS by `--tls-cert` and `--tls-key`: every client, backlogs, ends, changed files, and clients that break it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from balance.web import tls
from tests.support.example_clients import ExampleProcess, run_program
from tests.support.node import node_modules
from tests.support.payloads import LARGE_UPDATE, UPDATE
from tests.support.proxies import make_certificate, program
from tests.support.raw_websocket import RawSocket, text_frame
from tests.support.service import SNAPSHOTS, Database, MakeService, Processes, Service, check_start_refused
from tests.support.socketio_clients import TRANSPORTS, check_saved, run_socketio_client, talk_javascript
from tests.support.sse import StreamClient
from tests.support.waiting import until

STREAM, FEED = "/api/balance/stream", "/api/balance/feed"
SMALL_BUFFER = 16_384


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Write a certificate with its key into one file."""
    return make_certificate(tmp_path)


@pytest.fixture
def trusting(certificate: Path) -> ssl.SSLContext:
    """Return the context of a client that trusts the certificate."""
    return ssl.create_default_context(cafile=str(certificate))


async def start(make_service: MakeService, certificate: Path, **settings: Any) -> Service:
    return await make_service(tls_cert=str(certificate), tls_key=str(certificate), **settings)


async def curl(certificate: Path, *arguments: str) -> bytes:
    """Run curl to its end, which must be a success; return what it printed."""
    command = (program("curl"), "-sS", "--noproxy", "*", "--cacert", str(certificate), *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b""), out
    return out


async def served_certificate(port: int) -> str:
    """Return the certificate that a new connection gets."""
    return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))


@pytest.mark.gen_test(timeout=90)
async def test_the_official_clients_work_by_tls(make_service: MakeService, certificate: Path) -> None:
    await asyncio.to_thread(node_modules)
    service = await start(make_service, certificate)
    address = f"https://localhost:{service.port}"
    for transports in TRANSPORTS:
        assert await talk_javascript(address, transports, certificate) == ["connect", "connected", "pong"]
        lines = await run_socketio_client(address, transports, str(certificate))
        check_saved(lines, transports.rpartition(",")[2])


async def test_curl_saves_lists_polls_and_follows_a_stream_to_its_end(
    make_service: MakeService, certificate: Path
) -> None:
    service = await start(make_service, certificate)
    post = ("-H", "Content-Type: application/json", "-d", json.dumps(UPDATE), service.url + SNAPSHOTS)
    polled = asyncio.ensure_future(curl(certificate, f"{service.url}{FEED}?after=now&wait=20"))
    command = (program("curl"), "-sSN", "--noproxy", "*", "--cacert", str(certificate), service.url + STREAM)
    async with run_program(*command, env={"no_proxy": "*"}) as process:
        stream = ExampleProcess(process)
        await stream.line("event: connected")
        await until(lambda: len(service.app._poll_limiter) == 1)
        assert json.loads(await curl(certificate, *post))["success"] is True
        await stream.line("event: balance:snapshot")
        assert [one["seq"] for one in json.loads(await polled)["data"]] == [1]
        assert json.loads(await curl(certificate, service.url + SNAPSHOTS))["pagination"]["total"] == 1
        await service.stop()
        assert await stream.end() == 0, "without the alert that ends TLS, curl ends with status 56"
        assert "event: bye" in stream.lines


async def test_clients_that_read_late_get_every_byte_in_order(
    make_service: MakeService, database: Database, certificate: Path, trusting: ssl.SSLContext
) -> None:
    service = await start(make_service, certificate)
    watcher = await RawSocket.join(service.url, tls=trusting)
    stream = await StreamClient.open(service.port, tls=trusting)
    await stream.expect("connected")
    (session,), (opened,) = service.app.server.eio.sessions.values(), service.app.streams._streams
    assert session.connection is not None
    for end in (session.connection.stream.socket, opened._stream.socket):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
    stream.stop_reading()
    sent = 0
    while not (session.send_queue.unsent_bytes > 200_000 and opened.unsent_bytes > 200_000):
        for _ in range(10):
            assert (await service.post(LARGE_UPDATE)).status == 201
        sent += 10
        await watcher.send(text_frame('42["ping"]') * 3)  # answers of another size, between the broadcasts
    stream.resume_reading()
    assert await stream.snapshots(sent) == list(range(1, sent + 1))
    seqs = []
    while len(seqs) < sent:
        message = json.loads((await watcher.next_message()).removeprefix("42"))
        if message[0] == "balance:snapshot":
            seqs.append(message[1]["seq"])
    assert seqs == list(range(1, sent + 1))
    await stream.close()
    await watcher.close()


async def test_many_updates_of_one_client_are_answered_in_order(
    make_service: MakeService, certificate: Path, trusting: ssl.SSLContext
) -> None:
    service = await start(make_service, certificate)
    client = await RawSocket.join(service.url, tls=trusting, read_ahead=2**22)
    frames = [
        text_frame(f'42{number}["balance:update",{json.dumps({**UPDATE, "pid": number})}]') for number in range(900)
    ]
    await client.send(b"".join(frames))
    answered: list[int] = []
    while len(answered) < len(frames):
        text = await client.next_message()
        if text.startswith("43"):
            answered.append(int(text[2 : text.index("[")]))
    assert answered == list(range(len(frames)))
    await client.close()


async def test_a_close_frame_is_read_by_a_client_that_breaks_the_protocol(
    make_service: MakeService, certificate: Path, trusting: ssl.SSLContext
) -> None:
    service = await start(make_service, certificate)
    client = await RawSocket.join(service.url, tls=trusting)
    await client.send(b"\xc1\x80\x01\x02\x03\x04" + text_frame('42["ping"]') * 500)
    code, _ = await client.read_close()
    assert code == 1002
    assert await client.read_end() == b""
    await client.close()


async def test_changed_files_are_used_for_new_connections(
    make_service: MakeService,
    certificate: Path,
    tmp_path: Path,
    trusting: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls, "CHECK_S", 0.02)
    service = await start(make_service, certificate)
    watcher = await RawSocket.join(service.url, tls=trusting)
    first = await served_certificate(service.port)
    (tmp_path / "other").mkdir()
    shutil.move(make_certificate(tmp_path / "other"), certificate)
    async with asyncio.timeout(15):
        while await served_certificate(service.port) == first:
            await asyncio.sleep(0.02)
    await watcher.send(text_frame('42["ping"]'))
    assert "pong" in await watcher.next_message()
    await watcher.close()


@pytest.mark.expects_log("the changed certificate is not used")
async def test_a_bad_new_pair_keeps_the_old_one_and_is_logged_once(
    make_service: MakeService,
    certificate: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls, "CHECK_S", 0.02)
    service = await start(make_service, certificate)
    first = await served_certificate(service.port)
    used = service.app._certificate
    assert used is not None
    context = used.context
    good = shutil.copy(certificate, tmp_path / "good.pem")
    shutil.move(shutil.copy(__file__, tmp_path / "bad.pem"), certificate)
    await until(lambda: "is not used" in caplog.text)
    await asyncio.sleep(0.2)  # several checks
    assert used.context is context
    assert await served_certificate(service.port) == first
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"the changed certificate is not used: --tls-cert, --tls-key: {certificate} and {certificate} are not a "
        "certificate and its key in PEM"
    ]
    shutil.move(good, certificate)
    await until(lambda: used.context is not context)


def missing_key(folder: Path, _cert: Path) -> tuple[Path, str]:
    return folder / "none.pem", "--tls-key: cannot read"


def unreadable_key(folder: Path, _cert: Path) -> tuple[Path, str]:
    return folder, "--tls-key: cannot read"


def key_of_another(folder: Path, _cert: Path) -> tuple[Path, str]:
    (folder / "other").mkdir()
    return make_certificate(folder / "other"), "is not the key of the certificate in"


def text_as_key(folder: Path, _cert: Path) -> tuple[Path, str]:
    (folder / "text").write_text("hunter2\n")
    return folder / "text", "are not a certificate and its key in PEM"


def encrypted_key(folder: Path, cert: Path) -> tuple[Path, str]:
    command = (
        program("openssl"),
        "pkey",
        "-in",
        cert,
        "-out",
        folder / "encrypted",
        "-aes256",
        "-passout",
        "pass:hunter2",
    )
    subprocess.run(command, check=True, timeout=30)
    return folder / "encrypted", "--tls-key: the key is encrypted"


def no_key(_folder: Path, _cert: Path) -> tuple[Path | None, str]:
    return None, "--tls-cert, --tls-key: one is given without the other"


@pytest.mark.parametrize("bad", [missing_key, unreadable_key, key_of_another, text_as_key, encrypted_key, no_key])
def test_a_start_with_files_that_cannot_be_used_is_refused_in_one_line(
    processes: Processes, certificate: Path, tmp_path: Path, bad: Callable[[Path, Path], tuple[Path | None, str]]
) -> None:
    key, reason = bad(tmp_path, certificate)
    flags = ("--tls-cert", str(certificate), *(("--tls-key", str(key)) if key else ()))
    check_start_refused(processes(*flags, "--port", "0", DATABASE_URL="postgresql://x:hunter2@127.0.0.1:1/x"), reason)


def test_the_start_line_has_the_address_with_https(processes: Processes, database: Database, certificate: Path) -> None:
    flags = ("--tls-cert", str(certificate), "--tls-key", str(certificate), "--port", "0")
    process = processes(*flags, DATABASE_URL=database.url)
    assert process.url().startswith("https://127.0.0.1:")
    assert process.terminate() == 0
    assert process.stdout[-1].endswith(f"documentation at {process.url()}/api/docs")
    assert process.complaints == []


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /api/docs HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400"),
        (b"\x16\x03\x01\x02\x00" + os.urandom(600), b""),
        (os.urandom(600), b""),
        (b"\x16\x03\x01", b""),
    ],
    ids=["plain HTTP", "a broken hello", "noise", "half a hello"],
)
async def test_what_is_not_tls_is_closed_and_not_logged(
    make_service: MakeService, certificate: Path, sent: bytes, status: bytes
) -> None:
    service = await start(make_service, certificate)
    service.app._http.head_s_max = 0.2
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(sent)
    received = b""
    async with asyncio.timeout(10):
        with suppress(ConnectionResetError):  # of a handshake that fails with bytes unread
            received = await reader.read()
    assert received.startswith(status)
    assert (b"use https://" in received) == bool(status)
    writer.close()
    await until(lambda: not service.app._http._connections)


async def test_a_client_without_tls_1_2_or_newer_is_refused(
    make_service: MakeService, certificate: Path, trusting: ssl.SSLContext
) -> None:
    service = await start(make_service, certificate)
    address = f"127.0.0.1:{service.port}"
    command = (program("openssl"), "s_client", "-connect", address, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"alert protocol version" in errors


async def test_a_handshake_that_stalls_delays_no_other_client(
    make_service: MakeService, certificate: Path, trusting: ssl.SSLContext
) -> None:
    service = await start(make_service, certificate)
    stalled = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(50)]
    for _, writer in stalled:
        writer.write(b"\x16\x03\x01")
    async with asyncio.timeout(5):
        watcher = await RawSocket.join(service.url, tls=trusting)
    await watcher.close()
    for _, writer in stalled:
        writer.close()


async def test_an_absolute_target_has_the_scheme_of_the_port(make_service: MakeService, certificate: Path) -> None:
    service = await start(make_service, certificate)
    target = ("--request-target", f"{service.url}{SNAPSHOTS}", f"{service.url}/elsewhere")
    assert json.loads(await curl(certificate, *target))["success"] is True
    target = ("--request-target", f"http://127.0.0.1{SNAPSHOTS}", service.url)
    assert "this port speaks TLS" in (await curl(certificate, *target)).decode()


def test_the_command_connections_reaches_a_server_with_tls(
    processes: Processes, database: Database, certificate: Path
) -> None:
    flags = ("--tls-cert", str(certificate), "--tls-key", str(certificate))
    server = processes("--port", "0", *flags, DATABASE_URL=database.url)
    port = server.url().rpartition(":")[2]
    command = processes("connections", "--json", "--port", port, *flags)
    assert command.wait() == 0, command.stderr
    assert json.loads("\n".join(command.stdout))["connections"] == []
    assert server.terminate() == 0
