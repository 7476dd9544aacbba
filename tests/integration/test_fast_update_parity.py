"""The fast and the slow path of an update answer whatever a client sends with the same bytes.

Two services, one of which has no fast path, are sent the same frames; the frames that each client receives are
compared, except for the ids and times that a server makes. The order of what one client sends is kept where both paths
handle a part of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count, islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import protocol
from balance.realtime.fast_update import UpdateFastPath
from balance.realtime.session import Session
from tests.support.payloads import CASES, MADE_BY_THE_SERVER, UPDATE, body_of, updates
from tests.support.raw_clients import Dropped, SocketClient
from tests.support.service import Database, MakeService
from tests.support.shared_service import SharedService, shared_service
from tests.support.waiting import until

PLAIN = f'42["balance:update",{body_of(CASES[0]).decode()}]'
ODD = [
    PLAIN,
    PLAIN.replace("42", "427", 1),
    PLAIN.replace("42", "42007", 1),
    PLAIN.replace("42", "42" + "9" * 15, 1),
    PLAIN.replace("42", "42" + "9" * 16, 1),
    PLAIN.replace("42", "42/,", 1),
    PLAIN.replace("42", "42/other,", 1),
    PLAIN.replace("42", "42-1", 1),
    PLAIN + " ",
    PLAIN + "]",
    PLAIN[:-1],
    PLAIN[:-1] + ",1]",
    PLAIN[:-1] + " ]",
    PLAIN.replace(",{", ", {", 1),
    PLAIN.replace('",{', '" ,{', 1),
    '42["balance:update",]',
    '42["balance:update",null]',
    '42["balance:update"]',
    '42["balance:update",[]]',
    '42["balance:update",{}]]',
    '42["balance:update",{},{}]',
    '42["balance:update",1e400]',
    '42["balance:update",NaN]',
    '42["balance:update","\\ud800"]',
    '42["balance:updatex",{}]',
    '42["ping",{}]',
    "42[]",
    "42",
    "",
]


class Pair:
    """Two services that should answer alike, and a client of each."""

    def __init__(self, fast: SharedService, slow: SharedService) -> None:
        self.both = (fast, slow)
        self._clients: list[SocketClient | None] = [None, None]
        self._ids = count(10**12)  # no frame has these by chance

    def ask(self, *frames: str) -> list[list[str]]:
        """Send frames to both; return what each sends until a ping after them is acknowledged, or until the end."""
        return [self.both[index].run(self._ask(index, frames)) for index in range(2)]

    async def _ask(self, index: int, frames: tuple[str, ...]) -> list[str]:
        client = self._clients[index] or await SocketClient.connect(self.both[index].service.url)
        self._clients[index] = client
        received: list[str] = []
        try:
            for frame in frames:
                await client.send_raw(frame)
            await self._receive(client, received)  # all has been read
            engine = self.both[index].service.app.server.eio
            await until(lambda: not any(session.in_flight for session in engine.sessions.values()))
            await self._receive(client, received)  # all has been answered
        except Dropped as dropped:
            received.append(f"closed with {dropped.code}")
            await client.close()
            self._clients[index] = None
        return received

    async def _receive(self, client: SocketClient, received: list[str]) -> None:
        """Receive all that is sent before the acknowledgement of a ping; a pong may answer another frame."""
        id_ = next(self._ids)
        await client.send_raw(f'42{id_}["ping"]')
        while not (frame := str(await client.next_frame())).startswith(f"43{id_}["):
            received.append(MADE_BY_THE_SERVER.sub("…", frame))
        assert received.pop().startswith('42["pong"')

    def close(self) -> None:
        for shared, client in zip(self.both, self._clients, strict=True):
            if client is not None:
                shared.run(client.close())


@pytest.fixture(scope="module")
def handled() -> list[str]:
    """The frames that the fast path has handled."""
    return []


@pytest.fixture(scope="module")
def pair(postgres: str, template: str, handled: list[str]) -> Iterator[Pair]:
    try_handle, without = UpdateFastPath.try_handle, set[UpdateFastPath]()

    def noted(self: UpdateFastPath, session: Session, frame: str) -> bool:
        was_handled = self not in without and try_handle(self, session, frame)
        handled.extend([frame] * was_handled)
        return was_handled

    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(UpdateFastPath, "try_handle", noted)
        fast, slow = (stack.enter_context(shared_service(postgres, template)) for _ in range(2))
        without.add(slow.service.app.server.fast_path)
        pair = Pair(fast, slow)
        yield pair
        pair.close()


def answers_first(frames: list[str]) -> list[str]:
    """Order frames by kind: whether two updates of one client are committed in one batch or two, timing decides."""
    return sorted(frames, key=lambda frame: frame.startswith('42["balance:snapshot"'))


def check_same(pair: Pair, *frames: str) -> None:
    fast, slow = (answers_first(received) for received in pair.ask(*frames))
    assert fast == slow
    assert pair.both[0].stored() == pair.both[1].stored()


@pytest.mark.parametrize("frame", ODD, ids=range(len(ODD)))
def test_both_paths_answer_an_odd_frame_alike(pair: Pair, frame: str) -> None:
    check_same(pair, frame)


def test_both_paths_answer_every_case_alike_with_and_without_an_ack(pair: Pair, handled: list[str]) -> None:
    handled.clear()
    for case in CASES:
        if not case.get("rest_only"):
            body = body_of(case).decode()
            check_same(pair, f'42["balance:update",{body}]', f'427["balance:update",{body}]')
    assert len(handled) > len(CASES), "the fast path has handled most of them"


@settings(max_examples=150)
@given(st.data())
def test_both_paths_answer_any_frame_alike(pair: Pair, data: st.DataObject) -> None:
    frame = data.draw(st.sampled_from(ODD))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(frame)))
        cut = data.draw(st.integers(0, 3))
        frame = frame[:at] + data.draw(st.text('0123456789[]{}",:/-ab \\', max_size=3)) + frame[at + cut :]
    check_same(pair, "4" + frame[1:])


@pytest.mark.parametrize("in_flight", [1, 3, 256])
async def test_the_order_is_kept_where_both_paths_handle_updates_of_a_client(
    make_service: MakeService, database: Database, in_flight: int
) -> None:
    service = await make_service(updates_in_flight_max=in_flight)
    client = await SocketClient.connect(service.url)
    sent = list(islice(updates(Random(5)), 400))
    for number, update in enumerate(sent):
        if number % 3 == 2:  # two payloads: not plain, so the slow path rejects it
            await client.emit("balance:update", UPDATE, UPDATE)
        if number % 5 == 4:  # nor is an update with a space after it, which is saved
            await client.send_raw(f'42["balance:update",{protocol.dumps(update)}] ')
        else:
            await client.emit("balance:update", update)
    acknowledged = []
    while len(acknowledged) < len(sent):
        event, payload = await client.next_event()
        if event == "balance:ack":
            acknowledged.append(payload["id"])
    assert acknowledged == [update["id"] for update in sent]
    assert [str(row["id"]) for row in database.rows()] == acknowledged
    await client.close()


async def test_a_client_of_the_fast_path_only_is_not_dropped_as_lost(
    make_service: MakeService,
) -> None:
    service = await make_service(ping_interval_s=1, ping_timeout_s=1)
    client = await SocketClient.connect(service.url)
    clock = asyncio.get_running_loop().time
    began = clock()
    while clock() - began < 3.5:  # the library gives up after two seconds with nothing to read or to send
        assert (await client.call("balance:update", UPDATE))[0]["success"]
    await client.close()
