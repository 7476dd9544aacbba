"""The log of a running server: a line for every entry, ids that come back, and no secret anywhere."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from protocol.operations import CONTRACT, DOCS, FEED, LATEST, STREAM
from tests.support.http_client import Connection, Reply, request
from tests.support.malformed import MALFORMED
from tests.support.raw_clients import PollingClient, Refused, SocketClient
from tests.support.repository import ROOT
from tests.support.service import SNAPSHOTS, Database, Process, Processes
from tests.support.waiting import until

# Each has a mark, by which it is found in any text.
PASSWORD, TOKEN, TICKET, AMOUNT = "hunter2marked", "XyZmarked0123456789abc", "ticketMarked77", "7349.812700459"
BEARER = f"bal_writer_{TOKEN}_a1b2c3"
SECRETS = (PASSWORD, TOKEN, TICKET, AMOUNT)
UPDATE = b'{"onchain":{"rlb":%b,"usdt":2},"onsite":{"rlb":3,"usd":4}}' % AMOUNT.encode()
BAD_UPDATE = b'{"onchain":{"rlb":-%b,"usdt":2},"onsite":{"rlb":3,"usd":4}}' % AMOUNT.encode()
NOT_JSON = b'{"onchain":{"rlb":%b' % AMOUNT.encode()
EVERY_LINE = "--log-requests-per-s=10000"


def start(processes: Processes, database: Database, folder: Path, *arguments: str, level: str = "debug") -> Process:
    """Start a server whose database has a password, which is in a file."""
    (folder / "url").write_text(make_conninfo(database.url, password=PASSWORD))
    more = {"DATABASE_URL_FILE": str(folder / "url"), "BALANCE_LOG_LEVEL": level}
    # The contract watcher logs what is against the contract, with the payload.
    return processes("--port=0", *arguments, script="server.py", **more)


def lines_of(process: Process, operation: str) -> list[dict[str, Any]]:
    """Return the lines of an operation; the log is JSON."""
    fields = [json.loads(line) for line in process.stderr]
    return [one for one in fields if one.get("operation") == operation]


async def ask(url: str, method: str, target: str, body: bytes | None = None) -> Reply:
    headers = {"Authorization": f"Bearer {BEARER}", "Cookie": f"session={TOKEN}"}
    return await request(url, method, target, body, **headers)


async def call_all_entries(url: str) -> list[str]:
    """Send good and bad requests with marked secrets to every entry; return the bodies of all errors."""
    replies = [
        await ask(url, method, target, body)
        for method, target, body in [
            ("POST", SNAPSHOTS, UPDATE),
            ("POST", f"{SNAPSHOTS}?ticket={TICKET}", BAD_UPDATE),
            ("POST", SNAPSHOTS, NOT_JSON),
            ("POST", SNAPSHOTS, UPDATE + b" " * 20_000),
            *[
                ("GET", f"{path}?ticket={TICKET}&unknown", None)
                for path in (SNAPSHOTS, f"{SNAPSHOTS}/unknown", FEED, LATEST, STREAM, CONTRACT, DOCS, "/unknown")
            ],
            ("GET", f"{STREAM}?last_event_id={TICKET}", None),
            ("GET", f"/api/balance/connections?ticket={TICKET}", None),
            ("PUT", SNAPSHOTS, UPDATE),
            ("HEAD", f"{SNAPSHOTS}?limit=1", None),
            ("GET", f"/api/socket.io/?EIO=3&transport=polling&ticket={TICKET}", None),
            ("POST", "/api/socket.io/?EIO=4&transport=polling&sid=unknown", UPDATE),
        ]
    ]
    port = urlsplit(url).port or 0
    for raw, _, _ in list(MALFORMED.values())[:5]:
        head = b"Authorization: Bearer " + BEARER.encode() + b"\r\n"
        async with Connection.to(port) as connection:
            await connection.send(raw.replace(b"\r\n", b"\r\n" + head, 1))
            replies.append(await connection.read_reply())
    bodies = [reply.raw.decode() for reply in replies if reply.status >= 400]
    for kind in (SocketClient, PollingClient):
        with pytest.raises(Refused) as refused:
            await kind.connect(url, {"token": BEARER, "after": AMOUNT})
        bodies.append(str(refused.value.payload))
        client = await kind.connect(url, None)
        for update in (UPDATE, BAD_UPDATE):
            answer = await client.call("balance:update", json.loads(update))
            bodies.append(str(answer))
        await client.send_raw(f'42["balance:update",{NOT_JSON.decode()}')
        bodies.append(str(await client.next_frame()))
        await client.call("ping", {"token": BEARER})
        await client.close()
    return bodies


async def fail_in_the_database(database: Database, url: str) -> str:
    """Have the database refuse a row with an error that contains the row; return the answer to its update."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("ALTER TABLE balance_snapshot ADD CONSTRAINT ours CHECK (seq < 0) NOT VALID")
    return (await ask(url, "POST", SNAPSHOTS, UPDATE)).raw.decode()


def command_line(process: Process) -> str:
    """Return what a list of processes shows of a process, where that can be read."""
    path = Path(f"/proc/{process.pid}/cmdline")
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_secret_is_in_any_output_or_error(
    processes: Processes, database: Database, tmp_path: Path, form: str
) -> None:
    process = start(processes, database, tmp_path, EVERY_LINE, f"--log-format={form}")
    url = await asyncio.to_thread(process.url)
    bodies = await call_all_entries(url)
    bodies.append(await fail_in_the_database(database, url))
    arguments = command_line(process)
    assert await asyncio.to_thread(process.terminate) == 0
    output = [*process.stdout, *process.stderr, *bodies, arguments]
    assert len(process.stderr) > 30, "every entry has a line"
    assert any("balance_snapshot" in line for line in process.stderr), "the fault of the database is logged"
    assert not [text for text in output for secret in SECRETS if secret in text]


