"""What the service reports to a service manager, by a real datagram socket (sd_notify(3))."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from balance.process.service_manager import ServiceManager
from tests.support.embedded import postmaster
from tests.support.service import Database, Process, Processes

REPORT_S_MAX = 60.0  # most of it is the start of the service
WATCHDOG_S = 0.4


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as one:
        one.bind(str(tmp_path / "notify"))
        one.settimeout(REPORT_S_MAX)
        yield one


def start(processes: Processes, manager: socket.socket, *flags: str, **environment: str) -> Process:
    watchdog = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1_000_000))}
    return processes(*flags, "--port", "0", **watchdog, **environment)


def read(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def read_all(manager: socket.socket) -> list[list[str]]:
    """Read until nothing comes."""
    reports = []
    with suppress(TimeoutError):
        while len(reports) < 10:
            reports.append(read(manager))
    return reports


def test_ready_comes_when_requests_are_answered_and_the_watchdog_as_long_as_they_are(
    processes: Processes, manager: socket.socket, database: Database
) -> None:
    process = start(processes, manager, DATABASE_URL=database.url)
    assert read(manager) == ["STATUS=opening the database"]
    assert read(manager) == ["READY=1", f"STATUS=listening on {process.url()}"]
    for _ in range(4):
        manager.settimeout(WATCHDOG_S)
        assert read(manager) == ["WATCHDOG=1"]
    process.send_signal(signal.SIGSTOP)
    assert len(read_all(manager)) < 3, "the last ones may be on their way"
    process.send_signal(signal.SIGCONT)
    manager.settimeout(REPORT_S_MAX)
    assert read(manager) == ["WATCHDOG=1"]
    assert process.terminate() == 0
    reports = [read(manager)]
    while reports[-1] == ["WATCHDOG=1"]:
        reports.append(read(manager))
    assert reports[-1] == ["STOPPING=1", "STATUS=answering the requests in flight"]
    assert process.complaints == []


def test_the_embedded_postgresql_cannot_report_instead_of_the_service(
    processes: Processes, manager: socket.socket, pristine: Path, tmp_path: Path
) -> None:
    subprocess.run(["cp", "-a", str(pristine), str(tmp_path / "data")], check=True)
    process = start(processes, manager, "--data-dir", str(tmp_path / "data"))
    process.url()
    environment = Path(f"/proc/{postmaster(tmp_path / 'data')}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" not in environment
    assert b"WATCHDOG_USEC" not in environment
    assert process.terminate() == 0


def test_an_abstract_socket_is_reached() -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as one:
        one.bind(f"\0balance-test-{os.getpid()}")
        ServiceManager({"NOTIFY_SOCKET": f"@balance-test-{os.getpid()}"}).report("READY=1")
        assert one.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    "environment", [{}, {"NOTIFY_SOCKET": "/nowhere"}, {"NOTIFY_SOCKET": "@"}, {"WATCHDOG_USEC": "1"}], ids=str
)
def test_without_a_manager_that_listens_a_report_does_nothing(environment: dict[str, str]) -> None:
    ServiceManager(environment).report("READY=1")
    assert environment == {}


async def test_the_watchdog_of_another_process_is_not_answered(manager: socket.socket) -> None:
    address = manager.getsockname()
    one = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"})
    one.report_ready("here")
    assert read(manager) == ["READY=1", "STATUS=here"]
    manager.settimeout(0.1)
    with pytest.raises(TimeoutError):
        read(manager)
