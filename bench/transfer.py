"""What an export and an import of a whole table cost, beside plain COPY, and what a save takes meanwhile."""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO

import psycopg

from bench.report import OURS, Figure
from bench.saver import p99, saving
from bench.targets import Target, running

EXPORT = b"GET /api/balance/export HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
LAST_CHUNK = b"\r\n0\r\n\r\n"
COLUMNS = "seq, id, ts, pid, onchain, onsite, received_at"
QUIET_S = 3.0
RSS_MAX = "≤ 150"


def transfer(full: str, empty: str, busy: str, copied: str, rows: int) -> list[Figure]:
    """Export `full`; import it into `empty`, and a part of it into `busy` while a bot saves; COPY it to `copied`.

    Each is a database of its own.
    """
    with tempfile.TemporaryFile() as file:
        with running(OURS, full) as target:
            _export(target.port, file)
            figures = _measure("export", "≥ 200000", target, rows, lambda: _export(target.port, None))
            figures += _meanwhile("an export", "≤ 20", target, lambda: _export(target.port, None))
        size = file.seek(0, 2)
        with running(OURS, empty) as target:
            figures += _measure("import", "≥ 50000", target, rows, lambda: _import(target.port, file, size, rows))
        with running(OURS, busy) as target:
            part, count = _first_lines(file, rows // 5)
            figures += _meanwhile("an import", "≤ 50", target, lambda: _import(target.port, file, part, count))
    began = time.perf_counter()
    with psycopg.connect(full) as source, psycopg.connect(copied) as target_:
        with source.cursor().copy(f"COPY balance_snapshot ({COLUMNS}) TO STDOUT".encode()) as out:
            for _ in out:
                pass
        out_s, began = time.perf_counter() - began, time.perf_counter()
        with (
            source.cursor().copy(f"COPY balance_snapshot ({COLUMNS}) TO STDOUT".encode()) as out,
            target_.cursor().copy(f"COPY balance_snapshot ({COLUMNS}) FROM STDIN".encode()) as into,
        ):
            for block in out:
                into.write(block)
        target_.commit()
        in_s = time.perf_counter() - began
    return [
        *figures,
        Figure(f"COPY of {rows} rows to a client: rate", "rows/s", rows / out_s),
        Figure(f"COPY of {rows} rows to another table: rate", "rows/s", rows / in_s),
    ]


def _measure(name: str, goal: str, target: Target, rows: int, work: Callable[[], None]) -> list[Figure]:
    target.wait_until_idle()
    began, cpu = time.perf_counter(), target.cpu_s
    work()
    took, used = time.perf_counter() - began, target.cpu_s - cpu
    return [
        Figure(f"{name} of {rows} rows: rate", "rows/s", rows / took, limit=goal),
        Figure(f"{name} of {rows} rows: CPU", "µs/row", used / rows * 1e6),
        Figure(f"{name} of {rows} rows: peak of memory", "MiB", target.peak_rss_bytes / 2**20, limit=RSS_MAX),
    ]


def _meanwhile(name: str, goal: str, target: Target, work: Callable[[], None]) -> list[Figure]:
    """Compare the saves of a bot during some work with those of the time before."""
    with saving(target.port) as stop:
        time.sleep(QUIET_S)
        began = time.perf_counter()
        work()
        ended = time.perf_counter()
        saves = stop()
    quiet = [took for at, took in saves if at < began]
    busy = [took for at, took in saves if began <= at < ended]
    return [
        Figure(f"p99 of a save before {name}", "ms", p99(quiet) * 1e3),
        Figure(f"p99 of a save during {name}", "ms", p99(busy) * 1e3, limit=goal),
    ]


def _export(port: int, file: IO[bytes] | None) -> None:
    """Export everything; write the lines to a file, if there is one. Fails unless the response is complete."""
    buffer, received, end = bytearray(1 << 20), b"", b""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(EXPORT if file is None else EXPORT.replace(b"HTTP/1.1", b"HTTP/1.0"))  # without chunks
        while b"\r\n\r\n" not in received:
            received += client.recv(65_536)
        if file is not None:
            file.write(received.partition(b"\r\n\r\n")[2])
        while count := client.recv_into(buffer):
            if file is not None:
                file.write(memoryview(buffer)[:count])
            end = (end + buffer[max(0, count - len(LAST_CHUNK)) : count])[-len(LAST_CHUNK) :]
    assert file is not None or end == LAST_CHUNK


def _first_lines(file: IO[bytes], count: int) -> tuple[int, int]:
    """Return the size of the first lines of a file, and their number."""
    file.seek(0)
    for _ in range(count):
        file.readline()
    return file.tell(), count


def _import(port: int, file: IO[bytes], size: int, rows: int) -> None:
    """Import the first bytes of a file; fail unless each of their lines was saved."""
    head = (
        "POST /api/balance/import HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n"
        f"Content-Length: {size}\r\nConnection: close\r\n\r\n"
    )
    answer = b""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head.encode())
        with suppress(ConnectionError):  # the answer has the reason
            client.sendfile(file, 0, size)  # type: ignore[arg-type]
        while part := client.recv(65_536):
            answer += part
    if b" 200 OK" not in answer or json.loads(answer.partition(b"\r\n\r\n")[2])["data"]["saved"] != rows:
        raise RuntimeError(f"not every line was saved: {answer!r}")
