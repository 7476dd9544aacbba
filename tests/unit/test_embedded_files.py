"""The files and locks of a data directory: what another user may have put there is not followed, read or changed."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from balance.storage.embedded import files, locks, server_log, socket_folder
from balance.storage.embedded.files import EmbeddedError, give_to, open_file, open_folder, opened_folder, read, replace
from balance.storage.embedded.locks import Interrupted, acquire_share, control, try_lock, wait_for, wait_for_end
from balance.storage.embedded.server_log import ServerLog
from balance.storage.embedded.socket_folder import private_folder

OTHER_USER = 4_000_000
IRREGULAR = "x is not a regular file with one name"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """Return the descriptor of an empty folder; check that nothing in it is left open."""
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    yield descriptor
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(descriptor)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the users that get a file of root from now on, each with the group that is set."""
    owners: list[int] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda _descriptor, uid, gid: owners.append(uid) or owners.append(gid))
    return owners


def refused(call: Callable[[], object], text: str) -> None:
    with pytest.raises(EmbeddedError) as caught:
        call()
    assert str(caught.value) == text


# Files


def test_a_file_is_created_for_its_owner_alone_and_not_inherited(folder: int, tmp_path: Path) -> None:
    descriptor = open_file(folder, "x", os.O_RDWR | os.O_CREAT)
    assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600
    assert not os.get_inheritable(descriptor)
    assert not fcntl.fcntl(descriptor, fcntl.F_GETFD) & ~fcntl.FD_CLOEXEC
    os.write(descriptor, b"one")
    os.close(descriptor)
    again = open_file(folder, "x", os.O_RDWR | os.O_CREAT)
    assert os.read(again, 9) == b"one"
    os.close(again)
    with pytest.raises(FileExistsError):
        open_file(folder, "x", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    with pytest.raises(FileNotFoundError):
        open_file(folder, "none", os.O_RDWR)
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT])
def test_no_link_pipe_or_second_name_is_opened(folder: int, tmp_path: Path, flags: int) -> None:
    (tmp_path / "target").write_text("secret")
    (tmp_path / "x").symlink_to("target")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_file(folder, "x", flags)
    (tmp_path / "x").unlink()
    os.link(tmp_path / "target", tmp_path / "x")
    refused(lambda: open_file(folder, "x", flags), IRREGULAR)
    (tmp_path / "x").unlink()
    os.mkfifo(tmp_path / "x")
    refused(lambda: open_file(folder, "x", os.O_RDONLY), IRREGULAR)


def test_a_file_that_root_creates_is_given_to_the_owner_of_the_folder(folder: int, given: list[int]) -> None:
    owner = os.fstat(folder).st_uid
    os.close(open_file(folder, "x", os.O_RDWR | os.O_CREAT))
    assert given == ([owner, -1] if owner else [])
    give_to(folder, OTHER_USER)
    assert given[-2:] == [OTHER_USER, -1], "its group stays as it is"


