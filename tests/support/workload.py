"""Bots that send until they are acknowledged, watchers, and checks of what is stored and broadcast.

A `Bot` follows docs/clients.md: it gives each update an id, and sends it again under that id after a refusal, a timeout
or a lost connection, until it is acknowledged. A refusal must be a temporary error, in bounded time; a bot fails on
anything else. Random values come from a seeded `Random`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

from tornado.httpclient import HTTPClientError

import protocol
from balance.snapshot import format_ts, parse_ts
from tests.support.http_client import HttpClient
from tests.support.payloads import updates
from tests.support.raw_clients import Dropped, PollingClient, SocketClient
from tests.support.service import SNAPSHOTS, Database

ANSWER_S_MAX = 8.0  # longer than every limit of the service at its defaults
LOST = (Dropped, HTTPClientError, OSError)  # what a client gets when a server goes away
TEMPORARY = {"unavailable", "busy"}
FindServer = Callable[[], Awaitable[str]]


def check_stored(database: Database, acknowledged: list[dict[str, Any]], sent: dict[str, dict[str, Any]]) -> None:
    """Check that each acknowledged update is stored as sent, `seq` is 1 … n, and each id was sent and stored once."""
    rows = database.rows()
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert database.rows("SELECT last_seq FROM balance_feed") == [{"last_seq": len(rows)}]
    by_id = {str(row["id"]): row for row in rows}
    assert len(by_id) == len(rows)
    assert by_id.keys() <= sent.keys(), "only what was sent"
    missing = [update["id"] for update in acknowledged if update["id"] not in by_id]
    assert not missing, f"{len(missing)} acknowledged snapshots are lost: {missing[:3]}"
    for id_, row in by_id.items():
        assert (row["ts"], row["pid"]) == (parse_ts(sent[id_]["ts"]), sent[id_]["pid"])
        assert (row["onchain"], row["onsite"]) == (sent[id_]["onchain"], sent[id_]["onsite"])


@dataclass
class SendLog:
    """What all bots of a test sent, and the answers."""

    sent: dict[str, dict[str, Any]] = field(default_factory=dict)
    acknowledged: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # the codes
    resent: int = 0
    duplicates: int = 0
    slowest_s: float = 0.0
    failure: BaseException | None = None  # the first of a bot: an answer against the contract
    _grown: asyncio.Event = field(default_factory=asyncio.Event)

    def fail(self, failure: BaseException | None) -> None:
        self.failure = self.failure or failure
        self._grown.set()

    def acknowledge(self, update: dict[str, Any], answer: dict[str, Any]) -> None:
        assert answer["success"] is True
        assert answer["id"] == update["id"]
        assert answer["timestamp"] == format_ts(parse_ts(update["ts"]))
        self.acknowledged.append(update)
        self.duplicates += "duplicate" in answer
        self._grown.set()

    def refuse(self, answer: dict[str, Any]) -> None:
        assert answer["success"] is False
        assert answer["code"] in TEMPORARY, answer
        assert answer["error"]
        self.refused.append(answer["code"])
        self._grown.set()

    async def until(self, condition: Callable[[SendLog], bool], seconds: float = 15.0) -> None:
        """Wait until the condition is true. Raises the failure of a bot."""
        async with asyncio.timeout(seconds):
            while not condition(self):
                self._grown.clear()
                await self._grown.wait()
                if self.failure is not None:
                    raise self.failure

    async def more(self, number: int, seconds: float = 15.0) -> None:
        """Wait until this number of further updates is acknowledged."""
        wanted = len(self.acknowledged) + number
        await self.until(lambda log: len(log.acknowledged) >= wanted, seconds)


class Bot:
    """Sends one update after another, each until it is acknowledged, to the present address of the server."""

    def __init__(self, find_server: FindServer, random: Random, log: SendLog) -> None:
        self._find_server = find_server
        self._updates = updates(random)
        self._log = log
        self._stopping = self._killed = False
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda task: None if task.cancelled() else log.fail(task.exception()))

    async def stop(self) -> None:
        """Finish the present update. Raises the failure of the bot."""
        self._stopping = True
        async with asyncio.timeout(2 * ANSWER_S_MAX):
            await self._task

    async def kill(self) -> None:
        """Stop at once, also during a request."""
        self._killed = True
        await self.close()  # the request fails by that; if it were cancelled, Tornado would log an unretrieved failure
        await asyncio.wait([self._task], timeout=0.2)
        self._task.cancel()
        await asyncio.wait([self._task])
        await self.close()

    async def _run(self) -> None:
        while not self._stopping:
            update = next(self._updates)
            self._log.sent[update["id"]] = update
            while not await self._timed(update):
                if self._killed:
                    return
                self._log.resent += 1
        await self.close()

    async def _timed(self, update: dict[str, Any]) -> bool:
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                return await self._send(update)
        except LOST:
            await self.close()
            await asyncio.sleep(0.01)  # there is no event for the end of a server that is being killed
            return False
        finally:
            took = asyncio.get_running_loop().time() - began
            self._log.slowest_s = max(self._log.slowest_s, took)

    async def _send(self, update: dict[str, Any]) -> bool:
        """Send an update once; return whether it was acknowledged."""
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class RestBot(Bot):
    """A bot that POSTs."""

    _http: HttpClient | None = None

    async def _send(self, update: dict[str, Any]) -> bool:
        self._http = self._http or HttpClient({"Content-Type": "application/json"})
        answer = await self._http.fetch(await self._find_server() + SNAPSHOTS, "POST", protocol.dumps(update))
        if answer.status in (200, 201):
            assert ("duplicate" in answer.body) == (answer.status == 200)
            self._log.acknowledge(update, answer.body | answer.body["data"])
            return True
        assert answer.status == 503, answer
        assert int(answer.headers["Retry-After"]) >= 1
        self._log.refuse(answer.body)
        await asyncio.sleep(0.01)
        return False

    async def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None


class SocketBot(Bot):
    """A bot that emits `balance:update` with an acknowledgement callback, over a WebSocket."""

    transport: ClassVar[type[SocketClient | PollingClient]] = SocketClient
    _client: SocketClient | PollingClient | None = None

    async def _send(self, update: dict[str, Any]) -> bool:
        self._client = self._client or await self.transport.connect(await self._find_server())
        (answer,) = await self._client.call("balance:update", update, timeout=ANSWER_S_MAX)
        if answer["success"]:
            self._log.acknowledge(update, answer)
            return True
        self._log.refuse(answer)
        assert answer["id"] == update["id"]
        assert answer["retryAfter"] >= 1
        await asyncio.sleep(0.01)
        return False

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()


@asynccontextmanager
async def sending(bots: Iterable[Bot]) -> AsyncIterator[None]:
    """Let bots send within the block; at its end each waits for its last answer, and all are stopped in any case."""
    try:
        yield
        for bot in bots:
            await bot.stop()
    finally:
        for bot in bots:
            await bot.kill()


class PollingBot(SocketBot):
    """The same over HTTP long polling."""

    transport = PollingClient


class Watcher:
    """A client that only watches: records each snapshot and checks that it is the next, until it is closed."""

    def __init__(self, client: SocketClient | PollingClient) -> None:
        self.client = client
        self.began = client.connected["seq"]
        self.snapshots: list[dict[str, Any]] = []
        self._grown = asyncio.Event()
        self._task = asyncio.create_task(self._watch())

    @classmethod
    async def connect(cls, url: str, transport: type[SocketClient | PollingClient] = SocketClient) -> Watcher:
        return cls(await transport.connect(url))

    @property
    def seq(self) -> int:
        """The last `seq` received."""
        return self.snapshots[-1]["seq"] if self.snapshots else self.began

    async def until(self, seq: int, seconds: float = 15.0) -> None:
        """Wait until the snapshot of that `seq` has arrived. Raises the failure of the watcher."""
        async with asyncio.timeout(seconds):
            while self.seq < seq and not self._task.done():
                self._grown.clear()
                await self._grown.wait()
        if self._task.done():
            self._task.result()
        assert self.seq >= seq, "the connection ended before"

    async def close(self) -> None:
        """Close the connection. Raises AssertionError if a snapshot came out of order."""
        await self.client.close()
        async with asyncio.timeout(5):
            await self._task

    async def _watch(self) -> None:
        try:
            while True:
                event, payload = await self.client.next_event(timeout=60)
                assert event == "balance:snapshot", (event, payload)
                assert payload["seq"] == self.seq + 1, f"{payload['seq']} came after {self.seq}"
                self.snapshots.append(payload)
                self._grown.set()
        except Dropped:
            return
        finally:
            self._grown.set()


def check_seen(watcher: Watcher, database: Database) -> None:
    """Check that the watcher received all that was stored since it connected, in order, as stored."""
    rows = database.rows("SELECT * FROM balance_snapshot WHERE seq > %s ORDER BY seq", watcher.began)
    assert [one["seq"] for one in watcher.snapshots] == [row["seq"] for row in rows]
    for one, row in zip(watcher.snapshots, rows, strict=True):
        assert (one["id"], one["pid"]) == (str(row["id"]), row["pid"])
        assert (one["onchain"], one["onsite"]) == (row["onchain"], row["onsite"])


def check_answers(frames: list[str], sent: list[dict[str, Any]]) -> None:
    """Check that callbacks, `balance:ack` and `balance:snapshot` each name every update, in the order sent."""
    ids = [update["id"] for update in sent]
    assert [payload["id"] for payload in _acknowledged(frames)] == ids
    events = [protocol.loads(frame[2:]) for frame in frames if frame.startswith("42")]
    for name in ("balance:ack", "balance:snapshot"):
        assert [payload["id"] for event, payload in events if event == name] == ids
    seqs = [payload["seq"] for event, payload in events if event == "balance:snapshot"]
    assert seqs == list(range(seqs[0], seqs[0] + len(sent)))
    assert {event for event, _ in events} == {"balance:ack", "balance:snapshot"}


def _acknowledged(frames: list[str]) -> list[dict[str, Any]]:
    """Return the payloads of the acknowledgement callbacks, which must come in the order of their numbers."""
    payloads = []
    for frame in frames:
        if frame.startswith("43"):
            digits = frame[2 : frame.index("[")]
            assert int(digits) == len(payloads), "out of order"
            payloads.append(protocol.loads(frame[2 + len(digits) :])[0])
    return payloads


def check_order(database: Database, sent: list[dict[str, Any]]) -> None:
    """Check that exactly these updates are stored, in the order sent."""
    check_stored(database, sent, {update["id"]: update for update in sent})
    stored = database.rows("SELECT id FROM balance_snapshot ORDER BY seq")
    assert [str(row["id"]) for row in stored] == [update["id"] for update in sent]


BOTS = (RestBot, RestBot, SocketBot, SocketBot, SocketBot, PollingBot)
