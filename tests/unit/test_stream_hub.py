"""Streams of server-sent events over real sockets, with a feed that each test controls."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, cast

import pytest

import protocol
from balance.aio import slices
from balance.aio.loop_budget import LoopBudget
from balance.auth import ANYONE
from balance.feed.feed import Feed
from balance.feed.replay import Receiver, ReplayBroken, SlowClient
from balance.position import Position
from balance.request_context import RequestContext
from balance.request_log import RequestLog
from balance.snapshot import EncodedSnapshot
from balance.web.event_stream import INPUT_BYTES_MAX, EventStream
from balance.web.http_connection import RequestStream
from balance.web.lingering_close import Closer
from balance.web.sse import encode_snapshots
from balance.web.stream_hub import PING_S, StreamHub
from tests.support.sse import Event, read_events
from tests.support.waiting import until

EPOCH = "3f0c8b52-6a1d-4e7b-9d53-0c2f7a9be614"
TS = "2025-11-07T00:45:08.603Z"
LIMIT = 65_536
FILTER_BYTES_MAX = 12_000  # of a filter with a hundred process ids
Work = Callable[[Any, Any], Awaitable[None]]


def snapshot(seq: int, pid: int | None = None, padding: int = 0) -> EncodedSnapshot:
    """Return a snapshot as the feed has it."""
    wire = {"id": f"019a5bb2-4a1b-7c3e-9f10-0000{seq:08x}", "seq": seq, "ts": TS, "pid": pid}
    text = protocol.encode({**wire, "onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}})
    return EncodedSnapshot(seq, text[:-1] + b" " * padding + b"}")


async def join_at_once(_send: Any, join: Any) -> None:
    """Replay nothing."""
    join()


class FakeFeed:
    """A feed whose head is the last snapshot that was published."""

    def __init__(self) -> None:
        self.head = Position(EPOCH, 0)
        self.work: Work = join_at_once
        self.pids: list[tuple[int, ...] | None] = []

    async def replay(self, _position: Position, receiver: Receiver[bytes]) -> None:
        self.pids.append(receiver.pids)
        await self.work(receiver.send, receiver.join)


class Scene:
    """A hub, its feed and the clients of its streams."""

    def __init__(self, unsent_bytes_max: int) -> None:
        self.feed = FakeFeed()
        self.hub = StreamHub(
            cast("Feed", self.feed), LoopBudget(), RequestLog(0), stream_s_max=600, unsent_bytes_max=unsent_bytes_max
        )
        self.closer = Closer()
        self.sockets: list[socket.socket] = []

    async def open(self, *pids: int, is_live: bool = True, buffer: int = 0) -> tuple[EventStream, socket.socket]:
        """Open a stream; return its server's end, and the socket of its client."""
        ours, theirs = socket.socketpair()
        for one in (ours, theirs) if buffer else ():
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        theirs.setblocking(False)
        self.sockets.append(theirs)
        stream = EventStream(RequestStream(ours), self.closer, RequestContext({}, "127.0.0.1"), ANYONE, pids or None)
        self.hub.add(stream, Position(EPOCH, 0))
        if is_live:
            await until(lambda: stream.replaying is None)
        return stream, theirs

    def publish(self, *snapshots: EncodedSnapshot) -> None:
        """Publish a batch."""
        self.feed.head = Position(EPOCH, snapshots[-1].seq)
        self.hub.publish(snapshots)


@asynccontextmanager
async def scene(unsent_bytes_max: int = LIMIT) -> AsyncIterator[Scene]:
    """Make a hub, and close everything at the end."""
    one = Scene(unsent_bytes_max)
    try:
        yield one
    finally:
        one.hub.close()
        for client in one.sockets:
            client.close()
        await until(lambda: not len(one.hub))
        await one.closer.stop()


async def arrived(client: socket.socket) -> bytes:
    """Return what the server has sent."""
    await asyncio.sleep(0)
    try:
        return client.recv(1_000_000)
    except BlockingIOError:
        return b""


async def read_rest(client: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    data = b""
    while some := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 65_536), 5):
        data += some
    return data


def ids(events: Sequence[Event]) -> list[str | None]:
    return [one.id for one in events]


def seqs(received: bytes) -> list[int]:
    return [event.data["seq"] for event in read_events(received)]


