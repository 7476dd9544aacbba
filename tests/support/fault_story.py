"""What a fault does to a service that runs: what clients get, what its health, metrics and log show, what is stored.

A `Stage` has a PostgreSQL of its own and services on it, which outlive the faults. `live_through` lets bots save and
watchers follow while a fault happens, and checks the whole story of it.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Self
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import protocol
from balance.process.logs import JSON, TEXT
from balance.storage.migrate import migrate
from protocol.operations import LIVEZ, METRICS, READYZ
from tests.support.database_link import LinkThread
from tests.support.http_client import Connection
from tests.support.payloads import updates
from tests.support.postgres import execute, query
from tests.support.raw_clients import Dropped, SocketClient
from tests.support.replication import Cluster
from tests.support.service import SNAPSHOTS, Database, Process
from tests.support.small_disk import SmallDisk
from tests.support.sse import StreamClient
from tests.support.waiting import repeating, until
from tests.support.workload import RestBot, SendLog, SocketBot, Watcher, check_seen, check_stored, sending

QUICK = (
    "--save-ms-max=1500", "--read-ms-max=1500", "--statement-ms-max=1200", "--pool-wait-ms-max=400", "--pool-max=6",
    "--shutdown-ms-max=3000", "--log-requests-per-s=0", "--log-level=info",
)  # fmt: skip
BOT, OTHER = "bot", "other"  # the roles of the service and of other programs
CONNECTIONS_MAX = 24
JSON_TYPE = {"Content-Type": "application/json"}
OF_SERVICES = f"SELECT pid FROM pg_stat_activity WHERE usename = '{BOT}' AND pid <> pg_backend_pid()"
BACK_S_MAX = 6.0  # from the end of a fault to the next saves; an attempt to connect may have begun before it
CAUSE = "; (its connections were lost|it could not save|it could not be read): .+"  # at the end of the last line
LARGE, SMALL = 60, 0  # further assets of an update
SEEN_S_MAX = 10.0  # until health, metrics and log show a fault


class Line(NamedTuple):
    """One line of the log."""

    level: str
    logger: str
    message: str


class Served:
    """A service process, which logs in one of the two forms."""

    def __init__(self, process: Process, form: str) -> None:
        self.process = process
        self.form = form
        self.url = process.url()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(urlsplit(self.url).port or 0)

    async def find(self) -> str:
        """Return its URL, for bots."""
        return self.url

    def log(self) -> list[Line]:
        """Return the lines of its log so far; every line must have the form."""
        return [self._read(line) for line in list(self.process.stderr)]

    def _read(self, line: str) -> Line:
        if self.form == JSON:
            fields = json.loads(line)
            return Line(fields["level"].upper(), fields["logger"], fields["message"])
        found = re.fullmatch(r"\d{4}-\d\d-\d\d [\d:,]{12} (?P<level>[A-Z]+) (?P<logger>[\w.]+): (?P<message>.*)", line)
        assert found, line
        return Line(**found.groupdict())


class Probe:
    """Asks a service for its health and its metrics, over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def of(cls, served: Served) -> AsyncIterator[Self]:
        async with Connection.to(served.port) as connection:
            yield cls(connection)

    async def is_live(self) -> bool:
        return (await self._connection.ask("GET", LIVEZ)).status == 200

    async def reasons(self) -> set[tuple[str, str]]:
        """Return the reasons of /readyz; none if it is ready."""
        reply = await self._connection.ask("GET", READYZ)
        assert reply.status in (200, 503), reply
        return {(one["check"], one["reason"]) for one in reply.body.get("reasons", ())}

    async def until_ready(self) -> None:
        """Wait until it is ready."""
        async with asyncio.timeout(SEEN_S_MAX):
            while await self.reasons():
                await asyncio.sleep(0.02)  # there is no event for it

    async def metrics(self) -> dict[str, float]:
        """Return each series in the notation of Prometheus, and its value."""
        reply = await self._connection.ask("GET", METRICS)
        assert reply.status == 200, reply
        pairs = (line.rpartition(" ") for line in reply.raw.decode().splitlines() if not line.startswith("#"))
        return {series: float(value) for series, _, value in pairs}


