"""The official clients, each as a process of its own: python-socketio's, and JavaScript's by tests/js/ping.js."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.node import FOLDER, run_node

TALK = FOLDER / "ping.js"
TRANSPORTS = ("polling", "websocket", "polling,websocket")
SCRIPT = Path(__file__).parent / "socketio_client_script.py"
RUN_S_MAX = 30


async def run_socketio_client(
    url: str, transports: str, *more: str, python: str = sys.executable
) -> list[list[object]]:
    """Run the script and return the lines that it printed; nothing may come on stderr."""
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    process = await asyncio.create_subprocess_exec(
        python, SCRIPT, url, transports, *more, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    ended = asyncio.ensure_future(process.communicate())
    try:
        await asyncio.wait([ended], timeout=RUN_S_MAX)
    finally:
        if process.returncode is None:
            process.kill()
        out, err = await ended
    assert (process.returncode, err) == (0, b""), f"{transports} at {url}:\n{out.decode()}{err.decode()}"
    return [json.loads(line) for line in out.splitlines()]


def check_saved(lines: list[list[object]], transport: str) -> None:
    """Check that the client was connected, saved its update, and used this transport in the end."""
    payloads = {str(name): payload for name, payload in lines}
    assert set(payloads) == {"connected", "saved", "transport"}
    assert payloads["saved"]["success"] is True  # type: ignore[index]
    assert payloads["transport"] == transport


async def talk_javascript(url: str, transports: str, certificate: Path, path: str = "/api/socket.io") -> list[Any]:
    """Let the official JavaScript client connect and ping; return the events that it received."""
    trust = {"NODE_EXTRA_CA_CERTS": str(certificate), "no_proxy": "*"}
    async with run_node(TALK, "socket.io-client", url, transports, path, env=trust) as process, asyncio.timeout(30):
        output, errors = await process.communicate()
    assert not errors, errors.decode()
    return [json.loads(line)[0] for line in output.splitlines()]
