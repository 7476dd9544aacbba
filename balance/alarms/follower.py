"""Follow the feed of a service: the state at the beginning, then the stream of events, resumed by position.

Time passes for the rules only while the watch has everything that was saved. So before each step of time the service is
asked whether it is ready: a service that cannot save is the reason for silence, and so is one that was restarted or had
a failover. After any of these, silence is counted again from its beginning. A stream that the service ends only because
it is old does not interrupt it.

When rows were lost, the watch goes on after the last one that it shares with the feed, if the service knows it. What
bots had reported before is still right, and nothing of the new rows is missed. Otherwise it begins again with the state
of the feed.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from math import inf
from random import uniform
from typing import Any, NamedTuple
from urllib.parse import urlencode

from balance.alarms.alarm import Latest, received_from
from balance.alarms.clock import Clock
from balance.alarms.event_reader import Event
from balance.alarms.http_client import FAILURES, HttpClient, Response
from balance.alarms.stream import TICK_S, Stream
from balance.alarms.watch import FeedPosition, Watch
from balance.position import parse_token, to_tag
from protocol import BALANCE_SNAPSHOT, CONNECTED, MalformedJson, loads
from protocol.operations import LATEST, READYZ, STREAM

log = logging.getLogger("balance.alarms")

READY_S = 5.0  # between two questions for readiness; the service is not ready for 10 s after a save that failed
READY_S_MAX = 2.0  # for the answer
LATEST_S_MAX = 15.0
PIDS_MAX = 1_000  # that the service returns
QUIET_S_MAX = 20.0  # without a byte, after which a stream is taken for lost; the service sends a ping after 15 s
PAUSE_S_MAX = 3.0  # between two ticks
RETRY_S = (0.5, 1.5)  # between two connections, drawn for each
CONTINUES_S = 10.0  # within which the stream that follows one that was old continues it
EXPIRED = "expired"
FATAL = frozenset((400, 401, 403))  # the request itself must be changed
NOT_THIS_SERVICE = frozenset((404, 421))  # the address must be changed, unless the service was there before


class Refused(Exception):
    """The service does not serve this client; the text is one line."""


class Service(NamedTuple):
    """The service that is followed."""

    url: str
    """Without a slash at its end."""
    token: str | None = None
    tls: ssl.SSLContext | None = None

    def options(self) -> dict[str, Any]:
        """Return the options of a request."""
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        return {"headers": headers, "ssl_options": self.tls}


class Follower:
    """Follows one service for one watch.

    Life cycle: `run` and `keep_time` run side by side until they are cancelled.
    """

    def __init__(self, service: Service, watch: Watch, clock: Clock) -> None:
        self._service = service
        self._watch = watch
        self._clock = clock
        self._stream: Stream | None = None
        self._asked_at = -inf  # whether the service is ready
        self._expired_at = -inf  # when a stream ended only because it was old
        self._is_away = False
        self._was_there = False  # so that its address is right

    async def run(self) -> None:
        """Follow the feed, over any number of connections. Raises Refused."""
        while True:
            try:
                with HttpClient() as http:
                    if self._watch.position is None:
                        await self._begin(http)
                    else:
                        await self._follow(http, self._watch.position)
            except (*FAILURES, MalformedJson) as error:
                self._note_away(str(error) or type(error).__name__)
            finally:
                self._stream = None
            await asyncio.sleep(uniform(*RETRY_S))

    async def keep_time(self) -> None:
        """Let time pass for the rules, while the service is followed and ready."""
        while True:
            before = self._clock()
            await asyncio.sleep(TICK_S)
            stream, now, is_jump = self._stream, self._clock(), self._clock.adjust()
            if is_jump:
                self._watch.begin_again(is_jump=True)
            if stream is None:
                continue
            if now - before > PAUSE_S_MAX:
                self._watch.begin_again()  # the process did not run, and has not read what has come meanwhile
            elif is_jump:
                stream.received_at, self._asked_at = self._clock(), -inf
            elif now - stream.received_at > QUIET_S_MAX:
                stream.end = "nothing was received in time"
            elif stream.is_caught_up and (now >= self._watch.due_at or now - self._asked_at >= READY_S):
                self._asked_at = now
                is_ready = await self._is_ready()
                if stream is self._stream and not stream.end:
                    self._watch.advance(now) if is_ready else self._watch.begin_again()

    # The state at the beginning

    async def _begin(self, http: HttpClient) -> None:
        """Begin with the state of the feed. Raises FAILURES, MalformedJson and Refused."""
        reply = await self._latest(http)
        recent = {}
        for seconds in self._watch.recent_s:
            pids = (await self._latest(http, heard_s=seconds))["data"]["pids"]
            recent[seconds] = frozenset(one["pid"] for one in pids)
        now, newest, feed = self._clock(), reply["data"]["newest"], reply["feed"]
        received = {one["pid"]: received_from(one, now, now) for one in reply["data"]["pids"]}
        latest = Latest(None if newest is None else received_from(newest, now, now), received, recent)
        is_at_head = newest is not None and newest["seq"] == feed["head"]
        self._watch.restart(
            latest, FeedPosition(feed["epoch"], feed["head"], to_tag(newest["id"]) if is_at_head else "")
        )

    async def _latest(self, http: HttpClient, **query: int) -> dict[str, Any]:
        target = f"{LATEST}?{urlencode({'limit': PIDS_MAX, **query})}"
        response = await http.fetch(self._service.url + target, timeout_s=LATEST_S_MAX, **self._service.options())
        self._check(response)
        self._was_there = True
        reply: dict[str, Any] = loads(response.body)
        return reply

    def _check(self, response: Response) -> None:
        """Check the status of a response. Raises Refused, and OSError for one that may be another soon."""
        if response.status in FATAL or (response.status in NOT_THIS_SERVICE and not self._was_there):
            raise Refused(f"the service at {self._service.url} refuses: {_reason(response)}")
        if response.status != 200:
            raise OSError(f"status {response.status}")

    # One stream

    async def _follow(self, http: HttpClient, position: FeedPosition) -> None:
        """Follow the feed from a position until the stream ends. Raises FAILURES, MalformedJson and Refused."""
        now = self._clock()
        stream = self._stream = Stream(now, continues=now - self._expired_at < CONTINUES_S)
        self._expired_at = -inf
        options = self._service.options()
        if position.tag:
            options["headers"]["Last-Event-ID"] = f"{position.epoch}:{position.seq}:{position.tag}"
        url = f"{self._service.url}{STREAM}?{urlencode({'after': position.seq, 'epoch': position.epoch})}"
        fetching = asyncio.ensure_future(http.fetch(url, timeout_s=0, on_data=stream.put, **options))
        fetching.add_done_callback(lambda done: done.cancelled() or done.exception())  # may be of no interest any more
        try:
            await self._read(stream, fetching)
        finally:
            stream.discard()
            if not fetching.done():
                fetching.cancel()
        if not stream.end:
            self._check(fetching.result())
        self._note_away(stream.end or "the stream ended")

    async def _read(self, stream: Stream, fetching: asyncio.Future[Response]) -> None:
        """Handle what a stream brings, until it is over."""
        while not stream.end and not (fetching.done() and stream.is_empty):
            if chunk := await stream.get():
                stream.received_at = self._clock()
                self._handle(stream, stream.reader.feed(chunk))

    def _handle(self, stream: Stream, events: list[Event]) -> None:
        """Handle events in their order; snapshots that came together are handled together."""
        snapshots: list[tuple[FeedPosition, Mapping[str, Any]]] = []
        for event in events:
            if event.name == BALANCE_SNAPSHOT:
                snapshots.append((_position(event.id), event.data))
                continue
            self._receive(stream, snapshots)
            snapshots = []
            if event.name == CONNECTED:
                self._connected(stream, event)
            elif event.name == "bye":
                stream.end = event.data["reason"]
                if stream.end == EXPIRED and stream.is_caught_up:
                    self._expired_at = self._clock()
            if stream.end:
                return
        self._receive(stream, snapshots)

    def _connected(self, stream: Stream, event: Event) -> None:
        """Go on from where the answer to the position allows it."""
        data = event.data
        if data["recovered"]:
            stream.head = data["seq"]
            self._was_there = True
            self._note_back()
            self._catch_up(stream)
            return
        stream.end = f"rows were lost ({data['reason']})"
        log.warning("the feed has lost rows: %s, good until seq %s", data["reason"], data.get("goodUntil", "unknown"))
        if "goodUntil" in data:
            self._watch.resume(FeedPosition(data["epoch"], data["goodUntil"]))
        else:
            self._watch.forget_position()

    def _receive(self, stream: Stream, snapshots: list[tuple[FeedPosition, Mapping[str, Any]]]) -> None:
        """Pass snapshots on. Raises ValueError if one does not follow the position."""
        last = self._watch.position
        for position, _ in snapshots:
            if last is None or position.seq != last.seq + 1:
                raise ValueError(f"snapshot {position.seq} does not follow {last}")
            last = position
        if snapshots:
            self._watch.receive(snapshots, is_live=stream.is_caught_up)
            self._catch_up(stream)

    def _catch_up(self, stream: Stream) -> None:
        """Note that everything was received that was saved before the stream began, if that is so."""
        position = self._watch.position
        if stream.is_caught_up or stream.head is None or position is None or position.seq < stream.head:
            return
        stream.is_caught_up = True
        log.info("the service at %s is followed, from seq %d", self._service.url, position.seq)
        if not stream.continues:
            self._watch.begin_again()

    async def _is_ready(self) -> bool:
        """Return whether the service can save, as far as it knows; a proxy may not pass the question on."""
        try:
            with HttpClient() as http:
                url = self._service.url + READYZ
                response = await http.fetch(url, timeout_s=READY_S_MAX, **self._service.options())
        except FAILURES:
            return False
        return response.status < 500

    def _note_away(self, reason: str) -> None:
        """Log the begin of an interruption, but not that of a stream which was only old."""
        if not self._is_away and reason != EXPIRED:
            log.warning("the service at %s is not followed now: %s", self._service.url, reason)
            self._is_away = True

    def _note_back(self) -> None:
        if self._is_away:
            log.warning("the service at %s is followed again", self._service.url)
            self._is_away = False


def _position(token: str) -> FeedPosition:
    """Return the position of an event. Raises ValueError."""
    claimed = parse_token(token)
    return FeedPosition(claimed.epoch or "", claimed.seq, claimed.tag or "")


def _reason(response: Response) -> str:
    """Return the text of an error of the service, or the status of another program's."""
    try:
        return str(loads(response.body)["error"])
    except (MalformedJson, LookupError, TypeError):
        return f"status {response.status}"