async def test_every_entry_has_a_line_with_the_same_fields(
    processes: Processes, database: Database, tmp_path: Path
) -> None:
    process = start(processes, database, tmp_path, EVERY_LINE, "--log-format=json", level="info")
    url = await asyncio.to_thread(process.url)
    await call_all_entries(url)
    async with Connection.to(urlsplit(url).port or 0) as stream:
        await stream.send(f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: stream-1\r\n\r\n".encode())
        await until(lambda: "stream-1" in [one["request_id"] for one in lines_of(process, f"GET {STREAM}")])
    await until(lambda: bool(lines_of(process, "stream end")))
    assert await asyncio.to_thread(process.terminate) == 0
    codes = {
        operation: [one["code"] for one in lines_of(process, operation)]
        for operation in (f"POST {SNAPSHOTS}", "balance:update", "connect", "packet", "ping", "GET /unknown")
    }
    assert codes == {
        f"POST {SNAPSHOTS}": ["ok", "invalid_payload", "malformed_json", "payload_too_large"],
        "balance:update": ["ok", "invalid_payload"] * 2,
        "connect": ["invalid_payload", "ok"] * 2,
        "packet": ["malformed_json"] * 2,
        "ping": ["ok"] * 2,
        "GET /unknown": ["not_found"],
    }
    assert len(lines_of(process, "disconnect")) == 2
    assert len(lines_of(process, "unreadable request")) == 5
    (end,) = [one for one in lines_of(process, "stream end") if one["request_id"] == "stream-1"]
    (saved, *_) = lines_of(process, f"POST {SNAPSHOTS}")
    assert saved["status"] == 201
    assert {"time", "level", "logger", "message", "code", "duration_ms", "client", "request_id"} <= saved.keys()
    assert {"status", "trace_id", "caller"}.isdisjoint(end)
    assert end["client"] == "127.0.0.1"
    events = {one["request_id"] for name in ("connect", "ping", "disconnect") for one in lines_of(process, name)}
    assert len(events) == 4, "each event has the id of the handshake of its client"


async def test_ids_of_a_request_come_back_and_are_in_its_line(
    processes: Processes, database: Database, tmp_path: Path
) -> None:
    process = start(processes, database, tmp_path, "--log-format=json", level="info")
    url = await asyncio.to_thread(process.url)
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"X-Request-Id": "one.request", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    for method, target, body, status in (
        ("POST", SNAPSHOTS, UPDATE, 201),
        ("GET", f"{SNAPSHOTS}?limit=1", None, 200),
        ("GET", "/unknown", None, 404),
    ):
        reply = await request(url, method, target, body, **headers)
        operation = f"{method} {target.partition('?')[0]}"
        await until(lambda operation=operation: bool(lines_of(process, operation)))  # type: ignore[misc]
        (line,) = lines_of(process, operation)
        assert (reply.status, line["status"]) == (status, status)
        assert reply.headers["X-Request-Id"] == line["request_id"] == "one.request"
        assert reply.headers["Traceparent"] == f"00-{trace}-{line['span_id']}-01"
        assert line["trace_id"] == trace
    async with Connection.to(urlsplit(url).port or 0) as connection:
        await connection.send(b"GET / HTTP/9.0\r\nHost: x\r\n\r\n")
        assert (await connection.read_reply()).headers["X-Request-Id"]
    assert await asyncio.to_thread(process.terminate) == 0


async def test_a_flood_of_saves_has_few_lines_and_its_failures_are_among_them(
    processes: Processes, database: Database, tmp_path: Path
) -> None:
    process = start(processes, database, tmp_path, "--log-format=json", level="info")
    client = await SocketClient.connect(await asyncio.to_thread(process.url))
    for _ in range(3):
        await asyncio.gather(*[client.call("balance:update", json.loads(UPDATE)) for _ in range(200)])
    await client.call("balance:update", {})
    await client.close()
    assert await asyncio.to_thread(process.terminate) == 0
    fields = [one for one in map(json.loads, process.stderr) if one["logger"] == "balance.request"]
    assert sum(one.get("omitted", 1) for one in fields) == 603, "each is a line, or is counted in one"
    seconds = {one["time"][:19] for one in fields}
    assert len(fields) <= 11 * (len(seconds) + 1)
    assert [one for one in fields if one.get("code") == "invalid_payload"]


async def test_a_reader_of_the_log_that_stops_does_not_stop_the_service(
    processes: Processes, database: Database, tmp_path: Path
) -> None:
    """The log is far more than a pipe holds, and nobody reads it until the end."""
    reader, writer = tmp_path / "release", tmp_path / "log"
    script = tmp_path / "server.sh"
    command = f"(while [ ! -e {reader} ]; do sleep 0.1; done; cat >{writer})"
    script.write_text(f'#!/bin/bash\nexec "$PYTHON" "$SERVER" "$@" 2> >{command}\n')
    script.chmod(0o755)
    process = processes(
        "--port=0",
        "--log-format=json",
        EVERY_LINE,
        program=str(script),
        PYTHON=sys.executable,
        SERVER=str(ROOT / "server.py"),
        DATABASE_URL=database.url,
        BALANCE_LOG_LEVEL="info",
    )
    client = await SocketClient.connect(await asyncio.to_thread(process.url))
    for _ in range(10):
        await asyncio.gather(*[client.call("balance:update", json.loads(UPDATE)) for _ in range(200)])
    await client.close()
    reader.touch()
    assert await asyncio.to_thread(process.terminate) == 0
    await until(lambda: writer.exists() and "dropped" in writer.read_text())
    assert database.count() == 2_000