class StreamSource:
    """An event stream as a `Watcher` reads it."""

    def __init__(self, stream: StreamClient) -> None:
        self._stream = stream
        self.connected: dict[str, Any] = {}

    @classmethod
    async def connect(cls, url: str) -> Self:
        one = cls(await StreamClient.open(int(urlsplit(url).port or 0)))
        one.connected = (await one._stream.expect("connected")).data
        return one

    async def next_event(self, timeout: float) -> tuple[str, Any]:
        """Return the next event and its payload. Raises Dropped at the end of the stream."""
        try:
            while (event := await self._stream.next(timeout)).name == "ping":
                pass
        except (EOFError, OSError) as error:
            raise Dropped(None) from error
        return event.name, event.data

    async def close(self) -> None:
        await self._stream.close()


# The stage


class Stage:
    """A PostgreSQL that can be killed, frozen and filled, a database of it, and what all faults have stored there."""

    def __init__(self, folder: Path, start: Callable[..., Process]) -> None:
        self.disk, self.log_disk = SmallDisk(folder / "disk", 160), SmallDisk(folder / "wal", 96)
        self.cluster = Cluster(self.disk.folder / "postgresql")
        if self.cluster.owner is not None:
            self.log_disk.folder.chmod(0o777)
        self.cluster.create(self.log_disk.folder / "pg_wal")
        self.cluster.start()
        execute(
            self.cluster.url(), f"CREATE ROLE {BOT} LOGIN", f"CREATE ROLE {OTHER} LOGIN",
            f"CREATE DATABASE balance OWNER {BOT} TEMPLATE template0",
            f"ALTER SYSTEM SET max_connections = {CONNECTIONS_MAX}", "ALTER SYSTEM SET min_wal_size = '2MB'",
            "ALTER SYSTEM SET max_wal_size = '8MB'",
        )  # fmt: skip
        self.cluster.stop()
        self.cluster.start()
        self.database = Database(f"{self.cluster.url('balance')} user={BOT}")
        migrate(self.database.url)
        self.link = LinkThread(self.database)
        self.sent: dict[str, dict[str, Any]] = {}
        self.acknowledged: list[dict[str, Any]] = []
        self.start = start
        self._served: list[Served] = []
        self.clock_file = folder / "clock"
        self.clock_file.write_bytes(bytes(8))

    def serve(self, form: str, *before: str, url: str = "", **environment: str) -> Served:
        """Start a service on the database, by its socket or at another URL; `before` is a program that starts it."""
        environment = {"DATABASE_URL": url or self.database.url, "script": "server.py"} | environment
        arguments = ["--port=0", *QUICK, f"--log-format={form}"]
        if before:
            environment["program"] = before[0]
            arguments = [*before[1:], sys.executable, environment["script"], *arguments]
        one = Served(self.start(*arguments, **environment), form)
        self._served.append(one)
        return one

    def add_database(self, name: str) -> Database:
        """Make another database, without tables."""
        execute(self.cluster.url(), f"CREATE DATABASE {name} OWNER {BOT} TEMPLATE template0")
        return Database(f"{self.cluster.url(name)} user={BOT}")

    @contextmanager
    def pages_full(self, random: Random) -> Iterator[None]:
        """Leave no space for a row in the pages that there are, within the block.

        All the time each service that runs is sent large updates, which are rejected first: without a failure for a
        second it would log that it saves again, while small ones still find space.
        """

        def save(assets: int) -> list[bool]:
            running = [served for served in self._served if served.process.is_running]
            return [self._is_saved(served, random, assets) for served in running]

        while any(save(LARGE)) or any(save(SMALL)):
            pass
        with repeating(lambda: save(LARGE), 0.1):
            yield

    def _is_saved(self, served: Served, random: Random, assets: int) -> bool:
        """Save an update with this number of further assets; return False if it is rejected."""
        update = next(updates(random))
        more = {f"asset{n}": Decimal(f"0.{random.randrange(10**58, 10**59)}") for n in range(assets)}
        body = self.sent[update["id"]] = update | {"onchain": update["onchain"] | more}
        try:
            urlopen(Request(served.url + SNAPSHOTS, protocol.dumps(body).encode(), JSON_TYPE), timeout=10).close()
        except HTTPError as error:
            error.close()
            if error.code != 503:
                raise
            return False
        self.acknowledged.append(body)
        return True

    @property
    def last(self) -> Served:
        """The service that was started last."""
        return self._served[-1]

    def set_clock(self, seconds: float) -> None:
        """Set the clock of the services that run by set_clock_server.py, as a difference to the right time."""
        with self.clock_file.open("r+b") as file:  # it is mapped, so it must not be shorter meanwhile
            file.write(struct.pack("d", seconds))

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend the services within the block, so that they cannot connect again before it ends."""
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for served in self._served:
                served.process.send_signal(number)
            if number == signal.SIGSTOP:
                yield

    def send_log(self) -> SendLog:
        """Return a log of what bots send in one test, beside all that was sent before."""
        return SendLog(sent=self.sent, acknowledged=self.acknowledged)

    def check_stored(self) -> None:
        """Check that all that was ever acknowledged is stored, once."""
        check_stored(self.database, self.acknowledged, self.sent)

    def sessions(self) -> list[int]:
        """Return the process ids of the sessions of the services."""
        return [pid for (pid,) in query(self.cluster.url(), OF_SERVICES)]

    def waiting_sessions(self) -> list[int]:
        """Return the process ids of those that wait for a lock."""
        return [pid for (pid,) in query(self.cluster.url(), f"{OF_SERVICES} AND wait_event_type = 'Lock'")]

    def end_sessions(self) -> None:
        """End the sessions of the services."""
        execute(self.cluster.url(), f"SELECT pg_terminate_backend(pid, 5000) FROM ({OF_SERVICES}) AS found")

    def close(self) -> None:
        """Stop everything and release the disks."""
        self.link.close()
        self.cluster.kill()
        for disk in (self.disk, self.log_disk):
            disk.unmount()


# A fault


Move = Callable[[Mapping[str, float], Mapping[str, float]], bool]


def grows(series: str) -> Move:
    """Return the condition that a series has grown."""
    return lambda before, now: now[series] > before[series]


def becomes(series: str, value: float) -> Move:
    """Return the condition that a series has a value."""
    return lambda _before, now: now[series] == value


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens, and what must be seen of it."""

    happens: Callable[[Stage], AbstractContextManager[object]]
    """Is entered when the fault begins, and left when it ends; in a thread."""
    moves: tuple[Move, ...]
    """What the metrics must show meanwhile."""
    begins: str
    """The only line of the log while it lasts, as a pattern; empty if there is none."""
    ends: str = r"the database is available again, after \d+\.\d s"
    """The only line of the log after it, as a pattern."""
    reason: tuple[str, str] | None = None
    """What /readyz must give as a reason meanwhile; None if the fault is over at once, or the service stays ready."""
    codes: frozenset[str] = frozenset({"unavailable"})
    """With which an update may be rejected meanwhile."""
    reaches: tuple[str, ...] = (TEXT, JSON)
    """The services that it reaches; another may wait for a lock that one of them holds, and log that."""

    def check_lines(self, lines: list[str], *, is_over: bool) -> bool:
        """Return whether the log has all that it must have. Raises AssertionError for a line that it must not have.

        A fault that is over within a second of another line has one line, which has the cause and the end; so may its
        beginning, if a first failure is followed by a success.
        """
        if lines and re.fullmatch(self.ends + CAUSE, lines[0]):
            del lines[0]
            if is_over and not lines:
                return True
        patterns = [pattern for pattern in (self.begins, self.ends if is_over else "") if pattern]
        assert len(lines) <= len(patterns), f"further lines: {lines}"
        for line, pattern in zip(lines, patterns, strict=False):
            assert re.fullmatch(pattern, line), (line, pattern)
        return len(lines) == len(patterns) or (self.reason is None and not is_over)


