"""The example clients as processes, and a TCP proxy between them and the server that can lose an answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.node import node, node_modules, run_node
from tests.support.repository import ROOT
from tests.support.waiting import until_one_ends

EXAMPLES = ROOT / "examples"
LANGUAGES = ("javascript", "python")
FOLLOWERS = {"follow.js": node, "follow.py": lambda: sys.executable, "follow.sh": lambda: "sh"}
"""The short clients, and the programs that run them."""
LINE_S_MAX = 15.0


class ExampleProcess:
    """A running example and the lines it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process, self._stdout, self._stderr = process, process.stdout, process.stderr
        self.lines: list[str] = []

    async def line(self, *parts: str) -> str:
        """Read up to the first line that contains all of `parts`, and return it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINE_S_MAX):
                async for raw in self._stdout:
                    self.lines.append(raw.decode().rstrip("\n"))
                    if all(part in self.lines[-1] for part in parts):
                        return self.lines[-1]
                raise AssertionError(f"ended without {parts}: {self.lines}, stderr: {await self._stderr.read()!r}")
        raise AssertionError(f"no line with {parts} within {LINE_S_MAX} s: {self.lines}")

    async def shows(self, seq: int) -> None:
        """Read up to the line with this snapshot."""
        while seq not in self.seqs:
            await self.line("{")

    async def kill(self) -> None:
        """Kill it with SIGKILL, with the programs that it runs, and read the rest of what it printed."""
        self._process.kill()
        with suppress(ProcessLookupError):  # it has a group only if `run_program` started it
            os.killpg(self._process.pid, signal.SIGKILL)
        self.lines += (await self._stdout.read()).decode().splitlines()
        await self._process.wait()

    async def end(self) -> int:
        """Read the rest of its output and return the exit status; stderr must be empty."""
        async with asyncio.timeout(LINE_S_MAX):
            self.lines += (await self._stdout.read()).decode().splitlines()
            assert await self._stderr.read() == b"", self.lines
            return await self._process.wait()

    async def end_refused(self) -> tuple[int, str]:
        """Wait until it ends by itself; return the exit status and its stderr."""
        async with asyncio.timeout(LINE_S_MAX):
            _, stderr = await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode, stderr.decode()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    @property
    def saved(self) -> list[str]:
        """The ids of the updates that it printed as saved."""
        return [line.split()[1] for line in self.lines if line.startswith("saved ")]

    @property
    def seqs(self) -> list[int]:
        """The `seq` of each snapshot that it printed, as JSON or as a line with JSON."""
        texts = [line.removeprefix("snapshot ") for line in self.lines]
        return [json.loads(text)["seq"] for text in texts if text.startswith("{")]


def state_folder(language: str, folder: Path) -> Path:
    """Return where `run_example` lets an example store its readings and its position."""
    return folder / f"{language}-state"


@asynccontextmanager
async def run_example(
    language: str, url: str, *args: str, before: str = "", folder: Path
) -> AsyncIterator[ExampleProcess]:
    """Run an example against the server at `url`; the code `before` runs first in its process.

    What it stores is in a folder of `folder`, so that the next run of that language with the same one goes on from it.
    """
    env = {"BALANCE_URL": url, "no_proxy": "127.0.0.1"}
    args = (*args, "--folder", str(state_folder(language, folder)))
    if language == "javascript":
        script = folder / "run.js"
        script.write_text(f"{before}\nrequire({json.dumps(str(EXAMPLES / 'balance-client.js'))});\n")
        async with run_node(script, *args, env=env) as process:
            yield ExampleProcess(process)
    else:
        script = folder / "run.py"
        path = str(EXAMPLES / "balance_client.py")
        script.write_text(f"{before}\nimport runpy\nrunpy.run_path({path!r}, run_name='__main__')\n")
        async with run_python(script, *args, env=env) as process:
            yield ExampleProcess(process)


@asynccontextmanager
async def run_follower(
    name: str, url: str, folder: Path, certificate: Path | None = None
) -> AsyncIterator[ExampleProcess]:
    """Run one of the short clients; those that store their position do so in `folder`."""
    env = {"BALANCE_URL": url, "NODE_PATH": str(node_modules()), "no_proxy": "*"}
    if certificate is not None:
        env |= dict.fromkeys(("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "CURL_CA_BUNDLE"), str(certificate))
    command = (str(FOLLOWERS[name]()), str(EXAMPLES / name), str(folder / f"{name}.position"))
    async with run_program(*command, env=env) as process:
        yield ExampleProcess(process)


@asynccontextmanager
async def run_python(script: Path, *args: str, env: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a script with the Python of the tests; kill it at the end if it still runs."""
    async with run_program(sys.executable, str(script), *args, env=env) as process:
        yield process


@asynccontextmanager
async def run_program(*command: str, env: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program in a process group of its own; kill the group at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


class TcpProxy:
    """A TCP proxy with a fixed address for a server that changes its own; it can lose an acknowledgement."""

    def __init__(self, lost_ack: int) -> None:
        """With `lost_ack` n, the n-th `balance:ack` and everything after it is not delivered."""
        self.url = ""
        self.lost = asyncio.Event()
        self._lost_ack = lost_ack
        self._acks = 0
        self._target: tuple[str | None, int | None] | None = None
        self._relays: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> TcpProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def connect_to(self, url: str) -> None:
        """Connect to this server from now on, and lose nothing more."""
        if self.lost.is_set():
            self.lost.clear()
            self._lost_ack = 0
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.ensure_future(self._relay(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        with suppress(OSError):
            try:
                if self._target is None:
                    return
                answers, requests = await asyncio.open_connection(*self._target)
                writers.append(requests)
                await until_one_ends(self._copy(reader, requests), self._copy(answers, writer, is_answer=True))
            finally:
                for one in writers:
                    one.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_answer: bool = False) -> None:
        while chunk := await reader.read(65536):
            if is_answer:
                self._acks += chunk.count(b'"balance:ack"')  # a server does not mask, and this one does not compress
                if self._lost_ack and self._acks >= self._lost_ack:
                    self.lost.set()
                    continue
            writer.write(chunk)
            await writer.drain()
