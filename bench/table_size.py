"""Whether a save and the first page cost the same in a table of ten million rows as in an almost empty one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import Connection
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from balance.ids import uuid7
from balance.storage.migrate import migrate
from bench.clients import make_event, make_get, make_post, send_requests
from bench.fleet import Fleet
from bench.report import OURS, Figure
from bench.targets import Target, running

ROWS_FEW = 100  # as many as the first page has, so that it is as long as that of the large table
FLAT = 1.3  # times the cost in the small table counts as the same cost; the rest is noise
RANDOM = "save, random id"  # without a goal: see README.md
IN_FLIGHT = 128
CONNECTIONS = 16
REPORT_S = 1.1  # PostgreSQL's sessions report their statistics when they become idle, at most once a second
REPORT_READS_MAX = 500
UNKNOWN = "/00000000-0000-7000-8000-000000000000"  # no snapshot has this id, and no read is cheaper

# One snapshot each `step_s` seconds up to now, of fifty bots. Half of the ids are the server's, which grow with time;
# half are random, as clients may make them, and are spread over the whole index. PostgreSQL has uuidv7() since 18 only.
FILL = """
INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
SELECT seq,
       CASE WHEN seq %% 2 = 0 THEN gen_random_uuid()
            ELSE (left(time, 8) || '-' || right(time, 4) || '-7' || substr(gen_random_uuid()::text, 16))::uuid END,
       now() + age, 1132900 + seq * 7 %% 50,
       jsonb_build_object('rlb', 100074.99978 + seq %% 99991 / 1000.0, 'usdt', 7656.36 + seq %% 9973 / 100.0),
       jsonb_build_object('rlb', 101132.407627 + seq %% 99991 / 1000000.0, 'usd', 7646.96 + seq %% 9973 / 100.0),
       now() + age + interval '20 ms'
FROM generate_series(1::bigint, %(rows)s::bigint) AS seq,
     make_interval(secs => (seq - %(rows)s::bigint) * %(step_s)s::float8 - 60) AS age,
     lpad(to_hex((extract(epoch FROM now() + age) * 1000)::bigint), 12, '0') AS time
"""
ADVANCE = "UPDATE balance_feed SET last_seq = %(rows)s"
ACTIVE = "SELECT active_time / 1000 FROM pg_stat_database WHERE datname = current_database()"
NOW = "SELECT clock_timestamp()"
UNREPORTED = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
  AND state_change <= %(since)s
"""


@dataclass(frozen=True)
class Cost:
    """Microseconds of one save or one page."""

    cpu: float  # of the server's process
    postgres: float  # in which PostgreSQL's sessions ran statements, commits and their flush included


def make_database(postgres: str, name: str, rows: int, step_s: float = 1.0) -> str:
    """Make a migrated database with this many snapshots, `step_s` seconds apart; return its conninfo."""
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    url = make_conninfo(postgres, dbname=name)
    migrate(url)
    with psycopg.connect(url, autocommit=True) as connection:
        with connection.transaction():
            connection.execute(FILL, {"rows": rows, "step_s": step_s})
            connection.execute(ADVANCE, {"rows": rows})
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    return url


def table_size(small: str, large: str, rows: int, updates: int, pages: int) -> list[Figure]:
    """Do the same work on both tables, each time by a server of its own; `rows` is the size of the large one."""
    figures: list[Figure] = []
    for name, work, times in (
        ("first page", _read_pages, pages),
        ("save", partial(_save, make_id=lambda: None), updates),
        ("save, client's id", partial(_save, make_id=uuid7), updates),
        (RANDOM, partial(_save, make_id=lambda: str(uuid4())), updates),
    ):
        few, many = (measure_cost(url, work, times) for url in (small, large))
        for size, cost in ((f"{ROWS_FEW} rows", few), (f"{rows:.0e} rows".replace("e+0", "e"), many)):
            figures.append(Figure(f"{name}, {size}: CPU", "µs", cost.cpu))
            figures.append(Figure(f"{name}, {size}: in PostgreSQL", "µs", cost.postgres))
        for clock, ratio in (("CPU", many.cpu / few.cpu), ("in PostgreSQL", many.postgres / few.postgres)):
            limit = "" if name == RANDOM else f"≤ {FLAT}"
            figures.append(Figure(f"{name}, large / small: {clock}", "times", ratio, limit=limit))
    return figures


def measure_cost(url: str, work: Callable[[Target, int], None], times: int) -> Cost:
    """Do `work` by a service on a database, and return what each of its `times` parts costs."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")  # or one of the two would pay for what the other wrote
        with running(OURS, url) as target:
            work(target, times // 10)  # the server prepares its statements, and PostgreSQL reads what it needs
            active = _reported_s(connection, target)
            began = target.cpu_s
            work(target, times)
            cpu = target.cpu_s - began
        active = _active_s(connection) - active  # at its end a session reports the rest
    return Cost(cpu / times * 1e6, active / times * 1e6)


def _reported_s(connection: Connection[Any], target: Target) -> float:
    """Return the active time of the database, once every session of the target has reported its share.

    So neither the start of a session nor the checks of the start count for the work that is measured next. A session
    reports after its next statement: a POST and small reads give one to each.
    """
    time.sleep(REPORT_S)
    since = _one(connection, NOW)
    send_requests(target.port, [[make_post(0)]], b"201")
    for _ in range(REPORT_READS_MAX):
        if not _one(connection, UNREPORTED, {"since": since}):
            return _active_s(connection)
        send_requests(target.port, [[make_get(UNKNOWN)]], b"404")
    raise RuntimeError("a session of the server does not take part in its reads and saves")


def _active_s(connection: Connection[Any]) -> float:
    return float(_one(connection, ACTIVE))


def _one(connection: Connection[Any], query: str, parameters: dict[str, object] | None = None) -> Any:
    row = connection.execute(query, parameters).fetchone()
    assert row is not None
    return row[0]


def _read_pages(target: Target, pages: int) -> None:
    send_requests(target.port, [[make_get("?limit=100")] * (pages // CONNECTIONS)] * CONNECTIONS, b"200")


def _save(target: Target, updates: int, make_id: Callable[[], str | None]) -> None:
    fleet = Fleet(target.port)
    fleet.send([make_event(number, make_id()) for number in range(updates)], IN_FLIGHT)
    fleet.close()