async def test_a_stream_gets_each_snapshot_with_its_position() -> None:
    async with scene() as one:
        _, client = await one.open()
        one.publish(snapshot(1), snapshot(2))
        assert await arrived(client) == b"".join(
            b"id: %b:%d:%08x\nevent: balance:snapshot\ndata: %b\n\n" % (EPOCH.encode(), seq, seq, snapshot(seq).json)
            for seq in (1, 2)
        )


async def test_a_filter_of_a_hundred_process_ids_costs_a_few_kilobytes() -> None:
    """Each stream has process ids of its own."""
    async with scene() as one:
        tracemalloc.start()
        try:
            sizes = [0]
            for pids in (1, 100):  # the first is the cost of a stream without them
                for n in range(20):
                    await one.open(*range(1000 * n, 1000 * n + pids))
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        plain, filtered = (after - before for before, after in pairwise(sizes))
        assert filtered - plain < 20 * FILTER_BYTES_MAX


async def test_a_filtered_stream_gets_the_snapshots_of_its_pids_in_order() -> None:
    async with scene() as one:
        clients = {pids: (await one.open(*pids))[1] for pids in ((), (7,), (7, 8), (9,), (7, 8))}
        one.publish(snapshot(1, 7), snapshot(2, None), snapshot(3, 8), snapshot(4, 7), snapshot(5, 6))
        seen = {
            pids: [one.data["seq"] for one in read_events(await arrived(client))] for pids, client in clients.items()
        }
        assert seen == {(): [1, 2, 3, 4, 5], (7,): [1, 4], (7, 8): [1, 3, 4], (9,): []}
        assert set(one.feed.pids) == {None, (7,), (7, 8), (9,)}
        for client in one.sockets:
            client.close()
        await until(lambda: not len(one.hub))
        assert not one.hub._groups
        assert not one.hub._groups_of_pid


async def test_a_stream_is_not_sent_what_is_live_before_its_replay_has_joined() -> None:
    async with scene() as one:
        may_join = asyncio.Event()

        async def replay(send: Any, join: Any) -> None:
            await send(encode_snapshots([snapshot(1)], EPOCH), 1)
            await may_join.wait()
            await send(encode_snapshots([snapshot(2)], EPOCH), 2)
            join()

        one.feed.work = replay
        stream, client = await one.open(is_live=False)
        await asyncio.sleep(0.01)
        one.publish(snapshot(2))
        may_join.set()
        await until(lambda: stream.replaying is None)
        one.publish(snapshot(3))
        assert seqs(await arrived(client)) == [1, 2, 3]


async def test_what_the_system_does_not_accept_waits_and_nothing_is_torn_or_reordered() -> None:
    async with scene(unsent_bytes_max=10_000_000) as one:
        stream, client = await one.open(buffer=4_096)
        for seq in range(1, 101):
            one.publish(snapshot(seq, padding=1_000))
        assert stream.direct_send is None
        assert stream.unsent_bytes > 50_000
        received = b""
        while stream.direct_send is None:
            received += await arrived(client)
        one.publish(snapshot(101))
        received += await arrived(client)
        while not received.endswith(b"\n\n") or b'"seq":101' not in received:
            received += await arrived(client)
        assert seqs(received) == list(range(1, 102))
        assert one.hub.slow_disconnects == 0


@pytest.mark.expects_log("disconnected slow client")
async def test_a_client_that_does_not_read_is_disconnected_at_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    async with scene() as one:
        stream, _ = await one.open(buffer=4_096)
        _, other = await one.open()
        sent = most = 0
        while not stream.is_closed:
            sent += 1
            one.publish(snapshot(sent, padding=1_000))
            most = max(most, stream.unsent_bytes)
        assert LIMIT < most < LIMIT + 3_000, "one batch over the limit"
        assert one.hub.slow_disconnects == 1
        await until(lambda: len(one.hub) == 1)
        assert len(read_events(await arrived(other))) == sent
        (line,) = [record.getMessage() for record in caplog.records]
        assert re.fullmatch(r"disconnected slow client 127\.0\.0\.1 of a stream: \d+ bytes unread", line)


async def test_one_batch_larger_than_the_limit_disconnects_no_client_that_reads() -> None:
    async with scene() as one:
        stream, client = await one.open(buffer=4_096)
        received = b""
        for seq in (1, 2, 3):
            one.publish(snapshot(seq, padding=3 * LIMIT))
            while stream.direct_send is None:
                received += await arrived(client)
        received += await arrived(client)
        assert ids(read_events(received)) == [f"{EPOCH}:{seq}:{seq:08x}" for seq in (1, 2, 3)]


