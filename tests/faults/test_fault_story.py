"""Each fault of the database and of the machine, and a stop in every state: nothing acknowledged is lost.

While a fault happens, bots save by REST and Socket.IO under ids of their own, and watchers follow by Socket.IO and by
an event stream. Afterwards every acknowledged snapshot is in the table once, the watchers have every `seq` once and in
order on the connection they had, and updates are saved again without a restart of the service. Meanwhile /livez
succeeds, /readyz and /metrics show the fault, and the log has one line when it begins and one when it ends.

Each row of FAULTS is one fault. Two services live through it, one that logs as text and reaches the database by TCP,
and one that logs as JSON and uses a Unix socket. The number in the name of a test is its seed.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from random import Random
from typing import NamedTuple

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from balance.process.logs import JSON, TEXT
from balance.storage.migrate import _ADVISORY_KEY as ADVISORY_KEY
from balance.storage.migrate import migrate
from tests.support.fault_story import BOT, OTHER, Fault, Probe, Served, Stage, becomes, grows, live_through
from tests.support.history import append_history
from tests.support.http_client import request
from tests.support.payloads import updates
from tests.support.postgres import LOCK_FEED, execute, locked
from tests.support.repository import ROOT
from tests.support.service import SNAPSHOTS, Process, check_group_is_gone
from tests.support.sse import StreamClient
from tests.support.waiting import until, wait_until
from tests.support.workload import RestBot, SocketBot

SEED = 20261127
MORE_SEEDS = range(1, 6)
OPEN_FILES_MAX = 192
STOP_S_MAX = 8.0  # of which --shutdown-ms-max is 3, on a machine that other processes use too

UNREACHABLE = r"the database cannot be reached; requests that need it get `unavailable`: "
ANY = r"the database cannot (be reached|be read|save); requests that need it get `unavailable`: "
CANNOT_SAVE = r"the database cannot save; requests that need it get `unavailable`: "
WAITS = CANNOT_SAVE + "canceling statement due to statement timeout"
HANGS = UNREACHABLE + r"(no answer within 1\.5 s|.*connection timeout expired)|" + ANY + "all 6 connections are in use"
FAILED = grows("balance_commits_failed_total")
REJECTED = grows('balance_saves_total{outcome="unavailable"}')
NOT_READY = becomes("balance_ready", 0)
DOWN = becomes("balance_database_up", 0)
UP = becomes("balance_database_up", 1)


# The faults: each is entered when it begins, and left when it ends


@contextmanager
def server_killed(stage: Stage) -> Iterator[None]:
    """Kill all processes of PostgreSQL, as a machine that loses its power does."""
    stage.cluster.kill()
    yield
    stage.cluster.start()


@contextmanager
def backend_killed(stage: Stage) -> Iterator[None]:
    """Kill a backend while batches wait for a lock: PostgreSQL ends all others, and recovers by itself."""
    with suppress(psycopg.OperationalError), locked(stage.database, LOCK_FEED):  # its session ends too
        wait_until(lambda: len(stage.waiting_sessions()) >= 2)
        os.kill(stage.waiting_sessions()[0], signal.SIGKILL)
    yield


@contextmanager
def backends_hung(stage: Stage) -> Iterator[None]:
    """Suspend the backends of the service; new connections work, but one that is suspended may hold the lock."""
    pids = stage.sessions()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def connections_used_up(stage: Stage) -> Iterator[None]:
    """Let other programs use every connection that the server allows."""
    with ExitStack() as others:
        with stage.suspended(), suppress(psycopg.OperationalError):
            stage.end_sessions()
            while True:
                others.enter_context(psycopg.connect(stage.cluster.url("balance"), user=OTHER))
        yield


@contextmanager
def role_limited(stage: Stage) -> Iterator[None]:
    """Allow the role of the service no connection, and end those that it has."""
    execute(stage.cluster.url(), f"ALTER ROLE {BOT} CONNECTION LIMIT 0")
    stage.end_sessions()
    yield
    execute(stage.cluster.url(), f"ALTER ROLE {BOT} CONNECTION LIMIT -1")


@contextmanager
def read_only(stage: Stage) -> Iterator[None]:
    """Have an operator allow no writes, for example because the disk is nearly full."""
    execute(stage.cluster.url(), "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    yield
    execute(stage.cluster.url(), "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")


@contextmanager
def standby(stage: Stage) -> Iterator[None]:
    """Restart the server as a hot standby, which cannot write, and later as a primary again."""
    stage.cluster.stop()
    stage.cluster.start(primary=stage.cluster)
    yield
    stage.cluster.stop()
    stage.cluster.start()


@contextmanager
def disk_full(stage: Stage) -> Iterator[None]:
    """Leave no space for the tables, and fill the pages that they have."""
    with stage.disk.full(), stage.pages_full(Random(len(stage.sent))):
        yield


@contextmanager
def log_disk_full(stage: Stage) -> Iterator[None]:
    """Leave no space for the write-ahead log: PostgreSQL ends, and an operator starts it when there is space."""
    with stage.log_disk.full():
        with suppress(psycopg.OperationalError):
            while True:  # until the segments that can be used again are full
                execute(stage.cluster.url(), *["SELECT pg_logical_emit_message(false, '', 'x'), pg_switch_wal()"] * 10)
        stage.cluster.kill()  # it may wait for space with the database closed
        yield
    stage.cluster.start()


@contextmanager
def feed_locked(stage: Stage) -> Iterator[None]:
    """Let another session lock the feed."""
    with locked(stage.database, LOCK_FEED):
        yield


FAULTS = {
    "the server is killed": Fault(
        happens=server_killed, reason=("database", "the database cannot be reached"),
        moves=(DOWN, NOT_READY, REJECTED), begins=UNREACHABLE + ".+",
    ),
    "a backend is killed": Fault(happens=backend_killed, moves=(FAILED, REJECTED), begins=UNREACHABLE + ".+"),
    "the server hangs": Fault(
        happens=lambda stage: stage.cluster.frozen(), reason=("database", "the database cannot be reached"),
        moves=(DOWN, NOT_READY, REJECTED, FAILED), begins=HANGS,
    ),
    "the backends hang": Fault(
        happens=backends_hung, moves=(REJECTED, FAILED), begins=HANGS,
    ),
    "a firewall forgets the connections": Fault(
        happens=lambda stage: stage.link.silent(), reaches=(TEXT,),
        moves=(FAILED, REJECTED), begins=f"{WAITS}|{HANGS}",
    ),
    "other programs use every connection": Fault(
        happens=connections_used_up, reason=("database", "the database cannot be reached"),
        moves=(DOWN, NOT_READY, REJECTED), begins=UNREACHABLE + ".+",
    ),
    "the role has no connection left": Fault(
        happens=role_limited, reason=("database", "the database cannot be reached"),
        moves=(DOWN, NOT_READY, REJECTED), begins=UNREACHABLE + ".+",
    ),
    "the server is read-only": Fault(
        happens=read_only, reason=("writer", "the database cannot save"),
        moves=(UP, NOT_READY, FAILED, REJECTED),
        begins=CANNOT_SAVE + r"cannot execute .+ in a read-only transaction",
    ),
    "the server is a standby": Fault(
        happens=standby, reason=("writer", "the database cannot save"),
        moves=(UP, NOT_READY, FAILED, REJECTED), begins=ANY + ".+",
    ),
    "the disk is full": Fault(
        happens=disk_full, reason=("writer", "the database cannot save"),
        moves=(UP, NOT_READY, FAILED, REJECTED), begins=CANNOT_SAVE + "could not extend file .+",
    ),
    "the disk of the write-ahead log is full": Fault(
        happens=log_disk_full, reason=("database", "the database cannot be reached"),
        moves=(DOWN, NOT_READY, REJECTED), begins=UNREACHABLE + ".+",
    ),
    "another session locks the feed": Fault(
        happens=feed_locked, reason=("writer", "the database cannot save"),
        moves=(UP, NOT_READY, FAILED, REJECTED),
        begins=f"{WAITS}|{HANGS}",
    ),
}  # fmt: skip


# Faults of the machine


@contextmanager
def files_used_up(stage: Stage) -> Iterator[None]:
    """Open more connections to the service than it may have files."""
    with ExitStack() as crowd:
        for _ in range(OPEN_FILES_MAX):
            crowd.enter_context(socket.create_connection(("127.0.0.1", stage.last.port)))
        yield


def clock_set(seconds: int) -> Callable[[Stage], AbstractContextManager[None]]:
    """Return a fault in which the clock of the machine is set, and set right again at the end."""

    @contextmanager
    def set_clock(stage: Stage) -> Iterator[None]:
        stage.set_clock(seconds)
        yield
        stage.set_clock(0)

    return set_clock


JUMP = r"the clock of this machine was set {} by 3[56]\d\d\.\d s"
NONE: frozenset[str] = frozenset()
MACHINE_FAULTS = {
    "the files are used up": Fault(
        happens=files_used_up, moves=(grows("balance_connections_dropped_total"), UP), codes=NONE,
        begins=f"new connections are closed: clients may have {OPEN_FILES_MAX - 64} of {OPEN_FILES_MAX} open files",
        ends=r"new connections are accepted again, after \d+\.\d s; \d+ were closed",
    ),
    "the clock is set forward": Fault(
        happens=clock_set(3600), moves=(grows("balance_clock_jumps_total"), UP), codes=NONE,
        begins=JUMP.format("forward"), ends=JUMP.format("back"),
    ),
    "the clock is set back": Fault(
        happens=clock_set(-3600), moves=(grows("balance_clock_jumps_total"), UP), codes=NONE,
        begins=JUMP.format("back"), ends=JUMP.format("forward"),
    ),
}  # fmt: skip


# The states in which a service is stopped: each is entered when the signal may be sent


@asynccontextmanager
async def absent(stage: Stage, _random: Random) -> AsyncIterator[Served]:
    """Wait for a database that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = make_conninfo(stage.database.url, host="127.0.0.1", port=free.getsockname()[1])
    yield await asyncio.to_thread(stage.serve, JSON, url=url)


