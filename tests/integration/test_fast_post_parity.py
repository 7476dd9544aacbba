"""The short way of a POST and the long one say the same, to the last byte, to whatever a client sends.

Two services, one of which has no short way, are told the same bytes; what each answers until it closes is compared, but
for the ids and times that a server makes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, RequestStartLine

import protocol
from balance.feed.pending import Saving
from balance.service import Service
from balance.web.save import ShortPost
from tests.support.http_client import Connection, request_bytes
from tests.support.payloads import CASES, MADE_BY_THE_SERVER, UPDATE, body_of
from tests.support.service import SNAPSHOTS, Database, MakeService
from tests.support.shared_service import SharedService, shared_service
from tests.support.waiting import until

DATE = re.compile(r"(?<=Date: )[^\r]+")
BODY = body_of(CASES[0])
PLAIN = request_bytes("POST", SNAPSHOTS, BODY)
BYE = b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
HANGS_S = 0.5  # who has not answered by then waits for more
ID = "01890a5d-ac96-774b-bcce-b302099a8057"
ODD = [
    PLAIN,
    PLAIN.replace(b"POST", b"post"),
    PLAIN.replace(b"POST", b"PUT"),
    PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    PLAIN.replace(SNAPSHOTS.encode(), SNAPSHOTS.encode() + b"?"),
    PLAIN.replace(SNAPSHOTS.encode(), SNAPSHOTS.encode() + b"/"),
    PLAIN.replace(b"127.0.0.1", b""),
    PLAIN.replace(b"127.0.0.1", b"a,b"),
    PLAIN.replace(b"127.0.0.1", b"[::1]:3000"),
    PLAIN.replace(b"127.0.0.1", b"localhost:3000"),
    PLAIN.replace(b"Host: 127.0.0.1\r\n", b""),
    PLAIN.replace(b"Host: 127.0.0.1\r\n", b"Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n"),
    PLAIN.replace(b"application/json", b"Application/JSON"),
    PLAIN.replace(b"application/json", b"application/json; charset=utf-8"),
    PLAIN.replace(b"application/json", b"application/json; charset=latin1"),
    PLAIN.replace(b"application/json", b"text/plain"),
    request_bytes("POST", SNAPSHOTS, BODY, Origin="http://localhost:8000"),
    request_bytes("POST", SNAPSHOTS, BODY, Origin="http://elsewhere.example"),
    request_bytes("POST", SNAPSHOTS, BODY, Content_Encoding="identity"),
    request_bytes("POST", SNAPSHOTS, BODY, Content_Encoding="gzip"),
    request_bytes("POST", SNAPSHOTS, BODY, Expect="100-continue"),
    request_bytes("POST", SNAPSHOTS, BODY, Connection="close"),
    request_bytes("POST", SNAPSHOTS, BODY, Content_Length=str(len(BODY) - 1)),
    request_bytes("POST", SNAPSHOTS, BODY, Content_Length="1e2"),
    request_bytes("POST", SNAPSHOTS, BODY, Content_Length="9" * 30),
    request_bytes("POST", SNAPSHOTS, BODY, Content_Length=f"{len(BODY)}, {len(BODY)}"),
    request_bytes("POST", SNAPSHOTS, b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY), Transfer_Encoding="chunked"),
    request_bytes("POST", SNAPSHOTS, b" " * 16_384 + BODY),
    request_bytes("POST", SNAPSHOTS, BODY + b" " * (16_384 - len(BODY))),
    request_bytes("POST", SNAPSHOTS, b""),
    request_bytes("POST", SNAPSHOTS, b"{"),
    request_bytes("POST", SNAPSHOTS, b"\xff"),
    request_bytes("POST", SNAPSHOTS, b'{"onchain":"\xff",' + BODY[1:]),
    request_bytes("POST", SNAPSHOTS, b'{"onchain":"\\ud800",' + BODY[1:]),
]


class Pair:
    """Two services that should say the same."""

    def __init__(self, short: SharedService, long: SharedService) -> None:
        self.both = (short, long)

    def check_same(self, *pieces: bytes) -> str:
        """Send bytes to both, in these pieces, and compare what is answered and what is stored; return the answer."""
        short, long = (stand.run(self._ask(stand, pieces)) for stand in self.both)
        assert short == long
        assert self.both[0].stored() == self.both[1].stored()
        return short

    async def _ask(self, stand: SharedService, pieces: tuple[bytes, ...]) -> str:
        async with Connection.to(stand.service.port) as one:
            answer = asyncio.ensure_future(one.read_rest())
            with suppress(OSError):  # it is not interested in the rest
                for piece in (*pieces, BYE):
                    await one.send(piece)
                    await asyncio.sleep(0)
                await asyncio.wait([answer], timeout=HANGS_S)
                if not answer.done():  # it waits for more of a body
                    one.end_sending()
            try:
                text = (await answer).decode("latin1")
            except OSError:
                text = "reset"
        return DATE.sub("…", MADE_BY_THE_SERVER.sub("…", text))


@pytest.fixture(scope="module")
def taken() -> list[str]:
    """The heads that went the short way."""
    return []


@pytest.fixture(scope="module")
def pair(postgres: str, template: str, taken: list[str]) -> Iterator[Pair]:
    is_plain, without = ShortPost.is_plain, set[object]()

    def noted(self: ShortPost, start_line: RequestStartLine, headers: HTTPHeaders) -> bool:
        takes = self.service not in without and is_plain(self, start_line, headers)
        taken.extend([str(headers)] * takes)
        return takes

    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(ShortPost, "is_plain", noted)
        short, long = (stack.enter_context(shared_service(postgres, template)) for _ in range(2))
        without.add(long.service.app.service)
        yield Pair(short, long)


@pytest.mark.parametrize("data", ODD, ids=range(len(ODD)))
def test_both_ways_answer_an_odd_request_alike(pair: Pair, data: bytes) -> None:
    pair.check_same(data)


def test_both_ways_answer_every_case_alike_and_again_when_it_is_sent_twice(pair: Pair, taken: list[str]) -> None:
    taken.clear()
    for case in CASES:
        data = request_bytes("POST", SNAPSHOTS, body_of(case))
        pair.check_same(data, data)
    assert len(taken) > len(CASES), "most of them went the short way"


@settings(max_examples=150)
@given(st.data())
def test_both_ways_answer_any_request_alike(pair: Pair, data: st.DataObject) -> None:
    sent = data.draw(st.sampled_from(ODD)).decode("latin1")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(sent)))
        cut = data.draw(st.integers(0, 3))
        sent = sent[:at] + data.draw(st.text('0123456789[]{}",:/-ab \r\n', max_size=3)) + sent[at + cut :]
    at = data.draw(st.integers(0, len(sent)))
    pair.check_same(sent[:at].encode("latin1"), sent[at:].encode("latin1"))


def test_both_ways_answer_alike_one_that_was_saved_before_and_one_that_stands_for_something_else(pair: Pair) -> None:
    first, other = (
        request_bytes("POST", SNAPSHOTS, protocol.dumps({**UPDATE, "id": ID, "pid": pid}).encode()) for pid in (1, 2)
    )
    assert pair.check_same(first).startswith("HTTP/1.1 201 Created")
    assert pair.check_same(first).startswith("HTTP/1.1 200 OK")
    assert pair.check_same(other).startswith("HTTP/1.1 409 Conflict")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(protocol.Unavailable("gone"), 503, id="gone"),
        pytest.param(RuntimeError("ours"), 500, id="ours", marks=pytest.mark.expects_log(f"POST {SNAPSHOTS}")),
    ],
)
def test_both_ways_tell_alike_what_goes_wrong_once_a_save_has_begun(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, status: int
) -> None:
    def finish(self: Service, update: Any, saving: Saving) -> Any:
        raise error

    monkeypatch.setattr(Service, "finish", finish)
    assert pair.check_same(PLAIN).startswith(f"HTTP/1.1 {status} ")
    assert len(caplog.records) == (2 if status == 500 else 0), "each logs what is its own fault"


async def test_of_a_client_that_leaves_before_it_is_answered_what_it_sent_is_kept(
    make_service: MakeService, database: Database
) -> None:
    service = await make_service()
    saving: list[Saving] = []
    begin = service.app.service.begin

    def noted(update: Any) -> Saving:
        saving.append(begin(update))
        return saving[-1]

    service.app.service.begin = noted  # type: ignore[method-assign]
    async with Connection.to(service.port) as one:
        await one.send(PLAIN)
        await until(lambda: bool(saving))
    await until(lambda: not saving[0].is_open)
    assert database.count() == 1
    assert (await service.post(UPDATE)).status == 201, "and nobody else is any the worse"
