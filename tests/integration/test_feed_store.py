"""What FeedStore reads: the end of the feed, pages, facts about a position, and the latest snapshots."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from psycopg.conninfo import make_conninfo

import protocol
from balance.position import ClaimedPosition, Position, to_tag
from balance.snapshot import EncodedSnapshot, Snapshot
from balance.storage import feed_store
from balance.storage.database_session import DatabaseSession
from balance.storage.epochs import begin_epoch
from balance.storage.errors import NO_FEED, UNABLE, StoreUnavailable
from balance.storage.feed_store import LATEST_BY_PID, LATEST_BY_SEQ, LOOK_UP, PAGE, PAGE_BYTES_MAX, FeedStore
from balance.storage.pool import Pool
from balance.storage.store import Store
from tests.support.feed import ONCHAIN, ONSITE
from tests.support.outages import OUTAGE
from tests.support.postgres import execute
from tests.support.service import Database
from tests.support.strategies import ValidUpdate, examples, valid_updates

pytestmark = pytest.mark.usefixtures("shared_database")

NOW = datetime(2025, 11, 7, 0, 45, 8, 603000, UTC)
OTHER_EPOCH = str(uuid.UUID(int=7))


class Rig:
    """A store and the feed in it."""

    def __init__(self, url: str) -> None:
        self.pool = Pool(url, pool_max=3, pool_wait_ms_max=5000, statement_ms_max=5000)
        self.store = Store(self.pool)
        self.epoch = self.store.open().epoch
        self.feed = FeedStore(self.pool)

    def save(
        self, *pids: int | None, onchain: protocol.Encoded = ONCHAIN, received_at: datetime = NOW
    ) -> list[EncodedSnapshot]:
        """Save a snapshot of each pid in one batch; return what watchers receive."""
        batch = [Snapshot(str(uuid.uuid4()), NOW, pid, onchain, ONSITE, received_at) for pid in pids]
        return [saved.snapshot.encode() for saved in self.store.append(batch).saved]


def large_ledger(assets: int, digits: int) -> protocol.Encoded:
    """Return a ledger with that many assets beside the required ones, and digits in each."""
    further = ",".join(f'"asset{n:02}":1.{"1" * digits}' for n in range(assets))
    return protocol.Encoded(f'{{"rlb":1,"usdt":1,{further}}}')


@pytest.fixture
def rig(database: Database) -> Iterator[Rig]:
    rig = Rig(database.url)
    yield rig
    rig.store.close()


# The JSON


@settings(max_examples=examples(300))
@given(update=valid_updates())
def check_json(rig: Rig, update: ValidUpdate) -> None:
    text = update.text.replace("<id>", (id_ := str(uuid.uuid4()))).replace("<ID>", id_.upper())
    received_at = datetime.now(UTC)
    snapshot = Snapshot.from_update(protocol.loads(text), received_at, id_)
    saved = rig.store.append([snapshot]).saved[0].snapshot
    (read,) = rig.feed.page(saved.seq - 1, 10).snapshots
    assert read == saved.encode()
    (listed,) = rig.store.page_by_seq(limit=1)
    assert bytes(listed.json) == read.json
    found = rig.store.find(id_)
    assert found is not None
    assert protocol.encode(found.to_wire()) == read.json
    assert read.tag.decode() == to_tag(id_)


# The connection pool uses `random` in a thread of its own, which hypothesis reports as use by a strategy.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
def test_postgresql_writes_the_bytes_of_to_wire(rig: Rig) -> None:
    check_json(rig)


def test_the_json_does_not_depend_on_the_time_zone_of_the_session(rig: Rig, database: Database) -> None:
    times = (NOW, NOW.replace(microsecond=603001), NOW.replace(microsecond=0))
    batch = [Snapshot(str(uuid.uuid4()), ts, pid, ONCHAIN, ONSITE, NOW) for ts in times for pid in (7, None)]
    saved = [one.snapshot.encode().json.decode() for one in rig.store.append(batch).saved]
    with psycopg.connect(database.url, options="-c TimeZone=Asia/Kathmandu -c DateStyle=German") as connection:
        sql = "SELECT balance_snapshot_json(id, seq, ts, pid, onchain, onsite) FROM balance_snapshot ORDER BY seq"
        assert connection.execute(sql).fetchall() == [(text,) for text in saved]


# The head


def test_the_head_follows_the_appends_of_every_process(rig: Rig, database: Database) -> None:
    assert rig.feed.head().position == Position(rig.epoch, 0)
    rig.save(None, None)
    assert rig.feed.head() == (Position(rig.epoch, 2), "local")
    other = Rig(database.url)
    other.save(None)
    assert rig.feed.head().position == Position(rig.epoch, 3)
    other.store.close()


@pytest.mark.expects_log(*OUTAGE)
def test_without_its_row_the_feed_is_unavailable(rig: Rig, database: Database) -> None:
    execute(database.url, "DELETE FROM balance_feed")
    for read in (rig.feed.head, lambda: rig.feed.page(0, 1), lambda: rig.feed.latest(1)):
        with pytest.raises(StoreUnavailable):
            read()
    assert set(rig.pool.outage._failures.values()) == {NO_FEED}


@pytest.mark.expects_log(*OUTAGE)
def test_the_reads_of_a_server_in_recovery_are_refused(rig: Rig, database: Database) -> None:
    """A function of the database simulates it."""
    rig.save(1)
    url = make_conninfo(database.url, options="-c search_path=public,pg_catalog")
    pool = Pool(url, pool_max=2, pool_wait_ms_max=5000, statement_ms_max=5000)
    pool.open()
    feed = FeedStore(pool)
    execute(database.url, "CREATE FUNCTION public.pg_is_in_recovery() RETURNS boolean RETURN true")
    claimed = ClaimedPosition(rig.epoch, 0)
    try:
        for read in (feed.head, lambda: feed.page(0, 1), lambda: feed.look_up(claimed), lambda: feed.latest(1)):
            with pytest.raises(StoreUnavailable, match=f"^{UNABLE}$"):
                read()
    finally:
        execute(database.url, "DROP FUNCTION public.pg_is_in_recovery")
    assert set(pool.outage._failures.values()) == {"the server is in recovery"}
    assert feed.head().position == Position(rig.epoch, 1), "by another session"
    pool.close()


def test_each_read_is_a_statement_that_is_prepared_once(database: Database) -> None:
    pool = Pool(database.url, pool_max=1, pool_wait_ms_max=5000, statement_ms_max=5000)  # each session has its own
    pool.open()
    feed = FeedStore(pool)
    for _ in range(2):
        epoch = feed.head().position.epoch
        feed.page(0, 1)
        feed.look_up(ClaimedPosition(epoch, 0))
        feed.latest(1)
    with pool.connection() as session:
        prepared = session.execute(
            "SELECT name, generic_plans + custom_plans FROM pg_prepared_statements WHERE NOT from_sql ORDER BY name"
        ).fetchall()
    pool.close()
    assert prepared == [("head", 2), ("latest_by_pid", 2), ("look_up", 2), ("page", 2)]


# Pages


def test_pages_have_all_snapshots_in_order(rig: Rig) -> None:
    saved = rig.save(*range(25))
    first = rig.feed.page(0, 10)
    assert first == (rig.epoch, 25, 1, 10, saved[:10])
    assert rig.feed.page(10, 10) == (rig.epoch, 25, 11, 20, saved[10:20])
    assert rig.feed.page(20, 10) == (rig.epoch, 25, 21, 25, saved[20:])
    assert rig.feed.page(25, 10) == (rig.epoch, 25, None, 25, [])
    assert rig.feed.page(2**53 - 1, 10) == (rig.epoch, 25, None, 2**53 - 1, [])


def test_a_page_of_large_snapshots_is_bounded_in_bytes_and_has_at_least_one(rig: Rig) -> None:
    saved = rig.save(*range(40), onchain=large_ledger(4, 4000))
    saved += rig.save(*range(2000))
    read: list[EncodedSnapshot] = []
    after, sizes = 0, []
    while after < len(saved):
        page = rig.feed.page(after, 1000)
        assert page.first == after + 1
        assert page.last == page.snapshots[-1].seq
        assert sum(len(one.json) for one in page.snapshots[:-1]) < PAGE_BYTES_MAX
        read += page.snapshots
        sizes.append(len(page.snapshots))
        after = page.last
    assert read == saved
    assert 10 < sizes[0] < 20
    assert sizes[-2] > 500, "the pages grow again"
    (one,) = rig.save(1, onchain=large_ledger(20, 14_000))
    assert len(one.json) > PAGE_BYTES_MAX
    rig.save(2)
    assert rig.feed.page(len(saved), 1000).snapshots == [one]


def test_a_page_of_some_pids_ends_before_a_large_snapshot_that_is_left_out(rig: Rig) -> None:
    saved = rig.save(*[1, 2] * 20, onchain=large_ledger(4, 4000))
    first = rig.feed.page(0, 1000, [1])
    assert first.last == first.snapshots[-1].seq < len(saved)
    assert rig.feed._rows_max == 2 * first.last, "the next one asks for fewer rows"
    second = rig.feed.page(first.last, 1000, [1])
    assert second.last == len(saved)
    assert first.snapshots + second.snapshots == saved[::2]
    assert rig.feed._rows_max == 4 * first.last


@pytest.mark.parametrize("pids", [None, [0, 4, 8]])
def test_a_page_has_nothing_behind_a_gap(rig: Rig, database: Database, pids: list[int] | None) -> None:
    saved = rig.save(*range(10))
    execute(database.url, "DELETE FROM balance_snapshot WHERE seq <= 2 OR seq IN (6, 7)")
    for after in (0, 1, 5, 6):
        assert rig.feed.page(after, 5, pids) == (rig.epoch, 10, None, after, [])
    wanted = [one for one in saved if pids is None or one.pid in pids]
    assert rig.feed.page(2, 5, pids) == (rig.epoch, 10, 3, 5, [one for one in wanted if 3 <= one.seq <= 5])
    assert rig.feed.page(7, 5, pids) == (rig.epoch, 10, 8, 10, [one for one in wanted if one.seq >= 8])


def test_the_first_that_is_kept_is_behind_the_gap_after_a_position(rig: Rig, database: Database) -> None:
    rig.save(*range(10))
    execute(database.url, "DELETE FROM balance_snapshot WHERE seq <= 2 OR seq IN (6, 7)")
    firsts = [rig.feed.look_up(ClaimedPosition(rig.epoch, seq)).first for seq in range(11)]
    assert firsts == [3, 3, 3, 4, 5, 8, 8, 8, 9, 10, 11]


def test_a_page_of_some_pids_advances_over_all_others(rig: Rig) -> None:
    saved = rig.save(1, 2, None, 1, 3, None, 2)
    assert rig.feed.page(0, 5, [1, 3]) == (rig.epoch, 7, 1, 5, [saved[0], saved[3], saved[4]])
    assert rig.feed.page(5, 5, [1, 3]) == (rig.epoch, 7, 6, 7, [])
    assert rig.feed.page(0, 5, [9007199254740991]) == (rig.epoch, 7, 1, 5, [])
    assert rig.feed.page(0, 7, []) == (rig.epoch, 7, 1, 7, [])
    assert rig.feed.page(0, 7, None).snapshots == saved


# Positions


def test_a_position_of_the_current_epoch(rig: Rig) -> None:
    saved = rig.save(1, 2, 3)
    facts = rig.feed.look_up(ClaimedPosition(rig.epoch, 2))
    assert facts == (Position(rig.epoch, 3), 3, True, None, protocol.loads(saved[1].json)["id"])
    assert to_tag(facts.id) == saved[1].tag.decode()
    assert rig.feed.look_up(ClaimedPosition(rig.epoch.upper(), 4)) == (Position(rig.epoch, 3), 4, True, None, None)


@pytest.mark.parametrize("has_epoch", [True, False])
def test_the_beginning_of_the_feed_is_always_known(rig: Rig, has_epoch: bool) -> None:
    claimed = ClaimedPosition(rig.epoch if has_epoch else None, 0)
    assert rig.feed.look_up(claimed) == (Position(rig.epoch, 0), 1, True, None, None)
    rig.save(1)
    assert rig.feed.look_up(claimed) == (Position(rig.epoch, 1), 1, True, None, None)


def test_an_unknown_epoch_and_deleted_rows(rig: Rig, database: Database) -> None:
    rig.save(1, 2, 3, 4)
    execute(database.url, "DELETE FROM balance_snapshot WHERE seq < 3")
    facts = rig.feed.look_up(ClaimedPosition(OTHER_EPOCH, 1))
    assert facts == (Position(rig.epoch, 4), 3, False, None, None)
    execute(database.url, "DELETE FROM balance_snapshot")
    assert rig.feed.look_up(ClaimedPosition(rig.epoch, 4)).first == 5


def test_a_position_is_good_until_the_earliest_end_of_a_later_epoch(rig: Rig, database: Database) -> None:
    """Of three epochs, the third began before the second one: what the second kept of the first was lost later."""
    rig.save(*range(10))
    execute(database.url, "DELETE FROM balance_snapshot WHERE seq > 8", "UPDATE balance_feed SET last_seq = 8")
    second = begin_epoch(database.url)
    assert second.seq == 8
    execute(database.url, "DELETE FROM balance_snapshot WHERE seq > 5", "UPDATE balance_feed SET last_seq = 5")
    third = begin_epoch(database.url)
    rig.save(*range(10))
    good_until = {
        epoch: rig.feed.look_up(ClaimedPosition(epoch, 7)).good_until
        for epoch in (rig.epoch, second.epoch, third.epoch)
    }
    assert good_until == {rig.epoch: 5, second.epoch: 5, third.epoch: None}
    facts = rig.feed.look_up(ClaimedPosition(rig.epoch, 7))
    assert (facts.head, facts.epoch_is_known) == (Position(third.epoch, 15), True)


def test_a_feed_that_was_made_by_hand_knows_its_own_epoch(rig: Rig, database: Database) -> None:
    execute(database.url, f"UPDATE balance_feed SET epoch = '{OTHER_EPOCH}', last_seq = 100")
    assert rig.feed.look_up(ClaimedPosition(OTHER_EPOCH, 100)) == (Position(OTHER_EPOCH, 100), 101, True, None, None)


# The latest


def test_the_latest_of_each_pid_is_the_last_saved_one(rig: Rig) -> None:
    assert rig.feed.latest(10) == (Position(rig.epoch, 0), None, [])
    saved = rig.save(None)
    assert rig.feed.latest(10) == (Position(rig.epoch, 1), saved[0].json, []), "it has no pid, and is the newest"
    saved += rig.save(3, 1, 2, 1, None, 3, None)
    found = rig.feed.latest(10)
    assert found.position == Position(rig.epoch, 8)
    assert found.newest == saved[7].json
    assert found.of_pids == [saved[6].json, saved[4].json, saved[3].json]
    assert rig.feed.latest(2).of_pids == [saved[6].json, saved[4].json]


@pytest.mark.usefixtures("kathmandu")
def test_the_latest_leaves_out_pids_that_were_silent_for_longer(rig: Rig) -> None:
    now = datetime.now(UTC)
    rig.save(1, received_at=now - timedelta(seconds=7200))
    (two,) = rig.save(2, received_at=now - timedelta(seconds=60))
    rig.save(3, received_at=now - timedelta(seconds=7200))
    found = rig.feed.latest(1, 3600)
    assert found.of_pids == [two.json], "the limit counts those that are left"
    assert found.newest is not None
    assert len(rig.feed.latest(10, 10_000).of_pids) == 3
    assert rig.feed.latest(10, 1).of_pids == []


BY_PID, BY_SEQ = b"latest_by_pid", b"latest_by_seq"


@pytest.fixture
def searches(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the searches for the latest that are made from now on; their first bounds are small."""
    executed: list[bytes] = []
    original = DatabaseSession.execute_prepared

    def execute_prepared(session: DatabaseSession, name: bytes, *rest: Any) -> Any:
        if name in (BY_PID, BY_SEQ):
            executed.append(name)
        return original(session, name, *rest)

    monkeypatch.setattr(DatabaseSession, "execute_prepared", execute_prepared)
    monkeypatch.setattr(feed_store, "PIDS_MIN", 4)
    monkeypatch.setattr(feed_store, "SEQS_MIN", 8)
    return executed


