"""A command that cannot write its output, to stdout or to a file, or read stdin ends with one line and status 1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from balance.access.tokens import digest
from balance.storage.token_store import list_tokens
from tests.support.repository import ROOT
from tests.support.service import Database

FULL, CLOSED = "No space left on device", "it is closed"


def run(database: Database, command: str, *, output: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the server with its output elsewhere."""
    return subprocess.run(
        ["bash", "-c", f"exec {sys.executable} server.py {command} {output}"],
        cwd=ROOT, env={**os.environ, "DATABASE_URL": database.url, **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("output", "reason"), [("> /dev/full", FULL), (">&-", CLOSED)])
def test_a_token_that_nobody_could_read_is_not_created(database: Database, output: str, reason: str) -> None:
    done = run(database, "token create lost", output=output)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"server.py: stdout: the result cannot be written: {reason}; token lost was not created\n"
    assert list_tokens(database.url) == [], "a server without tokens stays open"
    again = run(database, "token create lost")
    assert again.returncode == 0
    ((sha256,),) = [row.values() for row in database.rows("SELECT sha256 FROM balance_token")]
    assert digest(again.stdout.strip()) == sha256


@pytest.mark.parametrize("command", ["backup", "export"])
def test_a_folder_or_an_empty_name_is_refused_in_one_line(database: Database, command: str) -> None:
    reasons = dict.fromkeys((".", "..", "/"), "cannot be written: is not a regular file")
    for name, reason in {**reasons, "''": "must not be empty"}.items():
        done = run(database, f"{command} {name}")
        shown = "argument FILE" if name == "''" else name
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"server.py: {shown}: {reason}\n")


@pytest.mark.parametrize("command", ["token list", "check --port=0", "new-epoch", "migrate", "prune --keep=1d"])
def test_a_result_that_cannot_be_written_is_one_line(database: Database, command: str) -> None:
    for output, reason in (("> /dev/full", FULL), (">&-", CLOSED)):
        done = run(database, command, output=output)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"server.py: stdout: the result cannot be written: {reason}\n"


def test_an_export_to_a_closed_output_is_one_line(database: Database) -> None:
    done = run(database, "export", output=">&-")
    assert (done.returncode, done.stderr) == (1, "server.py: stdout: cannot be written: it is closed\n")


def test_an_import_of_a_closed_input_is_one_line(database: Database) -> None:
    for command in ("import", "import -"):
        done = run(database, command, output="<&-")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "server.py: -: cannot be read: it is closed\n"


def test_a_name_that_stdout_cannot_encode_is_written_with_escapes(database: Database, tmp_path: Path) -> None:
    done = run(database, f"check --data-dir {tmp_path}/d\u00e9", DATABASE_URL="", PYTHONIOENCODING="ascii")
    assert done.stderr == ""
    assert f"{tmp_path}/d\\xe9" in done.stdout