@pytest.mark.expects_log("disconnected slow client")
async def test_a_client_that_does_not_read_its_replay_is_disconnected(caplog: pytest.LogCaptureFixture) -> None:
    async def replay(send: Any, _join: Any) -> None:
        try:
            async with asyncio.timeout(0.05):
                for seq in range(1, 1_000):
                    await send(encode_snapshots([snapshot(seq, padding=1_000)], EPOCH), seq)
        except TimeoutError as error:
            raise SlowClient from error

    async with scene() as one:
        one.feed.work = replay
        stream, _ = await one.open(is_live=False, buffer=4_096)
        await until(lambda: stream.is_closed)
        assert one.hub.slow_disconnects == 1
        (line,) = [record.getMessage() for record in caplog.records]
        assert re.fullmatch(r"disconnected slow client 127\.0\.0\.1 of a stream: \d+ bytes unread", line)


async def test_a_quiet_stream_gets_a_ping_without_an_id() -> None:
    async with scene() as one:
        (quiet, client), (busy, other) = await one.open(7), await one.open()
        one.publish(snapshot(1))
        await arrived(other)
        quiet.sent_at -= PING_S
        busy.sent_at -= PING_S
        one.hub._sweep()
        (ping,) = read_events(await arrived(client))
        assert (ping.name, ping.id, ping.data["seq"]) == ("ping", None, 1)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ping.data["timestamp"])
        assert await arrived(other) == b"", "a snapshot was sent to its group"
        one.hub._sweep()
        assert await arrived(client) == b""


async def test_a_ping_during_a_replay_has_the_seq_that_was_sent_and_not_that_of_the_head() -> None:
    async with scene() as one:
        go = asyncio.Event()

        async def replay(send: Any, join: Any) -> None:
            for seq in (1, 2):
                await go.wait()
                go.clear()
                await send(encode_snapshots([snapshot(seq)], EPOCH), seq)
            await go.wait()
            join()

        one.feed.work = replay
        stream, client = await one.open(is_live=False)
        await asyncio.sleep(0.01)
        one.publish(snapshot(1), snapshot(2))
        pings = []
        for _ in range(4):
            await arrived(client)
            stream.sent_at -= PING_S
            one.hub._sweep()
            pings += [(event.name, event.data["seq"]) for event in read_events(await arrived(client))]
            go.set()
            await asyncio.sleep(0.01)
        one.publish(snapshot(3))
        assert pings == [("ping", 0), ("ping", 1), ("ping", 2), ("ping", 2)]
        assert seqs(await arrived(client)) == [3]
        stream.sent_at -= PING_S
        one.hub._groups[None].sent_at -= PING_S
        one.hub._sweep()
        (ping,) = read_events(await arrived(client))
        assert ping.data["seq"] == 3


async def test_an_old_stream_ends_and_the_last_event_has_the_position_of_a_live_one() -> None:
    async with scene() as one:
        streams = [await one.open(7), await one.open()]
        one.feed.work = lambda _send, _join: asyncio.sleep(60)
        streams.append(await one.open(is_live=False))
        one.publish(snapshot(1))
        for stream, _ in streams:
            assert 0.9 * 600 <= stream.expires_at - stream.sent_at <= 1.1 * 600
            stream.expires_at -= 661
        one.hub._sweep()
        at_head = f"{EPOCH}:1:00000001"
        for (stream, client), expected in zip(streams, [[at_head], [at_head, at_head], [None]], strict=True):
            events = read_events(await read_rest(client))
            assert (events[-1].name, events[-1].data) == ("bye", {"reason": "expired"})
            assert ids(events) == expected
            assert stream.is_closed
        await until(lambda: not len(one.hub))


@pytest.mark.parametrize(
    ("end", "reason"), [(StreamHub.end_all, "reset"), (StreamHub.close, "stopping")], ids=["reset", "stopping"]
)
async def test_all_streams_end_also_those_that_replay_or_were_opened_just_now(
    end: Callable[[StreamHub], None], reason: str
) -> None:
    async with scene() as one:
        _, live = await one.open()
        one.feed.work = lambda _send, _join: asyncio.sleep(60)
        _, replaying = await one.open(is_live=False)
        await asyncio.sleep(0.01)
        _, new = await one.open(is_live=False)
        end(one.hub)
        for client in (live, replaying, new):
            (event,) = read_events(await read_rest(client))
            assert (event.name, event.id, event.data) == ("bye", None, {"reason": reason})
        await until(lambda: not len(one.hub))


