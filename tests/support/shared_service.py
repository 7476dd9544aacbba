"""A service that stands for a whole module, and HTTP to it byte for byte.

`Standing` owns an event loop, so that plain tests (many cases, many generated examples) share one service; the
loop runs only inside `run`. `Connection` is one TCP connection that is kept as long as the server keeps it,
unlike those of Tornado's client, which asks for one per request.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from tornado.httputil import HTTPHeaders

import protocol
from tests.support.service import Database, Service

T = TypeVar("T")

WAIT_S = 5.0


@contextmanager
def standing(postgres: str, template: str, **settings: Any) -> Iterator[Standing]:
    """Run a service on a database of its own until the end of the block."""
    name = f"balance_test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            one = Standing(Database(make_conninfo(postgres, dbname=name)), settings)
            try:
                yield one
            finally:
                one.close()
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Standing:
    """A service, its database and the event loop they run on."""

    def __init__(self, database: Database, settings: dict[str, Any]) -> None:
        # With a factory the runner leaves the thread's current loop alone, which is pytest-tornado's.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._sql = psycopg.connect(database.url, autocommit=True, row_factory=dict_row)
        self.database = database
        self.noise = Noise()
        logging.getLogger().addHandler(self.noise)
        self.service = self.run(Service.start(database_url=database.url, **settings))

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 20) -> T:
        """Run the loop until `work` is done. Raises TimeoutError."""
        return self._runner.run(asyncio.wait_for(work, seconds))

    def rows(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Run one statement, planned anew, on a connection that stays open."""
        return self._sql.execute(sql, parameters, prepare=False).fetchall()

    def stored(self) -> tuple[int, int]:
        """How many snapshots are stored, and the last seq that was given out."""
        (row,) = self.rows("SELECT last_seq, (SELECT count(*) FROM balance_snapshot) AS n FROM balance_feed")
        return row["n"], row["last_seq"]

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Reply:
        """Send one request on a connection of its own."""
        return self.tell(request(method, target, body, **headers), method)

    def tell(self, data: bytes, method: str = "GET") -> Reply:
        """Send bytes on a connection of its own, and read one answer."""

        async def scene() -> Reply:
            async with Connection.to(self.service.port) as one:
                await one.send(data)
                return await one.reply(method)

        return self.run(scene())

    def close(self) -> None:
        self._sql.close()
        self.run(self.service.stop())
        self._runner.close()
        logging.getLogger().removeHandler(self.noise)


class Noise(logging.Handler):
    """Collects what is logged from WARNING on, so that a test can look after each step."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(f"{record.name}: {record.getMessage()} {record.exc_info or ''}")


@dataclass(frozen=True)
class Reply:
    """An HTTP answer as it came."""

    status: int
    headers: HTTPHeaders
    raw: bytes

    @property
    def body(self) -> Any:
        """The JSON body, decoded exactly."""
        return protocol.loads(self.raw)


class Connection:
    """One HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**20))

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator[Self]:
        """Open one, and close it at the end of the block."""
        one = await cls.open(port)
        try:
            yield one
        finally:
            await one.close()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are. Raises OSError when the server has closed."""
        self._writer.write(data)
        await asyncio.wait_for(self._writer.drain(), WAIT_S)

    async def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Reply:
        """Send one request and read its answer; in the headers' names `_` stands for `-`."""
        await self.send(request(method, target, body, **headers))
        return await self.reply(method)

    async def reply(self, method: str = "GET") -> Reply:
        """Read one answer. Raises EOFError (IncompleteReadError) when the server closes before its end."""
        async with asyncio.timeout(WAIT_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin1")
            line, _, lines = head.partition("\r\n")
            headers, status = HTTPHeaders.parse(lines), int(line.split()[1])
            bodyless = method == "HEAD" or status in (100, 101, 204)
            size = 0 if bodyless else int(headers["Content-Length"])
            return Reply(status, headers, await self._reader.readexactly(size))

    def end_sending(self) -> None:
        """Say that nothing more will come."""
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def rest(self) -> bytes:
        """Read until the server closes."""
        async with asyncio.timeout(WAIT_S):
            return await self._reader.read()

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):  # the server was first
            await asyncio.wait_for(self._writer.wait_closed(), WAIT_S)


def check_refused(reply: Reply, code: str, error: str) -> None:
    """Check that a refusal has the one shape, the status of its code and these words."""
    assert reply.body == {"success": False, "error": error, "code": code}
    assert reply.status == protocol.ERRORS[code].status
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert "Server" not in reply.headers
    protocol.check("error_reply", reply.body)


def request(method: str, target: str, body: bytes | None = None, **headers: str) -> bytes:
    """Write one request; a body is JSON unless the headers say otherwise."""
    lines = {"Host": "127.0.0.1"}
    if body is not None:
        lines |= {"Content-Length": str(len(body)), "Content-Type": "application/json"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin1") + (body or b"")
