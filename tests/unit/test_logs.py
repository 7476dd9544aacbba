"""The form of the log, what is replaced in it, and a reader that stops."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import threading
import time
from typing import Any

import pytest

from balance.process import log_writer
from balance.process.log_writer import LogWriter
from balance.process.logs import JsonFormatter, TextFormatter, redact
from balance.request_log import SAMPLED

SECRET = "hunter2marked"
FORMATTERS = [TextFormatter(), JsonFormatter()]


def record(text: str = "the disk is full", error: Exception | None = None, **fields: Any) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("balance.web", logging.WARNING, __file__, 1, text, None, info)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_a_line_for_a_person_has_the_time_first() -> None:
    line = TextFormatter().format(record())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING balance\.web: the disk is full", line)
    request = TextFormatter().format(record("ping: ok in 1.0 ms", **{SAMPLED: {}}))
    assert re.fullmatch(r"\S+ \S+ ping: ok in 1\.0 ms", request)


def test_a_json_line_has_the_documented_fields() -> None:
    fields = json.loads(JsonFormatter().format(record()))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields.pop("time"))
    assert fields == {"level": "warning", "logger": "balance.web", "message": "the disk is full"}
    request = {"operation": "ping", "status": 0, "code": "ok", "duration_ms": 1.0, "caller": "", "omitted": 0}
    fields = json.loads(JsonFormatter().format(record("x", **{SAMPLED: request})))
    assert fields.keys() == {"time", "level", "logger", "message", "operation", "code", "duration_ms", "omitted"}


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization: basic {SECRET}==",
        f"bal_writer_{SECRET}_abc123",
        f"eyJhbGciOiJ{SECRET}.eyJzdWIi{SECRET}.{SECRET}",
        f"GET /api/balance/stream?ticket={SECRET}&after=1",
        f"postgresql://bot:{SECRET}@db/balance",
        f"host=db password={SECRET} dbname=x",
        f"host=db password='{SECRET} with a space' dbname=x",
    ],
)
@pytest.mark.parametrize("formatter", FORMATTERS, ids=["text", "json"])
def test_no_line_has_a_secret_whatever_logs_it(formatter: logging.Formatter, text: str) -> None:
    for one in (record(text), record(error=ValueError(text)), record("x", **{SAMPLED: {"operation": text}})):
        assert SECRET not in formatter.format(one)
    assert redact("the database at db/balance is full, code=ok, user bot") == (
        "the database at db/balance is full, code=ok, user bot"
    )


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["text", "json"])
def test_no_line_has_the_row_of_an_error_of_postgresql(formatter: logging.Formatter) -> None:
    row = f"new row violates a constraint\nDETAIL:  Failing row contains (1, {SECRET}).\nCONTEXT:  {SECRET}"
    try:
        try:
            raise ValueError(row)
        except ValueError as error:
            raise RuntimeError(row) from error
    except RuntimeError as error:
        text = formatter.format(record(error=error))
    assert text.count("violates a constraint") == 2
    assert "The above exception" in text
    assert text.count("test_logs.py") == 2
    assert SECRET not in text


def test_a_text_cannot_forge_a_line_or_change_a_terminal() -> None:
    assert redact("a\r\x1b[31mb\x9b\u2028") == "a\\x0d\\x1b[31mb\\x9b\\x2028"


def test_a_reader_that_stops_does_not_stop_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "CLOSE_S_MAX", 0.1)
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        writer = LogWriter(stream)
        begin = time.monotonic()
        for number in range(5_000):
            writer.write(f"{number:0100}\n")
        assert time.monotonic() - begin < 1, "a pipe has 64 KiB, and nobody reads it"
        reader = threading.Thread(target=read_all, args=(reading, read := []))
        reader.start()
        writer.wait_written(10)
        writer.write("the last\n")
        writer.wait_written(10)
        writer.close()
    reader.join(10)
    lines = b"".join(read).decode().splitlines()
    dropped = [int(line.split()[0]) for line in lines if "dropped" in line]
    assert dropped
    assert sum(dropped) + len(lines) - len(dropped) - 1 == 5_000
    assert lines[-1] == "the last"


def read_all(descriptor: int, into: list[bytes]) -> None:
    while part := os.read(descriptor, 65_536):
        into.append(part)
    os.close(descriptor)


def test_a_stream_that_is_gone_ends_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    writer = LogWriter(stream)
    writer.write("lost\n")
    writer.close()
    assert not writer._thread.is_alive()
