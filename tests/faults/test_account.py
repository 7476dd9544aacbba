"""Root never writes, changes or removes a file through a link that the user of PostgreSQL has made in its folders."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from balance.storage.embedded import EmbeddedError, EmbeddedPostgres, files, server_log
from balance.storage.embedded.settings import SOCKET_NAME
from balance.storage.embedded.socket_folder import socket_folder
from tests.support.embedded import NOBODY, kill_server, needs_root

pytestmark = needs_root
TEXT = "root's own, and no one else's\n"


@pytest.fixture
def data(pristine: Path, tmp_path: Path) -> Path:
    """Return a stopped data directory, which PostgreSQL's user owns with everything in it."""
    data = tmp_path / "data"
    subprocess.run(["cp", "-a", str(pristine), str(data)], check=True)
    owner = (data / "postgresql").stat()
    for folder, _, names in os.walk(data):
        for one in (folder, *(os.path.join(folder, name) for name in names)):
            os.chown(one, owner.st_uid, owner.st_gid)
    return data


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """Make a file of root, which must be unchanged at the end."""
    file = tmp_path / "victim" / "file"
    file.parent.mkdir()
    file.write_text(TEXT)
    before = file.stat()
    folder = file.parent.stat()
    yield file
    after = file.stat()
    assert file.read_text() == TEXT
    assert (after.st_uid, after.st_mode, after.st_nlink) == (before.st_uid, before.st_mode, before.st_nlink)
    assert (file.parent.stat().st_uid, file.parent.stat().st_mode) == (folder.st_uid, folder.st_mode)
    assert [one.name for one in file.parent.iterdir()] == ["file"], "another file was made in its folder"


def start(data: Path) -> str:
    """Start and stop PostgreSQL; return the error of a refused start, or an empty text."""
    reason = ""
    try:
        EmbeddedPostgres.start(data).stop()
    except EmbeddedError as error:
        reason = str(error)
    assert TEXT.strip() not in reason, "the error has content of a file of root"
    return reason


REFUSED = [
    "postgresql/postmaster.pid",
    "postgresql/PG_VERSION",
    "control.lock",
    "lock",
    "server.lock",
    "postgresql.log",
]
REPLACED = [f"postgresql/{SOCKET_NAME}.lock", "postgresql.log.1"]


@pytest.mark.parametrize(
    ("name", "to"),
    [
        *((name, "file") for name in (*REFUSED, *REPLACED)),
        *((name, "new") for name in ("control.lock", "server.lock", "postgresql.log", "postgresql.log.1")),
        ("postgresql.new", ""),
    ],
)
def test_root_follows_no_link_of_the_user(
    data: Path, victim: Path, name: str, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_log, "LOG_BYTES_MAX", 100)
    (data / "postgresql.log").write_text("old " * 100)
    (data / name).unlink(missing_ok=True)
    (data / name).symlink_to(victim.parent / to)
    os.lchown(data / name, NOBODY, -1)
    reason = start(data)
    assert (reason == "") == (name in REPLACED)
    assert name in REPLACED or name.rpartition("/")[2] in reason or "symbolic link" in reason


@pytest.mark.parametrize("name", ["postgresql/postmaster.pid", "postgresql.log", "lock"])
def test_root_writes_to_no_file_that_has_a_second_name(data: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "file"
    file.write_text(TEXT)
    (data / name).unlink(missing_ok=True)
    os.link(file, data / name)
    assert "not a regular file with one name" in start(data)
    assert file.read_text() == TEXT


@pytest.mark.parametrize("name", ["postgresql/postmaster.pid", "postgresql.log", "control.lock"])
def test_a_pipe_instead_of_a_file_does_not_block_root(data: Path, name: str) -> None:
    (data / name).unlink(missing_ok=True)
    os.mkfifo(data / name)
    assert "not a regular file with one name" in start(data) or "No such device" in start(data)


def test_data_behind_a_link_of_the_user_is_not_used(data: Path, victim: Path) -> None:
    (data / "postgresql").rename(data / "away")
    (data / "postgresql").symlink_to(victim.parent)
    os.lchown(data / "postgresql", NOBODY, -1)
    assert "postgresql: Not a directory" in start(data)


def test_data_behind_a_link_of_root_is_used(data: Path, tmp_path: Path) -> None:
    (data / "postgresql").rename(tmp_path / "disk")
    (data / "postgresql").symlink_to(tmp_path / "disk")
    assert start(data) == ""


def test_a_file_of_a_killed_server_is_replaced_by_one_of_the_user(data: Path) -> None:
    with EmbeddedPostgres.start(data):
        kill_server(data)
        pid_file = data / "postgresql" / "postmaster.pid"
        with files.opened_folder(os.open(data, os.O_RDONLY), "postgresql") as pgdata:
            files.replace(pgdata, "postmaster.pid", b"1\n")
        assert pid_file.stat().st_uid == (data / "postgresql").stat().st_uid


def test_a_link_instead_of_the_folder_of_the_socket_is_refused(data: Path, victim: Path, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 90)
    data.rename(long)
    folder = socket_folder(long / "postgresql")
    assert folder.parent == Path("/tmp")
    folder.symlink_to(victim.parent)
    try:
        assert "not private to the owner of the data" in start(long)
    finally:
        with suppress(FileNotFoundError):
            folder.unlink()


def test_root_removes_no_folder_for_a_file_that_names_another_socket(data: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with EmbeddedPostgres.start(data):
        pid_file = data / "postgresql" / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        lines[4] = str(empty)
        pid_file.write_text("\n".join([*lines, ""]))
    assert empty.exists()


def test_root_does_not_connect_to_another_address_that_a_file_names(data: Path) -> None:
    with EmbeddedPostgres.start(data) as server:
        pgdata = data / "postgresql"
        port = "5432&user=x"
        (pgdata / f".s.PGSQL.{port}").symlink_to(SOCKET_NAME)
        lines = (pgdata / "postmaster.pid").read_text().splitlines()
        lines[3] = port
        (pgdata / "postmaster.pid").write_text("\n".join([*lines, ""]))
        with EmbeddedPostgres.start(data) as other:
            assert other.url == server.url
