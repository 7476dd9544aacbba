"""The service under test: in this process (`Service`) or as a process of its own (`Process`)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
from tornado.netutil import bind_sockets

import protocol
from balance.app import App
from balance.commands.serve import base_url, read_certificate
from balance.config import Config
from tests.support.contract import AGAINST
from tests.support.http_client import Reply, request
from tests.support.repository import ROOT

SNAPSHOTS = "/api/balance/snapshot"
START_S_MAX = 60
REFUSED_S_MAX = 10.0  # most of it is Python's own start, on a machine that other processes use too


class Database:
    """A database, and queries of its content."""

    def __init__(self, url: str) -> None:
        self.url = url

    def rows(self, sql: str = "SELECT * FROM balance_snapshot ORDER BY seq", *parameters: Any) -> list[dict[str, Any]]:
        """Run one statement and return its rows; amounts are exact to the last digit."""
        with psycopg.connect(self.url, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
            psycopg.types.json.set_json_loads(protocol.loads, connection)
            cursor = connection.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def count(self) -> int:
        """Return how many snapshots are stored."""
        return int(self.rows("SELECT count(*) AS n FROM balance_snapshot")[0]["n"])

    def seqs(self) -> list[int]:
        """Return the `seq` of every snapshot stored, in order."""
        return [row["seq"] for row in self.rows("SELECT seq FROM balance_snapshot ORDER BY seq")]


class Service:
    """A service in this process, on a free loopback port."""

    def __init__(self, app: App, url: str, port: int) -> None:
        self.app = app
        self.port = port
        self.url = url
        self.certificate = app._config.tls_cert or None
        self._stopped = False

    @classmethod
    async def start(cls, **settings: Any) -> Service:
        config = Config(port=0, **settings)
        sockets = bind_sockets(0, "127.0.0.1")
        app = App(config, config.database_url, certificate=read_certificate(config))
        service = cls(app, base_url(config, sockets[0]), sockets[0].getsockname()[1])
        await app.start(sockets)
        return service

    async def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            await self.app.stop()

    async def request(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Send one HTTP request; `body` is bytes, or a value to be written as JSON."""
        return await request(self.url, method, path, body, ca_certs=self.certificate, **headers)

    async def post(self, update: Any) -> Reply:
        return await self.request("POST", SNAPSHOTS, update)

    async def get(self, query: str = "") -> Reply:
        return await self.request("GET", SNAPSHOTS + query)


class Process:
    """`python server.py …` as a process of its own, in a session of its own.

    The contract watcher checks it, unless `script` names server.py itself, or `program` another executable file.
    """

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BALANCE_", "DATABASE"))}
        script = str(ROOT / environment.pop("script", "tests/support/checked_server.py"))
        program = environment.pop("program", "")
        self._process = subprocess.Popen(
            [*([program] if program else [sys.executable, script]), *arguments],
            cwd=environment.pop("cwd", ROOT),
            env={"BALANCE_LOG_LEVEL": "warning", **inherited, **environment},  # tests of the log set another
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._listening = threading.Event()
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self.stdout), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, self.stderr), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))
            if line.startswith("listening on "):
                self._listening.set()
        self._listening.set()  # also at the end of the stream, after which it cannot listen any more
        stream.close()

    def url(self) -> str:
        """Wait until it listens; return its URL."""
        assert self._listening.wait(START_S_MAX), f"does not start: {self.stdout} {self.stderr}"
        found = re.search(r"listening on (\S+)", "\n".join(self.stdout))
        assert found, f"did not start: {self.stdout} {self.stderr}"
        return found[1]

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def complaints(self) -> list[str]:
        """Its stderr without the warning that PostgreSQL gets access to pytest's folders, which comes as root."""
        return [line for line in self.stderr if "balance.embedded.account" not in line]

    def terminate(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit status."""
        self.send_signal(number)
        return self.wait()

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended, which another thread may have waited for."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end; return the exit status."""
        status = self._process.wait(START_S_MAX)
        for reader in self._readers:
            reader.join(START_S_MAX)
        wrong = [line for line in self.stderr if AGAINST in line]
        assert not wrong, wrong
        return status

    def kill(self) -> None:
        """Kill it with SIGKILL if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self.wait()


MakeService = Callable[..., Awaitable[Service]]
Processes = Callable[..., Process]


def memory_kb(pid: int, line: str) -> int:
    """Read VmRSS (now) or VmHWM (the highest so far) of a process."""
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith(line):
            return int(text.split()[1])
    raise AssertionError(f"no {line}")


def check_start_refused(process: Process, *parts: str, secret: str = "hunter2") -> str:
    """Check that the start was refused in one line that has all the parts in it and no password; return the line."""
    began = time.monotonic()
    assert process.wait() == 1, (process.stdout, process.stderr)
    assert time.monotonic() - began < REFUSED_S_MAX
    assert process.stdout == []
    assert len(process.stderr) == 1, process.stderr
    assert process.stderr[0].startswith("server.py: ")
    for part in parts:
        assert part in process.stderr[0]
    assert secret not in process.stderr[0]
    check_group_is_gone(process)
    return process.stderr[0]


def is_group_alive(process: Process) -> bool:
    """Return whether anything that the process started in its session still runs."""
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def check_group_is_gone(process: Process) -> None:
    """Check that nothing that the process started in its session still runs."""
    assert not is_group_alive(process)
