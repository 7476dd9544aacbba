"""The start and the stop of the process, and what sessions leave behind.

On SIGTERM and SIGINT nothing new is accepted, everything in flight is answered, each WebSocket is closed with 1001, the
embedded PostgreSQL is stopped, and the exit status is 0. The stop is bounded, also when the database hangs and when a
client never answers the close frame. A start that fails prints one line on stderr with the reason, quickly, with exit
status 1, and leaves nothing running. Sessions that have ended leave nothing in memory.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import fields
from itertools import islice
from pathlib import Path
from random import Random

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tornado.httpclient import HTTPClientError

from balance import __version__, cli
from balance.commands import serve
from balance.config import Config
from balance.setting import flag, variable
from balance.storage.embedded import EmbeddedPostgres
from balance.storage.migrate import SQL_FOLDER
from tests.support.embedded import is_running, processes_of, start_postgres
from tests.support.http_client import request
from tests.support.payloads import updates
from tests.support.postgres import LOCK_FEED
from tests.support.raw_clients import Dropped, PollingClient, SocketClient
from tests.support.service import (
    SNAPSHOTS,
    Database,
    MakeService,
    Processes,
    Service,
    check_group_is_gone,
    check_start_refused,
    is_group_alive,
)
from tests.support.workload import RestBot, SendLog, SocketBot, check_stored

SEED = 3
GOING_AWAY = 1001  # RFC 6455, section 7.4.1


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


async def until_waiting(database: Database) -> None:
    """Wait until a session waits for a lock."""
    query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as connection, asyncio.timeout(10):
        while not (await connection.execute(query)).rowcount:
            await asyncio.sleep(0.005)


async def until_refused(url: str) -> None:
    """Wait until no connection is accepted any more."""
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
            except (
                ConnectionRefusedError,
                ConnectionResetError,
            ):  # reset: the connection was in the queue of the listener
                return
            writer.close()
            await asyncio.sleep(0.005)


# The stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_after_a_signal_requests_in_flight_are_answered_and_new_ones_refused(
    processes: Processes, database: Database, number: int
) -> None:
    process = processes("--port=0", DATABASE_URL=database.url)
    url = await asyncio.to_thread(process.url)
    clients = [await SocketClient.connect(url), await SocketClient.connect(url)]
    polling = await PollingClient.connect(url)
    one, other, third, late = islice(updates(Random(SEED)), 4)
    with psycopg.connect(database.url) as session:
        session.execute(LOCK_FEED)
        by_rest = asyncio.ensure_future(request(url, "POST", SNAPSHOTS, one))
        by_socket = await clients[0].start_call("balance:update", other)
        by_polling = await polling.start_call("balance:update", third)
        await until_waiting(database)
        ending = asyncio.ensure_future(asyncio.to_thread(process.terminate, number))
        await until_refused(url)
        (answer,) = await clients[1].call("balance:update", late)
        assert (answer["success"], answer["code"]) == (False, "unavailable")
        assert answer["retryAfter"] == 1
    assert (await by_rest).status == 201
    assert (await by_socket)[0]["id"] == other["id"]
    with suppress(Dropped):  # its answer waits for a poll, and no new connection is accepted
        assert (await by_polling)[0]["id"] == third["id"]
    for client in clients:
        assert await client.await_closed() == GOING_AWAY
    await asyncio.wait_for(asyncio.shield(polling.closed), 5)
    assert await ending == 0
    assert process.stderr == []
    check_group_is_gone(process)
    check_stored(database, [one, other, third], {update["id"]: update for update in (one, other, third)})
    for client in (*clients, polling):
        await client.close()


async def test_a_stop_under_load_loses_no_acknowledged_update(processes: Processes, database: Database) -> None:
    process = processes("--port=0", DATABASE_URL=database.url)
    url = await asyncio.to_thread(process.url)

    async def find_server() -> str:
        return url

    send_log = SendLog()
    bots = [kind(find_server, Random(SEED + n), send_log) for n, kind in enumerate((RestBot, SocketBot, SocketBot))]
    try:
        await send_log.more(100)
        assert await asyncio.to_thread(process.terminate) == 0
    finally:
        for bot in bots:
            await bot.kill()
    assert process.stderr == []
    check_stored(database, send_log.acknowledged, send_log.sent)


async def test_the_stop_is_bounded_with_a_hung_database_and_a_client_that_reads_nothing(
    processes: Processes, tmp_path: Path
) -> None:
    with start_postgres(tmp_path / "own") as postgres:
        assert cli.main(["migrate", f"--database-url={postgres.url}"]) == 0
        process = processes("--port=0", "--shutdown-ms-max=1000", DATABASE_URL=postgres.url)
        url = await asyncio.to_thread(process.url)
        non_reading, client = await SocketClient.connect(url), await SocketClient.connect(url)
        await non_reading.stop_reading()
        pids = processes_of(tmp_path / "own")
        for one in pids:
            os.kill(one, signal.SIGSTOP)
        try:
            saving = await client.start_call("balance:update", next(updates(Random(SEED))))
            reading = asyncio.ensure_future(request(url, "GET", SNAPSHOTS))
            await client.call("ping")  # after this the update has arrived
            began = time.monotonic()
            assert await asyncio.to_thread(process.terminate) == 0
            assert time.monotonic() - began < 6
        finally:
            for one in reversed(pids):
                os.kill(one, signal.SIGCONT)
        (answer,) = await saving
        assert (answer["success"], answer["code"]) == (False, "unavailable")
        with suppress(HTTPClientError, OSError):
            assert (await reading).status == 503
        assert await client.await_closed() == GOING_AWAY
        assert not [line for line in process.stderr if "Traceback" in line], process.stderr
        for one_client in (non_reading, client):
            await one_client.close()


async def test_a_client_that_never_answers_the_close_frame_delays_the_stop_by_the_limit(
    make_service: MakeService,
) -> None:
    service = await make_service(shutdown_ms_max=500)
    non_reading = await SocketClient.connect(service.url)
    await non_reading.stop_reading()
    began = time.monotonic()
    await service.stop()
    assert time.monotonic() - began < 2
    assert not service.app.server.eio.sockets or all(one.closed for one in service.app.server.eio.sockets.values())
    await non_reading.close()


async def test_a_signal_during_the_start_ends_it_and_leaves_nothing_running(
    processes: Processes, tmp_path: Path
) -> None:
    process = processes("--port=0", f"--data-dir={tmp_path / 'data'}")
    async with asyncio.timeout(30):
        while not (tmp_path / "data" / "lock").exists():  # it will now make a database or start its server
            await asyncio.sleep(0.005)
    assert await asyncio.to_thread(process.terminate) == 0
    async with asyncio.timeout(10):
        while is_group_alive(process):  # the children of initdb end when they find that initdb has ended
            await asyncio.sleep(0.01)
    assert not is_running(tmp_path / "data")


# The start


@pytest.mark.gen_test(timeout=90)
async def test_two_starts_on_one_data_folder_keep_the_data_and_it_is_durable(
    processes: Processes, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    one, other = islice(updates(Random(SEED)), 2)
    for number, update in enumerate((one, other)):
        process = processes("--port=0", f"--data-dir={data}", script="server.py")
        url = await asyncio.to_thread(process.url)
        assert url.startswith("http://127.0.0.1:")
        answer = await request(url, "GET", SNAPSHOTS)
        assert answer.body["pagination"]["total"] == number
        assert (await request(url, "POST", SNAPSHOTS, update)).status == 201
        if number == 0:
            with EmbeddedPostgres.start(data) as postgres, psycopg.connect(postgres.url) as connection:
                for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                    assert connection.execute(f"SHOW {setting}".encode()).fetchone() == ("on",)
            assert is_running(data), "the service still uses it"
        assert await asyncio.to_thread(process.terminate) == 0
        assert process.stdout == [
            f"listening on {url}",
            f"Balance Snapshot System {__version__}: data in {data}; documentation at {url}/api/docs",
        ]
        assert process.complaints == []
        assert not is_running(data)
    assert [row["id"] for row in answer.body["data"]] == [one["id"]]


def test_a_port_in_use_is_named_in_the_error(processes: Processes, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        process = processes(f"--port={port}", f"--data-dir={tmp_path / 'data'}")
        check_start_refused(process, f"127.0.0.1:{port}", "in use")
    assert not (tmp_path / "data").exists(), "the database is not touched"


def test_a_data_folder_that_cannot_be_written_is_named_in_the_error(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_start_refused(processes("--port=0", f"--data-dir={tmp_path / 'file' / 'data'}"), str(tmp_path / "file"))


@pytest.fixture
def guarded(postgres: str, database: Database) -> Iterator[str]:
    """Return the URL of a role that may not log in, for a server that asks for no password."""
    role = f"guarded_{os.getpid()}"
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} NOLOGIN PASSWORD 'right'".encode())
        yield make_conninfo(database.url, user=role, password="hunter2")
        admin.execute(f"DROP ROLE {role}".encode())


def test_a_database_that_can_never_be_reached_is_named_in_the_error(
    processes: Processes, database: Database, guarded: str
) -> None:
    urls = {
        "nonsense": "DATABASE_URL",
        "postgresql://bot:hunter2@[half": "DATABASE_URL",
        "postgresql://bot:hunter2@127.0.0.1:nix/balance": "DATABASE_URL",
        "postgresql://bot:hunter2@127.0.0.1/balance?colour=blue": "DATABASE_URL",
        make_conninfo(database.url, user="nobody_at_all", password="hunter2"): "nobody_at_all",
        make_conninfo(database.url, dbname="nothing_at_all"): "nothing_at_all",
        guarded: "guarded",
    }
    started = {url: processes("--port=0", DATABASE_URL=url) for url in urls}
    problems = []
    for url, process in started.items():
        try:
            check_start_refused(process, urls[url])
        except AssertionError as problem:
            problems.append((url, process.stderr, str(problem)[:200]))
    assert not problems


def test_a_wrong_password_is_refused(processes: Processes, tmp_path: Path) -> None:
    with start_postgres(tmp_path / "own") as own:
        with psycopg.connect(own.url, autocommit=True) as admin:
            admin.execute("CREATE ROLE bot LOGIN PASSWORD 'right'")
            rules = tmp_path / "own" / "postgresql" / "pg_hba.conf"
            rules.write_text("local all bot scram-sha-256\n" + rules.read_text())
            admin.execute("SELECT pg_reload_conf()")
        url = make_conninfo(own.url, user="bot", password="hunter2")
        check_start_refused(processes("--port=0", DATABASE_URL=url), "password authentication failed", "bot")


BAD: list[tuple[str, str]] = [
    *((one.name, "ten") for one in fields(Config) if isinstance(one.default, int)),
    *((one.name, str(one.metadata["high"] + 1)) for one in fields(Config) if one.metadata["high"] is not None),
    *((one.name, str(one.metadata["low"] - 1)) for one in fields(Config) if one.metadata["low"] is not None),
    ("host", "a..b"),
    ("host", "x" * 64),
    ("host", "203.0.113.1"),  # of a network for documentation (RFC 5737), which no machine has
    ("cors_origins", "dashboard.example"),
    ("trusted_proxies", "not an address"),
    ("database_url", "nonsense"),
    ("data_dir", "/dev/null/data"),
]


# Tornado's bind_sockets does not close the socket that it could not bind.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")
@pytest.mark.parametrize("by", ["flag", "variable"])
@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda text: str(text)[:30])
def test_each_bad_setting_is_refused_in_one_line_by_its_name(
    name: str,
    value: str,
    by: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (one,) = (one for one in fields(Config) if one.name == name)

    def start(*_: object) -> None:
        raise AssertionError("the setting was accepted, and the server starts")

    def bind(config: Config) -> list[socket.socket]:
        sockets.extend(original_bind(config))
        return sockets

    original_bind, sockets = serve.bind, list[socket.socket]()
    monkeypatch.setattr(serve, "App", start)
    monkeypatch.setattr(serve, "bind", bind)  # keeps the sockets, which only the end of the process would close
    monkeypatch.setenv("BALANCE_PORT", "0")
    monkeypatch.setenv("BALANCE_DATA_DIR", str(tmp_path / "data"))
    if by == "variable":
        monkeypatch.setenv(variable(one), value)
    try:
        assert cli.main([flag(one), value] if by == "flag" else []) == 1
    finally:
        for one_socket in sockets:
            one_socket.close()
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("server.py: ")
    assert output.err.count("\n") == 1, output.err
    assert value in output.err or name in ("database_url",), output.err
    assert flag(one) in output.err or variable(one) in output.err or name in ("host", "data_dir")
    assert not (tmp_path / "data").exists(), "all settings are checked before anything is opened"


@pytest.mark.parametrize(
    "argv", [["--nonsense"], ["--port"], ["service"], ["serve", "--nonsense"], ["migrate", "--nonsense"], ["--por=1"]]
)
def test_an_unknown_argument_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 1
    output = capsys.readouterr()
    assert output.err.startswith("server.py: ")
    assert output.err.count("\n") == 1
    assert argv[-1].partition("=")[0] in output.err


def test_the_process_itself_refuses_a_bad_setting_and_shows_help(processes: Processes) -> None:
    bad, help_ = processes("--port=ten"), processes("--help")
    check_start_refused(bad, "--port", "ten")
    assert help_.wait() == 0
    text = "\n".join(help_.stdout)
    for one in fields(Config):
        assert flag(one) in text
    assert help_.stderr == []


# The schema

APPLIED = [f"applied {path.name}" for path in sorted(SQL_FOLDER.glob("*.sql"))]


def test_migrate_makes_the_tables_and_the_server_starts_on_no_others(
    processes: Processes, postgres: str, tmp_path: Path
) -> None:
    name = f"balance_empty_{os.getpid()}"
    url = make_conninfo(postgres, dbname=name)
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0".encode())
        try:
            check_start_refused(processes("--port=0", DATABASE_URL=url), "version 0", "python server.py migrate")
            for expected in (APPLIED, []):
                process = processes("migrate", DATABASE_URL=url)
                assert process.wait() == 0
                assert process.stdout == [*expected, "the database is at this version"]
                assert process.stderr == []
            started = processes("--port=0", DATABASE_URL=url)
            started.url()
            assert started.terminate() == 0
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(
                    "INSERT INTO schema_migration (version, name, checksum) "
                    "SELECT max(version) + 1, 'later.sql', 'x' FROM schema_migration"
                )
            check_start_refused(
                processes("--port=0", DATABASE_URL=url), "update the program", "python server.py migrate"
            )
            check_start_refused(processes("migrate", DATABASE_URL=url), "update the program")
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


# Sessions


def held(service: Service) -> dict[str, int]:
    """Return how many objects the service has for its clients."""
    realtime = service.app.server
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
        "sessions": len(realtime.eio.sessions),
        "sessions of the libraries": len(realtime.eio.sockets) + len(realtime.environ),
        "rooms": len(realtime.manager.rooms.get("/", {})),
    }


def more_than(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    return {what: number - before[what] for what, number in now.items() if number > before[what]}


async def test_sessions_that_have_ended_leave_nothing_behind(make_service: MakeService, database: Database) -> None:
    service = await make_service()
    source = updates(Random(SEED))
    for _ in range(
        2
    ):  # the first starts the pool and the threads, and the event loop watches the connection for others
        assert (await service.post(next(source))).status == 201
    assert (await service.get()).status == 200
    client = await SocketClient.connect(service.url)
    await client.close()

    async def come_and_go(number: int) -> None:
        transport = PollingClient if number % 5 == 0 else SocketClient
        client = await transport.connect(service.url)
        with suppress(Dropped, HTTPClientError):
            await client.start_call("balance:update", next(source))
            if number % 3 == 0:
                await client.call("ping")
        if number % 2 and isinstance(client, SocketClient):
            client.drop()
        await client.close()

    async with asyncio.timeout(10):
        while held(service)["sessions"]:
            await asyncio.sleep(0.01)
    before = held(service)
    for _ in range(3):
        await asyncio.gather(*(come_and_go(number) for number in range(60)))
    assert (await service.post(next(source))).status == 201  # after this everything that they sent was handled
    deadline = time.monotonic() + 5
    while (left := more_than(before, held(service))) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert not left
    assert database.seqs() == list(range(1, database.count() + 1))