def test_the_latest_are_found_by_the_search_that_ends_first(rig: Rig, searches: list[bytes]) -> None:
    saved = rig.save(*range(4))
    assert [len(rig.feed.latest(10).of_pids), *searches] == [4, BY_PID]
    saved += rig.save(*range(100, 140))
    searches.clear()
    assert rig.feed.latest(8).of_pids == [one.json for one in reversed(saved[-8:])]
    assert searches == [BY_PID, BY_SEQ], "the newest eight snapshots have eight pids"
    searches.clear()
    assert rig.feed.latest(9).of_pids == [one.json for one in reversed(saved[-9:])]
    assert searches == [BY_PID, BY_SEQ] * 2
    searches.clear()
    saved += rig.save(*[0] * 200)
    assert rig.feed.latest(50).of_pids == [saved[-1].json, *(one.json for one in reversed(saved[1:44]))]
    assert searches == [BY_PID, BY_SEQ] * 2 + [BY_PID]


def test_the_search_for_recent_pids_ends_where_none_is(
    rig: Rig, searches: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshots of one process may be older than earlier ones of another, whose clock is ahead or which waited."""
    now = datetime.now(UTC)
    rig.save(*range(2000), received_at=now - timedelta(seconds=7200))
    monkeypatch.setattr(feed_store, "SEQS_MIN", 1500)
    recent = rig.save(3000, received_at=now)
    rig.save(*[3001] * 300, received_at=now - timedelta(seconds=7200))
    searches.clear()
    assert rig.feed.latest(10, 3600).of_pids == [recent[0].json]
    assert searches == [BY_PID, BY_SEQ]
    rig.save(*[3001] * 1000, received_at=now - timedelta(seconds=7200))
    searches.clear()
    assert rig.feed.latest(10, 3600).of_pids == [recent[0].json]
    assert searches == [BY_PID, BY_SEQ] * 2, "the first search has it in its oldest thousand"


# Plans

FILL = """
INSERT INTO balance_snapshot
SELECT n, gen_random_uuid(), '2025-11-07', nullif(n % 21, 0), '{{"rlb": 1, "usdt": 1}}', '{{"rlb": 1, "usd": 1}}', now()
FROM generate_series({}, {}) AS n
"""

SET_END = "UPDATE balance_feed SET last_seq = {}"


def buffers(database: Database, sql: str, *parameters: object) -> int:
    """Return how many blocks a statement reads."""
    with psycopg.connect(database.url) as connection:
        connection.execute("SET enable_seqscan = off")
        cursor = psycopg.RawCursor(connection)
        cursor.execute(b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + sql.encode(), parameters)  # type: ignore[arg-type]
        ((plan,),) = cursor.fetchall()
        return int(plan[0]["Plan"]["Shared Hit Blocks"]) + int(plan[0]["Plan"]["Shared Read Blocks"])


@pytest.mark.parametrize(
    ("sql", "parameters", "blocks_max"),
    [
        (LATEST_BY_PID, (100, None, 200), 400),
        (LATEST_BY_PID, (5, NOW, 200), 400),
        (LATEST_BY_SEQ, (100, None, 1_000), 200),
        (LATEST_BY_SEQ, (5, NOW, 1_000), 200),
        (LOOK_UP, (OTHER_EPOCH, 700), 40),
        (PAGE, (500, 100, None), 60),
    ],
    ids=["by pid", "by pid since", "by seq", "by seq since", "look_up", "page"],
)
def test_the_cost_of_a_read_does_not_depend_on_the_history(
    rig: Rig, database: Database, sql: str, parameters: tuple[object, ...], blocks_max: int
) -> None:
    execute(database.url, FILL.format(1, 2_000), SET_END.format(2_000), "VACUUM ANALYZE balance_snapshot")
    few = buffers(database, sql, *parameters)
    execute(database.url, FILL.format(2_001, 60_000), SET_END.format(60_000), "VACUUM ANALYZE balance_snapshot")
    many = buffers(database, sql, *parameters)
    assert many < blocks_max
    assert many < 3 * few, "thirty times as many rows make the index one level higher"
