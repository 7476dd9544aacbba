"""What an upgrade of the embedded PostgreSQL refuses before it starts a server; the programs are fakes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from balance.storage import upgrade as module
from balance.storage.embedded import EmbeddedError
from balance.storage.upgrade import Reports, Versions, advice, upgrade, versions_of

WHEEL = Path("/wheel/bin")
VERSIONS = {WHEEL: "18", Path("/15/bin"): "15"}
REPORTS = Reports(*[lambda _done, _total: None] * 4)


class FakePrograms:
    """The programs of a folder of VERSIONS."""

    def __init__(self, folder: Path, account: None) -> None:
        self._folder = folder
        assert account is None, "no other user is needed to print a version"

    def major_version(self) -> str:
        if self._folder not in VERSIONS:
            raise FileNotFoundError(2, "No such file or directory")
        return VERSIONS[self._folder]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a data directory of version 15."""
    monkeypatch.setattr(module, "wheel_programs", lambda: WHEEL)
    monkeypatch.setattr(module, "Programs", FakePrograms)
    (tmp_path / "data" / "postgresql").mkdir(parents=True)
    set_version(tmp_path / "data", b"15\n")
    return tmp_path / "data"


def set_version(data: Path, text: bytes) -> None:
    (data / "postgresql" / "PG_VERSION").write_bytes(text)


def refused(call: Callable[[], object], text: str) -> None:
    with pytest.raises(EmbeddedError) as caught:
        call()
    assert str(caught.value) == text


def begin(data: Path, old_programs: str) -> None:
    upgrade(data, Path(old_programs), "1", REPORTS, lambda: pytest.fail("nothing is complete"))


def test_the_versions_are_those_of_the_data_and_of_the_wheel(data: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("data")
    before = len(os.listdir("/proc/self/fd"))
    assert versions_of(data) == versions_of(tmp_path / "link") == Versions("15", "18")
    set_version(data, b"\xff\n")
    assert versions_of(data).old == "\ufffd"
    assert len(os.listdir("/proc/self/fd")) == before
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmbeddedError, match=rf"^no database at {tmp_path}/empty: "):
        versions_of(tmp_path / "empty")


def test_a_version_that_cannot_be_read_is_one_line_with_the_folder(data: Path) -> None:
    (data / "postgresql" / "PG_VERSION").unlink()
    (data / "postgresql" / "PG_VERSION").mkdir()
    refused(lambda: versions_of(data), f"data directory {data}: PG_VERSION is not a regular file with one name")


@pytest.mark.parametrize(
    ("version", "programs", "reason"),
    [
        (b"18\n", "/15/bin", "its data are of PostgreSQL 18 and the programs of 18: there is nothing to upgrade"),
        (b"19\n", "/15/bin", "its data are of PostgreSQL 19 and the programs of 18: there is nothing to upgrade"),
        (b"x\n", "/15/bin", "its data are of PostgreSQL x and the programs of 18: there is nothing to upgrade"),
        (b"14\n", "/15/bin", "its data are of PostgreSQL 14, and /15/bin has the programs of 15"),
        (b"15\n", "/wheel/bin", "its data are of PostgreSQL 15, and /wheel/bin has the programs of 18"),
        (b"9\n", "/none/bin", "/none/bin has no programs of PostgreSQL"),
    ],
)
def test_only_older_data_are_upgraded_with_the_programs_of_their_version(
    data: Path, version: bytes, programs: str, reason: str
) -> None:
    set_version(data, version)
    refused(lambda: begin(data, programs), f"data directory {data}: {reason}")


@pytest.mark.parametrize("is_link", [False, True])
def test_data_that_an_earlier_upgrade_has_left_are_not_replaced(data: Path, is_link: bool) -> None:
    if is_link:
        (data / "postgresql.15").symlink_to("/none")
    else:
        (data / "postgresql.15").mkdir()
    refused(
        lambda: begin(data, "/15/bin"),
        f"data directory {data}: postgresql.15 is there already: move it to another folder",
    )


def test_two_remedies_are_named_if_the_old_programs_are_not_given() -> None:
    assert advice(Versions("15", "18")) == (
        "the data are of PostgreSQL 15 and the programs of 18: give --old-programs with the folder of the programs of "
        "15, such as /usr/lib/postgresql/15/bin; or make a backup with the version of this program that has 15, and "
        "restore it into another --data-dir with `python server.py restore`"
    )
