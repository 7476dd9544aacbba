"""GET /api/balance/series: the amounts in force at some instants, against a model and at the edges."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import protocol
from balance.series import FROM_IS_LATE
from balance.snapshot import parse_ts
from balance.storage import series_store
from balance.storage.epochs import begin_epoch
from balance.storage.retention import Pruning
from balance.storage.series_query import Line
from protocol.operations import EXPORT, READYZ, SERIES, SNAPSHOTS
from tests.support.http_client import Reply
from tests.support.payloads import DIGITS_40, UPDATE
from tests.support.refusals import check_refused
from tests.support.service import Database, MakeService, Service
from tests.support.shared_service import SharedService, shared_service

START = datetime(2025, 11, 7, tzinfo=UTC)


@pytest.fixture(scope="module")
def shared(postgres: str, template: str) -> Iterator[SharedService]:
    """One service for requests that need no table of their own."""
    with shared_service(postgres, template) as one:
        yield one


def at(seconds: float) -> str:
    """Return the time that many seconds after START, as in the contract."""
    return f"{(START + timedelta(seconds=seconds)).isoformat(timespec='milliseconds')[:-6]}Z"


def query_of(**query: Any) -> str:
    return f"{SERIES}?{urlencode(query, doseq=True)}"


def made(seconds: float, pid: int | None = 7, **amounts: Any) -> dict[str, Any]:
    """Return an update; its amounts are those of docs/spec.md but for the ones given, as `onchain_usdt`."""
    update: dict[str, Any] = {**UPDATE, "ts": at(seconds), "pid": pid}
    for name, amount in amounts.items():
        ledger, asset = name.split("_")
        update[ledger] = {**update[ledger], asset: amount}
    return update


async def save(service: Service, *updates: dict[str, Any]) -> None:
    for update in updates:
        assert (await service.post(update)).status == 201


async def ask(service: Service, **query: Any) -> dict[str, Any]:
    """Return the data of a reply, checked against its schema, with exact amounts."""
    return checked(await service.request("GET", query_of(**query)))


def checked(reply: Reply) -> dict[str, Any]:
    """Return the data of a reply that fits its schema."""
    assert reply.status == 200, reply.body
    protocol.check("series_reply", reply.body)
    data: dict[str, Any] = reply.body["data"]
    return data


def usdt(line: dict[str, Any]) -> list[Any]:
    amounts: list[Any] = line["onchain"]["usdt"]
    return amounts


async def test_each_instant_has_the_last_snapshot_at_or_before_it(service: Service) -> None:
    await save(service, made(10, onchain_usdt=1), made(20, 8, onchain_usdt=2), made(30, onchain_usdt=3))
    data = await ask(service, **{"from": at(0), "to": at(40), "points": 5})
    assert data["times"] == [at(0), at(10), at(20), at(30), at(40)]
    (line,) = data["lines"]
    assert usdt(line) == [None, 1, 2, 3, 3]
    assert line["ts"] == [None, at(10), at(20), at(30), at(30)]
    assert (line["pid"], line["gaps"], data["leftOut"], data["epochs"]) == (None, [], [], [])


async def test_of_equal_times_the_one_saved_last_is_in_force(service: Service) -> None:
    await save(service, made(10, onchain_usdt=1), made(10, 8, onchain_usdt=2))
    range_ = {"from": at(0), "to": at(10), "points": 2}
    assert usdt((await ask(service, **range_))["lines"][0]) == [None, 2]
    assert usdt((await ask(service, **range_, pid=7))["lines"][0]) == [None, 1]
    assert usdt((await ask(service, **range_, pid=[7, 8]))["lines"][0]) == [None, 2]
    await save(service, made(10, onchain_usdt=4))
    assert usdt((await ask(service, **range_, sum="pid"))["lines"][0]) == [None, 6]


@pytest.mark.parametrize("fraction", ["000", "500", "000001", "123456"])
async def test_a_moment_has_one_form_in_a_series_an_export_and_a_list(service: Service, fraction: str) -> None:
    ts = f"2025-11-07T00:00:00.{fraction}Z"
    await save(service, {**UPDATE, "ts": ts})
    (listed,) = (await service.get()).body["data"]
    (line,) = (await ask(service, **{"from": at(-1), "to": at(9), "points": 2}))["lines"]
    exported = (await service.request("GET", f"{EXPORT}?format=csv")).raw.decode()
    assert (listed["ts"], line["ts"][1]) == (ts, ts)
    assert f",{ts}," in exported


async def test_an_empty_feed_has_a_line_of_nothing(service: Service) -> None:
    data = await ask(service)
    assert len(data["times"]) == 500
    (line,) = data["lines"]
    assert (set(line["ts"]), line["onchain"], line["gaps"]) == ({None}, {}, [])
    assert (await ask(service, by="pid"))["lines"] == []
    assert (await ask(service, sum="pid"))["lines"][0]["pids"] == [0] * 500


async def test_by_pid_splits_and_a_pid_that_did_not_report_in_the_range_is_absent(service: Service) -> None:
    await save(service, made(-9000, 5), made(10, 7, onchain_usdt=1), made(20, 8, onchain_usdt=2), made(30, None))
    data = await ask(service, **{"from": at(10), "to": at(30), "points": 3, "by": "pid"})
    assert [(line["pid"], usdt(line)) for line in data["lines"]] == [(7, [1, 1, 1]), (8, [None, 2, 2])]


async def test_a_pid_that_is_named_has_a_line_even_if_it_never_reported(service: Service) -> None:
    await save(service, made(-9000, 5, onchain_usdt=4))
    data = await ask(service, **{"from": at(10), "to": at(30), "points": 2, "by": "pid", "pid": [9, 5]})
    assert [line["pid"] for line in data["lines"]] == [5, 9]
    old, silent = data["lines"]
    assert (usdt(old), old["gaps"]) == ([4, 4], [{"first": 0, "last": 1}]), "known, and marked as stale"
    assert (silent["onchain"], silent["ts"], silent["gaps"]) == ({}, [None, None], []), "not zero"


@pytest.mark.parametrize("lines", [{}, {"pid": 7}, {"by": "pid"}, {"sum": "pid"}])
async def test_gaps_are_where_the_snapshot_in_force_is_too_old(service: Service, lines: dict[str, Any]) -> None:
    await save(service, made(0, 7), made(50, 7), made(60, 7))
    data = await ask(service, **{"from": at(-10), "to": at(100), "points": 12, "stale_s": 20}, **lines)
    (line,) = data["lines"]
    assert line["gaps"] == [{"first": 4, "last": 5}, {"first": 10, "last": 11}], "30, 40; 90, 100; not before the first"


async def test_a_sum_adds_exactly_and_names_those_that_it_leaves_out(service: Service) -> None:
    await save(
        service,
        made(0, 7, onchain_usdt=0.1, onchain_btc=1),
        made(0, 8, onchain_usdt=0.2),
        made(100, 8, onchain_usdt=0.3, onchain_btc=0.000000000000000001),
    )
    data = await ask(service, **{"from": at(-50), "to": at(200), "points": 6, "sum": "pid", "stale_s": 60})
    (line,) = data["lines"]
    assert usdt(line) == [None, Decimal("0.3"), Decimal("0.3"), Decimal("0.3"), Decimal("0.3"), None]
    assert line["onchain"]["btc"] == [
        None,
        1,
        1,
        Decimal("0.000000000000000001"),
        Decimal("0.000000000000000001"),
        None,
    ]
    assert line["pids"] == [0, 2, 2, 1, 1, 0]
    assert line["ts"] == [None, at(0), at(0), at(100), at(100), None]
    assert line["gaps"] == [{"first": 5, "last": 5}]
    assert data["leftOut"] == [
        {"pid": 7, "gaps": [{"first": 3, "last": 5}]},
        {"pid": 8, "gaps": [{"first": 5, "last": 5}]},
    ]


async def test_a_pid_that_reports_rarely_is_in_the_sum_beside_one_that_reports_often(service: Service) -> None:
    await save(service, made(0, 7, onchain_usdt=1), *(made(1 + i, 8, onchain_usdt=2) for i in range(9)))
    data = await ask(service, **{"from": at(0), "to": at(10), "points": 2, "sum": "pid", "stale_s": 10})
    assert usdt(data["lines"][0]) == [1, 3], "also at its largest age"


async def test_a_pid_or_an_asset_that_is_named_twice_counts_once(service: Service) -> None:
    await save(service, made(0, onchain_usdt=1), made(0, 8, onchain_usdt=2))
    range_ = {"from": at(0), "to": at(1), "points": 2, "asset": ["onchain.usdt"] * 2}
    for mode, expected in (({"by": "pid"}, [[1, 1], [2, 2]]), ({"sum": "pid"}, [[3, 3]])):
        data = await ask(service, **range_, **mode, pid=[7, 8, 7])
        assert [usdt(line) for line in data["lines"]] == expected


async def test_a_sum_names_the_hundred_pids_that_became_silent_last(service: Service, database: Database) -> None:
    database.rows(
        "INSERT INTO balance_snapshot (seq, id, ts, pid, onchain, onsite, received_at) "
        "SELECT n, gen_random_uuid(), '2025-11-06T00:00:00Z'::timestamptz + n * interval '1 s', n, "
        """'{"rlb": 1, "usdt": 1}', '{"rlb": 1, "usd": 1}', now() FROM generate_series(1, 102) AS n"""
    )
    data = await ask(service, **{"from": at(0), "to": at(10), "points": 2, "sum": "pid"})
    assert [one["pid"] for one in data["leftOut"]] == [*range(3, 103)]


async def test_an_amount_of_forty_digits_is_the_one_that_was_saved(service: Service) -> None:
    await save(service, made(0, onchain_usdt=Decimal(DIGITS_40)))
    for mode in ({}, {"pid": 7}, {"by": "pid"}, {"sum": "pid"}):
        reply = await service.request("GET", query_of(**{"from": at(-1), "to": at(0), "points": 2}, **mode))
        assert f'"usdt":[null,{DIGITS_40}]'.encode() in reply.raw


async def test_only_the_assets_that_are_asked_for_are_returned(service: Service) -> None:
    await save(service, made(0, **{"onchain_USDT.e": 5}))
    data = await ask(service, **{"from": at(0), "to": at(1), "points": 2, "asset": ["onchain.USDT.e", "onsite.btc"]})
    (line,) = data["lines"]
    assert (line["onchain"], line["onsite"]) == ({"USDT.e": [5, 5]}, {"btc": [None, None]})


async def test_a_sum_without_a_pid_that_reports_is_a_gap_and_names_the_silent(service: Service) -> None:
    await save(service, made(-86_400 * 8, 5), made(-86_400, 6), made(-7200, 7))
    data = await ask(service, **{"from": at(0), "to": at(10), "points": 2, "sum": "pid"})
    (line,) = data["lines"]
    assert (line["pids"], line["ts"], line["gaps"]) == ([0, 0], [None, None], [{"first": 0, "last": 1}])
    silent = [{"first": 0, "last": 1}]
    assert data["leftOut"] == [{"pid": 6, "gaps": silent}, {"pid": 7, "gaps": silent}], "of the last seven days"


async def test_instants_before_what_pruning_left_are_gaps_without_amounts(service: Service, database: Database) -> None:
    await save(service, made(-1000, 6), *(made(10 * i, pid) for i, pid in enumerate((5, 7, 7, 7))))
    database.rows("UPDATE balance_snapshot SET received_at = ts RETURNING seq")
    range_ = {"from": at(0), "to": at(30), "points": 4}
    assert (await ask(service, **range_))["completeFrom"] is None
    pruned = await asyncio.to_thread(Pruning(database.url, parse_ts(at(20))).run)
    assert pruned.pruned == 1, "the first of pid 7; the only ones of pids 5 and 6 are kept"
    for mode in ({}, {"pid": 7}, {"by": "pid", "pid": 7}, {"sum": "pid"}, {"sum": "pid", "pid": 7}):
        data = await ask(service, **range_, **mode)
        assert data["completeFrom"] == at(20)
        (line,) = data["lines"]
        assert line["onchain"]["usdt"][:2] == [None, None], mode
        assert None not in line["onchain"]["usdt"][2:]
        assert line["gaps"] == [{"first": 0, "last": 1}]
    (line,) = (await ask(service, **range_, by="pid", pid=5))["lines"]
    assert [amount is None for amount in usdt(line)] == [True, True, False, False], "its only one is from before"
    silent = {"pid": 6, "gaps": [{"first": 2, "last": 3}]}
    assert (await ask(service, **range_, sum="pid"))["leftOut"] == [silent]


async def test_a_pid_is_current_up_to_the_largest_age_of_a_snapshot(service: Service) -> None:
    await save(service, made(-60, 5), made(-61, 6))
    range_ = {"from": at(0), "to": at(1), "points": 2, "stale_s": 60}
    assert [line["pid"] for line in (await ask(service, **range_, by="pid"))["lines"]] == [5]
    data = await ask(service, **range_, sum="pid")
    assert data["lines"][0]["pids"] == [1, 0]
    assert data["leftOut"] == [
        {"pid": 5, "gaps": [{"first": 1, "last": 1}]},
        {"pid": 6, "gaps": [{"first": 0, "last": 1}]},
    ]


async def test_a_series_that_takes_too_long_is_refused_without_an_outage(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused = "concat($1::text, $2::text, $3::text, $4::text) > ''"
    slow = f"SELECT epoch, last_seq, pg_is_in_recovery(), pg_sleep(9) FROM balance_feed WHERE {unused}"
    monkeypatch.setitem(series_store.STATEMENTS, Line.ACCOUNT, slow)
    service = await make_service(statement_ms_max=1000)
    check_refused(
        await service.request("GET", SERIES),
        "invalid_payload",
        "points: the answer takes too long: ask for fewer points, pids or assets",
    )
    assert (await service.request("GET", READYZ)).status == 200


async def test_an_answer_that_is_too_large_is_refused(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    await save(service, made(0))
    monkeypatch.setattr(series_store, "AMOUNTS_MAX", 1999)
    refused = "points: the amounts are too many: ask for fewer points, or name the assets"
    check_refused(await service.request("GET", query_of(to=at(1))), "invalid_payload", refused)
    assert (await service.request("GET", query_of(to=at(1), asset="onsite.usd"))).status == 200
    monkeypatch.setattr(series_store, "AMOUNTS_MAX", 2000)
    assert (await service.request("GET", query_of(to=at(1)))).status == 200, "exactly as many"
    monkeypatch.setattr(series_store, "BYTES_MAX", 1000)
    check_refused(await service.request("GET", query_of(to=at(1), asset="onsite.usd")), "invalid_payload", refused)


@pytest.mark.expects_log("every watcher has to resume")
async def test_the_epochs_that_began_within_the_range_are_marked(service: Service, database: Database) -> None:
    await save(service, made(0))
    epoch = begin_epoch(database.url)
    (marked,) = (await ask(service))["epochs"]
    assert (marked["epoch"], marked["afterSeq"]) == (epoch.epoch, 1)
    assert (await ask(service, **{"from": at(0), "to": at(1)}))["epochs"] == []


async def test_the_position_is_that_of_the_answer(service: Service) -> None:
    await save(service, made(0), made(1))
    reply = await service.request("GET", SERIES)
    assert (reply.body["feed"]["head"], reply.headers["Cache-Control"]) == (2, "no-store")


async def test_a_large_answer_is_compressed_for_a_client_that_accepts_it(service: Service) -> None:
    await save(service, made(0))
    reply = await service.request("GET", query_of(to=at(9)), Accept_Encoding="gzip")
    assert (reply.headers["Content-Encoding"], reply.headers["Vary"]) == ("gzip", "Origin, Accept-Encoding")
    assert len(protocol.loads(gzip.decompress(reply.raw))["data"]["times"]) == 500


PATTERN = "is not the name of an asset after onchain. or onsite."


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("points=0", "points: must be at least 2"),
        ("points=1", "points: must be at least 2"),
        ("points=2001", "points: must be at most 2000"),
        ("points=1e2", "points: must be an integer"),
        ("from=2025-11-08T00:00:00Z&to=2025-11-07T00:00:00Z", f"from: {FROM_IS_LATE}"),
        ("from=2999-01-01T00:00:00Z", f"from: {FROM_IS_LATE}"),
        ("from=yesterday", "from: "),
        ("by=asset", 'by: must be "pid"'),
        ("by=pid&sum=pid", "payload: must have only one of by and sum"),
        ("stale_s=0", "stale_s: must be at least 1"),
        ("pid=x", "pid.0: must be an integer"),
        ("asset=usdt", f"asset.0: {PATTERN}"),
        ("asset=onchain.%22", f"asset.0: {PATTERN}"),
        ("asset=onchain.a%0A", f"asset.0: {PATTERN}"),
        ("&".join(f"asset=onchain.a{i}" for i in range(65)), "asset: must have at most 64 items"),
        ("&".join(f"pid={i}" for i in range(101)), "pid: must have at most 100 items"),
        ("point=2", "point: "),
        ("to=2025-11-07T00:00:00Z&to=2025-11-07T00:00:00Z", "to: is given more than once"),
    ],
)  # fmt: skip
def test_a_query_that_does_not_fit_is_refused_by_name(shared: SharedService, query: str, error: str) -> None:
    reply = shared.ask("GET", f"{SERIES}?{query}")
    check_refused(reply, "invalid_payload", reply.body["error"])
    assert reply.body["error"].startswith(error)


def test_too_many_lines_are_refused_before_they_are_read(
    shared: SharedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series_store, "POINTS_MAX", 1500)
    assert shared.ask("GET", query_of(to=at(9), pid=[1, 2, 3], by="pid")).status == 200, "exactly as many"
    four = {"to": at(9), "pid": [1, 2, 3, 4]}
    check_refused(
        shared.ask("GET", query_of(**four, by="pid")),
        "invalid_payload",
        "points: 4 pids x 500 points are more than 1500: ask for fewer, or name the pids",
    )


class Model:
    """What was in force, found by looking through all updates."""

    def __init__(self, updates: list[dict[str, Any]], times: list[datetime], stale_s: int) -> None:
        self.updates = sorted(updates, key=lambda one: parse_ts(one["ts"]))  # stable: of equals the last saved is last
        self.times = times
        self.stale = timedelta(seconds=stale_s)

    def in_force(self, *pids: int) -> list[dict[str, Any] | None]:
        """Return the update in force at each instant."""
        return [
            next(
                (one for one in reversed(self.updates) if parse_ts(one["ts"]) <= when and one["pid"] in (pids or ALL)),
                None,
            )
            for when in self.times
        ]

    def stale_at(self, *pids: int) -> list[int]:
        """Return the indices of the instants at which the update in force is too old."""
        found = zip(self.in_force(*pids), self.times, strict=True)
        return [i for i, (one, when) in enumerate(found) if one and parse_ts(one["ts"]) < when - self.stale]

    def check_line(self, line: dict[str, Any], *pids: int) -> None:
        found = [None if one is None else one["onchain"]["usdt"] for one in self.in_force(*pids)]
        assert line["onchain"].get("usdt", [None] * len(found)) == found
        assert indices(line["gaps"]) == self.stale_at(*pids)

    def check_sum(self, data: dict[str, Any]) -> None:
        lines = {pid: self.in_force(pid) for pid in PIDS}
        missing = {pid: self.stale_at(pid) for pid in PIDS}
        added = [
            [one["onchain"]["usdt"] for pid in PIDS if (one := lines[pid][i]) and i not in missing[pid]]
            for i in range(len(self.times))
        ]
        (line,) = data["lines"]
        assert line["pids"] == [len(ones) for ones in added]
        expected = [sum(ones) if ones else None for ones in added]
        assert line["onchain"].get("usdt", [None] * len(expected)) == expected
        assert {one["pid"]: indices(one["gaps"]) for one in data["leftOut"]} == {k: v for k, v in missing.items() if v}


PIDS = (7, 8)
ALL = (None, *PIDS)
DAYS = count(1)  # each example is a day before the last one: what is later is never in force
UPDATES = st.lists(
    st.builds(
        made,
        st.integers(0, 40),
        st.sampled_from(ALL),
        onchain_usdt=st.integers(1, 10**6).map(lambda thousandths: Decimal(thousandths) / 1000),
        onchain_btc=st.integers(0, 3),
    ),
    max_size=8,
)


@given(UPDATES, st.integers(-5, 45), st.integers(1, 30), st.integers(2, 7), st.integers(1, 20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_every_answer_is_that_of_a_model(
    shared: SharedService, updates: list[dict[str, Any]], start: int, length: int, points: int, stale_s: int
) -> None:
    day = next(DAYS) * 86400
    updates = [{**one, "ts": at((parse_ts(one["ts"]) - START).total_seconds() - day)} for one in updates]
    for one in updates:
        assert shared.ask("POST", SNAPSHOTS, protocol.encode(one)).status == 201
    first = START + timedelta(seconds=start - day)
    model = Model(updates, [first + timedelta(seconds=length) * i / (points - 1) for i in range(points)], stale_s)

    def answer(**more: Any) -> dict[str, Any]:
        range_ = {"from": at(start - day), "to": at(start - day + length), "points": points, "stale_s": stale_s}
        return checked(shared.ask("GET", query_of(**range_, **more)))

    model.check_line(answer()["lines"][0])
    model.check_line(answer(pid=PIDS)["lines"][0], *PIDS)
    for line in answer(by="pid", pid=PIDS)["lines"]:
        model.check_line(line, line["pid"])
    model.check_sum(answer(sum="pid", pid=PIDS))


def indices(ranges: list[dict[str, int]]) -> list[int]:
    return [i for one in ranges for i in range(one["first"], one["last"] + 1)]
