"""The embedded PostgreSQL of a data directory as other processes see it: its processes, and another user of it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from balance.storage.embedded import EmbeddedPostgres
from tests.support.repository import ROOT
from tests.support.waiting import wait_until

# The folder of the programs of another installation of PostgreSQL, for the tests of the service; the tests of the
# embedded PostgreSQL always use those of the wheel.
PROGRAMS = Path(os.environ["TEST_POSTGRES_PROGRAMS"]) if "TEST_POSTGRES_PROGRAMS" in os.environ else None
WAIT_S = 30
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")

# Prints the address of the server, and gives its share back when its input ends. It becomes another user only after
# the imports: that user may not be able to read the interpreter, which is not what is tested.
OWNER = """
import os, signal, sys
from pathlib import Path
from balance.storage.embedded import EmbeddedPostgres
if len(sys.argv) > 2:
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
signal.signal(signal.SIGINT, signal.SIG_IGN)
server = EmbeddedPostgres.start(Path(sys.argv[1]))
print(server.url, flush=True)
sys.stdin.read()
server.stop()
"""


class Owner:
    """Another process that uses the server, in a session of its own; root can run it as another user."""

    started: ClassVar[list[Owner]] = []

    def __init__(self, data: Path, *uid: int, **options: Any) -> None:
        self.started.append(self)
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-c", OWNER, str(data), *map(str, uid)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def url(self) -> str:
        """Wait for the server and return its address."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=WAIT_S)[1]
        return line.strip()

    def stop(self) -> None:
        """Let it give its share back and end."""
        _, error = self.process.communicate(timeout=WAIT_S)
        assert self.process.returncode == 0, error

    def kill(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=WAIT_S)


def start_postgres(data: Path) -> EmbeddedPostgres:
    """Start a PostgreSQL for tests of the service, with the programs of TEST_POSTGRES_PROGRAMS if that is set."""
    return EmbeddedPostgres.start(data, PROGRAMS)


def postmaster(data: Path) -> int:
    """Return the process id of the embedded PostgreSQL of a data directory."""
    return int((data / "postgresql" / "postmaster.pid").read_text().splitlines()[0])


def processes_of(data: Path) -> list[int]:
    """Return the process ids of PostgreSQL: the postmaster, which alone starts others, then its children."""
    pid = postmaster(data)
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def is_running(data: Path) -> bool:
    """Return whether PostgreSQL runs, by the lock that its processes inherit; an unreaped process has no lock."""
    with (data / "server.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def kill_server(data: Path) -> None:
    """Kill PostgreSQL and wait until all its processes have ended."""
    os.kill(postmaster(data), signal.SIGKILL)
    wait_until(lambda: not is_running(data))
