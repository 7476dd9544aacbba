"""Whether a save and the first page cost the same in a table of ten million rows as in one that is all but empty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from balance.service import new_id
from balance.storage.migrate import migrate
from bench.clients import GET, Crowd, Http, Loop, event_of
from bench.report import Figure
from bench.sides import Side, running

ROWS_FEW = 100  # as many as the first page shows, so that it is as long as that of the large table
FLAT = 1.3  # times the cost in the small table is still the same cost; what is left is noise
RANDOM = "save, random id"  # shown beside the others, and not promised: see README.md
IN_FLIGHT = 128
CONNECTIONS = 16

# One snapshot a second up to now, of fifty bots. Half of the ids are the server's (they grow with time), half are
# such as clients make, which go to any place of the index.
FILL = """
INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at)
SELECT seq, CASE WHEN seq %% 2 = 0 THEN gen_random_uuid() ELSE uuidv7(age) END, now() + age, 1132900 + seq * 7 %% 50,
       jsonb_build_object('rlb', 100074.99978 + seq %% 99991 / 1000.0, 'usdt', 7656.36 + seq %% 9973 / 100.0),
       jsonb_build_object('rlb', 101132.407627 + seq %% 99991 / 1000000.0, 'usd', 7646.96 + seq %% 9973 / 100.0),
       now() + age + interval '20 ms'
FROM generate_series(1::bigint, %(rows)s::bigint) AS seq, make_interval(secs => seq - %(rows)s::bigint - 60) AS age
"""
MOVE = "UPDATE balance_feed SET last_seq = %(rows)s"
ACTIVE = "SELECT active_time / 1000 FROM pg_stat_database WHERE datname = current_database()"


@dataclass(frozen=True)
class Cost:
    """Microseconds of one piece of work."""

    cpu: float  # in the server's process
    postgres: float  # in which PostgreSQL ran statements for it, commits and their flush among them


def make(postgres: str, name: str, rows: int) -> str:
    """Make a database that was migrated and has so many snapshots; return its conninfo."""
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    url = make_conninfo(postgres, dbname=name)
    migrate(url)
    with psycopg.connect(url, autocommit=True) as connection:
        with connection.transaction():
            connection.execute(FILL, {"rows": rows})
            connection.execute(MOVE, {"rows": rows})
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    return url


def growing(small: str, large: str, rows: int, updates: int, pages: int) -> list[Figure]:
    """The same work on both tables in turn, each time by a server of its own."""
    figures: list[Figure] = []
    for what, work, times in (
        ("first page", _read_pages, pages),
        ("save", partial(_save, make_id=lambda: None), updates),
        ("save, client's id", partial(_save, make_id=new_id), updates),
        (RANDOM, partial(_save, make_id=lambda: str(uuid4())), updates),
    ):
        few, many = (_measure(url, work, times) for url in (small, large))
        for where, cost in (("all but empty", few), (f"{rows:.0e} rows".replace("e+0", "e"), many)):
            figures.append(Figure(f"{what}, {where}: CPU", "µs", cost.cpu))
            figures.append(Figure(f"{what}, {where}: in PostgreSQL", "µs", cost.postgres))
        for clock, ratio in (("CPU", many.cpu / few.cpu), ("in PostgreSQL", many.postgres / few.postgres)):
            limit = "" if what == RANDOM else f"≤ {FLAT}"
            figures.append(Figure(f"{what}, large to small: {clock}", "times", ratio, limit=limit))
    return figures


def _measure(url: str, work: Callable[[Side, int], None], times: int) -> Cost:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")  # or one of the two would pay for what the other has left
        before = _active_s(connection)
        with running("ours", url) as side:
            work(side, times // 10)  # it prepares its statements, and PostgreSQL reads what it needs
            began = side.cpu_s
            work(side, times)
            cpu = side.cpu_s - began
        active = _active_s(connection) - before  # PostgreSQL counts a session's share at its end
    return Cost(cpu / times * 1e6, active / (times + times // 10) * 1e6)


def _active_s(connection: psycopg.Connection[Any]) -> float:
    row = connection.execute(ACTIVE).fetchone()
    assert row is not None
    return float(row[0])


def _read_pages(side: Side, pages: int) -> None:
    loop = Loop()
    clients = [Http(side.port, repeat(GET, pages // CONNECTIONS), b"200") for _ in range(CONNECTIONS)]
    for client in clients:
        loop.add(client)
        client.ask()
    loop.until(lambda: all(client.done for client in clients))
    loop.close()


def _save(side: Side, updates: int, make_id: Callable[[], str | None]) -> None:
    crowd = Crowd(side.port)
    crowd.send([event_of(number, make_id()) for number in range(updates)], IN_FLIGHT)
    crowd.close()