@asynccontextmanager
async def idle(stage: Stage, _random: Random) -> AsyncIterator[Served]:
    """Serve no client."""
    yield await asyncio.to_thread(stage.serve, TEXT)


@asynccontextmanager
async def loaded(stage: Stage, random: Random) -> AsyncIterator[Served]:
    """Save what bots send."""
    served, send_log = await asyncio.to_thread(stage.serve, JSON), stage.send_log()
    bots = [kind(served.find, Random(random.random()), send_log) for kind in (RestBot, *[SocketBot] * 4)]
    try:
        await send_log.more(random.randrange(20, 100))
        yield served
    finally:
        for bot in bots:
            await bot.kill()


@asynccontextmanager
async def replaying(stage: Stage, random: Random) -> AsyncIterator[Served]:
    """Send a long feed to a client that does not read."""
    database = stage.add_database(f"replayed_{random.randrange(10**9)}")
    await asyncio.to_thread(migrate, database.url)
    append_history(database, 30_000)
    served = await asyncio.to_thread(stage.serve, TEXT, url=database.url)
    async with Probe.of(served) as probe, StreamClient.to(served.port, "?after=0") as stream:
        stream.stop_reading()
        while (await probe.metrics())["balance_replay_rows_total"] == 0:
            await asyncio.sleep(0.02)
        yield served


