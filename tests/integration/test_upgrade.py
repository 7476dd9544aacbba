"""The upgrade of the embedded PostgreSQL from one major version to the next, with the real programs of both."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balance.storage import upgrade as module
from balance.storage.embedded import EmbeddedError, EmbeddedPostgres
from balance.storage.migrate import migrate
from balance.storage.upgrade import Reports, upgrade, versions_of
from tests.support.embedded import NOBODY, is_running, needs_root
from tests.support.history import append_history
from tests.support.http_client import request
from tests.support.postgres import query
from tests.support.service import SNAPSHOTS, Database, Processes, check_group_is_gone, check_start_refused

OLD = Path("/usr/lib/postgresql/15/bin")
NAMES = {"postgresql", "postgresql.15", "postgresql.log", "control.lock", "lock", "server.lock"}  # after an upgrade
ROWS = "SELECT * FROM balance_snapshot ORDER BY seq"
REPORTS = Reports(*[lambda _done, _total: None] * 4)
pytestmark = pytest.mark.skipif(not OLD.is_dir(), reason="there is no PostgreSQL 15 on this machine")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a data directory of the old version with snapshots in it."""
    folder = tmp_path_factory.mktemp("made")
    with EmbeddedPostgres.start(folder, OLD) as server:
        migrate(server.url)
        append_history(Database(server.url), 1000, pid=7)
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Iterator[Path]:
    copy = tmp_path / "data"
    shutil.copytree(made, copy)
    if os.geteuid() == 0:
        give_to(copy, *owner_of(made))
    yield copy
    assert not is_running(copy)


def owner_of(data: Path) -> tuple[int, int]:
    found = (data / "postgresql").stat()
    return found.st_uid, found.st_gid


def give_to(data: Path, uid: int, gid: int) -> None:
    for path in (data / "postgresql", *(data / "postgresql").rglob("*")):
        os.chown(path, uid, gid)


def rows_of(data: Path, programs: Path | None = None) -> list[tuple[Any, ...]]:
    with EmbeddedPostgres.start(data, programs) as server:
        return query(server.url, ROWS)


def test_the_command_upgrades_the_data_and_the_service_goes_on(data: Path, processes: Processes) -> None:
    before = rows_of(data, OLD)
    check_start_refused(processes("--port=0", f"--data-dir={data}"), "are of PostgreSQL 15", "upgrade`")
    process = processes("upgrade", f"--data-dir={data}", f"--old-programs={OLD}")
    assert process.wait() == 0, process.stderr
    assert process.complaints == []
    new = versions_of(data).new
    assert process.stdout == [
        f"upgraded 1000 snapshots from PostgreSQL 15 to {new}; the old data are in {data}/postgresql.15"
    ]
    check_group_is_gone(process)
    assert rows_of(data) == before
    assert versions_of(data) == (new, new)
    assert (data / "postgresql.15" / "PG_VERSION").read_text() == "15\n"
    assert {path.name for path in data.iterdir()} == NAMES
    if os.geteuid() == 0:
        assert (data / "postgresql").stat().st_uid == (data / "postgresql.15").stat().st_uid
    process = processes("upgrade", f"--data-dir={data}")
    assert process.wait() == 0
    assert process.stdout == [f"the data are of PostgreSQL {new}, which is that of the programs"]


