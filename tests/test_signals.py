"""A signal ends the process without a traceback at any moment, and a closed terminal leaves nothing running."""

from __future__ import annotations

import ast
import asyncio
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.load import is_running, postmaster
from tests.running import ROOT, Process

Processes = Callable[..., Process]
WAIT_S = 30
STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
OLD_PYTHON = """
import runpy, sys
sys.version_info = (3, 10, 4, "final", 0)
sys.argv = ["server.py", "--port=0"]
runpy.run_path("server.py", run_name="__main__")
"""


@pytest.fixture(autouse=True)
def hangup() -> Iterator[None]:
    """Let what a test starts inherit the default, also when the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def data(pristine: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "data"
    subprocess.run(["cp", "-a", str(pristine), str(copy)], check=True)
    return copy


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("imported", ["asyncio.events", "tornado.web"])
def test_a_signal_while_the_program_is_loaded_leaves_no_traceback(number: signal.Signals, imported: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "server.py", "--port=0", "--data-dir=/nowhere/data"],
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if line.rstrip().endswith(f" {imported}"):
                break
        process.send_signal(number)
        out, error = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert [line for line in error.splitlines() if not line.startswith("import time:")] == []
    assert out == ""


def test_migrations_that_a_signal_ends_are_no_success(processes: Processes, data: Path) -> None:
    with (data / "door").open("w") as door:
        fcntl.flock(door, fcntl.LOCK_EX)  # it waits for another process that is starting
        process = processes("migrate", f"--data-dir={data}")
        until(lambda: is_open(process.pid, data / "door"))
        assert process.terminate() == 1
    assert process.complaints == ["server.py: stopped before the database was at this version"]


@pytest.mark.gen_test
async def test_further_signals_do_not_keep_it_from_stopping_postgresql(processes: Processes, data: Path) -> None:
    process = processes("--port=0", f"--data-dir={data}")
    await asyncio.to_thread(process.url)
    ending = asyncio.ensure_future(asyncio.to_thread(process.terminate, signal.SIGINT))
    while not ending.done():
        for number in STOP_SIGNALS:
            os.kill(process.pid, number)
        await asyncio.sleep(0.01)
    assert await ending in (0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP), "it was over when these came"
    assert process.complaints == []
    assert not is_running(data)


def test_a_closed_terminal_stops_it_and_postgresql(data: Path, tmp_path: Path) -> None:
    terminal, inside = pty.openpty()
    with (tmp_path / "stderr").open("w+") as stderr:
        process = subprocess.Popen(
            [sys.executable, "server.py", "--port=0", f"--data-dir={data}"],
            cwd=ROOT, stdin=inside, stdout=inside, stderr=stderr, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one call, which takes no lock
        )  # fmt: skip
        os.close(inside)
        said = b""
        while b"listening on" not in said:
            said += os.read(terminal, 1000)
        assert is_running(data)
        os.close(terminal)
        assert process.wait(WAIT_S) == 0
        stderr.seek(0)
        assert [line for line in stderr if "balance.embedded.account" not in line] == []
    assert not is_running(data)


def test_nohup_keeps_it_running(processes: Processes, data: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    process = processes("--port=0", f"--data-dir={data}", script="server.py")
    process.url()
    os.kill(process.pid, signal.SIGHUP)
    os.kill(postmaster(data), signal.SIGHUP)  # PostgreSQL reads its files again
    assert process.terminate(signal.SIGTERM) == 0
    assert not is_running(data)


def test_an_older_python_gets_one_line() -> None:
    ast.parse((ROOT / "server.py").read_text(), feature_version=(3, 8))
    done = subprocess.run([sys.executable, "-c", OLD_PYTHON], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "server.py: Python 3.11 or newer is needed, and this is 3.10\n"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def is_open(pid: int, path: Path) -> bool:
    """Tell whether the process has the file open."""
    for one in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if one.samefile(path):
                return True
        except OSError:
            continue
    return False
