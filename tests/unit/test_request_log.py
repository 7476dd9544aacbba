"""The log of requests: at most N lines a second, failed and slow ones first, and the number of the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from balance import request_log
from balance.request_context import OK, RequestContext
from balance.request_log import SAMPLED, RequestLog

CONTEXT = RequestContext({"X-Request-Id": "r-1"}, "192.0.2.1")


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Yield a list that gets the fields of each line; a second is shortened to 50 ms."""
    monkeypatch.setattr(request_log, "SECOND", 0.05)
    lines: list[dict[str, Any]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append({"message": record.getMessage(), **getattr(record, SAMPLED)})

    handler = Handler()
    request_log.log.addHandler(handler)
    with caplog.at_level(logging.INFO, "balance.request"):
        yield lines
    request_log.log.removeHandler(handler)


def save(log: RequestLog, code: str = OK, *, ago: float = 0.0, **more: Any) -> None:
    log.write(CONTEXT, "balance:update", code, monotonic() - ago, **more)


async def test_a_line_has_the_operation_the_result_the_time_and_the_client(written: list[dict[str, Any]]) -> None:
    log = RequestLog(10)
    log.write(CONTEXT, "POST /api/balance/snapshot", OK, monotonic() - 0.0021, 201)
    log.write(CONTEXT, "POST /api/balance/snapshot", "busy", monotonic(), 503)
    save(log)
    log.write(CONTEXT, "disconnect", OK, monotonic() - 7, may_wait=True)
    log.close()
    texts = [line["message"] for line in written]
    assert texts[0].startswith("POST /api/balance/snapshot: 201 in 2.")
    assert texts[0].endswith(" ms, from 192.0.2.1, request r-1")
    assert texts[1].startswith("POST /api/balance/snapshot: 503 busy in 0.0 ms")
    assert texts[2].startswith("balance:update: ok in 0.0 ms")
    assert texts[3] == "disconnect: ok after 7.0 s, from 192.0.2.1, request r-1"
    assert written[0]["status"] == 201
    assert written[0]["duration_ms"] == pytest.approx(2.1, abs=1)


async def test_the_rest_of_a_second_is_one_line_with_its_number(written: list[dict[str, Any]]) -> None:
    log = RequestLog(10)
    for _ in range(1_000):
        save(log)
    assert len(written) == 5
    await asyncio.sleep(0.1)
    assert written[5]["message"] == "995 more requests in the last second"
    save(log)
    assert len(written) == 7, "the next second has lines of its own"
    log.close()


async def test_failed_and_slow_requests_get_lines_when_thousands_succeed(written: list[dict[str, Any]]) -> None:
    log = RequestLog(10)
    for _ in range(1_000):
        save(log)
    save(log, "unavailable")
    save(log, ago=0.6)
    save(log, ago=50, may_wait=True)
    assert [line["code"] for line in written[5:]] == ["unavailable", OK]
    for _ in range(10):
        save(log, "busy")
    log.close()
    assert written[-1]["message"] == "1003 more requests in the last second, of which 7 failed or were slow"
    assert (written[-1]["omitted"], written[-1]["omitted_notable"]) == (1003, 7)
    assert len(written) == 11


async def test_without_lines_nothing_is_logged_or_counted(written: list[dict[str, Any]]) -> None:
    log = RequestLog(0)
    save(log)
    save(log, "busy")
    log.close()
    assert written == []