@asynccontextmanager
async def hung(stage: Stage, random: Random) -> AsyncIterator[Served]:
    """Save what a database that hangs does not answer."""
    served = await asyncio.to_thread(stage.serve, JSON)
    async with Probe.of(served) as probe:
        await probe.until_ready()
    with stage.cluster.frozen():
        saving = asyncio.ensure_future(request(served.url, "POST", SNAPSHOTS, next(updates(random))))
        async with Probe.of(served) as probe:
            while (await probe.metrics())["balance_saves_pending"] == 0:
                await asyncio.sleep(0.02)
        yield served
        answer = await saving
        assert (answer.status, answer.body["code"]) == (503, "unavailable")


@asynccontextmanager
async def stopping(stage: Stage, random: Random) -> AsyncIterator[Served]:
    """Stop already, and answer an update whose commit takes a while."""
    served, update = await asyncio.to_thread(stage.serve, TEXT), next(updates(random))
    stage.sent[update["id"]] = update
    with locked(stage.database, LOCK_FEED):
        saving = asyncio.ensure_future(request(served.url, "POST", SNAPSHOTS, update))
        await until(lambda: len(stage.waiting_sessions()) > 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            served.process.send_signal(number)
            await until(lambda: any("stopping after" in line for line in served.process.stderr))
    assert (await saving).status == 201
    stage.acknowledged.append(update)
    yield served


class State(NamedTuple):
    """A state in which a service gets SIGTERM."""

    enter: Callable[[Stage, Random], AbstractAsyncContextManager[Served]]
    warnings: str = ""
    """The warnings that it may have logged before, as a pattern."""
    first: str = "SIGTERM"
    """The signal that stopped it."""


STATES = {
    "while its database is absent": State(absent, UNREACHABLE + ".+"),
    "while it is idle": State(idle),
    "under load": State(loaded),
    "while it sends a slow client what it missed": State(replaying),
    "while its database hangs": State(hung, HANGS),
    "while it stops already": State(stopping, first="SIGINT"),
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Make the PostgreSQL of this module; no process may be left at the end."""
    started: list[Process] = []

    def start(*arguments: str, **environment: str) -> Process:
        started.append(Process(arguments, environment))
        return started[-1]

    folder = tmp_path_factory.mktemp("stage")
    folder.chmod(0o755)
    one = Stage(folder, start)
    yield one
    for process in started:
        process.kill()
        check_group_is_gone(process)
    one.close()


@pytest.fixture(scope="module")
def both(stage: Stage) -> list[Served]:
    """Start two services that live through all faults of the database."""
    return [stage.serve(TEXT, url=stage.link.url), stage.serve(JSON)]


def seeded(*names: str) -> pytest.MarkDecorator:
    """Run a test with each name and the seed; in the long run with more seeds."""
    few = [pytest.param(name, SEED, id=f"{name} {SEED}") for name in names]
    more = [
        pytest.param(name, seed, id=f"{name} {seed}", marks=pytest.mark.slow) for seed in MORE_SEEDS for name in names
    ]
    return pytest.mark.parametrize(("name", "seed"), [*few, *more])


@pytest.fixture(scope="module")
def limited(stage: Stage) -> Served:
    """Start a service that may open few files, and whose clock can be set."""
    clock = {"script": str(ROOT / "tests/support/set_clock_server.py"), "CLOCK_FILE": str(stage.clock_file)}
    limit = ("prlimit", f"--nofile={OPEN_FILES_MAX}:{OPEN_FILES_MAX}")
    return stage.serve(TEXT, *limit, PYTHONPATH=str(ROOT), **clock)


@seeded(*FAULTS)
async def test_a_fault_of_the_database_loses_nothing_and_is_two_log_lines(
    stage: Stage, both: list[Served], name: str, seed: int
) -> None:
    fault = FAULTS[name]
    if "disk" in name and not stage.disk.is_mounted:
        pytest.skip("only root may mount a small file system")
    await live_through(stage, both, fault, seed)


@seeded(*MACHINE_FAULTS)
async def test_a_fault_of_the_machine_loses_nothing_and_is_two_log_lines(
    stage: Stage, limited: Served, name: str, seed: int
) -> None:
    await live_through(stage, [limited], MACHINE_FAULTS[name], seed)


@seeded(*STATES)
async def test_a_stop_in_any_state_ends_in_time_and_is_two_log_lines(stage: Stage, name: str, seed: int) -> None:
    state = STATES[name]
    async with state.enter(stage, Random(seed)) as served:
        began = time.monotonic()
        assert await asyncio.to_thread(served.process.terminate) == 0
        assert time.monotonic() - began < STOP_S_MAX
    check_group_is_gone(served.process)
    stage.check_stored()
    lines = [line for line in served.log() if line.level == "INFO"]
    assert [line.logger for line in lines] == ["balance.serve"] * 2
    assert lines[0].message == f"stopping after {state.first}: the requests in flight are answered first"
    assert re.fullmatch(r"stopped after \d\.\d s", lines[1].message)
    for line in served.log():
        assert line in lines or re.fullmatch(state.warnings, line.message), line


async def test_a_stop_during_a_migration_is_an_error_and_the_next_one_does_the_rest(stage: Stage) -> None:
    database = stage.add_database("migrated")
    with locked(database, f"SELECT pg_advisory_lock({ADVISORY_KEY})"):
        process = stage.start("migrate", DATABASE_URL=database.url, script="server.py")
        await until(lambda: len(stage.waiting_sessions()) > 0)
        began = time.monotonic()
        assert await asyncio.to_thread(process.terminate) == 1
        assert time.monotonic() - began < STOP_S_MAX
    assert process.stderr == ["server.py: stopped before the database was at this version"]
    assert await asyncio.to_thread(migrate, database.url)
