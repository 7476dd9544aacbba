"""What the service requires of a database at the start: access, sessions of its own, and grants.

A start that fails prints one line with the reason. PgBouncer is the real one, where the machine has it.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import psycopg
import pytest
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from balance.storage.connect import CREDENTIALS, DatabaseError
from balance.storage.embedded import EmbeddedPostgres
from balance.storage.errors import STOPPING, StoreUnavailable
from balance.storage.migrate import SchemaError, migrate
from balance.storage.pool import Pool
from balance.storage.startup_check import PROBE_S_MAX
from balance.storage.store import Store
from tests.support.embedded import start_postgres
from tests.support.http_client import request
from tests.support.raw_clients import SocketClient
from tests.support.repository import ROOT
from tests.support.service import SNAPSHOTS, Database, MakeService, Processes, check_start_refused
from tests.support.session_start import StartServer, rejection
from tests.support.waiting import wait_until
from tests.support.workload import BOTS, SendLog, Watcher, check_seen

SEED = 7
UPDATE = {"onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}}
GRANTS = (
    "USAGE ON SCHEMA public", "SELECT ON schema_migration", "SELECT, UPDATE ON balance_feed",
    "SELECT, INSERT ON balance_epoch", "SELECT, INSERT ON balance_snapshot",
    "SELECT, UPDATE (last_used_at) ON balance_token",
    "EXECUTE ON FUNCTION balance_ledger_is_valid(jsonb, text[])",
    "EXECUTE ON FUNCTION balance_snapshot_json(uuid, bigint, timestamptz, bigint, jsonb, jsonb)",
)  # fmt: skip


# A connection pooler

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="there is no pgbouncer on this machine")


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Start a server of which the folder is known, for the tests of this module."""
    server = start_postgres(tmp_path_factory.mktemp("pooled"))
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute("CREATE DATABASE shared ENCODING 'UTF8' TEMPLATE template0")
    migrate(make_conninfo(server.url, dbname="shared"))
    yield server
    server.stop()