class Witness:
    """Compares what one service shows during a fault, and after it, with the table."""

    def __init__(self, served: Served, probe: Probe, fault: Fault, send_log: SendLog) -> None:
        self._served, self._probe, self._fault, self._send_log = served, probe, fault, send_log
        self._is_reached = served.form in fault.reaches
        self._lines_before = 0
        self._before: dict[str, float] = {}

    async def begin(self) -> None:
        """Note the state before the fault, once the log has the end of the one before it."""
        await self._probe.until_ready()
        await until(lambda: not any(line.startswith("the database cannot") for line in self._lines()[-1:]))
        self._lines_before = len(self._served.log())
        self._before = await self._probe.metrics()

    async def until_noticed(self) -> None:
        """Wait until health, metrics and log show the fault. /livez must succeed all the time."""
        if self._is_reached:
            await self._until(is_over=False)

    async def until_over(self) -> None:
        """Wait until the service is ready and the log has the end; it must have no other line than those two."""
        await self._until(is_over=True)

    async def _until(self, *, is_over: bool) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + SEEN_S_MAX
        while missing := await self._missing(is_over=is_over):
            assert clock() < deadline, f"{self._served.form}: {missing}; log: {self._lines()}"
            await asyncio.sleep(0.02)  # there is no event for what is seen from outside

    async def _missing(self, *, is_over: bool) -> list[str]:
        """Return what is not as it should be yet. Raises AssertionError for what must never be."""
        assert await self._probe.is_live()
        if self._send_log.failure is not None:
            raise self._send_log.failure
        missing, reasons = [], await self._probe.reasons()
        if reasons if is_over else self._fault.reason is not None and self._fault.reason not in reasons:
            missing.append(f"/readyz has the reasons {reasons}")
        if self._is_reached and not is_over:
            now = await self._probe.metrics()
            missing += [f"metric {n}" for n, move in enumerate(self._fault.moves) if not move(self._before, now)]
        if not self._is_reached and not self._lines():
            return missing
        if not self._fault.check_lines(self._lines(), is_over=is_over):
            missing.append("a line of the log")
        return missing

    def _lines(self) -> list[str]:
        """Return the warnings and errors since the fault began."""
        return [
            line.message for line in self._served.log()[self._lines_before :] if line.level not in ("INFO", "DEBUG")
        ]


