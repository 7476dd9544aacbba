"""The service as a container runs it: process 1, a user without a name, a file system that cannot be written.

There is no container engine here: `unshare` gives the process the same name spaces.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.repository import ROOT
from tests.support.service import Database, Process, Processes
from tests.support.waiting import wait_until

NAMELESS = 54_321
# Becomes another user after the imports: that user may not be able to read the interpreter, which is not tested.
LAUNCHER = """
import os, sys
sys.path.insert(0, {root!r})
from balance import cli, entry
import balance.commands.serve, balance.storage.embedded, psycopg, psycopg_pool, flask_swagger_ui
uid = int(sys.argv.pop(1))
if uid:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
sys.argv[0] = "server.py"
sys.exit(entry.main())
"""


def can_unshare() -> bool:
    """Return whether this process may make name spaces of its own."""
    program = shutil.which("unshare")
    if program is None or os.geteuid() != 0:
        return False
    return subprocess.run([program, "-m", "-p", "-f", "--mount-proc", "true"], check=False, timeout=10).returncode == 0


pytestmark = pytest.mark.skipif(not can_unshare(), reason="name spaces need root and `unshare`")


@pytest.fixture
def contained(processes: Processes, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start the service as process 1 of name spaces of its own, on a read-only root; only `data` can be written."""
    (tmp_path / "data").mkdir()
    (tmp_path / "launcher.py").write_text(LAUNCHER.format(root=str(ROOT)))
    script = tmp_path / "contained.sh"
    python = f"{sys.executable} {tmp_path}/launcher.py"
    writable = f"mount --bind {tmp_path}/data {tmp_path}/data && mount -o remount,bind,ro /"
    run = f'exec unshare -m -p -f --kill-child --mount-proc sh -c \'{writable} && exec {python} "$@"\' sh "$@"'
    script.write_text(f"#!/bin/sh\n{run}\n")
    script.chmod(0o755)

    def start(uid: int, *flags: str, **environment: str) -> Process:
        return processes(str(uid), "--port", "0", *flags, program=str(script), **environment)

    yield start


def first(process: Process) -> int:
    """Return the process that is process 1 in the name space, by its number here."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: bool(children.read_text()))
    return int(children.read_text().split()[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_1_stops_at_a_signal_although_the_kernel_gives_it_no_default_action(
    contained: Callable[..., Process], database: Database, number: signal.Signals
) -> None:
    process = contained(0, DATABASE_URL=database.url)
    process.url()
    os.kill(first(process), number)
    assert process.wait() == 0
    assert process.complaints == []


def test_a_user_without_a_name_serves_from_a_read_only_root(
    contained: Callable[..., Process], database: Database, tmp_path: Path
) -> None:
    process = contained(NAMELESS, DATABASE_URL=database.url)
    process.url()
    status = Path(f"/proc/{first(process)}/status").read_text()
    assert f"Uid:\t{NAMELESS}" in status
    os.kill(first(process), signal.SIGTERM)
    assert process.wait() == 0
    assert process.complaints == []


def test_the_embedded_postgresql_of_a_user_without_a_name_is_refused_in_one_line(
    contained: Callable[..., Process], tmp_path: Path
) -> None:
    os.chown(tmp_path / "data", NAMELESS, NAMELESS)
    process = contained(NAMELESS, "--data-dir", str(tmp_path / "data"))
    assert process.wait() == 1
    assert process.stdout == []
    assert len(process.stderr) == 1
    assert f"initdb needs a name for user {NAMELESS}" in process.stderr[0]


def test_the_embedded_postgresql_of_process_1_works_on_a_read_only_root_and_ends_with_it(
    contained: Callable[..., Process], pristine: Path, tmp_path: Path
) -> None:
    subprocess.run(["cp", "-a", f"{pristine}/.", str(tmp_path / "data")], check=True)
    process = contained(0, "--data-dir", str(tmp_path / "data"))
    process.url()
    os.kill(first(process), signal.SIGTERM)
    assert process.wait() == 0
    assert not (tmp_path / "data" / "postgresql" / "postmaster.pid").exists()
