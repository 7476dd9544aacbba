"""What resuming costs: a replay, many clients that come back at once, streams, and a second process on one database.

None of this has a counterpart in the Node server, so the goals are limits on our own figures.
"""

from __future__ import annotations

import time
from statistics import median

import psycopg

from bench.clients import Loop, make_post, send_requests
from bench.fleet import Fleet
from bench.report import OURS, Figure
from bench.saver import p99, saving
from bench.streams import Stream, StreamFleet
from bench.targets import Target, running

IDLE_S, IDLE_TURNS = 4.0, 3
COPY = "COPY (SELECT * FROM balance_snapshot ORDER BY seq) TO STDOUT"
RETURNS = 5  # of all clients, each after they were up to date for CALM_S
CALM_S = 1.0
LIVE_LAG_MAX = 3  # snapshots between any two live clients: a broadcast, and those that are not read yet
LEAVE_S = 0.2  # until the server has closed the connections of all clients that leave
DELIVERY_TURNS = 9
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
    """Have many clients come back at once, each with a backlog, while a bot saves.

    Its p99 meanwhile is compared with that of a second after it, in which the same clients are connected and live.
    """
    with running(OURS, database) as target, saving(target.port) as stop:
        returns = []
        for _ in range(RETURNS):
            streams, began = [], time.perf_counter()
            loop = Loop()
            query = f"?after={_end(database) - BACKLOG}&epoch={_epoch(database)}"
            for number in range(clients):
                address = f"127.0.{1 + number // 250}.{1 + number % 250}"
                streams.append(Stream(target.port, query, address=address))
                loop.add(streams[-1])
            loop.read_until(lambda streams=streams: all(stream.received >= BACKLOG for stream in streams))
            returned = time.perf_counter()
            loop.read_for(CALM_S)
            returns.append((began, returned, time.perf_counter()))
            received = [stream.received for stream in streams]
            assert max(received) - min(received) <= LIVE_LAG_MAX, "a client that came back is not live"
            loop.close()
            time.sleep(LEAVE_S)
        saves = stop()
    calm = [took for at, took in saves if any(returned <= at < end for _, returned, end in returns)]
    busy = [took for at, took in saves if any(began <= at < returned for began, returned, _ in returns)]
    return [
        Figure(
            f"{clients} clients come back, {BACKLOG} rows each: caught up", "s", median(b - a for a, b, _ in returns)
        ),
        Figure(f"{clients} clients come back: p99 of a save", "ms", p99(busy) * 1e3),
        Figure(f"{clients} clients come back: p99 of a save / quiet", "times", p99(busy) / p99(calm), limit="≤ 2"),
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
        by_stream, by_event = [], []
        for _ in range(DELIVERY_TURNS):
            by_stream.append(_delivery(target, steps, updates, StreamFleet(target.port)))
            by_event.append(_delivery(target, steps, updates, Fleet(target.port)))
    few, many = steps
    return [
        Figure(f"memory of {idle} idle streams", "KiB each", memory / idle / 1024, limit="≤ 12"),
        Figure(f"one delivery by stream, {few} to {many}: CPU", "µs", median(by_stream) * 1e6),
        Figure("one delivery by stream / by Socket.IO", "times", median(by_stream) / median(by_event), limit="≤ 1"),
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
        loop.close()
        watched, polls = _idle_cpus(there)
    return [
        Figure("later by another process: median", "ms", median(late) * 1e3),
        Figure("later by another process: p99", "ms", p99(late) * 1e3, limit="≤ 110"),
        Figure("idle with a watcher: CPU", "% of core", watched * 100),
        Figure("idle, polls for a watcher: CPU", "% of core", polls * 100, limit="≤ 0.5"),
    ]


def _idle_cpus(target: Target) -> tuple[float, float]:
    """Measure the part of a core that an idle server uses with a watcher, and what it uses more than without one."""
    watched, more = [], []
    for _ in range(IDLE_TURNS):
        loop, stream = Loop(), Stream(target.port)
        loop.add(stream)
        loop.read_until(lambda stream=stream: stream.is_open)
        watched.append(_idle_cpu(target))
        loop.close()
        more.append(watched[-1] - _idle_cpu(target))
    return median(watched), median(more)


def _idle_cpu(target: Target) -> float:
    """Measure the part of a core that a server uses while nothing happens."""
    target.wait_until_idle()
    cpu = target.cpu_s
    time.sleep(IDLE_S)
    return (target.cpu_s - cpu) / IDLE_S


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
