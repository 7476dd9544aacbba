"""Variables, files, folders and users of the machine do not change what the embedded PostgreSQL does."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import pq

from balance.process.start_line import database_location
from balance.storage.embedded import EmbeddedError, EmbeddedPostgres
from balance.storage.embedded.data_directory import PATH_BYTES_MAX
from tests.support.embedded import NOBODY, Owner, needs_root
from tests.support.http_client import request
from tests.support.postgres import query
from tests.support.service import SNAPSHOTS, Processes

WITHOUT_NAME = 54321  # a user id that has no entry in /etc/passwd


def copy_of(pristine: Path, folder: Path) -> Path:
    subprocess.run(["cp", "-a", str(pristine), str(folder)], check=True)
    return folder


# libpq


class Trap:
    """A TCP port that no connection may reach."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.reached = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        self.reached = True
        connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def libpq_variables(port: int, home: Path) -> dict[str, str]:
    """Return every variable of libpq, with a value of another server or one that this server cannot meet."""
    known = {option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar}
    assert len(known) > 30
    values = dict.fromkeys(known, "nonsense") | {
        "PGHOSTADDR": "127.0.0.1", "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGDATABASE": "postgres",
        "PGSERVICE": "elsewhere", "PGPASSFILE": str(home / ".pgpass"), "PGCLIENTENCODING": "SQL_ASCII",
        "PGOPTIONS": "-c default_transaction_read_only=on -c search_path=nowhere", "PGCONNECT_TIMEOUT": "1",
        "PGSSLMODE": "verify-full", "PGREQUIREAUTH": "scram-sha-256", "PGCHANNELBINDING": "require",
        "PGREQUIREPEER": "nobody_at_all", "PGTARGETSESSIONATTRS": "standby", "PGUSER": "nobody_at_all",
    }  # fmt: skip
    others = {"PGSERVICEFILE": str(home / ".pg_service.conf"), "PGSYSCONFDIR": str(home), "PGDATA": str(home)}
    return values | others | {"PGDATESTYLE": "German", "PGTZ": "Asia/Tokyo", "PGGEQO": "off", "PGLOCALEDIR": "/"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make a home folder with files for libpq, each of which would change a connection or fail it."""
    folder = tmp_path / "home"
    (folder / ".postgresql").mkdir(parents=True)
    (folder / ".postgresql" / "root.crt").write_text("nonsense")
    (folder / ".pgpass").write_text("*:*:*:*:wrong\n")
    (folder / ".pgpass").chmod(0o644)
    for name in (".pg_service.conf", "pg_service.conf"):
        (folder / name).write_text("[elsewhere]\nhost=127.0.0.1\nhostaddr=127.0.0.1\ndbname=postgres\n")
    return folder


async def test_no_variable_and_no_file_of_libpq_changes_the_database(
    processes: Processes, pristine: Path, tmp_path: Path, home: Path
) -> None:
    data = copy_of(pristine, tmp_path / "data")
    with closing(Trap()) as trap:
        variables = libpq_variables(trap.port, home) | {"HOME": str(home), "TZ": "Asia/Tokyo", "LC_ALL": "C"}
        migrating = processes("migrate", f"--data-dir={data}", **variables)
        assert await asyncio.to_thread(migrating.wait) == 0, migrating.stderr
        process = processes("--port=0", f"--data-dir={data}", **variables)
        url = await asyncio.to_thread(process.url)
        update = {"onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}}
        assert (await request(url, "POST", SNAPSHOTS, update)).status == 201
        assert (await request(url, "GET", SNAPSHOTS)).body["pagination"]["total"] == 1
        with EmbeddedPostgres.start(data) as postgres:
            assert query(postgres.url, "SELECT count(*) FROM balance_snapshot") == [(1,)]
            sessions = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE usename = 'postgres'"
            assert ("balance",) in query(postgres.url, sessions)
        assert await asyncio.to_thread(process.terminate) == 0
        assert migrating.complaints == process.complaints == []
        assert not trap.reached


def test_each_variable_of_libpq_alone_has_no_effect(
    pristine: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = copy_of(pristine, tmp_path / "data")
    with closing(Trap()) as trap, EmbeddedPostgres.start(data):
        for name, value in libpq_variables(trap.port, home).items():
            monkeypatch.setenv(name, value)
            with EmbeddedPostgres.start(data) as server, psycopg.connect(server.url) as connection:
                assert connection.info.dbname == "balance", name
                assert connection.info.host == str(data / "postgresql"), name
                assert connection.execute("SHOW datestyle").fetchone() == ("ISO, MDY",), name
        assert not trap.reached


def test_addresses_in_the_configuration_files_are_not_used(pristine: Path, tmp_path: Path) -> None:
    data, other = copy_of(pristine, tmp_path / "data"), copy_of(pristine, tmp_path / "other")
    with (data / "postgresql" / "postgresql.auto.conf").open("a") as file:
        for name, value in {
            "data_directory": str(other / "postgresql"), "hba_file": "/nowhere", "fsync": "off", "port": "1",
            "synchronous_standby_names": "nobody", "default_transaction_read_only": "on", "restart_after_crash": "off",
            "log_statement": "all", "log_min_duration_statement": "0", "log_min_error_statement": "debug5",
            "log_error_verbosity": "verbose", "logging_collector": "on", "log_destination": "csvlog",
            "shared_preload_libraries": "auto_explain",
        }.items():  # fmt: skip
            file.write(f"{name} = '{value}'\n")
    with EmbeddedPostgres.start(data) as server:
        assert query(server.url, "SHOW data_directory") == [(str(data / "postgresql"),)]
        query(server.url, "CREATE TABLE private AS SELECT 101132.407627")
        with pytest.raises(psycopg.errors.DivisionByZero):
            query(server.url, "SELECT 101132.407627 / 0")
    assert "101132" not in (data / "postgresql.log").read_text()
    assert not (data / "postgresql" / "log").exists()


# Folders


@pytest.mark.parametrize("name", [b"\xff\xe9", b"two  spaces", b"per%cent", b"a,b", b"'quote\"", b"\xc3\xa9", b"-x"])
def test_a_data_folder_of_any_name_is_used(pristine: Path, tmp_path: Path, name: bytes) -> None:
    data = copy_of(pristine, tmp_path / os.fsdecode(name))
    with EmbeddedPostgres.start(data) as server:
        assert query(server.url, "SELECT current_database()") == [("balance",)]
        assert f"data in {os.fsencode(data).decode(errors='backslashreplace')}" == server.location


@pytest.mark.parametrize("name", ["line\nbreak", "/".join(["x" * 200] * 5)])
def test_a_path_that_postgresql_cannot_use_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EmbeddedError, match=f"over {PATH_BYTES_MAX} bytes") as caught:
        EmbeddedPostgres.start(tmp_path / name)
    assert "\n" not in str(caught.value)


async def test_the_start_prints_the_absolute_folder_and_makes_no_other(
    processes: Processes, pristine: Path, tmp_path: Path
) -> None:
    data = copy_of(pristine, tmp_path / os.fsdecode(b"\xffdata"))
    process = processes("--port=0", f"--data-dir={data.name}", cwd=str(tmp_path), PYTHONIOENCODING="ascii")
    await asyncio.to_thread(process.url)
    assert await asyncio.to_thread(process.terminate) == 0
    assert f": data in {tmp_path}/\\xffdata; " in process.stdout[1]


def test_a_folder_that_a_container_platform_opened_to_its_group_is_used(pristine: Path, tmp_path: Path) -> None:
    for made_before in (True, False):
        data = tmp_path / str(made_before)
        data.mkdir()
        if made_before:
            data.rmdir()
            copy_of(pristine, data)
        (data / "lost+found").mkdir()  # the root of a volume
        for folder, _, names in os.walk(data):  # fsGroup of Kubernetes does this at each mount
            for one in (Path(folder), *(Path(folder, name) for name in names)):
                one.chmod(0o2770 if one.is_dir() else 0o660)
        with EmbeddedPostgres.start(data) as server:
            assert query(server.url, "SELECT 1") == [(1,)]
            assert stat.S_IMODE((data / "postgresql").stat().st_mode) == 0o700


def test_an_error_names_the_path_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError) as caught:
        EmbeddedPostgres.start(tmp_path / "file")
    assert str(caught.value).count(str(tmp_path)) == 1


# Users


@needs_root
def test_a_user_id_without_a_name_is_named_with_the_remedy(pristine: Path, public: Path) -> None:
    _, error = Owner(public / "new", WITHOUT_NAME).process.communicate(timeout=30)
    assert f"initdb needs a name for user {WITHOUT_NAME}, which has none in /etc/passwd" in error.splitlines()[-1]
    data = copy_of(pristine, public / "made")
    subprocess.run(["chown", "-R", str(WITHOUT_NAME), data], check=True)
    owner = Owner(data, WITHOUT_NAME)
    assert query(owner.url(), "SELECT 1") == [(1,)], "the server itself needs no name"
    owner.stop()


@needs_root
def test_data_of_another_user_are_refused_with_the_remedy(pristine: Path, public: Path) -> None:
    data = copy_of(pristine, public / "data")
    subprocess.run(["chown", "-R", "root", data], check=True)
    with pytest.raises(EmbeddedError, match=r"postgresql belongs to user 0, and .*chown -R"):
        EmbeddedPostgres.start(data)
    _, error = Owner(data, NOBODY).process.communicate(timeout=30)
    assert error.splitlines()[-1].endswith(f"data directory {data}: Permission denied for user {NOBODY}")


@needs_root
def test_each_folder_that_root_opened_is_logged(
    pristine: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shut").mkdir(mode=0o700)
    copy_of(pristine, tmp_path / "shut" / "data")
    tmp_path.chmod(0o755)
    EmbeddedPostgres.start(tmp_path / "shut" / "data").stop()
    warned = [record.getMessage() for record in caplog.records if record.name == "balance.embedded.account"]
    assert len(warned) == 1
    assert warned[0].endswith(f"traverse these folders (+x): {tmp_path}/shut")
    caplog.clear()
    EmbeddedPostgres.start(tmp_path / "shut" / "data").stop()
    assert not [record for record in caplog.records if record.name == "balance.embedded.account"]


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Path]:
    """Make a folder that every user may write in."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == tmp_path.owner() and not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(0o711)
    tmp_path.chmod(0o777)
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


# The line of the start


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("postgresql://bot:hunter2@db.example/balance", "database balance at db.example:5432"),
        ("postgresql://bot:hunter2@a:1,[::1]:2/balance", "database balance at a:1, [::1]:2"),
        ("host=a,b port=7 dbname=x password=hunter2", "database x at a:7, b:7"),
        ("postgresql://bot:hunter2@/balance?host=/run/pg", "database balance at /run/pg:5432"),
        ("postgresql:///", "database of the user at the local socket:5432"),
        ("postgresql://bot:hun@ter2@db.example/balance", "the database of DATABASE_URL"),
        ("postgresql://bot:12/hunter2@db.example/balance", "the database of DATABASE_URL"),
        ("service=balance", "database of the service balance"),
    ],
)
def test_the_start_names_the_database_and_never_a_password(
    url: str, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    assert database_location(url) == location
    monkeypatch.setenv("PGPORT", "99")
    assert database_location("host=a") == "database of the user at a:99"
