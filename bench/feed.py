"""What resuming costs: a replay, many clients that come back at once, streams, and a second process on one database.

None of this has a counterpart in the Node server, so the goals are limits on our own figures.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median, quantiles

import psycopg

from bench.clients import Loop, make_post, send_requests
from bench.fleet import Fleet
from bench.report import OURS, Figure
from bench.streams import Stream, StreamFleet
from bench.targets import Target, running

SAVES = 400
IDLE_S = 5.0
COPY = "COPY (SELECT * FROM balance_snapshot ORDER BY seq) TO STDOUT"
BACKLOG = 1_000  # snapshots that each client which comes back has missed


def replay(database: str, rows: int) -> list[Figure]:
    """Replay a whole table to one client by a stream, and to a new client of Socket.IO; COPY the table beside it."""
    with running(OURS, database) as target:
        figures = []
        for name, send in (("server-sent events", _stream_all), ("Socket.IO", _watch_all)):
            send(target, database, min(rows, 20_000))  # connections and pages are warm
            began, cpu = time.perf_counter(), target.cpu_s
            send(target, database, rows)
            took, used = time.perf_counter() - began, target.cpu_s - cpu
            figures += [
                Figure(f"replay of {rows} rows by {name}: rate", "rows/s", rows / took, limit="≥ 150000"),
                Figure(f"replay of {rows} rows by {name}: CPU", "µs/row", used / rows * 1e6, limit="≤ 1"),
            ]
    began = time.perf_counter()
    with psycopg.connect(database) as connection, connection.cursor().copy(COPY) as copy:
        for _ in copy:
            pass
    return [*figures, Figure(f"COPY of {rows} rows: rate", "rows/s", rows / (time.perf_counter() - began))]


def come_back(database: str, clients: int) -> list[Figure]:
    """Have many clients come back at once, each with a backlog, while a bot saves; compare its p99 with a quiet one."""
    with running(OURS, database) as target, ProcessPoolExecutor(1, get_context("spawn")) as saver:
        quiet = saver.submit(_time_saves, target.port, SAVES).result()
        loop = Loop()
        query = f"?after={_end(database) - BACKLOG}&epoch={_epoch(database)}"
        began = time.perf_counter()
        busy = saver.submit(_time_saves, target.port, SAVES)
        streams = [
            Stream(target.port, query, address=f"127.0.{1 + number // 250}.{1 + number % 250}")
            for number in range(clients)
        ]
        for stream in streams:
            loop.add(stream)
        loop.read_until(lambda: all(stream.received >= BACKLOG for stream in streams))
        took = time.perf_counter() - began
        saved = len(busy.result())
        loop.read_until(lambda: all(stream.received >= BACKLOG + saved for stream in streams))
        loop.close()
        assert all(stream.received == BACKLOG + saved for stream in streams), "a snapshot came twice"
    calm, during = _p99(quiet), _p99(busy.result())
    return [
        Figure(f"{clients} clients come back, {BACKLOG} rows each: caught up", "s", took),
        Figure(f"{clients} clients come back: p99 of a save / quiet", "times", during / calm, limit="≤ 2"),
    ]


def streams(database: str, idle: int, steps: tuple[int, int], updates: int) -> list[Figure]:
    """Measure the memory of idle streams, and the CPU of one delivery more to a stream and to a Socket.IO client."""
    with running(OURS, database) as target:
        memory = target.rss_bytes
        fleet = StreamFleet(target.port)
        fleet.grow(idle)
        target.wait_until_idle()
        memory = target.rss_bytes - memory
        fleet.close()
        target.wait_until_idle()
        by_stream = _delivery(target, steps, updates, StreamFleet(target.port))
        by_event = _delivery(target, steps, updates, Fleet(target.port))
    few, many = steps
    return [
        Figure(f"memory of {idle} idle streams", "KiB each", memory / idle / 1024, limit="≤ 12"),
        Figure(f"one delivery by stream, {few} to {many}: CPU", "µs", by_stream * 1e6),
        Figure("one delivery by stream / by Socket.IO", "times", by_stream / by_event, limit="≤ 1"),
    ]


def _delivery(target: Target, steps: tuple[int, int], updates: int, fleet: Fleet | StreamFleet) -> float:
    """Return the seconds of CPU that an update costs more for each client that is added between two steps."""
    costs = []
    for clients in steps:
        fleet.grow(clients)
        fleet.time_broadcasts(max(1, updates // 10))
        target.wait_until_idle()
        cpu = target.cpu_s
        fleet.time_broadcasts(updates)
        costs.append((target.cpu_s - cpu) / updates)
    fleet.close()
    target.wait_until_idle()
    return (costs[1] - costs[0]) / (steps[1] - steps[0])


def two_processes(database: str, saves: int) -> list[Figure]:
    """Save by one process and watch by another; measure how much later the other sends a snapshot."""
    with running(OURS, database) as here, running(OURS, database) as there:
        loop = Loop()
        near, far = Stream(here.port), Stream(there.port)
        for stream in (near, far):
            loop.add(stream)
        loop.read_until(lambda: near.is_open and far.is_open)
        late = []
        for number in range(saves):
            send_requests(here.port, [[make_post(number)]], b"201")
            loop.read_until(lambda number=number: near.received == far.received == number + 1)
            late.append(max(0.0, far.last_at - near.last_at))
            if number % 10 == 0:
                time.sleep(0.2)  # the polls of the other process have become rare
        there.wait_until_idle()
        cpu = there.cpu_s
        time.sleep(IDLE_S)
        idle = (there.cpu_s - cpu) / IDLE_S
        loop.close()
    return [
        Figure("later by another process: median", "ms", median(late) * 1e3),
        Figure("later by another process: p99", "ms", _p99(late) * 1e3, limit="≤ 110"),
        Figure("idle with a watcher: CPU", "% of core", idle * 100, limit="≤ 0.5"),
    ]


def _time_saves(port: int, count: int) -> list[float]:
    """Save by POST, one at a time; return the seconds that each took. Runs in a process of its own."""
    return send_requests(port, [[make_post(number) for number in range(count)]], b"201")


def _stream_all(target: Target, database: str, rows: int) -> None:
    end = _end(database)
    loop, stream = Loop(), Stream(target.port, f"?after={end - rows}&epoch={_epoch(database)}")
    loop.add(stream)
    loop.read_until(lambda: stream.received >= rows)
    loop.close()
    assert stream.received == rows


def _watch_all(target: Target, database: str, rows: int) -> None:
    auth = {"after": _end(database) - rows, "epoch": _epoch(database)}
    fleet = Fleet(target.port, auth=auth)
    fleet.receive_missed(rows)
    fleet.close()


def _epoch(database: str) -> str:
    return str(_one(database, "SELECT epoch FROM balance_feed"))


def _end(database: str) -> int:
    return int(str(_one(database, "SELECT last_seq FROM balance_feed")))


def _one(database: str, query: str) -> object:
    with psycopg.connect(database, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _p99(times: Sequence[float]) -> float:
    return quantiles(times, n=100)[98]
