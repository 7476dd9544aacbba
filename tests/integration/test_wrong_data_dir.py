"""Each command with a data directory that has no database: it is refused, unless the command is for a new one."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from balance.cli import COMMANDS
from balance.storage.backup import back_up
from balance.storage.embedded.data_directory import has_data
from tests.support.history import append_history
from tests.support.repository import ROOT
from tests.support.service import Database, Processes, check_group_is_gone, check_start_refused

REFUSED = "no database at {folder}: check --data-dir and the current folder, or set DATABASE_URL"


class Case(NamedTuple):
    """A command, and how it ends; `{folder}` is the data directory and `{backup}` the file of a backup."""

    command: str
    refusal: str = ""
    makes_data: bool = False
    status: int = 0

    def arguments(self, folder: Path, backup: Path) -> list[str]:
        return [part.format(folder=folder, backup=backup) for part in self.command.split()]


CASES = [
    Case("serve --port=0", makes_data=True),
    Case("migrate", makes_data=True),
    Case("restore {backup}", makes_data=True),
    Case("restore {backup}.none", "{backup}.none: cannot be read: No such file or directory"),
    Case("restore {backup}.truncated", ".truncated: the backup is truncated, and nothing was changed"),
    Case("token create bot", makes_data=True),
    Case("token list", REFUSED),
    Case("token revoke bot", REFUSED),
    Case("backup {backup}.new", REFUSED),
    Case("export", REFUSED),
    Case("import {backup}", REFUSED),
    Case("prune --keep=90d", REFUSED),
    Case("prune --keep=90d --dry-run", REFUSED),
    Case("new-epoch", REFUSED),
    Case("upgrade --old-programs=/nowhere", REFUSED),
    Case("check --port=0"),
    Case("watch --rule=silent --post=http://127.0.0.1:1", "--rule: 'silent': expected a time such as"),
    Case("connections --port=1", "no server answers at http://127.0.0.1:1"),
]


def test_the_document_has_what_each_command_does_without_a_database() -> None:
    document = (ROOT / "docs" / "operations.md").read_text()
    (text,) = (one for one in document.split("\n\n") if one.startswith("`serve`, `migrate`"))
    found = re.match(r"(.*) make a database if there is none,.* then\. (.*) are for one that exists: ", text, re.S)
    assert found
    named = [set(re.findall("`([a-z- ]+)`", names)) for names in found.groups()]
    assert named == [
        {_name(one.command) for one in CASES if one.makes_data},
        {_name(one.command) for one in CASES if one.refusal == REFUSED},
    ]


def _name(command: str) -> str:
    words = command.split()
    return " ".join(words[: 2 if words[0] == "token" else 1])


@pytest.fixture(scope="module")
def backed_up(shared_database: Database, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Make a backup of three snapshots; return its content."""
    file = tmp_path_factory.mktemp("backed_up") / "backup"
    append_history(shared_database, 3)
    back_up(shared_database.url, file, "1", lambda _done, _total: None)
    return file.read_bytes()


@pytest.fixture
def backup(backed_up: bytes, tmp_path: Path) -> Path:
    file = tmp_path / "backup"
    file.write_bytes(backed_up)
    (tmp_path / "backup.truncated").write_bytes(backed_up[:-9])
    return file


def test_every_command_has_a_case() -> None:
    assert {case.command.split()[0] for case in CASES} == set(COMMANDS)


@pytest.mark.parametrize("case", CASES, ids=[case.command for case in CASES])
def test_a_command_makes_a_database_only_if_it_is_for_a_new_one(
    case: Case, backup: Path, tmp_path: Path, processes: Processes
) -> None:
    folder = tmp_path / "typo"
    process = processes(*case.arguments(folder, backup), f"--data-dir={folder}")
    if case.refusal:
        check_start_refused(process, case.refusal.format(folder=folder, backup=backup))
    else:
        if case.command.startswith("serve"):
            process.url()
            process.send_signal(15)
        assert process.wait() == 0, process.stderr
        assert process.complaints == []
        check_group_is_gone(process)
    assert has_data(folder) == case.makes_data
    if not case.makes_data:
        assert {path.name for path in tmp_path.iterdir()} == {"backup", "backup.truncated"}


USES_DATA = [
    case for case in CASES if (case.makes_data or case.refusal == REFUSED) and not case.command.startswith("restore")
]


@pytest.mark.parametrize(
    ("has_committed", "cases"),
    [(False, USES_DATA), (True, USES_DATA[:1])],
    ids=["before its commit", "after its commit"],
)
def test_what_a_killed_restore_leaves_is_for_another_restore_only(
    has_committed: bool, cases: list[Case], backup: Path, tmp_path: Path, processes: Processes
) -> None:
    """What a command finds is the same before and after the commit, so that all of them try it once."""
    folder = tmp_path / "new"
    data = f"--data-dir={folder}"
    process = processes("restore", str(backup), data, script=str(killed_restore(tmp_path, has_committed)))
    assert process.wait() == -signal.SIGKILL, process.stderr
    for case in cases:
        process = processes(*case.arguments(folder, backup), data)
        check_start_refused(process, f"data directory {folder}: an interrupted restore: run it again")
    check = processes("check", "--port=0", data)
    assert check.wait() == 1
    assert any("an interrupted restore: run it again" in line for line in check.stdout)
    for command, line in (("restore", "restored 3 snapshots"), ("backup", f"{backup}: 3 snapshots")):
        process = processes(command, str(backup), data)
        assert (process.wait(), process.complaints) == (0, [])
        assert process.stdout[0].startswith(line)


def killed_restore(folder: Path, has_committed: bool) -> Path:
    """Write a server.py whose `restore` is killed before or after its commit."""
    killed = "storage.embedded.EmbeddedPostgres.end_restore" if has_committed else "storage.restore.begin_next_epoch"
    owner, _, name = killed.rpartition(".")
    script = folder / "killed.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import balance.storage.embedded, balance.storage.restore\n"
        "from balance import cli\n"
        f"balance.{owner}.{name} = lambda *_: os.kill(os.getpid(), 9)\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    return script


def test_a_volume_without_data_has_no_database(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "postgresql").mkdir()
    check_start_refused(processes("backup", "file", f"--data-dir={tmp_path}"), f"no database at {tmp_path}: ")
    assert list(tmp_path.rglob("*")) == [tmp_path / "postgresql"]


def test_the_folder_is_named_as_the_command_has_found_it(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "else where").mkdir()
    check_start_refused(
        processes("prune", "--keep=1d", "--data-dir=../data", cwd=str(tmp_path / "else where")),
        f"no database at {tmp_path}/data: ",
    )


def test_the_log_has_a_line_when_a_database_is_made(processes: Processes, tmp_path: Path) -> None:
    process = processes("token", "create", "bot", f"--data-dir={tmp_path / 'new'}", BALANCE_LOG_LEVEL="info")
    assert process.wait() == 0
    (line,) = process.complaints
    assert line.endswith(f" made a new database in {tmp_path / 'new'}")