def test_only_root_gives_a_file_to_another_user(given: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    give_to(0, 0)
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    give_to(0, OTHER_USER)
    give_to(0, 1)
    assert given == []


def test_a_small_file_is_read_up_to_a_limit(folder: int, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1" * (files.READ_BYTES_MAX + 1))
    assert read(folder, "x") == b"1" * files.READ_BYTES_MAX
    with pytest.raises(FileNotFoundError):
        read(folder, "none")


def test_a_file_is_replaced_and_what_has_its_old_name_is_not_written(folder: int, tmp_path: Path) -> None:
    replace(folder, "x", b"one")
    os.link(tmp_path / "x", tmp_path / "kept")
    replace(folder, "x", b"two")
    assert ((tmp_path / "x").read_bytes(), (tmp_path / "kept").read_bytes()) == (b"two", b"one")
    (tmp_path / "x").unlink()
    (tmp_path / "x").symlink_to("kept")
    replace(folder, "x", b"three")
    assert (read(folder, "x"), (tmp_path / "kept").read_bytes()) == (b"three", b"one")


def test_a_link_to_a_folder_is_followed_if_it_is_of_this_user(
    folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    for name in ("target", "link"):
        with opened_folder(folder, name) as descriptor:
            assert os.path.samestat(os.fstat(descriptor), os.stat(tmp_path / "target"))
            assert not os.get_inheritable(descriptor)
    if os.geteuid() == 0:
        os.chown(tmp_path / "target", OTHER_USER, -1)
    else:  # which cannot give a folder to another user
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to("/")
    os.close(open_folder(folder, "link"))
    monkeypatch.setattr(os, "geteuid", lambda: OTHER_USER)
    os.close(open_folder(folder, "target"))
    with pytest.raises(NotADirectoryError):
        open_folder(folder, "link")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        open_folder(folder, "file")


# Locks


def test_a_condition_is_waited_for_until_it_is_true_or_the_time_is_over() -> None:
    states = iter([False, False, True])
    assert wait_for(lambda: next(states), 5)
    assert wait_for(lambda: True, 0)
    assert not wait_for(lambda: False, 0.02)


def test_a_wait_ends_when_the_process_stops() -> None:
    interrupt = threading.Event()
    interrupt.set()
    with pytest.raises(Interrupted):
        wait_for(lambda: False, 5, interrupt)
    assert wait_for(lambda: True, 5, interrupt), "a condition that is true needs no wait"


def test_one_process_at_a_time_starts_or_stops_the_server(folder: int, tmp_path: Path) -> None:
    interrupt = threading.Event()
    with control(folder, 5):
        text = "another process has been starting or stopping its server for 0.02 s"
        refused(lambda: control(folder, 0.02).__enter__(), text)
        interrupt.set()
        with pytest.raises(Interrupted):
            control(folder, 5, interrupt).__enter__()
    with control(folder, 0):
        assert os.listdir(tmp_path) == ["control.lock"]


def test_the_server_is_shared_by_any_number_of_processes(folder: int, tmp_path: Path) -> None:
    one, two = acquire_share(folder), acquire_share(folder)
    assert os.listdir(tmp_path) == ["lock"]
    assert not try_lock(one)
    os.close(two)
    assert try_lock(one)
    other = open_file(folder, "lock", os.O_RDWR)
    assert not locks.wait_for_lock(other, 0.02)
    os.close(one)
    assert locks.wait_for_lock(other, 5)
    os.close(other)


def test_every_process_that_waits_for_the_end_of_the_server_returns(folder: int) -> None:
    with pytest.raises(FileNotFoundError):
        wait_for_end(folder)
    waiting = [threading.Thread(target=wait_for_end, args=(folder,)) for _ in range(2)]
    with locks.opened(folder, locks.SERVER) as server:
        assert try_lock(server)
        for one in waiting:
            one.start()
        waiting[0].join(0.05)
        assert all(one.is_alive() for one in waiting)
    for one in waiting:
        one.join(5)
        assert not one.is_alive()


# The log


@pytest.fixture
def log(folder: int, monkeypatch: pytest.MonkeyPatch) -> ServerLog:
    monkeypatch.setattr(server_log, "LOG_BYTES_MAX", 8)
    monkeypatch.setattr(server_log, "READ_BYTES_MAX", 40)
    return ServerLog(folder)


def test_the_log_is_private_and_appended_to(log: ServerLog, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), log.opened(create=False):
        pass
    log.append(b"one\n")
    log.append(b"two\n")
    assert (tmp_path / "postgresql.log").read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE((tmp_path / "postgresql.log").stat().st_mode) == 0o600
    assert (log.size(), log.since(4)) == (8, b"two\n")
    log.append(b"3" * 99)
    assert log.since(8) == b"3" * 40


def test_a_log_that_cannot_be_written_hides_no_other_error(log: ServerLog, tmp_path: Path) -> None:
    (tmp_path / "postgresql.log").mkdir()
    log.append(b"one\n")
    assert log.cause() == ""
    (tmp_path / "postgresql.log").rmdir()
    log.append(b"1 FATAL:  one\n")
    os.link(tmp_path / "postgresql.log", tmp_path / "other")
    assert log.cause() == ""


def test_the_cause_is_the_last_error_near_the_end_of_the_log(log: ServerLog) -> None:
    assert log.cause() == ""
    log.append(b"1 FATAL:  one\n2 PANIC:  t\xff\n")
    assert log.cause() == ": t\ufffd"
    log.append(b"-" * 24)
    assert log.cause() == ": t\ufffd", "its first characters are forty bytes before the end"
    log.append(b"-" * 40)
    assert log.cause() == ""


def test_a_long_log_is_moved_but_for_its_beginning(log: ServerLog, tmp_path: Path) -> None:
    before = tmp_path / "postgresql.log.1"
    log.trim()
    assert os.listdir(tmp_path) == []
    log.append(b"12345678")
    log.trim()
    assert (log.size(), before.exists()) == (8, False)
    log.append(b"9")
    with log.opened() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        log.trim()
        assert log.size() == 9, "another process moves it"
    log.trim()
    assert (log.size(), before.read_bytes()) == (0, b"23456789")
    before.unlink()
    before.mkdir()  # in place of a full disk
    log.append(b"123456789")
    log.trim()
    assert log.size() == 0


# The folder of the socket


def test_the_folder_of_the_socket_is_private_to_the_owner_of_the_data(tmp_path: Path) -> None:
    folder = tmp_path / "socket"
    for _ in range(2):
        with private_folder(folder, os.geteuid()) as descriptor:
            assert os.path.samestat(os.fstat(descriptor), folder.stat())
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert not os.get_inheritable(descriptor)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize("fault", ["link", "group", "others", "other user"])
def test_a_folder_that_others_may_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    folder = tmp_path / "socket"
    (tmp_path / "target").mkdir(mode=0o700)
    if fault == "link":
        folder.symlink_to("target")
    else:
        folder.mkdir(mode=0o700)
        folder.chmod({"group": 0o710, "others": 0o701}.get(fault, 0o700))
    if fault == "other user":
        monkeypatch.setattr(os, "geteuid", lambda: OTHER_USER)
    before = len(os.listdir("/proc/self/fd"))
    text = f"{folder}, the folder of its socket, is not private to the owner of the data"
    refused(lambda: private_folder(folder, OTHER_USER).__enter__(), text)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_that_root_makes_is_given_to_the_owner_of_the_data(tmp_path: Path, given: list[int]) -> None:
    folder = tmp_path / "socket"
    owner = tmp_path.stat().st_uid
    with private_folder(folder, owner):
        assert given == []
    if owner == 0:  # then it is of root, as this test is
        with private_folder(folder, OTHER_USER):
            assert given == [OTHER_USER, -1]


def test_the_private_folder_of_a_data_directory_has_its_digest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = Path("/a,b")
    folder = socket_folder.socket_folder(path)
    assert (folder.parent, len(folder.name)) == (Path("/tmp"), len("balance-") + 16)
    assert folder != socket_folder.socket_folder(Path("/a,c"))
    monkeypatch.setattr(os, "access", lambda _path, mode: mode != os.W_OK | os.X_OK)
    monkeypatch.setattr(socket_folder.tempfile, "gettempdir", lambda: str(tmp_path))
    assert socket_folder.socket_folder(path) == tmp_path / folder.name
