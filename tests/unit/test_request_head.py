"""Which heads are kept, so that they are parsed once (`web.request_head.KnownHeads`)."""

from __future__ import annotations

import pytest
from tornado.httputil import HTTPHeaders, RequestStartLine

from balance.web.request_head import KEPT_BYTES_MAX, KEPT_LINES_MAX, KEPT_MAX, KnownHeads, RequestHead


def head_of(target: str) -> RequestHead:
    return RequestHead(RequestStartLine("POST", target, "HTTP/1.1"), HTTPHeaders({"Host": "x"}), 2, True, False)


def test_a_head_is_known_by_all_its_bytes() -> None:
    known, head = KnownHeads(), head_of("/a")
    known.keep(b"A" * KEPT_BYTES_MAX, head)
    assert known.get(b"A" * KEPT_BYTES_MAX) is head
    assert known.get(b"A" * (KEPT_BYTES_MAX - 1)) is None


@pytest.mark.parametrize(("size", "target"), [(1, "/a?b"), (KEPT_BYTES_MAX + 1, "/a")])
def test_a_head_that_is_large_or_rarely_comes_again_is_not_kept(size: int, target: str) -> None:
    known = KnownHeads()
    known.keep(b"A" * size, head_of(target))
    assert known.get(b"A" * size) is None


def test_a_head_of_many_lines_is_not_kept() -> None:
    known, head = KnownHeads(), head_of("/a")
    for lines in (KEPT_LINES_MAX, KEPT_LINES_MAX + 1):
        known.keep(b"\n" * lines, head)
    assert known.get(b"\n" * KEPT_LINES_MAX) is head
    assert known.get(b"\n" * (KEPT_LINES_MAX + 1)) is None


def test_a_head_that_asks_for_another_protocol_is_not_kept() -> None:
    known, head = KnownHeads(), head_of("/a")
    head.headers["Upgrade"] = "websocket"
    known.keep(b"A", head)
    assert known.get(b"A") is None


def test_the_oldest_of_too_many_heads_is_dropped() -> None:
    known, head = KnownHeads(), head_of("/a")
    for number in range(KEPT_MAX + 1):
        known.keep(b"%d" % number, head)
    assert known.get(b"0") is None
    assert all(known.get(b"%d" % number) is head for number in range(1, KEPT_MAX + 1))
