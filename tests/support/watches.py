"""Runs of `server.py watch`, and a bot whose snapshots they judge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tornado.httpclient import HTTPClientError

from tests.support.alarm_receiver import SECRET, Receiver
from tests.support.http_client import request
from tests.support.service import SNAPSHOTS, Process, Processes
from tests.support.waiting import until

NOTICED_S_MAX = 5.0
FOLLOWED = "is followed, from seq"
REPORT_S = 0.25


class Watches:
    """Starts watches, whose webhooks have a signature."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes = processes
        self._secret = folder / "secret"
        self._secret.write_text(SECRET + "\n")

    def start(self, url: str, receiver: Receiver, *rules: str, **options: str) -> Process:
        """Start a watch of the server at `url`, with these rules and further arguments, that sends to a receiver."""
        arguments = [f"--url={url}", "--allow-private", f"--post={receiver.url}"]
        arguments += [f"--rule={rule}" for rule in rules]
        arguments += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        if options.get("format", "webhook") == "webhook":
            arguments.append(f"--secret-file={self._secret}")
        return self._processes("watch", *arguments, script="server.py", BALANCE_LOG_LEVEL="info")


async def followed(watch: Process, times: int = 1) -> None:
    """Wait until a watch has followed the server this number of times."""
    await until(lambda: sum(FOLLOWED in line for line in watch.stderr) >= times, 30)


async def stop(watch: Process) -> None:
    """Stop a watch by a signal; it must end with status 0 and without an error in its log."""
    assert await asyncio.to_thread(watch.terminate) == 0, watch.stderr
    assert not [line for line in watch.stderr if "Traceback" in line or "ERROR" in line], watch.stderr


async def save(url: str, usdt: float = 2000, pid: int | None = None) -> float:
    """Save a snapshot; return when, by `time.monotonic`."""
    update = {"pid": pid, "onchain": {"rlb": 1, "usdt": usdt}, "onsite": {"rlb": 1, "usd": 1}}
    reply = await request(url, "POST", SNAPSHOTS, update)
    assert reply.status == 201, reply
    return time.monotonic()


class Reporter:
    """A bot that reports an amount several times a second, and tries again at once after a failure."""

    def __init__(self, url: str, pid: int) -> None:
        self._url = url
        self._pid = pid
        self.usdt = 2000.0
        self.saved_at = 0.0
        """When the last snapshot was saved, by `time.monotonic`."""
        self.saved_usdt = 0.0
        self.is_paused = False
        self.has_ended = False

    async def run(self) -> None:
        while not self.has_ended:
            usdt = self.usdt
            with suppress(OSError, HTTPClientError, AssertionError):
                if not self.is_paused:
                    self.saved_at = await save(self._url, usdt, self._pid)
                    self.saved_usdt = usdt
            await asyncio.sleep(REPORT_S)

    async def report(self, usdt: float) -> float:
        """Report another amount from now on; return when its first snapshot was saved, at the latest."""
        self.usdt = usdt
        await until(lambda: self.saved_usdt == usdt, 30)
        return self.saved_at


@asynccontextmanager
async def reporting(url: str, pid: int) -> AsyncIterator[Reporter]:
    """Let a bot report within the block."""
    reporter = Reporter(url, pid)
    task = asyncio.ensure_future(reporter.run())
    try:
        yield reporter
    finally:
        reporter.has_ended = True  # if a request were cancelled, Tornado would log its failure as unretrieved
        await task