async def live_through(stage: Stage, all_served: Sequence[Served], fault: Fault, seed: int) -> None:
    """Let bots save and watchers follow while a fault happens, and check all that the module names."""
    random, send_log = Random(seed), stage.send_log()
    async with AsyncExitStack() as stack:
        probes = [await stack.enter_async_context(Probe.of(served)) for served in all_served]
        witnesses = [Witness(*one, fault, send_log) for one in zip(all_served, probes, strict=True)]
        watchers = [
            await Watcher.connect(served.url, kind) for served in all_served for kind in (SocketClient, StreamSource)
        ]
        for watcher in watchers:
            stack.push_async_callback(watcher.close)
        bots = [
            kind(served.find, Random(random.random()), send_log)
            for served in all_served for kind in (RestBot, SocketBot)
        ]  # fmt: skip
        async with sending(bots):
            await send_log.more(random.randrange(10, 40))
            for witness in witnesses:
                await witness.begin()
            await asyncio.sleep(random.random() / 50)  # at any point of a commit
            async with happening(fault.happens(stage)):
                for witness in witnesses:
                    await witness.until_noticed()
            await send_log.more(1, BACK_S_MAX)
            await send_log.more(20)
            for witness in witnesses:
                await witness.until_over()
        assert set(send_log.refused) <= fault.codes
        stage.check_stored()
        last = stage.database.count()
        for watcher in watchers:
            await watcher.until(last)
            check_seen(watcher, stage.database)


@asynccontextmanager
async def happening(fault: AbstractContextManager[object]) -> AsyncIterator[None]:
    """Enter and leave a context manager in a thread, while the event loop goes on."""
    await asyncio.to_thread(fault.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(fault.__exit__, None, None, None)
