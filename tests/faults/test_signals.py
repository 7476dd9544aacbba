"""A signal ends the process without a traceback at any time, and a closed terminal leaves nothing running."""

from __future__ import annotations

import ast
import asyncio
import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.embedded import is_running, postmaster
from tests.support.packages import Environment
from tests.support.repository import ROOT
from tests.support.service import Processes
from tests.support.waiting import wait_until

WAIT_S = 30
STOP_S_MAX = 5.0  # most of it is the end of the interpreter, on a machine that other processes use too
STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
SESSION = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"  # AuthenticationOk and ReadyForQuery of PostgreSQL's protocol
OLD_PYTHON = """
import runpy, sys
sys.version_info = (3, 10, 4, "final", 0)
sys.argv = ["server.py", "--port=0"]
runpy.run_path("server.py", run_name="__main__")
"""


@pytest.fixture(autouse=True)
def hangup() -> Iterator[None]:
    """Set the default action, which processes inherit, since the tests may run under nohup themselves."""
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
@pytest.mark.parametrize("is_installed", [False, True], ids=["server.py", "balance-server"])
def test_a_signal_while_the_program_is_loaded_leaves_no_traceback(
    number: signal.Signals, imported: str, is_installed: bool, installation: Environment
) -> None:
    program = [installation.programs / "balance-server"] if is_installed else [sys.executable, "server.py"]
    with subprocess.Popen(
        [*program, "--port=0", "--data-dir=/nowhere/data"], env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,  # `communicate` gets all after that line
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if line.rstrip().endswith(f" {imported}".encode()):
                break
        process.send_signal(number)
        out, error = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert [line for line in error.decode().splitlines() if not line.startswith("import time:")] == []
    assert out == b""


def test_migrations_that_a_signal_ends_are_reported_as_failed(processes: Processes, data: Path) -> None:
    with (data / "control.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process that is starting
        process = processes("migrate", f"--data-dir={data}")
        wait_until(lambda: is_open(process.pid, data / "control.lock"))
        assert process.terminate() == 1
    assert process.complaints == ["server.py: stopped before the database was at this version"]


async def test_further_signals_do_not_keep_it_from_stopping_postgresql(processes: Processes, data: Path) -> None:
    process = processes("--port=0", f"--data-dir={data}", script="server.py")
    await asyncio.to_thread(process.url)
    ending = asyncio.ensure_future(asyncio.to_thread(process.terminate, signal.SIGINT))
    while not ending.done():
        for number in STOP_SIGNALS:
            process.send_signal(number)
        await asyncio.sleep(0.001)  # also during the end of the interpreter
    assert await ending == 0
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
        output = b""
        while b"listening on" not in output:
            output += os.read(terminal, 1000)
        assert is_running(data)
        os.close(terminal)
        assert process.wait(WAIT_S) == 0
        stderr.seek(0)
        assert [line for line in stderr if " INFO " not in line and "balance.embedded.account" not in line] == []
    assert not is_running(data)


def test_the_process_continues_under_nohup(processes: Processes, data: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    process = processes("--port=0", f"--data-dir={data}", script="server.py")
    process.url()
    os.kill(process.pid, signal.SIGHUP)
    os.kill(postmaster(data), signal.SIGHUP)  # PostgreSQL reads its files again on this signal
    assert process.terminate(signal.SIGTERM) == 0
    assert not is_running(data)


def test_a_signal_during_a_connection_attempt_leaves_no_traceback(processes: Processes) -> None:
    asked, fatal = threading.Event(), threading.Event()

    def refuse() -> None:
        """Refuse each session as PostgreSQL refuses a wrong password, once the signal has been sent."""
        fields = b"SFATAL\0C28P01\0Mno\0\0"
        while True:
            with suppress(OSError), server.accept()[0] as client:
                client.recv(1000)
                asked.set()
                if not fatal.wait(WAIT_S):
                    return
                client.sendall(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=refuse, daemon=True).start()
        url = f"postgresql://bot@127.0.0.1:{server.getsockname()[1]}/balance?sslmode=disable"
        process = processes("--port=0", DATABASE_URL=url)
        assert asked.wait(WAIT_S)
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.2)  # there is no event for the arrival of the signal
        fatal.set()
        assert process.wait() == 0
    assert (process.stdout, process.stderr) == ([], [])


def test_a_signal_ends_the_checks_of_a_database_that_hangs(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)
        url = f"postgresql://bot@127.0.0.1:{server.getsockname()[1]}/balance?sslmode=disable"
        process = processes("--port=0", DATABASE_URL=url)
        with server.accept()[0] as client:
            client.settimeout(WAIT_S)
            client.recv(1000)
            client.sendall(SESSION)
            assert client.recv(1000), "the first statement of the checks"
            began = time.monotonic()
            assert process.terminate() == 0
            assert time.monotonic() - began < STOP_S_MAX
    assert (process.stdout, process.stderr) == ([], [])


@pytest.mark.parametrize("output", ["| true", "> /dev/full", ">&-"])
def test_the_process_serves_with_closed_or_unread_output(data: Path, output: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = f"exec {sys.executable} server.py --port={port} --data-dir='{data}' --log-level=warning"
    command = f"exec 3>&1; (echo $BASHPID >&3; {service}) {output}"
    with subprocess.Popen(
        ["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as shell:  # fmt: skip
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        wait_until(lambda: is_listening(port))
        time.sleep(0.2)  # it prints when it listens
        assert is_listening(port)
        os.kill(pid, signal.SIGTERM)
        output, complaints = shell.communicate(timeout=WAIT_S)
    assert output == "0\n"
    assert [line for line in complaints.splitlines() if "balance.embedded.account" not in line] == []


def test_an_older_python_gets_one_line() -> None:
    ast.parse((ROOT / "server.py").read_text(), feature_version=(3, 8))
    done = subprocess.run([sys.executable, "-c", OLD_PYTHON], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "server.py: Python 3.11 or newer is needed, and this is 3.10\n"


def is_listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /api/balance/snapshot HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return client.recv(12) == b"HTTP/1.1 200"
    return False


def is_open(pid: int, path: Path) -> bool:
    """Return whether the process has the file open."""
    for one in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if one.samefile(path):
                return True
        except OSError:
            continue
    return False
