"""The log when clients or the database cause the same line again and again."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator

import pytest

from balance.process import log_limit
from balance.process.log_limit import LimitedHandler


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Return the lines of a handler with the limit; a second is shortened to 50 ms."""
    monkeypatch.setattr(log_limit, "LINE_S", 0.05)
    stream = io.StringIO()
    handler = LimitedHandler(stream)
    log.addHandler(handler)
    yield stream
    log.removeHandler(handler)
    handler.close()


log = logging.Logger("limited")  # outside of the tree of loggers: its records go to this handler alone


def warn(number: int) -> None:
    log.warning("client %d left", number)


def fail(error: Exception) -> None:
    try:
        raise error
    except Exception:
        log.exception("an update\nwas not saved")


def test_a_thousand_faults_of_one_kind_at_once_are_two_lines(written: io.StringIO) -> None:
    for number in range(1000):
        warn(number)
    assert written.getvalue() == "client 0 left\n"
    await_timer()
    assert written.getvalue() == "client 0 left\nclient 999 left (and 998 more of this kind)\n"


def test_withheld_lines_are_written_at_the_end_of_the_process(written: io.StringIO) -> None:
    for number in range(3):
        warn(number)
    log.handlers[0].close()
    assert written.getvalue() == "client 0 left\nclient 2 left (and 1 more of this kind)\n"


def test_a_fault_of_another_kind_is_written_at_once(written: io.StringIO) -> None:
    warn(1)
    log.warning("the disk is full")
    fail(ValueError("one"))
    fail(KeyError("two"))
    assert "disk is full" in written.getvalue()
    assert "ValueError: one" in written.getvalue()
    assert "KeyError: 'two'" in written.getvalue()


def test_a_repeated_traceback_is_one_line_until_the_minute_is_over(written: io.StringIO) -> None:
    for number in range(3):
        fail(ValueError(f"no {number}\nand more"))
    first = written.getvalue()
    assert "Traceback" in first
    await_timer()
    assert written.getvalue() == f"{first}an update: ValueError: no 2 (and 1 more of this kind)\n"


def test_threads_that_log_at_once_are_all_counted(written: io.StringIO) -> None:
    threads = [threading.Thread(target=lambda: [warn(number) for number in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.handlers[0].close()
    more = sum(int(line.split("(and ")[1].split()[0]) for line in written.getvalue().splitlines() if "(and" in line)
    assert more + len(written.getvalue().splitlines()) == 400


def await_timer() -> None:
    """Wait until the timer of the second has ended."""
    handler = log.handlers[0]
    assert isinstance(handler, LimitedHandler)
    while (timer := handler._timer) is not None:
        timer.join(10)
