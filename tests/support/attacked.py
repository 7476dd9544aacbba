"""A service that hostile clients attack, and a well-behaved bot that is timed meanwhile."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from tests.support import hostile
from tests.support.raw_websocket import text_frame
from tests.support.repository import ROOT

SAVES = 40
ADDRESS = "127.0.0.2"


class TimedBot:
    """A bot on a WebSocket of its own, from an address of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self._saves = reader, writer, 0

    @classmethod
    async def connect(cls, port: int, tls: ssl.SSLContext | None = None) -> TimedBot:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, local_addr=(ADDRESS, 0))
        writer.write(hostile.UPGRADE.encode() + text_frame("40"))
        await reader.readuntil(b'42["connected"')
        return cls(reader, writer)

    async def save(self) -> float:
        """Save an update; return how many seconds its acknowledgement took."""
        self._saves += 1
        begin = time.perf_counter()
        self._writer.write(text_frame(b'42%d["balance:update",%b]' % (self._saves, hostile.update())))
        async with asyncio.timeout(30):
            await self._reader.readuntil(b'43%d[{"success":true' % self._saves)
        return time.perf_counter() - begin

    async def p99(self) -> float:
        """Save now and then; return the 99th percentile of the seconds."""
        took = []
        for _ in range(SAVES):
            took.append(await self.save())
            await asyncio.sleep(0.005)
        return sorted(took)[SAVES * 99 // 100 - 1]

    def pong(self) -> None:
        """Send the answer to a heartbeat, whether one has come or not."""
        self._writer.write(text_frame("3"))

    async def close(self) -> None:
        """Close the connection; by TLS that is not before the server has closed its side."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


@contextmanager
def attacked(port: int, connections: int, kinds: Sequence[str]) -> Iterator[None]:
    """Let hostile clients do what they can, in a process of their own."""
    command = [sys.executable, "-m", "tests.support.hostile", str(port), str(connections), *kinds]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            yield
        finally:
            process.kill()


@contextmanager
def flooded(port: int, number: int, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Let a process open and close this number of connections; yield it once it has begun."""
    command = [sys.executable, "-m", "tests.support.connection_flood", str(port), str(number), *more]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            yield process
        finally:
            process.kill()
