"""Watchers that keep a position and resume by themselves, on each transport, as docs/clients.md describes.

Each connects again whenever its connection ends, gives the position of the last snapshot that it has, and fails unless
the next snapshot is the one after it. When its position is not good, it drops what was lost, all after `goodUntil`, and
resumes from there. Whatever happens, it ends with exactly the snapshots of the table, or fails.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlencode, urlsplit

from protocol import dumps, loads
from protocol.operations import FEED
from tests.support.http_client import Connection
from tests.support.raw_clients import Dropped, PollingClient, SocketClient
from tests.support.service import Database
from tests.support.sse import Event, StreamClient
from tests.support.workload import LOST, FindServer

IDLE_S_MAX = 60.0
WAIT_S = 2  # of a long poll; less than `Connection` waits
CLOSE_S_MAX = 10.0
RETRY_S = 0.02  # before the next attempt to connect
UNAVAILABLE = 503


class Reset(NamedTuple):
    """An answer to a position that is not good."""

    reason: str
    good_until: int | None
    seq: int
    """The last snapshot that the watcher had."""


class ResumingWatcher:
    """Records the id of each snapshot of the feed from a position on, by default from its beginning."""

    def __init__(self, find_server: FindServer) -> None:
        self._find_server = find_server
        self.ids: list[str] = []  # of the snapshots 1, 2, 3 …
        self.epoch: str | None = None  # None: of the beginning of any feed
        self.recovered = 0  # how often it resumed with a good position
        self.resets: list[Reset] = []
        self._grown = asyncio.Event()
        self._is_closing = False
        self._drop: Callable[[], object] = lambda: None  # ends the present connection
        self._task = asyncio.create_task(self._run())

    @property
    def seq(self) -> int:
        """The last snapshot received."""
        return len(self.ids)

    async def until(self, seq: int, seconds: float = 15.0) -> None:
        """Wait until it has the snapshot of that `seq`. Raises its failure."""
        async with asyncio.timeout(seconds):
            while self.seq < seq:
                await self._wait_for_news()

    async def until_reset(self, seconds: float = 15.0) -> Reset:
        """Wait until a position of this watcher was not good; return the first answer. Raises its failure."""
        async with asyncio.timeout(seconds):
            while not self.resets:
                await self._wait_for_news()
        return self.resets[0]

    async def close(self) -> None:
        """Stop. Raises its failure."""
        self._is_closing = True
        async with asyncio.timeout(CLOSE_S_MAX):
            while not self._task.done():
                self._drop()  # not a cancellation, which would leave a request of Tornado's client behind
                await asyncio.wait([self._task], timeout=RETRY_S)
        self._task.result()

    def disconnect(self) -> None:
        """Lose the present connection."""
        self._drop()

    async def _wait_for_news(self) -> None:
        self._grown.clear()
        waiting = asyncio.ensure_future(self._grown.wait())
        try:
            await asyncio.wait([waiting, self._task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._task.done():
            self._task.result()

    async def _run(self) -> None:
        while not self._is_closing:
            try:
                await self._follow(await self._find_server())
            except (*LOST, EOFError):
                await asyncio.sleep(RETRY_S)  # there is no event for a server that accepts again
            finally:
                self._drop = lambda: None

    @abstractmethod
    async def _follow(self, url: str) -> None:
        """Connect, resume and receive until the connection ends. Raises Dropped, HTTPClientError, OSError, EOFError."""

    def _position(self) -> dict[str, Any]:
        """Return the position as the fields of REST and of `auth`."""
        if self.epoch is None or not self.ids:
            return {"after": self.seq} if self.epoch is None else {"after": self.seq, "epoch": self.epoch}
        return {"after": self.seq, "epoch": self.epoch, "id": self.ids[-1]}

    def _connected(self, answer: dict[str, Any]) -> None:
        """Record the answer to the position. Raises Dropped, so that it resumes at a good one, if it was not."""
        if answer["recovered"]:
            self.recovered += 1
            self.epoch = answer["epoch"]
        else:
            self._reset(answer)

    def _reset(self, answer: dict[str, Any]) -> None:
        good_until = answer.get("goodUntil")
        self.resets.append(Reset(answer["reason"], good_until, self.seq))
        del self.ids[good_until or 0 :]
        self.epoch = answer["epoch"] if good_until else None
        self._grown.set()
        raise Dropped(None)

    def _receive(self, snapshot: dict[str, Any]) -> None:
        assert snapshot["seq"] == self.seq + 1, f"{snapshot['seq']} came after {self.seq}"
        self.ids.append(snapshot["id"])
        self._grown.set()


class ResumingSocket(ResumingWatcher):
    """Resumes by `auth: {after, epoch, id}`, over a WebSocket."""

    transport: ClassVar[type[SocketClient | PollingClient]] = SocketClient

    async def _follow(self, url: str) -> None:
        client = await self.transport.open(url)
        try:
            await client.send_raw("40" + dumps(self._auth()))
            reading = asyncio.ensure_future(self._read(client))
            self._drop = lambda: reading.done() or reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.result()
        finally:
            await client.close()

    async def _read(self, client: SocketClient | PollingClient) -> None:
        frame = str(await client.next_frame())
        assert frame.startswith("40"), frame[:200]
        self._joined(loads(frame[2:]))
        while True:
            frame = str(await client.next_frame(IDLE_S_MAX))
            assert frame.startswith("42"), frame[:200]
            self._handle(*loads(frame[2:]))

    def _auth(self) -> dict[str, Any]:
        return self._position()

    def _joined(self, payload: dict[str, Any]) -> None:
        """Note the answer to CONNECT."""

    def _handle(self, event: str, payload: dict[str, Any], *_: str) -> None:
        if event == "connected":
            self._connected(payload)
        else:
            assert event == "balance:snapshot", event
            self._receive(payload)


class ResumingPolling(ResumingSocket):
    """The same over HTTP long polling."""

    transport = PollingClient


class ResumingNative(ResumingSocket):
    """Resumes as the recovery of socket.io-client does: it repeats `pid` and the last string argument of an event."""

    _pid: str | None = None
    _offset: str | None = None
    _was_recovered: bool | None = None  # what socket.io-client calls `recovered`; None if it gave no offset

    def _auth(self) -> dict[str, Any]:
        if self._pid is None or self._offset is None:
            return {"recovery": True, **self._position()}
        return {"recovery": True, "pid": self._pid, "offset": self._offset}

    def _joined(self, payload: dict[str, Any]) -> None:
        self._was_recovered = None if self._offset is None else payload["pid"] == self._pid
        self._pid = payload["pid"]

    def _handle(self, event: str, payload: dict[str, Any], *arguments: str) -> None:
        (offset,) = arguments
        assert isinstance(offset, str), offset
        if event == "connected" and self._was_recovered is not None:
            assert payload["recovered"] == self._was_recovered, payload
        super()._handle(event, payload)
        self._offset = offset

    def _reset(self, answer: dict[str, Any]) -> None:
        self._pid = self._offset = None
        super()._reset(answer)


class ResumingStream(ResumingWatcher):
    """Resumes by `Last-Event-ID`, as EventSource does."""

    _last_id: str | None = None

    async def _follow(self, url: str) -> None:
        query = "" if self._last_id else f"?{urlencode(self._position())}"
        headers = {"Last_Event_ID": self._last_id} if self._last_id else {}
        async with StreamClient.to(urlsplit(url).port or 80, query, **headers) as stream:
            self._drop = stream.drop
            while True:
                self._handle(await stream.next(IDLE_S_MAX))

    def _handle(self, event: Event) -> None:
        if event.name == "bye":
            raise Dropped(None)
        if event.name == "connected":
            self._connected(event.data)
        elif event.name == "balance:snapshot":
            self._receive(event.data)
        self._last_id = event.id or self._last_id

    def _reset(self, answer: dict[str, Any]) -> None:
        self._last_id = None
        super()._reset(answer)


class ResumingLongPoll(ResumingWatcher):
    """Asks again and again for what comes after its position, on a connection that stays open."""

    async def _follow(self, url: str) -> None:
        is_new = True
        async with Connection.to(urlsplit(url).port or 80) as connection:
            self._drop = connection.end_sending
            while True:
                query = urlencode({**self._position(), "limit": 1000, "wait": WAIT_S})
                reply = await connection.ask("GET", f"{FEED}?{query}")
                if reply.status == UNAVAILABLE:
                    raise Dropped(None)
                if reply.status == 409:
                    assert reply.body["code"] == "position_unknown", reply
                    self._reset(reply.body)
                assert reply.status == 200, reply
                self.recovered += is_new
                is_new = False
                self._receive_slice(reply.body)

    def _receive_slice(self, body: dict[str, Any]) -> None:
        feed = body["feed"]
        assert feed["after"] == self.seq, feed
        self.epoch = feed["epoch"]
        for snapshot in body["data"]:
            self._receive(snapshot)
        assert feed["last"] == self.seq <= feed["head"], feed


KINDS: tuple[type[ResumingWatcher], ...] = (
    ResumingSocket, ResumingPolling, ResumingNative, ResumingStream, ResumingLongPoll,
)  # fmt: skip


@asynccontextmanager
async def watching(find_server: FindServer, *kinds: type[ResumingWatcher]) -> AsyncIterator[list[ResumingWatcher]]:
    """Run one watcher of each kind within the block, by default of all kinds. Raises the failure of one."""
    watchers = [kind(find_server) for kind in kinds or KINDS]
    try:
        yield watchers
    finally:
        done = await asyncio.gather(*(one.close() for one in watchers), return_exceptions=True)
    failures = [error for error in done if error is not None]
    if failures:
        raise failures[0]


def check_holds_all(watcher: ResumingWatcher, database: Database) -> None:
    """Check that the watcher has each snapshot that is stored, in order and once."""
    stored = [str(row["id"]) for row in database.rows("SELECT id FROM balance_snapshot ORDER BY seq")]
    assert watcher.ids == stored, f"{type(watcher).__name__}: {len(watcher.ids)} of {len(stored)}"