@contextmanager
def pgbouncer(server: EmbeddedPostgres, folder: Path, mode: str, size: int = 20) -> Iterator[str]:
    """Run PgBouncer in front of a server, in the account that owns it; yield the URL of the database `shared`."""
    target = conninfo_to_dict(server.url)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Not in a folder of pytest, since other accounts cannot read those.
    config = folder / f"{mode}.ini"
    config.write_text(
        f"[databases]\n* = host={target['host']} port={target['port']} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = {mode}\ndefault_pool_size = {size}\nserver_lifetime = 60\n"
    )
    account = pwd.getpwuid(Path(str(target["host"])).stat().st_uid).pw_name
    as_account = [] if os.geteuid() else ["--user", account]
    assert PGBOUNCER is not None
    with (folder / f"{mode}.log").open("wb") as log:
        process = subprocess.Popen([PGBOUNCER, *as_account, str(config)], stdout=log, stderr=log)
    try:
        url = f"postgresql://balance@127.0.0.1:{port}/shared"
        deadline = time.monotonic() + 10
        while True:
            with suppress(psycopg.OperationalError), psycopg.connect(url):
                break
            assert process.poll() is None, (folder / f"{mode}.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@needs_pgbouncer
@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_shares_sessions_is_refused_with_advice(
    processes: Processes, pooled: EmbeddedPostgres, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balance.storage.startup_check.PROBE_S_MAX", 0.5)
    with pgbouncer(pooled, tmp_path, mode) as url:
        check_start_refused(processes("--port=0", DATABASE_URL=url), f"only for a {mode}", "directly", "session mode")
    with pgbouncer(pooled, tmp_path, mode, size=1) as url:  # one session for all connections
        pool = Pool(url, pool_max=2, pool_wait_ms_max=1000, statement_ms_max=1000)
        with pytest.raises(DatabaseError, match="session mode"):
            pool.open()


@needs_pgbouncer
def test_a_pooler_in_session_mode_with_too_few_sessions_is_refused(
    pooled: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balance.storage.startup_check.PROBE_S_MAX", 0.5)
    with pgbouncer(pooled, tmp_path, "session", size=1) as url:
        pool = Pool(url, pool_max=5, pool_wait_ms_max=1000, statement_ms_max=1000)
        with pytest.raises(DatabaseError, match="have 5 or more"):
            pool.open()


@needs_pgbouncer
def test_a_close_ends_the_check_that_waits_for_a_session_of_the_pooler(
    pooled: EmbeddedPostgres, tmp_path: Path
) -> None:
    with pgbouncer(pooled, tmp_path, "session", size=1) as url, ThreadPoolExecutor(1) as thread:
        pool = Pool(url, pool_max=2, pool_wait_ms_max=1000, statement_ms_max=1000)
        opening = thread.submit(pool.open)
        wait_until(lambda: len(pool._checked._sockets) == 2)
        pool.close()
        with pytest.raises(StoreUnavailable, match=STOPPING):
            opening.result(PROBE_S_MAX / 2)


@needs_pgbouncer
async def test_a_pooler_in_session_mode_works(
    pooled: EmbeddedPostgres, tmp_path: Path, make_service: MakeService
) -> None:
    with pgbouncer(pooled, tmp_path, "session") as url:
        service = await make_service(database_url=url)
        watcher = await Watcher.connect(service.url, SocketClient)

        async def find_server() -> str:
            return service.url

        send_log = SendLog()
        bots = [kind(find_server, Random(SEED + n), send_log) for n, kind in enumerate(BOTS)]
        await send_log.more(100, 20)  # more than the five executions after which psycopg prepares a statement
        for bot in bots:
            await bot.stop()
        assert not send_log.refused
        assert (await service.get("?limit=1")).body["pagination"]["total"] == len(send_log.sent)
        with service.app.database.store._pool.connection() as connection:
            assert connection.execute("SHOW statement_timeout").fetchone() == ("4s",)
            assert connection.execute("SELECT pg_backend_pid()").fetchone() != (connection.pgconn.backend_pid,)
        await watcher.until(len(send_log.sent))
        await watcher.close()
        check_seen(watcher, Database(make_conninfo(pooled.url, dbname="shared")))
        await service.stop()


# Grants


@pytest.fixture
def least(postgres: str, database: Database) -> Iterator[tuple[psycopg.Connection[tuple[object, ...]], str, str]]:
    """Yield a session that may grant, a role with exactly the grants of docs/operations.md, and its URL."""
    role = f"least_{uuid.uuid4().hex}"
    with psycopg.connect(database.url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN".encode())
        admin.execute("REVOKE ALL ON SCHEMA public FROM public")
        admin.execute("REVOKE EXECUTE ON FUNCTION balance_ledger_is_valid, balance_snapshot_json FROM public")
        for grant in GRANTS:
            admin.execute(f"GRANT {grant} TO {role}".encode())
        yield admin, role, make_conninfo(database.url, user=role)
        admin.execute(f"DROP OWNED BY {role}".encode())
        admin.execute(f"DROP ROLE {role}".encode())


Least = tuple[psycopg.Connection[tuple[object, ...]], str, str]


async def test_the_grants_that_the_document_lists_are_enough(least: Least, make_service: MakeService) -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    for grant in GRANTS:
        assert f"GRANT {grant} TO" in text
    service = await make_service(database_url=least[2])
    assert (await service.post(UPDATE)).status == 201
    update = {"id": str(uuid.uuid4()), **UPDATE}
    assert [(await service.post(update)).status for _ in range(2)] == [201, 200]
    assert (await service.request("GET", f"{SNAPSHOTS}/{update['id']}")).status == 200
    assert (await service.get()).body["pagination"]["total"] == 2
    await service.stop()


def test_each_missing_grant_is_named_at_the_start(least: Least) -> None:
    admin, role, url = least
    names = {
        "USAGE ON SCHEMA public": "USAGE on schema public",
        "SELECT ON schema_migration": "SELECT on schema_migration",
        "UPDATE ON balance_feed": "UPDATE on balance_feed",
        "SELECT ON balance_feed": "SELECT on balance_feed",
        "SELECT ON balance_snapshot": "SELECT on balance_snapshot",
        "INSERT ON balance_snapshot": "INSERT on balance_snapshot",
        "SELECT ON balance_epoch": "SELECT on balance_epoch",
        "INSERT ON balance_epoch": "INSERT on balance_epoch",
        "SELECT ON balance_token": "SELECT on balance_token",
        "UPDATE (last_used_at) ON balance_token": "UPDATE on balance_token",
        GRANTS[-2]: "EXECUTE on function balance_ledger_is_valid(jsonb,text[])",
        GRANTS[-1]: "EXECUTE on function balance_snapshot_json(uuid,bigint,timestamp with time zone,bigint,",
    }
    pool = Pool(url, pool_max=2, pool_wait_ms_max=1000, statement_ms_max=1000)
    for grant, name in names.items():
        admin.execute(f"REVOKE {grant} FROM {role}".encode())
        with pytest.raises(DatabaseError) as caught:
            pool.open()
        assert name in str(caught.value)
        assert role in str(caught.value)
        assert "\n" not in str(caught.value)
        admin.execute(f"GRANT {grant} TO {role}".encode())
    pool.open()
    pool.close()


def test_a_role_that_lacks_two_grants_stops_the_start_in_one_line(processes: Processes, least: Least) -> None:
    admin, role, url = least
    admin.execute(f"REVOKE UPDATE ON balance_feed FROM {role}".encode())
    admin.execute(f"REVOKE SELECT ON balance_snapshot FROM {role}".encode())
    check_start_refused(
        processes("--port=0", DATABASE_URL=url), "UPDATE on balance_feed, SELECT on balance_snapshot", role
    )


def test_grants_on_columns_are_enough(least: Least) -> None:
    admin, role, url = least
    admin.execute(f"REVOKE UPDATE ON balance_feed FROM {role}".encode())
    admin.execute(f"GRANT UPDATE (epoch, last_seq, timeline, system_id) ON balance_feed TO {role}".encode())
    store = Store(Pool(url, pool_max=2, pool_wait_ms_max=1000, statement_ms_max=1000))
    assert store.open().seq == 0
    store.close()


def test_migrate_needs_no_grant_to_create_when_nothing_is_missing(least: Least) -> None:
    assert migrate(least[2]) == []


def test_migrate_prints_in_one_line_the_grants_that_a_role_needs(least: Least, database: Database) -> None:
    admin, _role, url = least
    admin.execute("DROP TABLE schema_migration")
    with pytest.raises(SchemaError, match="GRANT USAGE, CREATE ON SCHEMA") as caught:
        migrate(url)
    assert "\n" not in str(caught.value)


# A server that answers in German


def test_a_wrong_password_is_reported_at_once_in_the_language_of_the_server(processes: Processes) -> None:
    text = "Passwort-Authentifizierung für Benutzer »bot« fehlgeschlagen"
    with StartServer(rejection("28P01", text)) as url:
        check_start_refused(processes("--port=0", DATABASE_URL=url), text)


def test_a_starting_server_is_waited_for_and_logged_in_its_language(processes: Processes) -> None:
    with StartServer(rejection("57P03", "das Datenbanksystem startet, permission denied does not exist")) as url:
        process = processes("--port=0", DATABASE_URL=url)
        process.url()
        assert process.terminate() == 0
    assert [line for line in process.stderr if "das Datenbanksystem startet" in line]
    assert len(process.stderr) == 1
    assert "hunter2" not in process.stderr[0]


# The environment


async def test_no_variable_of_libpq_changes_the_database_of_the_url(processes: Processes, database: Database) -> None:
    variables = {
        option.envvar.decode(): "elsewhere.invalid"
        for option in pq.Conninfo.get_defaults()
        if option.envvar and not option.envvar.decode().startswith(CREDENTIALS)
    }
    assert {"PGHOSTADDR", "PGPORT", "PGDATABASE", "PGOPTIONS", "PGSERVICE"} <= set(variables)
    process = processes("--port=0", DATABASE_URL=database.url, **variables)
    url = await asyncio.to_thread(process.url)
    assert (await request(url, "POST", SNAPSHOTS, UPDATE)).status == 201
    assert database.count() == 1