async def test_a_new_epoch_ends_the_old_streams_in_turns_and_none_that_opens_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)  # one in each turn of the event loop
    async with scene() as one:
        old = [await one.open(*[7] * (n % 2)) for n in range(20)]
        one.feed.work = lambda _send, _join: asyncio.sleep(60)
        old.append(await one.open(is_live=False))
        await asyncio.sleep(0.01)
        one.feed.work = join_at_once
        one.hub.end_all()
        for ended in (0, 1, 2):
            assert sum(stream.is_closed for stream, _ in old) == ended
            await asyncio.sleep(0)
        one.publish(snapshot(1, 7))
        one.hub._sweep()
        (new, client), (filtered, other) = await one.open(), await one.open(7)
        one.publish(snapshot(2, 7))
        for _, outdated in old:
            (bye,) = read_events(await read_rest(outdated))
            assert (bye.name, bye.id, bye.data) == ("bye", None, {"reason": "reset"})
        assert [seqs(await arrived(one)) for one in (client, other)] == [[2], [2]]
        assert [one.is_closed for one in (new, filtered)] == [False, False]
        assert len(one.hub) == 2


async def test_a_stop_ends_also_the_streams_that_a_new_epoch_has_not_ended_yet() -> None:
    async with scene() as one:
        stream, client = await one.open()
        one.hub.end_all()
        one.hub.close()
        assert stream.is_closed
        (bye,) = read_events(await read_rest(client))
        assert bye.data == {"reason": "reset"}


async def test_a_client_with_a_backlog_gets_it_before_the_last_event() -> None:
    async with scene() as one:
        _, client = await one.open(buffer=4_096)
        for seq in range(1, 40):
            one.publish(snapshot(seq, padding=1_000))
        one.hub.end_all()
        *snapshots, bye = read_events(await read_rest(client))
        assert [event.data["seq"] for event in snapshots] == list(range(1, 40))
        assert bye.data == {"reason": "reset"}


@pytest.mark.expects_log("what a client has missed could not be sent")
@pytest.mark.parametrize(
    ("failure", "reason"),
    [(protocol.Unavailable(), "unavailable"), (ReplayBroken(), "reset"), (RuntimeError(), "unavailable")],
    ids=["unavailable", "broken", "unexpected"],
)
async def test_a_replay_that_fails_ends_the_stream_with_the_reason(failure: Exception, reason: str) -> None:
    async def replay(send: Any, _join: Any) -> None:
        await send(encode_snapshots([snapshot(1)], EPOCH), 1)
        raise failure

    async with scene() as one:
        one.feed.work = replay
        _, client = await one.open(is_live=False)
        first, bye = read_events(await read_rest(client))
        assert (first.data["seq"], bye.name, bye.id, bye.data) == (1, "bye", None, {"reason": reason})
        await until(lambda: not len(one.hub))


async def test_a_client_that_goes_away_ends_its_replay() -> None:
    ended = asyncio.Event()

    async def replay(_send: Any, _join: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with scene() as one:
        one.feed.work = replay
        _, client = await one.open(is_live=False)
        await asyncio.sleep(0.01)
        client.close()
        await asyncio.wait_for(ended.wait(), 5)
        assert not one.hub.has_watchers


async def test_what_a_client_sends_is_ignored_until_it_is_too_much() -> None:
    async with scene() as one:
        stream, client = await one.open()
        client.send(b"\r\n" * (INPUT_BYTES_MAX // 2))
        await asyncio.sleep(0.05)
        one.publish(snapshot(1))
        assert ids(read_events(await arrived(client))) == [f"{EPOCH}:1:00000001"]
        client.send(b"x")
        await until(lambda: stream.is_closed)
        assert not len(one.hub)


def count_streams() -> int:
    return sum(isinstance(one, EventStream) for one in gc.get_objects())


async def test_a_stream_that_has_ended_is_freed_without_a_garbage_collection() -> None:
    async with scene() as one:
        gc.collect()
        gc.disable()
        before = count_streams()  # a log record of an earlier test may have one in its traceback
        try:
            for index in range(4):
                _, client = await one.open(*[7] * (index % 2))
                one.publish(snapshot(index + 1, 7))
                if index < 2:
                    client.close()
                else:
                    one.hub.end_all()
            del client, _
            await until(lambda: count_streams() == before)
        finally:
            gc.enable()