async def test_a_position_of_before_is_good_after_an_upgrade(data: Path, processes: Processes) -> None:
    with EmbeddedPostgres.start(data, OLD) as server:
        ((epoch,),) = query(server.url, "SELECT epoch FROM balance_feed")
    upgrade(data, OLD, "1", REPORTS, lambda: None)
    service = processes("--port=0", f"--data-dir={data}")
    url = service.url()
    reply = await request(url, "GET", f"/api/balance/feed?after=998&epoch={epoch}")
    assert [one["seq"] for one in reply.body["data"]] == [999, 1000]
    update = {"onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}}
    assert (await request(url, "POST", SNAPSHOTS, update)).status == 201
    assert (await request(url, "GET", SNAPSHOTS)).body["pagination"]["total"] == 1001
    assert service.terminate() == 0
    assert service.complaints == []


def test_each_step_reports_and_the_last_one_begins_when_the_new_data_are_complete(data: Path) -> None:
    steps: dict[str, list[tuple[int, int]]] = {name: [] for name in Reports._fields}
    reports = Reports(*[lambda done, total, step=one: step.append((done, total)) for one in steps.values()])
    sizes: list[int] = []

    def complete() -> None:
        assert versions_of(data).old == "15", "the old data have their name"
        assert (data / "upgrade" / "postgresql" / "PG_VERSION").read_text() != "15\n"
        assert not is_running(data / "upgrade")
        sizes.append((data / "upgrade.backup").stat().st_size)

    restored = upgrade(data, OLD, "1", reports, complete)
    assert (restored.rows, restored.position.seq, restored.aside) == (1000, 1000, None)
    assert {path.name for path in data.iterdir()} == NAMES
    ends = {step: found[-1] for step, found in steps.items()}
    (size,) = sizes
    indexes = ends["indexed"][1]
    assert ends == {
        "written": (1000, 1000), "checked": (size, size), "loaded": (size, size), "indexed": (indexes, indexes)
    }  # fmt: skip
    assert indexes > 5


@needs_root
def test_the_new_data_belong_to_the_owner_of_the_old_ones(data: Path) -> None:
    give_to(data, NOBODY, 7)
    upgrade(data, OLD, "1", REPORTS, lambda: None)
    assert owner_of(data) == (NOBODY, 7), "and not to the system user, as which a new database runs"
    assert len(rows_of(data)) == 1000


def test_only_their_owner_changes_what_is_in_the_work_folder(data: Path) -> None:
    modes: list[int] = []
    umask = os.umask(0)
    try:
        upgrade(data, OLD, "1", REPORTS, lambda: modes.append((data / "upgrade").stat().st_mode & 0o777))
    finally:
        os.umask(umask)
    assert modes == [0o711]


def test_a_link_that_appears_in_place_of_the_work_folder_is_not_followed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner of the data may rename what root deletes meanwhile, which ends the deletion."""
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    before = rows_of(data, OLD)
    delete = shutil.rmtree

    def plant(path: Any, *arguments: Any, **options: Any) -> None:
        if path == "upgrade" and not (data / "upgrade").is_symlink():
            (data / "upgrade").symlink_to(other)
            raise FileNotFoundError
        delete(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", plant)
        with pytest.raises(EmbeddedError, match="upgrade"):
            upgrade(data, OLD, "1", REPORTS, lambda: None)
    assert (list(other.iterdir()), other.stat().st_mode & 0o777) == ([], 0o700)
    (data / "upgrade").unlink()
    assert rows_of(data, OLD) == before


@needs_root
def test_a_link_that_replaces_the_work_folder_once_it_is_made_is_not_followed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    make = os.mkdir

    def make_and_replace(path: Any, *arguments: Any, **options: Any) -> None:
        make(path, *arguments, **options)
        if path == "upgrade":
            (data / "upgrade").rename(data / "moved")
            (data / "upgrade").symlink_to(other)

    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", make_and_replace)
        with pytest.raises(EmbeddedError, match="upgrade"):
            upgrade(data, OLD, "1", REPORTS, lambda: None)
    assert (list(other.iterdir()), other.stat().st_mode & 0o777) == ([], 0o700)


def test_a_link_that_replaces_the_work_folder_before_the_last_step_is_not_followed(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "postgresql").mkdir(parents=True)
    before = rows_of(data, OLD)

    def replace() -> None:
        (data / "upgrade").rename(data / "moved")
        (data / "upgrade").symlink_to(other)

    with pytest.raises(EmbeddedError, match="upgrade"):
        upgrade(data, OLD, "1", REPORTS, replace)
    assert (other / "postgresql").is_dir()
    assert rows_of(data, OLD) == before


def test_an_upgrade_is_complete_even_if_its_work_folder_cannot_be_removed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        upgrade(data, OLD, "1", REPORTS, lambda: patched.setattr(os, "rmdir", fail))
    assert (data / "upgrade").is_dir()
    assert len(rows_of(data)) == 1000


def test_an_upgrade_that_fails_leaves_the_old_data_and_can_be_repeated(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_of(data, OLD)

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "restore", fail)
        with pytest.raises(KeyboardInterrupt):
            upgrade(data, OLD, "1", REPORTS, lambda: None)
    assert not is_running(data)
    assert rows_of(data, OLD) == before
    (data / "upgrade" / "postgresql" / "PG_VERSION").write_text("")  # nothing of the first attempt is used
    upgrade(data, OLD, "1", REPORTS, lambda: None)
    assert rows_of(data) == before


@pytest.mark.parametrize("renames", [1, 2])
def test_an_upgrade_that_is_killed_in_its_last_step_is_completed(
    data: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """Between two renames there is no moment at which a start would make an empty database."""
    before = rows_of(data, OLD)
    rename, done = os.rename, list[str]()

    def limited(source: str | Path, target: str | Path, **folders: int) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        rename(source, target, **folders)
        if source == "postgresql":
            done.append(str(source))

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "rename", limited)
        with pytest.raises(KeyboardInterrupt):
            upgrade(data, OLD, "1", REPORTS, lambda: None)
    if renames == 1:
        with pytest.raises(EmbeddedError, match="are of PostgreSQL 15"):
            EmbeddedPostgres.start(data)
        upgrade(data, OLD, "1", REPORTS, lambda: None)
    assert rows_of(data) == before


def test_an_upgrade_is_refused_while_a_service_uses_the_data(data: Path) -> None:
    text = f"^data directory {data}: a service uses it: stop it first$"
    with EmbeddedPostgres.start(data, OLD), pytest.raises(EmbeddedError, match=text):
        upgrade(data, OLD, "1", REPORTS, lambda: None)
    assert versions_of(data).old == "15"


def test_what_cannot_be_upgraded_is_refused_in_one_line(data: Path, tmp_path: Path, processes: Processes) -> None:
    folder = f"--data-dir={data}"
    check_start_refused(processes("upgrade", folder), "are of PostgreSQL 15", "--old-programs", "restore")
    check_start_refused(processes("upgrade", folder, "--old-programs=/nowhere"), "/nowhere has no programs")
    (data / "postgresql.15").mkdir()
    check_start_refused(processes("upgrade", folder, f"--old-programs={OLD}"), "postgresql.15 is there already")
    (data / "postgresql.15").rmdir()
    (data / "postgresql" / "PG_VERSION").write_text("14\n")
    check_start_refused(processes("upgrade", folder, f"--old-programs={OLD}"), "of PostgreSQL 14", "programs of 15")
    (data / "postgresql" / "PG_VERSION").write_text("99\n")
    check_start_refused(processes("upgrade", folder, f"--old-programs={OLD}"), "there is nothing to upgrade")
    check_start_refused(processes("upgrade", f"--data-dir={tmp_path}"), f"no database at {tmp_path}: ")
    check_start_refused(processes("upgrade", DATABASE_URL="postgresql://127.0.0.1:1/none"), "for the embedded")
