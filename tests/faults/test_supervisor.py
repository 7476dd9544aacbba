"""The embedded PostgreSQL is started again whenever it ends, and no acknowledged update is lost."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import cast

import psycopg
import pytest

from balance.storage.embedded import EmbeddedError, EmbeddedPostgres, Supervisor, locks, server_log, supervisor
from balance.storage.embedded.server_process import ServerProcess
from tests.support.embedded import is_running, postmaster, processes_of
from tests.support.http_client import request
from tests.support.service import SNAPSHOTS, Database, Process, Processes
from tests.support.waiting import until
from tests.support.workload import RestBot, SendLog, SocketBot, check_stored, sending

SEED = 20251107
BACK_S_MAX = 5.0  # a second or two, on a machine that other processes use too
ENDED = "the embedded PostgreSQL is restarted: "


@pytest.fixture
def data(pristine: Path, tmp_path: Path) -> Iterator[Path]:
    copy = tmp_path / "data"
    subprocess.run(["cp", "-a", str(pristine), str(copy)], check=True)
    yield copy
    left = copy.exists() and is_running(copy)
    if left:
        EmbeddedPostgres.start(copy).stop()
    assert not left, "a test stops what it starts"


@pytest.fixture
def postgres(data: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres.start(data)
    yield server
    if data.exists():
        server.stop()
        return
    with pytest.raises(EmbeddedError, match="No such file or directory"):
        server.stop()


def warnings(process: Process) -> list[str]:
    return [line for line in process.stderr if ENDED in line]


async def start_bots(url: str, send_log: SendLog) -> list[RestBot | SocketBot]:
    async def find_server() -> str:
        return url

    return [kind(find_server, Random(SEED + n), send_log) for n, kind in enumerate((RestBot, SocketBot, SocketBot))]


def update() -> dict[str, object]:
    return {"onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}}


async def test_a_killed_postgresql_is_started_again_and_loses_nothing(processes: Processes, data: Path) -> None:
    process = processes("--port=0", f"--data-dir={data}")
    url = await asyncio.to_thread(process.url)
    send_log = SendLog()
    async with sending(await start_bots(url, send_log)):
        for number in (1, 2):
            await send_log.more(50)
            before = postmaster(data)
            os.kill(before, signal.SIGKILL)
            killed = time.monotonic()
            await until(lambda number=number: len(warnings(process)) == number)
            await send_log.more(50)
            assert time.monotonic() - killed < BACK_S_MAX
            assert postmaster(data) != before
        # After the kill of one of its processes PostgreSQL itself ends all others and recovers.
        os.kill(processes_of(data)[-1], signal.SIGKILL)
        await send_log.more(50)
    assert [line.rpartition(ENDED)[2] for line in warnings(process)] == ["it was killed by SIGKILL"] * 2
    assert await asyncio.to_thread(process.terminate) == 0
    with EmbeddedPostgres.start(data) as again:
        check_stored(Database(again.url), send_log.acknowledged, send_log.sent)
    assert not is_running(data)


async def test_the_end_and_the_return_of_postgresql_are_one_line_each(processes: Processes, data: Path) -> None:
    process = processes("--port=0", f"--data-dir={data}")
    url = await asyncio.to_thread(process.url)
    kill(data)
    saving = asyncio.ensure_future(request(url, "POST", SNAPSHOTS, update()))
    await until(lambda: any("the database is available again" in line for line in process.stderr))
    assert (await saving).status in (201, 503)
    logged = [line for line in process.stderr if "balance.outage" in line]
    assert len(logged) == 2, process.stderr
    assert f"{ENDED}it was killed by SIGKILL" in logged[0]
    assert await asyncio.to_thread(process.terminate) == 0


def test_a_server_that_ends_by_itself_is_reported_with_the_reason(
    postgres: EmbeddedPostgres, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = 'could not write to file "pg_wal/xlogtemp.1": No space left on device'
    with (data / server_log.NAME).open("a") as log:
        log.write(f"1 FATAL:  an older one\n1 PANIC:  {full}\n1 FATAL:  the database system is in recovery mode\n")
    with monkeypatch.context() as patch:
        patch.setattr(postgres._server, "_process", subprocess.Popen(["false"]))
        assert postgres.how_it_ended() == f"it ended with status 1: {full}"


async def test_a_crash_that_postgresql_recovers_from_is_logged_if_a_save_failed(
    processes: Processes, data: Path
) -> None:
    process = processes("--port=0", f"--data-dir={data}")
    send_log = SendLog()

    async def find_server() -> str:
        return await asyncio.to_thread(process.url)

    bots = [kind(find_server, Random(SEED + n), send_log) for n, kind in enumerate((RestBot, SocketBot, SocketBot))]
    async with sending(bots):
        await send_log.more(20)
        while not send_log.refused:
            os.kill(processes_of(data)[-1], signal.SIGKILL)  # the end of any of them is a crash
            await send_log.more(20)
        # Within the block: only a save that works ends the failure of a save.
        await until(lambda: any("the database is available again" in line for line in process.stderr))
    logged = " ".join(line for line in process.stderr if "balance.outage" in line)
    assert re.search(r"(connections were lost|get `unavailable`): \S", logged), logged
    assert await asyncio.to_thread(process.terminate) == 0


async def test_of_two_processes_on_one_data_folder_one_restarts_the_server(processes: Processes, data: Path) -> None:
    both = [processes("--port=0", f"--data-dir={data}") for _ in range(2)]
    urls = [await asyncio.to_thread(process.url) for process in both]
    starts = (data / server_log.NAME).read_text().count("ready to accept connections")
    os.kill(postmaster(data), signal.SIGKILL)
    await until(lambda: any(warnings(process) for process in both))  # the other may find that it runs already
    for url in urls:
        async with asyncio.timeout(BACK_S_MAX):
            while (await request(url, "POST", SNAPSHOTS, update())).status != 201:
                await asyncio.sleep(0.02)
    assert (data / server_log.NAME).read_text().count("ready to accept connections") == starts + 1
    assert await asyncio.to_thread(both[0].terminate) == 0
    assert (await request(urls[1], "POST", SNAPSHOTS, update())).status == 201, "the other process still uses it"
    assert await asyncio.to_thread(both[1].terminate) == 0
    assert not is_running(data)


@pytest.mark.slow
@pytest.mark.gen_test(timeout=120)
async def test_a_server_that_cannot_start_again_ends_the_process_in_one_line(processes: Processes, data: Path) -> None:
    process = processes("--port=0", f"--data-dir={data}")
    await asyncio.to_thread(process.url)
    (data / "postgresql" / "global" / "pg_control").unlink()
    os.kill(postmaster(data), signal.SIGKILL)
    assert await asyncio.to_thread(process.wait) == 1
    last = process.stderr[-1]
    assert last.startswith(f"server.py: data directory {data}: postgres: could not ")
    assert "gave up after 5 attempts" in last
    assert len([line for line in process.complaints if "balance.app" not in line]) == 2, process.stderr


# In this process, with shorter pauses


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(supervisor, "PAUSE_S_MAX", 0.01)
    monkeypatch.setattr(supervisor, "RESTART_S_MIN", 0.01)
    return []


@pytest.fixture
def supervised(postgres: EmbeddedPostgres, reports: list[str]) -> Iterator[Supervisor]:
    one = Supervisor(postgres, reports.append)
    one.start()
    yield one
    one.stop()


def kill(data: Path) -> None:
    os.kill(postmaster(data), signal.SIGKILL)


def is_another_started(data: Path, killed: int) -> bool:
    with suppress(OSError, IndexError):  # while the file is being written
        return postmaster(data) not in (killed, 2**31 - 1)
    return False


def test_it_gives_up_after_five_failed_starts_and_reports_the_reason(
    supervised: Supervisor, data: Path, reports: list[str]
) -> None:
    (data / "postgresql" / "global" / "pg_control").unlink()
    kill(data)
    with pytest.raises(EmbeddedError, match=r"^data directory \S+: postgres: could not .*gave up after 5 attempts"):
        supervised.failure.result(30)
    assert reports == [f"{ENDED}it was killed by SIGKILL"]


@pytest.mark.parametrize("gone", [".", "postgresql"])
def test_removed_data_is_not_replaced_by_new_data(supervised: Supervisor, data: Path, gone: str) -> None:
    pid = postmaster(data)
    while (data / gone).exists():  # the server still writes there
        shutil.rmtree(data / gone, ignore_errors=True)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EmbeddedError, match="No such file or directory"):
        supervised.failure.result(30)
    assert not (data / "postgresql").exists()


def test_another_folder_instead_of_the_data_is_not_used(supervised: Supervisor, data: Path, pristine: Path) -> None:
    pid = postmaster(data)
    data.rename(data.with_name("moved"))
    shutil.copytree(pristine, data)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EmbeddedError, match="it was replaced by another folder"):
        supervised.failure.result(30)


def test_a_stop_during_a_restart_does_not_wait_for_it(
    postgres: EmbeddedPostgres, reports: list[str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Supervisor(postgres, reports.append)
    one.start()
    monkeypatch.setattr(
        ServerProcess, "accepts_connections", lambda *_: False
    )  # as during a recovery that takes minutes
    killed = postmaster(data)
    kill(data)
    deadline = time.monotonic() + 30
    while not is_another_started(data, killed):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    began = time.monotonic()
    one.stop()
    postgres.stop()
    assert time.monotonic() - began < BACK_S_MAX
    assert not is_running(data)
    assert not one.failure.done()


class Ending:
    """A server that ends as soon as it has started."""

    def __init__(self) -> None:
        self.restarts: list[float] = []
        self.enough = threading.Event()

    def restart(self) -> None:
        self.restarts.append(time.monotonic())
        if len(self.restarts) == 4:
            self.enough.set()

    def wait_for_end(self) -> None: ...

    def interrupt(self) -> None: ...

    def how_it_ended(self) -> str:
        return "it ended"


def test_a_server_that_ends_again_and_again_is_not_restarted_without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART_S_MIN", 0.1)
    server = Ending()
    one = Supervisor(cast(EmbeddedPostgres, server), lambda _: None)
    one.start()
    assert server.enough.wait(30)
    one.stop()
    assert server.restarts[3] - server.restarts[0] > 0.29
    assert not one.failure.done()


def test_the_log_of_the_server_is_bounded_while_it_runs(
    supervised: Supervisor, postgres: EmbeddedPostgres, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_log, "LOG_BYTES_MAX", 20_000)
    log, largest = data / server_log.NAME, 0
    aside = data / f"{server_log.NAME}.1"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        deadline = time.monotonic() + 30
        while not aside.exists() or log.stat().st_size > 20_000:
            assert time.monotonic() < deadline
            with pytest.raises(psycopg.errors.UndefinedTable):
                connection.execute("SELECT 101132.407627 FROM nothing")
            largest = max(largest, log.stat().st_size)
    assert largest > 20_000, "it was renamed because of its size"
    assert aside.stat().st_size <= 20_000
    assert b'relation "nothing" does not exist' in aside.read_bytes()
    assert b"101132.407627" not in aside.read_bytes() + log.read_bytes(), "the log contains a balance"


def test_a_long_wait_for_the_lock_is_interrupted(postgres: EmbeddedPostgres) -> None:
    with locks.opened(postgres._data.descriptor, "control.lock") as lock:
        assert locks.try_lock(lock)
        postgres.interrupt()
        with pytest.raises(locks.Interrupted):
            postgres.restart()
