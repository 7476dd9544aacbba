"""The service as a container runs it: process 1, a user without a name, a file system that cannot be written.

There is no container engine here: `unshare` gives the process the same name spaces.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.repository import ROOT
from tests.support.service import Database, Process, Processes
from tests.support.waiting import wait_until

UNNAMED = 54_321
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
def volume() -> Iterator[Path]:
    """Make a folder that every user can reach, as a volume is; pytest's own are for their owner alone."""
    folder = Path(tempfile.mkdtemp(prefix="balance-volume-"))
    folder.chmod(0o755)
    (folder / "data").mkdir()
    yield folder / "data"
    shutil.rmtree(folder)


@pytest.fixture
def contained(processes: Processes, volume: Path, tmp_path: Path) -> Callable[..., Process]:
    """Start the service as process 1 of name spaces of its own, on a read-only root; only the volume can be written."""
    (tmp_path / "launcher.py").write_text(LAUNCHER.format(root=str(ROOT)))
    script = tmp_path / "contained.sh"
    writable = f"mount --bind {volume} {volume} && mount -o remount,bind,ro /"
    inside = f'{writable} && exec {sys.executable} {tmp_path}/launcher.py "$@"'
    script.write_text(f"#!/bin/sh\nexec unshare -m -p -f --kill-child --mount-proc sh -c '{inside}' sh \"$@\"\n")
    script.chmod(0o755)

    def start(uid: int, **environment: str) -> Process:
        flags = ("--port", "0", "--data-dir", str(volume))
        return processes(str(uid), *flags, program=str(script), **environment)

    return start


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


@pytest.mark.parametrize("uid", [0, UNNAMED], ids=["root", "a user without a name"])
def test_the_embedded_postgresql_works_on_a_read_only_root_and_ends_with_process_1(
    contained: Callable[..., Process], pristine: Path, volume: Path, uid: int
) -> None:
    subprocess.run(["cp", "-a", f"{pristine}/.", str(volume)], check=True)
    if uid:
        subprocess.run(["chown", "-R", f"{uid}:{uid}", str(volume)], check=True)
    process = contained(uid)
    process.url()
    assert f"Uid:\t{uid}" in Path(f"/proc/{first(process)}/status").read_text()
    os.kill(first(process), signal.SIGTERM)
    assert process.wait() == 0
    assert process.complaints == []
    assert not (volume / "postgresql" / "postmaster.pid").exists()


def test_a_new_database_of_a_user_without_a_name_is_refused_in_one_line(
    contained: Callable[..., Process], volume: Path
) -> None:
    os.chown(volume, UNNAMED, UNNAMED)
    process = contained(UNNAMED)
    assert process.wait() == 1
    assert process.stdout == []
    assert len(process.stderr) == 1
    assert f"initdb needs a name for user {UNNAMED}" in process.stderr[0]
