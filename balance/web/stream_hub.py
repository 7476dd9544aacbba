"""All streams of server-sent events of this process: their broadcasts, pings and ends.

Streams with the same filter are one group. A batch of snapshots is encoded once, put together once for each group that
wants some of it, and sent by one loop of `send`.

Threads: event loop only.
Life cycle: `start` starts the sweep; `close` ends every stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from heapq import nlargest
from random import uniform

from tornado.iostream import StreamClosedError

import protocol
from balance.access.authenticator import Authenticator
from balance.aio.loop_budget import LoopBudget
from balance.aio.send import send_to_each
from balance.aio.slices import SlicedWork
from balance.feed.feed import Feed
from balance.feed.replay import Receiver, ReplayBroken, SlowClient
from balance.open_connection import OpenConnection
from balance.position import Position, to_token
from balance.request_context import OK
from balance.request_log import RequestLog
from balance.service import now
from balance.snapshot import EncodedSnapshot, format_ts
from balance.web.event_stream import EventStream
from balance.web.sse import encode_each, encode_event, encode_snapshots
from balance.web.stream_groups import Group, GroupsOfPid

log = logging.getLogger("balance.web")

SWEEP_S = 1.0
PING_S = 15.0  # of quiet, after which a ping is sent
SPREAD = 0.1  # of the age at which a stream ends, so that those that began together do not end together
SLOW = "slow"  # in the log, of a client that does not read
BUSY, STOPPING, EXPIRED, UNAVAILABLE, RESET = "busy", "stopping", "expired", "unavailable", "reset"
UNAUTHORIZED = "unauthorized"


class StreamHub:
    """The streams, each from the head of its response to its end. It is a listener of the feed."""

    def __init__(
        self, feed: Feed, budget: LoopBudget, request_log: RequestLog, *, stream_s_max: int, unsent_bytes_max: int
    ) -> None:
        self._feed = feed
        self._budget = budget
        self._request_log = request_log
        self._stream_s_max = stream_s_max
        self._unsent_bytes_max = unsent_bytes_max
        self._streams: set[EventStream] = set()
        self._groups: dict[tuple[int, ...] | None, Group] = {}
        self._groups_of_pid = GroupsOfPid()
        self._last: EncodedSnapshot | None = None  # that was published
        self._outdated = SlicedWork(self._reset)  # streams of before `end_all`, in no other table
        self._sweeper: asyncio.TimerHandle | None = None
        self.slow_disconnects = 0
        self.deliveries = 0
        """The events of published snapshots that were sent to clients, or queued for them."""

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def has_watchers(self) -> bool:
        """Whether there is any stream."""
        return bool(self._streams)

    def largest_backlogs(self, count: int) -> list[OpenConnection]:
        """Describe the clients with the largest backlogs, at most this number, the largest first."""
        return [one.describe() for one in nlargest(count, self._streams, key=lambda one: one.unsent_bytes)]

    # One stream

    def add(self, stream: EventStream, position: Position) -> None:
        """Serve a stream whose head has been sent: send everything after `position`."""
        clock = asyncio.get_running_loop().time()
        stream.sent_at = clock
        stream.replayed = position.seq
        stream.expires_at = clock + self._stream_s_max * uniform(1 - SPREAD, 1 + SPREAD)
        self._streams.add(stream)
        stream.call_on_close(self._discard)
        if not stream.is_closed:
            stream.replaying = asyncio.create_task(self._replay(stream, position))

    async def _replay(self, stream: EventStream, position: Position) -> None:
        """Send what a client has missed, then make its stream live."""
        send, join = partial(self._send_page, stream), partial(self._join, stream)
        replay = self._feed.replay(position, Receiver(encode_snapshots, send, join, stream.context.client, stream.pids))
        try:
            await self._budget.run(stream.context.client, replay)
        except StreamClosedError:
            pass
        except SlowClient:
            self._disconnect(stream)
        except protocol.Unavailable:
            self._end(stream, UNAVAILABLE)
        except ReplayBroken:
            self._end(stream, RESET)
        except Exception:
            log.exception("what a client has missed could not be sent")
            self._end(stream, UNAVAILABLE)
        finally:
            stream.replaying = None

    async def _send_page(self, stream: EventStream, events: bytes, last: int) -> None:
        """Send a part of what a client has missed, up to seq `last`. Raises StreamClosedError."""
        stream.sent_at = asyncio.get_running_loop().time()
        stream.replayed = last
        written = stream.send(events)
        if written is not None:
            await asyncio.shield(written)  # Tornado logs an error for a write that is cancelled

    def _join(self, stream: EventStream) -> None:
        """Send to a stream what is published from now on."""
        group = self._groups.get(stream.pids)
        if group is None:
            group = self._groups[stream.pids] = Group()
            for pid in stream.pids or ():
                self._groups_of_pid.add(pid, group)
        group.streams[stream] = None

    def _leave(self, stream: EventStream, reason: str) -> bool:
        """Send nothing more to a stream, which ends for this reason; return whether it was live."""
        if stream in self._streams:
            self._streams.remove(stream)
            self._request_log.write(stream.context, "stream end", reason, stream.context.started, may_wait=True)
        self._outdated.discard(stream)
        group = self._groups.get(stream.pids)
        if group is None or stream not in group.streams:
            return False
        del group.streams[stream]
        if not group.streams:
            del self._groups[stream.pids]
            for pid in stream.pids or ():
                self._groups_of_pid.remove(pid, group)
        return True

    def _discard(self, stream: EventStream, reason: str = OK) -> None:
        """Forget a stream that is closed, by its client unless another reason is given."""
        self._leave(stream, reason)
        self._stop_replay(stream)

    def _stop_replay(self, stream: EventStream) -> None:
        if stream.replaying is not None and stream.replaying is not asyncio.current_task():
            stream.replaying.cancel()

    def _end(self, stream: EventStream, reason: str) -> None:
        """Send the reason as the last event, and close."""
        token = self._live_token() if self._leave(stream, reason) and reason != RESET else None
        self._stop_replay(stream)
        stream.end(encode_event("bye", {"reason": reason}, token))

    def _live_token(self) -> str | None:
        """Return the position of every live stream: one with a filter would read again from its last event."""
        head, last = self._feed.head, self._last
        if head is None or last is None or last.seq != head.seq:
            return None
        return to_token(head.epoch, last.seq, last.tag.decode())

    def _disconnect(self, stream: EventStream) -> None:
        """Disconnect a client that does not read."""
        self.slow_disconnects += 1
        log.warning(
            "disconnected slow client %s of a stream: %d bytes unread", stream.context.client, stream.unsent_bytes
        )
        self._discard(stream, SLOW)
        stream.abort()

    # All streams

    def publish(self, snapshots: Sequence[EncodedSnapshot]) -> None:
        """Send an event for each snapshot to every live stream whose filter it fits."""
        self._last = snapshots[-1]
        if not self._groups:
            return
        assert self._feed.head is not None
        events = encode_each(snapshots, self._feed.head.epoch)
        wanted: dict[Group, list[bytes]] = {}
        if None in self._groups:
            wanted[self._groups[None]] = events
        if self._groups_of_pid:
            for snapshot, event in zip(snapshots, events, strict=True):
                for group in self._groups_of_pid.find(snapshot.pid):
                    wanted.setdefault(group, []).append(event)
        clock = asyncio.get_running_loop().time()
        for group, some in wanted.items():
            group.sent_at = clock
            self.deliveries += len(some) * len(group.streams)
            self._broadcast(list(group.streams), b"".join(some))

    def _broadcast(self, streams: Sequence[EventStream], events: bytes) -> None:
        """Send the same events to each of these streams, without waiting."""
        sends = [stream.direct_send for stream in streams]
        for stream, sent in send_to_each(streams, sends, events):
            if stream.is_closed:
                continue
            if stream.admit(len(events), self._unsent_bytes_max):
                stream.send_rest(events, sent)
            else:
                self._disconnect(stream)

    def start(self) -> None:
        """Start the sweep."""
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """End the streams that are old, and send a ping to those that are quiet."""
        self.start()
        clock = asyncio.get_running_loop().time()
        quiet: dict[int, list[EventStream]] = {}
        for stream in list(self._streams):
            if clock > stream.expires_at:
                self._end(stream, EXPIRED)
            elif clock - self._last_sent_at(stream) >= PING_S:
                stream.sent_at = clock
                quiet.setdefault(self._sent_seq(stream), []).append(stream)
        timestamp = format_ts(now())
        for seq, streams in quiet.items():
            self._broadcast(streams, encode_event("ping", {"timestamp": timestamp, "seq": seq}))

    def _sent_seq(self, stream: EventStream) -> int:
        """Return the seq up to which a client was sent everything; the head would be too much during a replay."""
        if stream.replaying is not None or self._feed.head is None:
            return stream.replayed
        return self._feed.head.seq

    def _last_sent_at(self, stream: EventStream) -> float:
        """Return when something was last sent to a stream, by the clock of the event loop."""
        group = self._groups.get(stream.pids) if stream.replaying is None else None
        return max(stream.sent_at, group.sent_at) if group is not None else stream.sent_at

    def end_unauthorized(self, authenticator: Authenticator) -> None:
        """End the streams of callers whose credential is revoked or has expired."""
        for stream in list(self._streams):
            if not authenticator.is_current(stream.context.caller):
                self._end(stream, UNAUTHORIZED)

    def end_all(self) -> None:
        """End every stream that there is, so that its client connects again and is sent whether its position is good.

        They get nothing more from now on; their ends are spread over turns of the event loop, and meanwhile new streams
        are served.
        """
        self._last = None
        self._outdated.add(self._streams)
        self._streams, self._groups, self._groups_of_pid = set(), {}, GroupsOfPid()

    def _reset(self, stream: EventStream) -> None:
        self._end(stream, RESET)

    def close(self) -> None:
        """End every stream, since the server is stopping."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._outdated.finish()
        for stream in list(self._streams):
            self._end(stream, STOPPING)
