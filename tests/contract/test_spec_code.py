"""The code of docs/spec.md works as its comments describe.

Its JavaScript is unchanged in tests/js/spec-*.js, one file for each block, and runs with the official client; only the
address of the server is replaced, and the time between heartbeats shortened.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import FOLDER, run_node
from tests.support.service import Database, Service
from tests.support.spec_examples import AMOUNTS, UPDATE, check_timestamp

WAIT_S = 10.0

SPEC_ADDRESS = "http://148.251.66.154:3000"
# Logs as lines of JSON, so that a test can read them.
LOG_AS_JSON = "console.log = console.error = (...words) => process.stdout.write(JSON.stringify(words) + '\\n');\n"
CONNECT = f"const socket = require('socket.io-client')('{SPEC_ADDRESS}', {{ path: '/api/socket.io' }});\n"


def spec_code(name: str) -> str:
    """Return a block of code of docs/spec.md."""
    return (FOLDER / f"spec-{name}.js").read_text()


@asynccontextmanager
async def run_code(code: str, service: Service, folder: Path) -> AsyncIterator[AsyncIterator[list[Any]]]:
    """Run JavaScript that uses the address of docs/spec.md with the official client; yield what it logs."""
    script = folder / "spec.js"
    script.write_text(LOG_AS_JSON + replace_once(code, SPEC_ADDRESS, service.url))
    async with run_node(script) as process:
        assert process.stdout is not None
        yield (json.loads(line) async for line in process.stdout)


def replace_once(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in: {text}"
    return text.replace(old, new)


async def take(logged: AsyncIterator[list[Any]], count: int) -> list[list[Any]]:
    """Wait for the next `count` lines of the log."""
    async with asyncio.timeout(WAIT_S):
        return [await anext(logged) for _ in range(count)]


@pytest.mark.parametrize("transports", ["", "websocket", "polling"], ids=["both", "websocket", "polling"])
async def test_the_quick_start_saves_and_receives_its_own_snapshot(
    transports: str, service: Service, database: Database, tmp_path: Path
) -> None:
    code = spec_code("quick-start")
    if transports:
        path = "path: '/api/socket.io'"
        code = replace_once(code, path, f"{path}, transports: ['{transports}']")
        code += "socket.on('balance:snapshot', () => console.log(socket.io.engine.transport.name));\n"
    async with run_code(code, service, tmp_path) as logged:
        (connected,), (saved, ack), (seen, snapshot) = await take(logged, 3)
        if transports:
            assert await take(logged, 1) == [[transports]]
    assert (connected, saved, seen) == ("Connected!", "Balance saved:", "New snapshot received:")
    assert ack == {"success": True, "id": ack["id"], "timestamp": snapshot["ts"]}
    assert snapshot == {"id": ack["id"], "seq": 1, "ts": ack["timestamp"], "pid": snapshot["pid"], **AMOUNTS}
    check_timestamp(ack["timestamp"])
    (row,) = database.rows()
    assert (str(row["id"]), row["pid"]) == (ack["id"], snapshot["pid"])


async def test_the_code_of_each_event_gets_what_its_comment_describes(service: Service, tmp_path: Path) -> None:
    code = CONNECT + spec_code("events")
    negative = json.dumps({**UPDATE, "onsite": {"rlb": -1, "usd": 0}})
    code += f"socket.once('balance:ack', () => socket.emit('balance:update', {negative}));\n"
    async with run_code(code, service, tmp_path) as logged:
        printed = await take(logged, 7)
    (message,), (socket_id,), (timestamp,) = (words for words in printed if len(words) == 1)
    assert message == "Connected to balance snapshot server"
    assert socket_id
    check_timestamp(timestamp)
    received = {words[0]: words[1] for words in printed if len(words) == 2}
    assert set(received) == {"Pong received:", "Acknowledged:", "New snapshot:", "Error:"}
    check_timestamp(received["Pong received:"])
    id_ = received["Acknowledged:"]["id"]
    assert received["Acknowledged:"] == {"success": True, "id": id_, "timestamp": "2025-11-07T00:45:08.603Z"}
    assert received["New snapshot:"] == {"id": id_, "seq": 1, **UPDATE}
    assert received["Error:"] == {
        "success": False,
        "error": "onsite.rlb: must be at least 0",
        "code": "invalid_payload",
    }


async def test_the_code_of_the_heartbeat_receives_each_pong(service: Service, tmp_path: Path) -> None:
    code = CONNECT + replace_once(spec_code("heartbeat"), "30000", "20")
    async with run_code(code, service, tmp_path) as logged:
        for words, timestamp in await take(logged, 2):
            assert words == "Server is alive:"
            check_timestamp(timestamp)


async def test_the_official_clients_acknowledgement_callback_is_called_too(service: Service, tmp_path: Path) -> None:
    update = json.dumps(UPDATE)
    code = CONNECT + f"socket.emit('balance:update', {update}, (answer) => console.log('callback', answer));\n"
    code += "socket.emit('balance:update', 7, (answer) => console.log('callback', answer));\n"
    code += "socket.emit('ping', (answer) => console.log('callback', answer));\n"
    async with run_code(code, service, tmp_path) as logged:
        answers = [answer for _, answer in await take(logged, 3)]
    assert sorted(map(len, answers)) == [1, 3, 3]
    (saved,) = (answer for answer in answers if answer.get("success"))
    assert saved == {"success": True, "id": saved["id"], "timestamp": "2025-11-07T00:45:08.603Z"}
    assert {"success": False, "error": "payload: must be an object, not a number", "code": "invalid_payload"} in answers
    (pong,) = (answer for answer in answers if "success" not in answer)
    check_timestamp(pong["timestamp"])
